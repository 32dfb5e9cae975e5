"""The results of a step: how users answered, and the outcome."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from responders import EMPTY


@dataclass
class Answer:
    """How B users answered their slates; rewards are computed from it.

    Args:
        slate: [B, S] int64, the items shown; repeated items are replaced by -1.
        click: [B, S] bool.
        probability: [B, S] float32, click probabilities; 0 at empty positions.
        leave_chance: [B] float32, the chance to leave after this slate.
        returned: [B] bool, the user left and came back: the next slate starts a new visit.
        gap: [B] float32, seconds until the return; 0 for other users.
        disagreement: [B, S] float32, standard deviation of an ensemble's members; 0 without one.
        support: [B] float32, the share of logged slates that repeat as much of the slates before
            them as this one or more; 1 if the world does not measure it.
    """

    slate: Tensor
    click: Tensor
    probability: Tensor
    leave_chance: Tensor
    returned: Tensor
    gap: Tensor
    disagreement: Tensor
    support: Tensor


@dataclass
class Outcome(Answer):
    """The outcome of a step for B users: their answers, rewards and ends of episodes.

    Args:
        reward: [B] float32, or [B, M] for M rewards.
        left: [B] bool, the user left for good (terminated).
        truncated: [B] bool, a user who did not leave reached the horizon.
        invalid: [B] bool, the slate broke a rule of the catalogue; its reward is 0.
        duplicates: [B] int64, number of repeated items, which are left empty.
    """

    reward: Tensor
    left: Tensor
    truncated: Tensor
    invalid: Tensor
    duplicates: Tensor

    def only(self, mask: Tensor) -> Outcome:
        """Return the outcome with empty slates and zeros outside `mask` [B] bool."""
        return Outcome(**{name: _where(mask, value, name) for name, value in vars(self).items()})


def _where(mask: Tensor, value: Tensor, name: str) -> Tensor:
    others = torch.full_like(value, EMPTY if name == "slate" else 0)
    return torch.where(mask.view(-1, *[1] * (value.ndim - 1)), value, others)
