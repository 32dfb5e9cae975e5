"""PPO over whole slates, which are drawn item by item without replacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from agents import plackett_luce
from agents.neural import ClickModel, NeuralConfig, NeuralPolicy, State
from agents.user_features import ItemScores, UserFeatures, mlp
from recsim_env.observations import HistoryObservation
from recsim_env.world import World
from responders.config import Config, setting


@dataclass(frozen=True)
class SlatePPOConfig(NeuralConfig):
    """Settings of `SlatePPOPolicy`."""

    gamma: float = setting(0.9, "Discount.", ge=0, le=1)
    n_steps: int = setting(16, "Slates of each user between updates.", ge=1)
    minibatches: int = setting(4, "Minibatches of an update.", ge=1)
    n_epochs: int = setting(4, "Passes over the slates in an update.", ge=1)
    gae_lambda: float = setting(0.9, "Of the advantage estimate.", ge=0, le=1)
    clip: float = setting(0.2, "Largest change of an item's probability that is rewarded.", gt=0)
    actor_rate: float = setting(0.0001, "The learning rate of the actor; falls likewise.", gt=0)
    entropy: float = setting(0.001, "Weight of the entropy of each choice.", ge=0)
    prior: float = setting(
        4.0, "Initial factor of the click model's scores in the actor's; 0 = none.", ge=0
    )


class Networks(nn.Module):
    """An actor, a critic and a click model, without common weights.

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
        self.actor = ItemScores(features, candidates, config.size, config.hidden_size)
        self.critic = mlp(features.size, config.hidden_size, 1)
        self.click_model = ClickModel(features, candidates, n_positions, config)
        self.factor = nn.Parameter(torch.tensor(config.prior), requires_grad=config.prior > 0)

    def forward(self, state: State) -> tuple[Tensor, Tensor]:
        """Return the scores [B, C] of the actor and of the click model."""
        clicks = self.click_model(*state)
        return self.actor(*state) + self.factor * clicks.detach(), clicks

    def value(self, state: State) -> Tensor:
        """Return the discounted rewards [B] that the critic expects."""
        return self.critic(state.x).squeeze(1)


class Step(NamedTuple):
    """A slate of each of B users; stacked, all tensors are [T, B, …].

    Args:
        state: before the slate.
        slate: [B, S] int64, numbers of candidates, -1 = empty.
        log_prob: [B, S], of each item given those above it.
        click: [B, S] float32.
        expected: [B, S], click probabilities by the click model.
        reward: [B].
        value: [B], of the state, by the critic.
        next_value: [B], of the next state; 0 for users who left.
        ended: [B] bool, the episode is over.
    """

    state: State
    slate: Tensor
    log_prob: Tensor
    click: Tensor
    expected: Tensor
    reward: Tensor
    value: Tensor
    next_value: Tensor
    ended: Tensor


