"""Plackett–Luce slates: items drawn one after another without replacement.

The item at each position is drawn from the softmax of the scores of the items that are left, so a
ranking of S of N items has an exact probability (Plackett, 1975). Here the items above may also
change the scores, as similar items compete.
"""

from __future__ import annotations

import torch
from torch import Tensor

from responders.behaviour.slate_rules import SlateRules


def best(score: Tensor, rules: SlateRules, effects: Tensor | None = None) -> Tensor:
    """Return slates [B, S] int64 of the items with the best scores, given those above them.

    Args:
        score: [B, N].
        rules: of the slates.
        effects: [N, N], how the item of each row changes the scores of all items below it; several
            items above do so by their mean. None = they do not.
    """
    return rules.choose(score) if effects is None else _fill(score, rules, effects, None)


def draw(
    score: Tensor,
    rules: SlateRules,
    effects: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return slates [B, S] int64 drawn with scores [B, N]; -1 where no item is left; see `best`.

    The best items by scores with Gumbel noise are a draw without replacement (Yellott, 1977).
    """
    generator = generator or torch.default_generator
    if effects is None:
        return rules.choose(_with_noise(score, generator))
    return _fill(score, rules, effects, generator)


def _with_noise(score: Tensor, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(score.shape, generator=generator, device=score.device)
    return score - uniform.log_().neg_().log_()  # three times as fast as `exponential_`


def _fill(
    score: Tensor, rules: SlateRules, effects: Tensor, generator: torch.Generator | None
) -> Tensor:
    slate = torch.full((len(score), rules.n_positions), -1, device=score.device)
    above = torch.zeros_like(score)
    for position in range(rules.n_positions):
        left = score + above / max(position, 1)
        left = left if generator is None else _with_noise(left, generator)
        valid = rules.mask(slate, position)
        item = left.masked_fill(~valid, -torch.inf).argmax(1)
        slate[:, position] = torch.where(valid.any(1), item, -1)
        above += torch.where(slate[:, position : position + 1] >= 0, effects[item], 0.0)
    return slate


def log_prob(
    score: Tensor, slate: Tensor, rules: SlateRules, effects: Tensor | None = None
) -> Tensor:
    """Return the log-probability [B, S] of each item of a slate, given those above it.

    Args:
        score: [B, N].
        slate: [B, S] int64, valid; empty positions, -1, have log-probability 0.
        rules: of the slates; items that they forbid at a position cannot be drawn there.
        effects: see `best`; no gradient reaches them.
    """
    if rules.allowed is not None or rules.special is not None or rules.n_positions > rules.n_items:
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
    factors = _factors(slate, effects.detach())
    largest = score.detach().amax(1, keepdim=True)
    total = torch.bmm(factors, (score - largest).exp().unsqueeze(2)).squeeze(2)
    factor = factors.gather(2, slate.unsqueeze(2)).squeeze(2)
    least = torch.finfo(score.dtype).tiny
    return chosen - largest + factor.log() - total.clamp(min=least).log()


def _factors(slate: Tensor, effects: Tensor) -> Tensor:
    """Return [B, S, N], by what the odds of each item are multiplied at each position.

    Those of the items above are 0.
    """
    effects = effects.clone().fill_diagonal_(-torch.inf)
    above = effects.new_zeros(len(slate), len(effects))
    factors = effects.new_empty(slate.shape[1], *above.shape)
    for position in range(slate.shape[1]):
        torch.exp(above / max(position, 1), out=factors[position])
        above += effects.index_select(0, slate[:, position])
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
