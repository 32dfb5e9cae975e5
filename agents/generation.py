"""Several recommendations from a model of the next item, by generating what comes next.

The strategies of Volodkevich et al. (2024), "Autoregressive generation strategies for top-K
sequential recommendations" (arXiv:2409.17730), for many users at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from agents.sequences import appended
from responders.behaviour.slate_rules import SlateRules

Generation = Literal["topk", "greedy", "beam", "sample", "rra", "ra"]
"""`topk`: the best next items. `greedy`: the best next item, then the best one after it, and so on.
`beam`: the most likely continuation that beam search finds. `sample`: one that is drawn. `rra`
(reciprocal rank aggregation) and `ra` (relevance aggregation): many are drawn, and an item's score
is the sum, over those that hold it, of 1 / rank or of the model's probability at that place."""

NextItem = Callable[[Tensor], Tensor]
"""Returns the logits [n, N] of the next item after histories [n, L], padded at the end with -1."""

_NUMBERS = 1 << 24  # probabilities held at once; users are taken in groups to stay below


def generate(
    next_item: NextItem,
    history: Tensor,
    rules: SlateRules,
    how: Generation = "topk",
    paths: int = 10,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return scores [B, N] whose best items, chosen by `rules`, are the recommended slates.

    With `topk` they are the logits. Otherwise continuations are valid slates, without an item
    twice: generated items have positive scores, and the others follow with negative ones, in the
    order of their probability as the next item.

    Args:
        next_item: the model.
        history: [B, L] int64, padded on the right with -1.
        rules: of the slates; a continuation has S items.
        how: see `Generation`.
        paths: W, beams, or continuations drawn for `rra` and `ra`.
        temperature: logits are divided by it before items are drawn.
        generator: of the draws.
    """
    if how == "topk":
        return next_item(history)
    width = 1 if how in ("greedy", "sample") else paths
    group = max(_NUMBERS // (width * rules.n_items), 1)
    scores = []
    for part in history.split(group):
        if how == "beam":
            slate, weight = _beam(next_item, part, rules, width), None
        else:
            heat = 0.0 if how == "greedy" else temperature
            slate, weight = _walk(next_item, part, rules, width, heat, generator)
        scores.append(_score(next_item(part), slate, weight if how == "ra" else None))
    return torch.cat(scores)


def _score(logits: Tensor, slate: Tensor, weight: Tensor | None) -> Tensor:
    """Return the scores [B, N] of slates [B, W, S] with weights [B, W, S], by default 1 / rank."""
    if weight is None:
        weight = 1 / torch.arange(1, slate.shape[2] + 1, device=slate.device).expand(slate.shape)
    weight = torch.where(slate >= 0, weight, 0.0).to(logits.dtype)
    score = torch.zeros_like(logits)
    score.scatter_add_(1, slate.clamp(min=0).flatten(1), weight.flatten(1))
    return torch.where(score > 0, score, logits.softmax(1) - 1)


def _walk(
    next_item: NextItem,
    history: Tensor,
    rules: SlateRules,
    width: int,
    temperature: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Return W drawn continuations [B, W, S] and the probability of each item in its place.

    With temperature 0, each item is the most likely one.
    """
    past = history.repeat_interleave(width, 0)
    slate = past.new_full((len(past), rules.n_positions), -1)
    chance = torch.zeros(slate.shape, device=slate.device)
    for position in range(rules.n_positions):
        logits = next_item(past)
        drawn = logits
        if temperature > 0:  # the largest of logits with Gumbel noise is a draw from their softmax
            noise = torch.empty_like(logits).exponential_(generator=generator).log()
            drawn = logits / temperature - noise
        item = slate[:, position] = rules.best(drawn, slate, position)
        column = item.clamp(min=0).unsqueeze(1)
        chance[:, position] = logits.softmax(1).gather(1, column).squeeze(1)
        past = appended(past, item)
    shape = len(history), width, rules.n_positions
    return slate.view(shape), chance.view(shape)


def _beam(next_item: NextItem, history: Tensor, rules: SlateRules, width: int) -> Tensor:
    """Return the most likely of W beams, [B, 1, S]: the product of its items' probabilities."""
    b, nothing = len(history), rules.n_items
    past = history.repeat_interleave(width, 0)
    slate = past.new_full((b * width, rules.n_positions), -1)
    total = torch.full((b, width), -torch.inf, device=history.device)
    total[:, 0] = 0.0  # the beams are the same at first: only one counts
    first_beam = torch.arange(b, device=history.device).unsqueeze(1) * width
    for position in range(rules.n_positions):
        valid = rules.mask(slate, position)
        # The last column is an empty position, for beams to which no item can be added.
        valid = torch.cat([valid, ~valid.any(1, keepdim=True)], 1)
        step = torch.nn.functional.pad(next_item(past).log_softmax(1), (0, 1))
        step = step.masked_fill(~valid, -torch.inf).view(b, width, -1)
        total, best = (total.unsqueeze(2) + step).flatten(1).topk(width, 1)
        item = (best % (nothing + 1)).flatten()
        item = torch.where(item == nothing, -1, item)
        beam = (first_beam + best // (nothing + 1)).flatten()
        slate, past = slate[beam], past[beam]
        slate[:, position] = item
        past = appended(past, item)
    return slate.view(b, width, -1)[:, :1]
