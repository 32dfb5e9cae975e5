"""What happens in a step: the users' answers, and their outcome."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Answer:
    """How B users answered their slates; what a reward is computed from.

    Args:
        slate: [B, S] int64, what was shown; later copies of an item are -1.
        click: [B, S] bool.
        probability: [B, S] float32, from which the clicks were drawn; 0 at empty positions.
        leave_chance: [B] float32, the chance to leave after this slate.
        returned: [B] bool, the user left and came back: the next slate opens a new visit.
        gap: [B] float32, seconds until then; 0 for all others.
        disagreement: [B, S] float32, standard deviation of an ensemble's members; 0 without one.
    """

    slate: Tensor
    click: Tensor
    probability: Tensor
    leave_chance: Tensor
    returned: Tensor
    gap: Tensor
    disagreement: Tensor


@dataclass
class Outcome(Answer):
    """What happened to B users in one step: their answers and what follows.

    Args:
        reward: [B] float32, or [B, M] where several rewards were asked for.
        left: [B] bool, the user left for good (terminated).
        truncated: [B] bool, a user who did not leave reached the horizon.
        invalid: [B] bool, the slate broke a rule of the catalogue; its reward is 0.
        duplicates: [B] int64, copies of an item that were left empty.
    """

    reward: Tensor
    left: Tensor
    truncated: Tensor
    invalid: Tensor
    duplicates: Tensor

    def only(self, mask: Tensor) -> Outcome:
        """Return the outcome with zeros outside `mask` [B] bool."""
        return Outcome(**{name: _where(mask, value) for name, value in vars(self).items()})


def _where(mask: Tensor, value: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (value.ndim - 1)), value, torch.zeros_like(value))
