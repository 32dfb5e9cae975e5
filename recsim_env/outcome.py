"""What happened in a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Outcome:
    """What happened to B users in one step.

    Args:
        slate: [B, S] int64, what was shown; later copies of an item are -1.
        click: [B, S] bool.
        probability: [B, S] float32, from which the clicks were drawn; 0 at empty positions.
        reward: [B] float32, or [B, M] where several were asked for.
        left: [B] bool, the user left for good (terminated).
        truncated: [B] bool, the horizon was reached by a user who had not left.
        invalid: [B] bool, the slate broke a rule of the catalogue; its reward is 0.
        duplicates: [B] int64, copies of an item that were left empty.
        leave_chance: [B] float32, the chance to leave after this slate.
        returned: [B] bool, the user left and came back: the next slate opens a new visit.
        gap: [B] float32, seconds until then; 0 elsewhere.
        disagreement: [B, S] float32, deviation of an ensemble's members; 0 without one.
    """

    slate: Tensor
    click: Tensor
    probability: Tensor
    reward: Tensor
    left: Tensor
    truncated: Tensor
    invalid: Tensor
    duplicates: Tensor
    leave_chance: Tensor
    returned: Tensor
    gap: Tensor
    disagreement: Tensor

    def only(self, mask: Tensor) -> Outcome:
        """Return the outcome with zeros outside `mask` [B] bool."""
        return Outcome(*(_where(mask, value) for value in vars(self).values()))


def _where(mask: Tensor, value: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (value.ndim - 1)), value, torch.zeros_like(value))
