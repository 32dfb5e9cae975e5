"""REINFORCE from a log, with the top-K off-policy correction (Chen et al., WSDM 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.from_log import LogPolicy, check_form, minimise, observe_log
from agents.neural import NeuralConfig, NeuralPolicy, State
from agents.user_features import ItemScores, UserFeatures, mlp
from responders import SessionLog
from responders.config import Config, setting
from responders.log import ragged


@dataclass(frozen=True)
class ReinforceConfig(NeuralConfig):
    """Settings of `ReinforcePolicy`."""

    gamma: float = setting(0.9, "Discount of the clicks on later slates.", ge=0, le=1)
    cap: float = setting(20.0, "Largest ratio of the policy's chance to the log's.", gt=0)
    epochs: int = setting(10, "Passes over the log.", ge=1)
    batch_size: int = setting(512, "Slates in a minibatch.", ge=1)


class Networks(nn.Module):
    """A policy, the policy behind the log, and the value of what follows; no common weights.

    Args:
        features: of users and items.
        candidates: [C] int64, the items to score.
        config: the settings.
    """

    def __init__(self, features: UserFeatures, candidates: Tensor, config: ReinforceConfig) -> None:
        super().__init__()
        self.actor = ItemScores(features, candidates, config.size, config.hidden_size)
        self.behaviour = ItemScores(features, candidates, config.size, config.hidden_size)
        self.value = mlp(features.size, config.hidden_size, 1)


class Logged(NamedTuple):
    """Slates [B] of a log.

    Args:
        state: before the slate.
        column: [B, S] int64, numbers of candidates, -1 = other items and empty positions.
        click: [B, S] float32.
        later: [B] float32, discounted clicks on later slates of the session.
        propensity: [B, S] float32, the log's; NaN = unknown.
    """

    state: State
    column: Tensor
    click: Tensor
    later: Tensor
    propensity: Tensor


class ReinforcePolicy(LogPolicy, NeuralPolicy):
    """REINFORCE with the top-K off-policy correction, arXiv:1812.02353.

    π is a softmax over candidates; an item shown with chance β by the log's policy moves it by the
    gradient of log π times min(π / β, cap) · K (1 - π)^(K - 1) · reward, with K positions. β is the
    log's propensity or, where it has none, a softmax fitted to what was shown. An item's reward is
    its click and an equal share of the discounted clicks on later slates of the session, less what
    the state promises of them.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of the weights and of the order of the log.
    """

    config_class: ClassVar[type[Config]] = ReinforceConfig
    config: ReinforceConfig
    net: Networks

    def networks(self, features: UserFeatures) -> Networks:
        return Networks(features, self.candidates, self.config)

    def rank(self, state: State) -> Tensor:
        return self.net.actor(*state)

    def affinity(self, observation: dict[str, Tensor]) -> Tensor:
        return NeuralPolicy.score(self, observation)

    def fit_log(self, log: SessionLog) -> None:
        check_form(log, self.site)
        later = later_clicks(log, self.config.gamma)
        self.net = self.untrained()
        rows = np.arange(log.n_slates)
        minimise(
            lambda rows: self.loss(self._logged(log, rows, later)),
            self.net, rows, self.config, self.seed,
        )  # fmt: skip

    def _logged(self, log: SessionLog, rows: np.ndarray, later: np.ndarray) -> Logged:
        unknown = np.full(log.slate[rows].shape, np.nan)
        return Logged(
            state=self.state(observe_log(log, rows, self.site)),
            column=self._candidates.columns(log.slate[rows]),
            click=self.tensor(log.response[rows] > 0),
            later=self.tensor(later[rows]),
            propensity=self.tensor(unknown if log.propensity is None else log.propensity[rows]),
        )

    def loss(self, logged: Logged) -> Tensor:
        """Return a loss whose gradient is that of REINFORCE, behaviour and value [] together."""
        shown, item = logged.column >= 0, logged.column.clamp(min=0)
        log_chance, log_behaviour = (
            net(*logged.state).log_softmax(1).gather(1, item)
            for net in (self.net.actor, self.net.behaviour)
        )
        value = self.net.value(logged.state.x).squeeze(1)
        with torch.no_grad():
            known = ~logged.propensity.isnan()
            behaviour = torch.where(known, logged.propensity, log_behaviour.exp())
            weight = correction(log_chance.exp(), behaviour, self.n_positions, self.config.cap)
            share = (logged.later - value) / shown.sum(1).clamp(min=1)
            gain = weight * (logged.click + share.unsqueeze(1))
        policy_loss = -(gain * log_chance)[shown].mean()
        behaviour_loss = -log_behaviour[shown].mean()
        return policy_loss + behaviour_loss + F.mse_loss(value, logged.later)


def correction(chance: Tensor, behaviour: Tensor, k: int, cap: float) -> Tensor:
    """Return min(π / β, cap) · K (1 - π)^(K - 1) for chances π and β of any one shape."""
    ratio = (chance / behaviour.clamp(min=1e-12)).clamp(max=cap)
    return ratio * k * (1 - chance) ** (k - 1)


def later_clicks(log: SessionLog, gamma: float) -> np.ndarray:
    """Return Σ γ^j · clicks of the slate j after each slate [T], within its session, float64."""
    clicks = log.response.sum(1, dtype=np.float64)
    later, place = np.zeros(log.n_slates), ragged.place(log.session_length)
    last = np.repeat(log.session_length, log.session_length) - 1
    for step in range(int(log.session_length.max()) - 2, -1, -1):
        rows = np.flatnonzero((place == step) & (place < last))
        later[rows] = gamma * (clicks[rows + 1] + later[rows + 1])
    return later
