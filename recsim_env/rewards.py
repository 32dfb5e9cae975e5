"""What an answer is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsim_env.outcome import Outcome
from responders import Catalogue, InputError
from responders.errors import check_finite, near_matches

Function = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Your own: from slate [B, S] int64, click [B, S] bool and probability [B, S] to reward [B]."""

Choice = str | Function | Sequence[str] | Mapping[str, float]
"""See `make_reward`."""

Reward = Callable[[Outcome], Tensor]
"""From an outcome whose reward is still empty to reward [B] or [B, M] float32."""


def make_reward(
    choice: Choice,
    catalogue: Catalogue,
    device: torch.device | str,
    window: float | None = None,
    ensemble: bool = False,
) -> tuple[Reward, int | None]:
    """Return a reward, and its number of objectives M (None where it is one number).

    Args:
        choice: a name of `REWARDS`; names with weights, for their weighted sum; several names, for
            a vector; or a `Function` of your own.
        catalogue: gives prices, features and popularity.
        device: of the tensors.
        window: seconds, of users who come back; None = they do not.
        ensemble: whether the responder is one.

    Raises:
        InputError: an unknown name, or one that the catalogue or the world cannot give.
    """
    if callable(choice):
        return Own(choice), None
    if isinstance(choice, str):
        return _named(choice, catalogue, device, window, ensemble), None
    if not isinstance(choice, (Sequence, Mapping)) or not choice:
        raise InputError(f"reward {choice!r} names nothing; {near_matches('', REWARDS)}")
    parts = tuple(_named(name, catalogue, device, window, ensemble) for name in choice)
    several = Several(parts)
    if isinstance(choice, Mapping):
        weights = [check_finite(f"weight of {name}", w) for name, w in choice.items()]
        return Weighted(several, torch.tensor(weights, dtype=torch.float32, device=device)), None
    return several, len(several.parts)


@dataclass(frozen=True)
class Named:
    """A reward by name: a function of the outcome and of what is known of the items."""

    function: Callable[[Outcome, Tensor], Tensor]
    table: Tensor

    def __call__(self, outcome: Outcome) -> Tensor:
        """Return the reward [B]."""
        return self.function(outcome, self.table)


@dataclass(frozen=True)
class Own:
    """A function of the caller's."""

    function: Function

    def __call__(self, outcome: Outcome) -> Tensor:
        """Return the reward [B]."""
        found = self.function(outcome.slate, outcome.click, outcome.probability)
        if not isinstance(found, Tensor) or found.shape != outcome.slate.shape[:1]:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"the reward function returned {got}, not a tensor of one number for each of "
                f"{len(outcome.slate)} users"
            )
        return found.float()


@dataclass(frozen=True)
class Several:
    """Several rewards, as a vector."""

    parts: tuple[Named, ...]

    def __call__(self, outcome: Outcome) -> Tensor:
        """Return the rewards [B, M]."""
        return torch.stack([part(outcome) for part in self.parts], 1)


@dataclass(frozen=True)
class Weighted:
    """The weighted sum of several rewards."""

    several: Several
    weights: Tensor

    def __call__(self, outcome: Outcome) -> Tensor:
        """Return the reward [B]."""
        return self.several(outcome) @ self.weights


def _clicks(o: Outcome, table: Tensor) -> Tensor:
    """Items clicked."""
    return o.click.sum(1, dtype=torch.float32)


def _expected_clicks(o: Outcome, table: Tensor) -> Tensor:
    """Sum of the probabilities from which the clicks were drawn."""
    return o.probability.sum(1)


def _revenue(o: Outcome, price: Tensor) -> Tensor:
    """Prices of the items clicked."""
    return (price[o.slate.clamp(min=0)] * o.click).sum(1)


def _expected_revenue(o: Outcome, price: Tensor) -> Tensor:
    """Sum of price × probability."""
    return (price[o.slate.clamp(min=0)] * o.probability).sum(1)


def _satisfaction(o: Outcome, table: Tensor) -> Tensor:
    """Chance that the user stays after the slate."""
    return 1 - o.leave_chance


def _retention(o: Outcome, window: Tensor) -> Tensor:
    """When the user leaves and comes back: 1 − gap / window; else 0."""
    return torch.where(o.returned, 1 - o.gap / window, 0.0)


def _disagreement(o: Outcome, table: Tensor) -> Tensor:
    """Sum of the deviations of an ensemble's members."""
    return o.disagreement.sum(1)


def _novelty(o: Outcome, bits: Tensor) -> Tensor:
    """Mean of −log2 of the shown items' share of the training log's impressions."""
    there = o.slate >= 0
    total = torch.where(there, bits[o.slate.clamp(min=0)], 0.0).sum(1)
    return total / there.sum(1).clamp(min=1)


def _diversity(o: Outcome, direction: Tensor) -> Tensor:
    """Mean of 1 − cosine of the features of any two items of the slate."""
    there = o.slate >= 0
    vectors = direction[o.slate.clamp(min=0)] * there.unsqueeze(2)
    # Σ of cosines over ordered pairs = |Σ v|² − Σ |v|²
    cosines = vectors.sum(1).square().sum(1) - vectors.square().sum((1, 2))
    pairs = there.sum(1) * (there.sum(1) - 1)
    return torch.where(pairs > 0, 1 - cosines / pairs.clamp(min=1), 0.0)


REWARDS = {
    "clicks": _clicks,
    "expected_clicks": _expected_clicks,
    "revenue": _revenue,
    "expected_revenue": _expected_revenue,
    "diversity": _diversity,
    "novelty": _novelty,
    "satisfaction": _satisfaction,
    "retention": _retention,
    "disagreement": _disagreement,
}
"""Rewards by name: functions of the outcome and of the table that `_named` makes."""


def _named(
    name: str,
    catalogue: Catalogue,
    device: torch.device | str,
    window: float | None,
    ensemble: bool,
) -> Named:
    if not isinstance(name, str) or name not in REWARDS:
        raise InputError(f"reward {name!r} is unknown; {near_matches(str(name), REWARDS)}")
    table: np.ndarray = np.zeros(0)
    if name.endswith("revenue"):
        if catalogue.price is None:
            raise InputError(
                f"reward {name!r} needs prices, and the catalogue has none: use clicks"
            )
        table = catalogue.price
    elif name == "disagreement" and not ensemble:
        raise InputError("reward 'disagreement' needs an ensemble: give several responders")
    elif name == "retention":
        if window is None:
            raise InputError("reward 'retention' needs users who come back: give returns=…")
        table = np.array(window)
    elif name == "novelty":
        shown = catalogue.attributes.get("shown")
        if shown is None:
            raise InputError("reward 'novelty' needs the column `shown` of a trained responder")
        table = -np.log2((shown + 1.0) / (shown + 1.0).sum())
    elif name == "diversity":
        if not catalogue.features.shape[1]:
            raise InputError("reward 'diversity' needs item features, and the catalogue has none")
        centred = catalogue.features - catalogue.features.mean(0)
        table = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return Named(REWARDS[name], torch.tensor(table, dtype=torch.float32, device=device))