class SlatePPOPolicy(NeuralPolicy):
    """PPO (Schulman et al., 2017) over Plackett–Luce slates.

    In training, a slate is drawn from the actor's scores without replacement, and its exact
    probability enters the loss; otherwise the policy shows the items with the best scores. The
    scores of a click model, which is fitted to the answers, times a learned factor are part of the
    actor's: showing what is clicked is a better start than showing anything. A position is credited
    with the advantage of its slate without the part that unexpected clicks above it explain, which
    its item cannot have caused.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights and exploration.
    """

    config_class: ClassVar[type[Config]] = SlatePPOConfig
    config: SlatePPOConfig
    net: Networks

    def networks(self, features: UserFeatures) -> Networks:
        return Networks(features, self.candidates, self.n_positions, self.config)

    def rank(self, state: State) -> Tensor:
        return self.net(state)[0]

    def train(self, world: World, steps: int, seed: int) -> int:
        self.check_reward(world)
        config, per_update = self.config, world.num_users * self.config.n_steps
        n_updates = -(-steps // per_update)
        optimiser = self._optimiser()
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, n_updates)
        world.reset(seed=seed)
        for _ in range(n_updates):
            experience = self._act(world)
            advantage, goal = self._credit(experience)
            data = tree_map(lambda v: v.flatten(0, 1), (experience, advantage, goal))
            for _ in range(config.n_epochs):
                order = torch.randperm(per_update, generator=self._generator, device=self.device)
                for rows in order.chunk(config.minibatches):
                    loss = self._loss(*tree_map(lambda v, rows=rows: v[rows], data))
                    optimiser.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(self.net.actor.parameters(), 0.5)
                    optimiser.step()
            schedule.step()
        self.count_steps(n_updates * per_update)
        return n_updates * per_update

    def _optimiser(self) -> torch.optim.Adam:
        net, config = self.net, self.config
        acting = [*net.actor.parameters(), net.factor]
        predicting = [*net.critic.parameters(), *net.click_model.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": acting, "lr": config.actor_rate},
            {"params": predicting, "lr": config.learning_rate},
        ]
        return torch.optim.Adam(groups, eps=1e-5)

    @torch.no_grad()
    def _act(self, world: World) -> Step:
        """Return the next T slates of each user; users whose episodes end start new ones."""
        steps: list[Step] = []
        observe = HistoryObservation(world)
        for _ in range(self.config.n_steps):
            state = self.state(observe(world))
            score, click_score = self.net(state)
            slate = plackett_luce.draw(score, self._rules, self._generator)
            outcome = self.show(world, slate)
            next_value = self.net.value(self.state(observe(world))) * ~outcome.left
            ended = outcome.left | outcome.truncated
            world.reset(mask=ended)
            steps.append(
                Step(
                    state=state,
                    slate=slate,
                    log_prob=plackett_luce.log_prob(score, slate, self._rules),
                    click=outcome.click.float(),
                    expected=self.net.click_model.log_odds(click_score, slate).sigmoid(),
                    reward=outcome.reward,
                    value=self.net.value(state),
                    next_value=next_value,
                    ended=ended,
                )
            )
        return tree_map(lambda *values: torch.stack(values), *steps)

    def _credit(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the advantages [T, B, S] of positions, and what the critic learns, [T, B]."""
        config = self.config
        surprise = step.reward + config.gamma * step.next_value - step.value
        advantage, following = torch.zeros_like(surprise), torch.zeros_like(surprise[0])
        for t in reversed(range(len(surprise))):
            following = surprise[t] + config.gamma * config.gae_lambda * following * ~step.ended[t]
            advantage[t] = following
        unexpected = (step.click - step.expected) * (step.slate >= 0)
        total = unexpected.sum(2)
        # An unexpected click is worth `each`, by least squares: 1 and what it does to later slates.
        each = (total * advantage).sum() / total.square().sum().clamp(min=1e-6)
        by_position = advantage.unsqueeze(2) - each * (unexpected.cumsum(2) - unexpected)
        by_position = (by_position - by_position.mean((0, 1))) / by_position.std().clamp(min=1e-6)
        return by_position, advantage + step.value

    def _loss(self, step: Step, advantage: Tensor, goal: Tensor) -> Tensor:
        config = self.config
        score, click_score = self.net(step.state)
        log_prob = plackett_luce.log_prob(score, step.slate, self._rules)
        ratio = (log_prob - step.log_prob).exp()
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        gain = torch.minimum(ratio * advantage, clipped * advantage).sum(1).mean()
        # The entropy of the first choice: that of a whole slate has no closed form.
        log_first = score.log_softmax(1)
        entropy = self.n_positions * -(log_first.exp() * log_first).sum(1).mean()
        value_loss = F.mse_loss(self.net.value(step.state), goal)
        click_loss = self.net.click_model.loss(click_score, step.slate, step.click)
        # The networks share no weights, so the weights of their losses do not matter to Adam.
        return value_loss + click_loss - gain - config.entropy * entropy
