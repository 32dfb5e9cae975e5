"""Plackett–Luce slates: items drawn one after another without replacement.

The item at each position is drawn from the softmax of the scores of the items that are left, so a
ranking of S of N items has an exact probability (Plackett, 1975).
"""

from __future__ import annotations

import torch
from torch import Tensor

from responders.behaviour.slate_rules import SlateRules


def draw(score: Tensor, rules: SlateRules, generator: torch.Generator | None = None) -> Tensor:
    """Return slates [B, S] int64 drawn with scores [B, N]; -1 where no item is left.

    The best items by scores with Gumbel noise are a draw without replacement (Yellott, 1977).
    """
    uniform = torch.rand(score.shape, generator=generator, device=score.device)
    return rules.choose(
        score - uniform.log_().neg_().log_()
    )  # three times as fast as `exponential_`


def log_prob(score: Tensor, slate: Tensor, rules: SlateRules) -> Tensor:
    """Return the log-probability [B, S] of each item of a slate, given those above it.

    Args:
        score: [B, N].
        slate: [B, S] int64, valid; empty positions, -1, have log-probability 0.
        rules: of the slates; items that they forbid at a position cannot be drawn there.
    """
    if rules.allowed is not None or rules.special is not None or rules.n_positions > rules.n_items:
        return _log_prob_by_position(score, slate, rules)
    chosen = score.gather(1, slate)
    # The items left at a position are those below it and those that are not in the slate. Adding
    # from the bottom loses no precision, as subtracting from the sum over all items would.
    below = score.scatter(1, slate, -torch.inf).logsumexp(1, keepdim=True)
    left = torch.cat([below, chosen.flip(1)], 1).logcumsumexp(1)[:, 1:].flip(1)
    return chosen - left


def _log_prob_by_position(score: Tensor, slate: Tensor, rules: SlateRules) -> Tensor:
    logs = []
    for position in range(slate.shape[1]):
        item = slate[:, position : position + 1]
        left = score.masked_fill(~rules.mask(slate, position), -torch.inf)
        # Where nothing is left, the position is empty: zeros keep its gradient finite.
        left = torch.where(item >= 0, left, 0.0).log_softmax(1)
        logs.append(torch.where(item >= 0, left.gather(1, item.clamp(min=0)), 0.0))
    return torch.cat(logs, 1)
