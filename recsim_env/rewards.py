"""What an answer is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from responders import Catalogue, InputError
from responders.errors import near_matches

Reward = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From slate [B, S] int64, click [B, S] bool and probability [B, S] to reward [B] float32."""


@dataclass(frozen=True)
class Clicks:
    """Items clicked; or expected to be."""

    expected: bool

    def __call__(self, slate: Tensor, click: Tensor, probability: Tensor) -> Tensor:
        """Return the reward [B]."""
        return (probability if self.expected else click.float()).sum(1)


@dataclass(frozen=True)
class Revenue:
    """Prices [N] of the items clicked; or expected to be."""

    expected: bool
    price: Tensor

    def __call__(self, slate: Tensor, click: Tensor, probability: Tensor) -> Tensor:
        """Return the reward [B]."""
        answer = probability if self.expected else click.float()
        return (self.price[slate.clamp(min=0)] * answer).sum(1)


def make_reward(name: str | Reward, catalogue: Catalogue, device: torch.device | str) -> Reward:
    """Return a reward by name.

    Args:
        name: `clicks` (items clicked), `expected_clicks` (their probabilities instead), `revenue`
            (prices of the items clicked), `expected_revenue`, or a function of your own. Expected
            rewards sum the probabilities from which the clicks were drawn.
        catalogue: gives the prices.
        device: of the tensors.

    Raises:
        InputError: an unknown name, or revenue from a catalogue without prices.
    """
    if callable(name):
        return name
    known = ("clicks", "expected_clicks", "revenue", "expected_revenue")
    if name not in known:
        raise InputError(f"reward {name!r} is unknown; {near_matches(name, known)}")
    expected = name.startswith("expected_")
    if name.endswith("clicks"):
        return Clicks(expected)
    if catalogue.price is None:
        raise InputError(f"reward {name!r} needs prices, and the catalogue has none: use clicks")
    return Revenue(expected, torch.from_numpy(catalogue.price.copy()).to(device))
