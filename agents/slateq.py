"""SlateQ: the long-term value of a slate from those of its items (Ie et al., IJCAI 2019)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from agents.neural import ClickModel, NeuralConfig, NeuralPolicy, State, in_front
from agents.user_features import ItemScores, UserFeatures, mlp
from recsim_env.observations import HistoryObservation
from recsim_env.world import World
from responders.behaviour.slate_rules import SlateRules
from responders.config import Config, setting


@dataclass(frozen=True)
class SlateQConfig(NeuralConfig):
    """Settings of `SlateQPolicy`."""

    gamma: float = setting(0.9, "Discount.", ge=0, le=1)
    epsilon: float = setting(0.1, "Chance of a random slate in training, at the end.", ge=0, le=1)
    start_epsilon: float = setting(
        1.0,
        "That chance at the start; epsilon if it is lower, to go on from learned weights.",
        ge=0,
        le=1,
    )
    explore: float = setting(
        0.3, "Share of the training in which that chance falls to epsilon.", ge=0, le=1
    )
    buffer: int = setting(50, "Slates of each user that are kept to learn from.", ge=1)
    updates: int = setting(2, "Minibatches after each slate of all users.", ge=1)
    batch_size: int = setting(512, "Slates in a minibatch.", ge=1)
    target_rate: float = setting(
        0.01, "Share of the way that the target goes to the networks in an update.", gt=0, le=1
    )


class Networks(nn.Module):
    """A click model, and networks of what is expected with each click and without any.

    Args:
        features: of users and items.
        candidates: [C] int64, the items to score.
        n_positions: S.
        config: the settings.
    """

    def __init__(
        self, features: UserFeatures, candidates: Tensor, n_positions: int, config: SlateQConfig
    ) -> None:
        super().__init__()
        self.click_model = ClickModel(features, candidates, n_positions, config)
        self.click_value = ItemScores(features, candidates, config.size, config.hidden_size)
        nn.init.ones_(self.click_value.bias)
        self.base_value = mlp(features.size, config.hidden_size, 1)

    def choose(self, state: State, rules: SlateRules) -> tuple[Tensor, Tensor, Tensor]:
        """Return slates [B, S] of candidates that add most, what these add [B, S], and all [B, C].

        An item adds P(click) · q, in a slate with the chance of a click given the items above it;
        the last are what each candidate adds alone.
        """
        score, value = self.click_model(*state), self.click_value(*state)
        effects, above = self.click_model.effects(), torch.zeros_like(score)
        slate = torch.full((len(score), rules.n_positions), -1, device=score.device)
        adds = []
        for position in range(rules.n_positions):
            log_odds = score + self.click_model.position[position] + above / max(position, 1)
            gain = (log_odds.sigmoid() * value).masked_fill(
                ~rules.mask(slate, position), -torch.inf
            )
            most, best = gain.max(1)
            exists = most > -torch.inf
            slate[:, position] = torch.where(exists, best, -1)
            adds.append(torch.where(exists, most, 0.0))
            above += torch.where(exists.unsqueeze(1), effects[best], 0.0)
        return slate, torch.stack(adds, 1), score.sigmoid() * value

    def value(self, state: State, adds: Tensor) -> Tensor:
        """Return Q [B] of slates whose items add `adds` [B, S]."""
        return self.base_value(state.x).squeeze(1) + adds.sum(1)

    def value_of_clicks(self, state: State, slate: Tensor, click: Tensor) -> Tensor:
        """Return what is expected of slates [B, S] once they are answered with `click` [B, S]."""
        each = self.click_value(*state).gather(1, slate.clamp(min=0))
        return self.value(state, each * click)


class Step(NamedTuple):
    """A slate of each of B users.

    Args:
        state: before the slate.
        slate: [B, S] int64, numbers of candidates, -1 = empty.
        click: [B, S] float32.
        reward: [B].
        next_state: after the slate.
        stays: [B] float32, 0 for users who left.
    """

    state: State
    slate: Tensor
    click: Tensor
    reward: Tensor
    next_state: State
    stays: Tensor


class SlateQPolicy(NeuralPolicy):
    """Q-learning with the value of a slate as a sum over its items (Ie et al., 2019).

    Q(x, slate) = q₀(x) + Σ P(click on i | x) · q(x, i): what is expected without a click, and what
    a click on each item adds to the reward and to all that follows, times its chance by a model
    that is fitted to the answers. Where users click at most one item it is the paper's
    decomposition; here clicks add up. A slate is filled from the top with the item of the highest
    P · q, given those above it: similar items may take each other's clicks.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights and exploration.
    """

    config_class: ClassVar[type[Config]] = SlateQConfig
    config: SlateQConfig
    net: Networks

    def networks(self, features: UserFeatures) -> Networks:
        return Networks(features, self.candidates, self.n_positions, self.config)

    def rank(self, state: State) -> Tensor:
        slate, _, alone = self.net.choose(state, self._rules)
        return in_front(slate, alone)

    def train(self, world: World, steps: int, seed: int) -> int:
        self.check_reward(world)
        config, n_steps = self.config, -(-steps // world.num_users)
        target = copy.deepcopy(self.net)
        optimiser = torch.optim.Adam(
            self.net.parameters(), config.learning_rate, eps=1e-5, fused=True
        )
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, n_steps)
        observe = HistoryObservation(world)
        world.reset(seed=seed)
        buffer = None
        for t in range(n_steps):
            passed = t / max(config.explore * n_steps, 1)
            epsilon = max(config.start_epsilon * (1 - passed), config.epsilon)
            step = self._act(world, observe, epsilon)
            if buffer is None:
                buffer = tree_map(lambda v: v.new_empty(config.buffer, *v.shape), step)
            tree_map(lambda kept, new, t=t: kept[t % config.buffer].copy_(new), buffer, step)
            n_kept = min(t + 1, config.buffer) * world.num_users
            for _ in range(config.updates):
                rows = torch.randint(
                    n_kept, (config.batch_size,), generator=self._generator, device=self.device
                )
                drawn = tree_map(lambda kept, rows=rows: kept.flatten(0, 1)[rows], buffer)
                loss = self._loss(drawn, target)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                _follow(target, self.net, config.target_rate)
            schedule.step()
        self.count_steps(n_steps * world.num_users)
        return n_steps * world.num_users

    @torch.no_grad()
    def _act(self, world: World, observe: HistoryObservation, epsilon: float) -> Step:
        """Show a slate to each user; users whose episodes end start new ones."""
        state = self.state(observe(world))
        slate, _, score = self.net.choose(state, self._rules)
        noise = torch.rand(score.shape, generator=self._generator, device=self.device)
        chance = torch.rand(len(score), 1, generator=self._generator, device=self.device)
        slate = torch.where(chance < epsilon, self._rules.choose(noise), slate)
        outcome = self.show(world, slate)
        next_state = self.state(observe(world))
        world.reset(mask=outcome.left | outcome.truncated)
        stays = (~outcome.left).float()
        return Step(state, slate, outcome.click.float(), outcome.reward, next_state, stays)

    def _loss(self, step: Step, target: Networks) -> Tensor:
        with torch.no_grad():
            _, adds, _ = target.choose(step.next_state, self._rules)
            later = target.value(step.next_state, adds)
            goal = step.reward + self.config.gamma * step.stays * later
        value = self.net.value_of_clicks(step.state, step.slate, step.click)
        click_score = self.net.click_model(*step.state)
        click_loss = self.net.click_model.loss(click_score, step.slate, step.click)
        # The networks share no weights, so Adam does not care how their losses are weighted.
        return F.mse_loss(value, goal) + click_loss


@torch.no_grad()
def _follow(target: nn.Module, net: nn.Module, rate: float) -> None:
    """Move the weights of `target` a part of the way to those of `net`."""
    for slow, fast in zip(target.parameters(), net.parameters(), strict=True):
        slow.lerp_(fast, rate)
