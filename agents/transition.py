"""What a policy learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transition:
    """One step of B users; row b of every tensor is the user whom row b of `Policy.act` saw.

    Args:
        observation: what the policy saw, a batched `HistoryObservation`.
        slate: [B, S] int64, the items shown; repeated items are replaced by -1.
        click: [B, S] bool.
        reward: [B] float32, or [B, M] for M rewards.
        next_observation: what it sees next.
        left: [B] bool, the user left for good: there is no next slate.
        truncated: [B] bool, the episode was cut at the horizon; the user would have stayed.
        active: [B] bool, False for users whose session had ended before: their numbers mean
            nothing.
        propensity: [B, S] float32, the chance with which the policy put each item there; None if
            it does not say.
    """

    observation: dict[str, Tensor]
    slate: Tensor
    click: Tensor
    reward: Tensor
    next_observation: dict[str, Tensor]
    left: Tensor
    truncated: Tensor
    active: Tensor
    propensity: Tensor | None = None

    def counts(self, n_items: int) -> tuple[Tensor, Tensor]:
        """Return the impressions and the clicks [N] int64 of each item in running sessions."""
        step = self.only_active()
        shown, clicked = step.slate[step.slate >= 0], step.slate[step.click]
        return torch.bincount(shown, minlength=n_items), torch.bincount(clicked, minlength=n_items)

    def only_active(self) -> Transition:
        """Return the rows of running sessions."""
        rows = self.active.nonzero().squeeze(1)
        return Transition(**{name: _take(value, rows) for name, value in vars(self).items()})


def _take(value: Any, rows: Tensor) -> Any:
    if isinstance(value, dict):
        return {name: tensor[rows] for name, tensor in value.items()}
    return None if value is None else value[rows]
