"""Rewards for the answers of users."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recsim_env.outcome import Answer
from recsim_env.registry import REWARDS
from responders import Catalogue, InputError
from responders.errors import check_finite, near_matches
from responders.registry import load

RewardFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From slate [B, S] int64, click [B, S] bool and probability [B, S] to rewards [B]."""

RewardSpec = str | RewardFunction | Sequence[str] | Mapping[str, float]
"""See `make_reward`."""


class Reward(Protocol):
    """From the answers of B users to rewards [B] or [B, M], float32."""

    def __call__(self, answer: Answer) -> Tensor:
        """Return the rewards."""
        ...


@dataclass(frozen=True)
class RewardContext:
    """Facts about a world that rewards may need.

    Args:
        catalogue: has prices, features and popularity.
        marginal: from slates [B, S] to click probabilities [B, S] given the history before the
            step, the clicks above averaged out; see `Responder.marginal`.
        device: of the tensors.
        return_window: seconds within which users come back; None = they do not.
        is_ensemble: whether several responders answer.
        has_support: whether answers say how common their slates are in the log.
    """

    catalogue: Catalogue
    marginal: Callable[[Tensor], Tensor]
    device: torch.device | str
    return_window: float | None = None
    is_ensemble: bool = False
    has_support: bool = False

    def tensor(self, values: np.ndarray) -> Tensor:
        """Return `values` as float32 on the device."""
        return torch.tensor(values, dtype=torch.float32, device=self.device)


def make_reward(spec: RewardSpec, context: RewardContext) -> tuple[Reward, int | None]:
    """Return a reward and its number of objectives M (None for a scalar reward).

    Args:
        spec: a name in `REWARDS`; names with weights, for their weighted sum; several names, for
            a vector; or a `RewardFunction`.
        context: of the world.

    Raises:
        InputError: an unknown name, or a reward that the catalogue or the world does not support.
    """
    if callable(spec):
        return FunctionReward(spec), None
    if isinstance(spec, str):
        return _by_name(spec, context), None
    if not isinstance(spec, (Sequence, Mapping)) or not spec:
        raise InputError(f"reward {spec!r} names nothing; {near_matches('', REWARDS)}")
    vector = VectorReward([_by_name(name, context) for name in spec])
    if not isinstance(spec, Mapping):
        return vector, len(vector.rewards)
    weights = np.array([check_finite(f"weight of {name}", w) for name, w in spec.items()])
    return WeightedReward(vector, context.tensor(weights)), None


def _by_name(name: str, context: RewardContext) -> Reward:
    if not isinstance(name, str):
        raise InputError(f"reward {name!r} is unknown; {near_matches(str(name), REWARDS)}")
    return load(REWARDS, name, "reward")(context)


class FunctionReward:
    """A custom reward function."""

    def __init__(self, function: RewardFunction) -> None:
        self.function = function

    def __call__(self, answer: Answer) -> Tensor:
        reward = self.function(answer.slate, answer.click, answer.probability)
        if not isinstance(reward, Tensor) or reward.shape != answer.slate.shape[:1]:
            got = tuple(reward.shape) if isinstance(reward, Tensor) else type(reward).__name__
            raise InputError(
                f"the reward function returned {got}, not a tensor of one number for each of "
                f"{len(answer.slate)} users"
            )
        if reward.is_complex():
            raise InputError("the reward function returned complex numbers")
        reward = reward.float()
        if reward.device.type == "cpu" and not torch.isfinite(reward).all():  # no synchronisation
            raise InputError("the reward function returned NaN or infinity")
        return reward


