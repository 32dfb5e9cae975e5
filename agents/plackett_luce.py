"""Plackett–Luce slates: items drawn one after another without replacement.

The item at each position is drawn from the softmax of the scores of the items that are left, so a
ranking of S of N items has an exact probability (Plackett, 1975). Here the items above may also
change the scores, as similar items compete.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from responders.behaviour.slate_rules import SlateRules


def best(score: Tensor, rules: SlateRules, effects: Tensor | None = None) -> Tensor:
    """Return slates [B, S] int64 of the items with the best scores, given those above them.

    Args:
        score: [B, N].
        rules: of the slates.
        effects: [N, N], how the item of each row changes the scores of all items below it; several
            items above do so by their mean. None = they do not.
    """
    return rules.choose(score) if effects is None else _fill(score, rules, effects, None)[0]


def draw(
    score: Tensor,
    rules: SlateRules,
    effects: Tensor | None,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return slates [B, S] int64 drawn with scores [B, N], and the log-probabilities [B, S].

    Empty positions, where no item is left, are -1 and have log-probability 0. See `best`.
    """
    if effects is not None:
        return _fill(score, rules, effects, generator)
    # The best items by scores with Gumbel noise are a draw without replacement (Yellott, 1977).
    uniform = torch.rand(score.shape, generator=generator, device=score.device)
    slate = rules.choose(score - uniform.log_().neg_().log_())  # faster than `exponential_`
    return slate, log_prob(score, slate, rules)


def _fill(
    score: Tensor, rules: SlateRules, effects: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return slates from the top and log-probabilities; 0 if there is no generator to draw with."""
    slate = torch.full((len(score), rules.n_positions), -1, device=score.device)
    logs = torch.zeros(slate.shape, dtype=score.dtype, device=score.device)
    free, mean = score.clone(), torch.zeros_like(score)
    effects = F.pad(effects, (0, 0, 0, 1))  # the last row: of the empty position
    for position in range(rules.n_positions):
        left = free + mean
        if rules.exist:
            left.masked_fill_(~rules.mask(slate, position), -torch.inf)
        if generator is None:
            item = left.argmax(1, keepdim=True)
        else:
            item, logs[:, position] = _choose(left, generator)
        exists = left.gather(1, item) > -torch.inf
        slate[:, position : position + 1] = torch.where(exists, item, -1)
        free.scatter_(1, item, -torch.inf)
        row = torch.where(exists, item, score.shape[1]).squeeze(1)
        mean.lerp_(effects.index_select(0, row), 1 / (position + 1))
    return slate, logs.masked_fill_(slate < 0, 0.0)


def _choose(score: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return items [B, 1] drawn from the softmax of scores [B, N], and log-probabilities [B].

    Where all scores are -inf it returns any item.
    """
    largest = score.amax(1, keepdim=True).clamp(min=torch.finfo(score.dtype).min)
    # A GPU adds in parallel: in single precision, sums may step back where an item has no chance.
    precision = torch.float64 if score.is_cuda else score.dtype
    summed = (score - largest).exp_().cumsum(1, dtype=precision)
    total = summed[:, -1:]
    uniform = torch.rand(total.shape, generator=generator, device=score.device)
    # Below the total also when rounded: the sum then jumps over it at an item with a chance.
    place = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    item = torch.searchsorted(summed, place, right=True).clamp_(max=score.shape[1] - 1)
    return item, (score.gather(1, item) - largest - total.log()).squeeze(1)


def _by_position(rules: SlateRules) -> bool:
    """Whether `log_prob` must mask the items at each position, as not all are free there."""
    return rules.exist or rules.n_positions > rules.n_items


def log_prob(
    score: Tensor,
    slate: Tensor,
    rules: SlateRules,
    effects: Tensor | None = None,
    factors: Tensor | None = None,
) -> Tensor:
    """Return the log-probability [B, S] of each item of a slate, given those above it.

    Args:
        score: [B, N].
        slate: [B, S] int64, valid; empty positions, -1, have log-probability 0.
        rules: of the slates; items that they forbid at a position cannot be drawn there.
        effects: see `best`; no gradient reaches them.
        factors: `factors_of(slate, rules, effects)`, to save computing them.
    """
    if _by_position(rules):
        return _log_prob_by_position(score, slate, rules, effects)
    chosen = score.gather(1, slate)
    if effects is None:
        # The items left at a position are those below it and those that are not in the slate.
        # Adding from the bottom loses no precision, as subtracting from the sum of all would.
        below = score.scatter(1, slate, -torch.inf).logsumexp(1, keepdim=True)
        left = torch.cat([below, chosen.flip(1)], 1).logcumsumexp(1)[:, 1:].flip(1)
        return chosen - left
    # A product of matrices adds up the items that are left: unlike a softmax at each position, it
    # keeps nothing of [B, S, N] for the gradients but the factors.
    if factors is None:
        factors = factors_of(slate, rules, effects)
    assert factors is not None
    largest = score.detach().amax(1, keepdim=True)
    total = torch.bmm(factors, (score - largest).exp().unsqueeze(2)).squeeze(2)
    factor = factors.gather(2, slate.unsqueeze(2)).squeeze(2)
    least = torch.finfo(score.dtype).tiny
    return chosen - largest + factor.log() - total.clamp(min=least).log()


@torch.no_grad()
def factors_of(slate: Tensor, rules: SlateRules, effects: Tensor | None) -> Tensor | None:
    """Return [B, S, N], by what the odds of each item are multiplied at each position.

    Those of the items above are 0. None where `log_prob` does not use them. See `best`.
    """
    if effects is None or _by_position(rules):
        return None
    mean = effects.new_zeros(len(slate), len(effects))
    factors = effects.new_empty(slate.shape[1], *mean.shape)
    for position in range(slate.shape[1]):
        torch.exp(mean, out=factors[position]).scatter_(1, slate[:, :position], 0.0)
        mean.lerp_(effects.index_select(0, slate[:, position]), 1 / (position + 1))
    return factors.transpose(0, 1)


def _log_prob_by_position(
    score: Tensor, slate: Tensor, rules: SlateRules, effects: Tensor | None
) -> Tensor:
    logs, above = [], torch.zeros_like(score)
    for position in range(slate.shape[1]):
        item = slate[:, position : position + 1]
        left = score + above.detach() / max(position, 1)
        left = left.masked_fill(~rules.mask(slate, position), -torch.inf)
        # Where nothing is left, the position is empty: zeros keep its gradient finite.
        left = torch.where(item >= 0, left, 0.0).log_softmax(1)
        logs.append(torch.where(item >= 0, left.gather(1, item.clamp(min=0)), 0.0))
        if effects is not None:
            above = above + torch.where(item >= 0, effects[item.squeeze(1)], 0.0)
    return torch.cat(logs, 1)
