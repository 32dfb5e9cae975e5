"""The settings and the networks of `agents.slate_ppo`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.neural import ClickModel, NeuralConfig, State
from agents.user_features import ItemScores, UserFeatures, mlp
from responders.config import setting

_LEAST = 0.05  # value of a click below which its logarithm no longer falls


@dataclass(frozen=True)
class SlatePPOConfig(NeuralConfig):
    """Settings of `SlatePPOPolicy`."""

    gamma: float = setting(0.9, "Discount.", ge=0, le=1)
    n_steps: int = setting(16, "Slates of each user between updates.", ge=1)
    minibatches: int = setting(4, "Minibatches of a pass.", ge=1)
    n_epochs: int = setting(4, "Passes over the slates in an update.", ge=1)
    gae_lambda: float = setting(0.9, "Of the advantage estimate.", ge=0, le=1)
    clip: float = setting(0.2, "Largest change of an item's probability that is rewarded.", gt=0)
    actor_rate: float = setting(
        0.0002, "Of the actor and of the click values, whose targets are noisier.", gt=0
    )
    entropy: float = setting(0.001, "Weight of the entropy of each choice.", ge=0)
    reads_above: bool = setting(
        True, "Let the items above change the scores of those below; it takes longer."
    )
    memory: int = setting(
        0, "Units of a GRU over the last slates and their clicks; 0 = none.", ge=0, le=8192
    )
    prior: float = setting(
        4.0, "Initial factor of log(P · q) in the actor's scores; 0 = leave it out.", ge=0
    )


class Estimates(NamedTuple):
    """What the networks say of B users.

    Args:
        score: [B, C], the actor's scores of candidates.
        gain: [B, C], log(P · q), which is part of them.
        click: [B, C], the click model's, see `ClickModel`.
        click_value: [B, C], what a click on each item is worth.
        value: [B], the discounted rewards that the critic expects.
    """

    score: Tensor
    gain: Tensor
    click: Tensor
    click_value: Tensor
    value: Tensor


class Networks(nn.Module):
    """An actor, a critic, a click model and the values of clicks, without common weights.

    All of them read the state of the memory, if there is one, but only the click model trains it.

    Args:
        features: of users and items.
        candidates: [C] int64, the items to score.
        n_positions: S.
        config: the settings.
    """

    def __init__(
        self, features: UserFeatures, candidates: Tensor, n_positions: int, config: SlatePPOConfig
    ) -> None:
        super().__init__()
        more = config.memory
        self.memory = nn.GRU(features.slate_size, more, batch_first=True) if more else None
        self.actor = ItemScores(features, candidates, config.size, config.hidden_size, more)
        self.critic = mlp(features.size + more, config.hidden_size, 1)
        self.click_model = ClickModel(
            features, candidates, n_positions, config, config.reads_above, more
        )
        self.click_value = ItemScores(features, candidates, config.size, config.hidden_size, more)
        nn.init.ones_(self.click_value.bias)
        self.factor = nn.Parameter(torch.tensor(config.prior), requires_grad=config.prior > 0)

    def effects(self) -> Tensor | None:
        """Return [C, C], how the item of each row changes the actor's scores of those below it."""
        if not self.click_model.reads_above:
            return None
        return (self.factor * self.click_model.effects()).detach()

    def forward(self, state: State, gain: Tensor | None = None) -> Estimates:
        """Return what the networks say, with `gain` [B, C] as it was when a slate was drawn."""
        x, history = state
        with_gradient = x
        if self.memory is not None:
            summary = self.memory(history["slates"])[1][0]
            x, with_gradient = (torch.cat([x, m], 1) for m in (summary.detach(), summary))
        click, click_value = self.click_model(with_gradient, history), self.click_value(x, history)
        if gain is None:
            with torch.no_grad():
                gain = F.logsigmoid(click) + click_value.clamp(min=_LEAST).log()
        score = torch.addcmul(self.actor(x, history), self.factor, gain)
        return Estimates(score, gain, click, click_value, self.critic(x).squeeze(1))

    def value(self, state: State) -> Tensor:
        """Return the discounted rewards [B] that the critic expects."""
        x = state.x
        if self.memory is not None:
            x = torch.cat([x, self.memory(state.history["slates"])[1][0]], 1)
        return self.critic(x).squeeze(1)