class VectorReward:
    """Several rewards as a vector."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self.rewards = rewards

    def __call__(self, answer: Answer) -> Tensor:
        return torch.stack([reward(answer) for reward in self.rewards], 1)


class WeightedReward:
    """The weighted sum of several rewards."""

    def __init__(self, rewards: VectorReward, weights: Tensor) -> None:
        self.rewards, self.weights = rewards, weights

    def __call__(self, answer: Answer) -> Tensor:
        return self.rewards(answer) @ self.weights


class Clicks:
    """Number of items clicked."""

    def __init__(self, context: RewardContext) -> None:
        pass

    def __call__(self, answer: Answer) -> Tensor:
        return answer.click.sum(1, dtype=torch.float32)


class ExpectedClicks:
    """Expected number of clicks, given the history; it does not depend on the clicks drawn."""

    def __init__(self, context: RewardContext) -> None:
        self.marginal = context.marginal

    def __call__(self, answer: Answer) -> Tensor:
        return self.marginal(answer.slate).sum(1)


class Revenue:
    """Sum of the prices of the items clicked."""

    def __init__(self, context: RewardContext) -> None:
        self.price = _prices(context)

    def __call__(self, answer: Answer) -> Tensor:
        return (self.price[answer.slate.clamp(min=0)] * answer.click).sum(1)


class ExpectedRevenue:
    """Expected revenue, given the history: the reward of a page in RL4RS's simulator."""

    def __init__(self, context: RewardContext) -> None:
        self.price, self.marginal = _prices(context), context.marginal

    def __call__(self, answer: Answer) -> Tensor:
        return (self.price[answer.slate.clamp(min=0)] * self.marginal(answer.slate)).sum(1)


class Satisfaction:
    """Chance that the user stays after the slate."""

    def __init__(self, context: RewardContext) -> None:
        pass

    def __call__(self, answer: Answer) -> Tensor:
        return 1 - answer.leave_chance


class Retention:
    """1 − gap / window if the user leaves and comes back, otherwise 0."""

    def __init__(self, context: RewardContext) -> None:
        if context.return_window is None:
            raise InputError("reward 'retention' needs users who come back: give returns=…")
        self.window = context.return_window

    def __call__(self, answer: Answer) -> Tensor:
        return torch.where(answer.returned, 1 - answer.gap / self.window, 0.0)


class Disagreement:
    """Sum over the slate of the standard deviation of an ensemble's members."""

    def __init__(self, context: RewardContext) -> None:
        if not context.is_ensemble:
            raise InputError("reward 'disagreement' needs an ensemble: give several responders")

    def __call__(self, answer: Answer) -> Tensor:
        return answer.disagreement.sum(1)


class Novelty:
    """Mean over the shown items of −log2 of their share of the training log's impressions."""

    def __init__(self, context: RewardContext) -> None:
        shown = context.catalogue.attributes.get("shown")
        if shown is None:
            raise InputError("reward 'novelty' needs the column `shown` of a trained responder")
        self.bits = context.tensor(-np.log2((shown + 1.0) / (shown + 1.0).sum()))

    def __call__(self, answer: Answer) -> Tensor:
        shown = answer.slate >= 0
        total = torch.where(shown, self.bits[answer.slate.clamp(min=0)], 0.0).sum(1)
        return total / shown.sum(1).clamp(min=1)


class Diversity:
    """Mean of 1 − cosine of the features over all pairs of items of the slate."""

    def __init__(self, context: RewardContext) -> None:
        features = context.catalogue.features
        if not features.shape[1]:
            raise InputError("reward 'diversity' needs item features, and the catalogue has none")
        centred = features - features.mean(0)
        length = np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
        self.direction = context.tensor(centred / length)

    def __call__(self, answer: Answer) -> Tensor:
        shown = answer.slate >= 0
        vectors = self.direction[answer.slate.clamp(min=0)] * shown.unsqueeze(2)
        # Σ of cosines over ordered pairs = |Σ v|² − Σ |v|²
        cosines = vectors.sum(1).square().sum(1) - vectors.square().sum((1, 2))
        pairs = shown.sum(1) * (shown.sum(1) - 1)
        return torch.where(pairs > 0, 1 - cosines / pairs.clamp(min=1), 0.0)


def _prices(context: RewardContext) -> Tensor:
    if context.catalogue.price is None:
        raise InputError("revenue needs prices, and the catalogue has none: use reward 'clicks'")
    return context.tensor(context.catalogue.price)


class SupportedClicks:
    """Number of clicks × support: slates that repeat more than the log's do count less.

    It keeps policies where the responder has learned from the log.
    """

    def __init__(self, context: RewardContext) -> None:
        if not context.has_support:
            raise InputError("reward 'supported_clicks' needs support=True, to measure support")

    def __call__(self, answer: Answer) -> Tensor:
        return answer.click.sum(1) * answer.support
