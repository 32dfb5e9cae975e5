"""PPO over whole slates, which are drawn item by item without replacement."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from agents import plackett_luce
from agents.neural import NeuralPolicy, State, in_front
from agents.slate_ppo_networks import Networks, SlatePPOConfig
from agents.user_features import UserFeatures
from recsim_env.observations import HistoryObservation
from recsim_env.world import World
from responders.config import Config


class Step(NamedTuple):
    """A slate of each of B users; stacked, all tensors are [T, B, …].

    Args:
        state: before the slate.
        gain: [B, C], see `Estimates`.
        slate: [B, S] int64, numbers of candidates, -1 = empty.
        log_prob: [B, S], of each item given those above it.
        click: [B, S] float32.
        expected: [B, S], click probabilities by the click model.
        click_value: [B, S], what a click on each item is worth.
        reward: [B].
        value: [B], of the state, by the critic.
        next_value: [B], of the next state; 0 for users who left.
        ended: [B] bool, the episode is over.
    """

    state: State
    gain: Tensor
    slate: Tensor
    log_prob: Tensor
    click: Tensor
    expected: Tensor
    click_value: Tensor
    reward: Tensor
    value: Tensor
    next_value: Tensor
    ended: Tensor

    @property
    def unexpected(self) -> Tensor:
        """The clicks less their probabilities, [B, S]."""
        return (self.click - self.expected) * (self.slate >= 0)


class SlatePPOPolicy(NeuralPolicy):
    """PPO (Schulman et al., 2017) over Plackett–Luce slates.

    In training, a slate is drawn from the actor's scores without replacement, and its exact
    probability enters the loss; otherwise the policy shows the items with the best scores.

    Two models help the actor. P, the chance of a click, is fitted to the answers. q, what a click
    on an item is worth in the long run, is fitted to the advantages: that of a slate is the sum
    over its items of q times the unexpected part of the answer, the click less P. A multiple of
    log(P · q) is part of the actor's scores, as SlateQ's ranking is a better start than a random
    one; and a position is credited with the advantage of its slate less what the unexpected clicks
    above it explain, which its item cannot have caused. Where an item lowers the log-odds of those
    below it in P, it lowers their scores by the same multiple.

    With `memory`, all networks also read a GRU over the slates and clicks of the history, which
    learns with P to foresee the answers. Trained with several simulators, one for each episode, it
    can tell which of them answers (after Sim2Rec, Chen et al., 2023, arXiv:2305.04832).

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

    def state(self, observation: dict[str, Tensor]) -> State:
        """Return what the networks read; with `memory`, also the `slates` of the history."""
        state = super().state(observation)
        if self.config.memory:
            state.history["slates"] = self._features.by_slate(observation)
        return state

    def rank(self, state: State) -> Tensor:
        score = self.net(state).score
        return in_front(plackett_luce.best(score, self._rules, self.net.effects()), score)

    def train(self, world: World, steps: int, seed: int) -> int:
        self.check_reward(world)
        per_update = world.num_users * self.config.n_steps
        n_updates = -(-steps // per_update)
        optimiser = self._optimiser()
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, n_updates)
        world.reset(seed=seed)
        for _ in range(n_updates):
            effects = self.net.effects()  # the same while slates are drawn and learned from
            self._update(optimiser, self._act(world, effects), effects)
            schedule.step()
        self.count_steps(n_updates * per_update)
        return n_updates * per_update

    def _update(
        self, optimiser: torch.optim.Adam, experience: Step, effects: Tensor | None
    ) -> None:
        """Learn from slates in minibatches, which are the same in each pass."""
        credit = self._credit(experience)
        data = tree_map(lambda v: v.flatten(0, 1), (experience, *credit))
        order = torch.randperm(len(data[1]), generator=self._generator, device=self.device)
        parts = []
        for rows in order.chunk(self.config.minibatches):
            step, *others = tree_map(lambda v, rows=rows: v[rows], data)
            factors = plackett_luce.factors_of(step.slate, self._rules, effects)
            parts.append((step, *others, effects, factors))
        for _ in range(self.config.n_epochs):
            for part in parts:
                loss = self._loss(*part)
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.net.actor.parameters(), 0.5)
                optimiser.step()

    def _optimiser(self) -> torch.optim.Adam:
        net, config = self.net, self.config
        slow = [*net.actor.parameters(), *net.click_value.parameters(), net.factor]
        fast = [*net.critic.parameters(), *net.click_model.parameters()]
        fast += [] if net.memory is None else net.memory.parameters()
        groups: list[dict[str, Any]] = [
            {"params": slow, "lr": config.actor_rate},
            {"params": fast, "lr": config.learning_rate},
        ]
        return torch.optim.Adam(groups, eps=1e-5, fused=True)

    @torch.no_grad()
    def _act(self, world: World, effects: Tensor | None) -> Step:
        """Return the next T slates of each user; users whose episodes end start new ones."""
        steps: list[Step] = []
        observe = HistoryObservation(world)
        state = self.state(observe(world))
        found = self.net(state)
        for _ in range(self.config.n_steps):
            slate, log_prob = plackett_luce.draw(found.score, self._rules, effects, self._generator)
            outcome = self.show(world, slate)
            ended = outcome.left | outcome.truncated
            at_end = self._value_at_end(world, observe, outcome.truncated)
            world.reset(mask=ended)
            next_state = self.state(observe(world))
            following = self.net(next_state)
            steps.append(
                Step(
                    state=state,
                    gain=found.gain,
                    slate=slate,
                    log_prob=log_prob,
                    click=outcome.click.float(),
                    expected=self.net.click_model.log_odds(found.click, slate).sigmoid(),
                    click_value=found.click_value.gather(1, slate.clamp(min=0)),
                    reward=outcome.reward,
                    value=found.value,
                    next_value=torch.where(ended, at_end, following.value),
                    ended=ended,
                )
            )
            state, found = next_state, following
        return tree_map(lambda *values: torch.stack(values), *steps)

    def _value_at_end(self, world: World, observe: HistoryObservation, truncated: Tensor) -> Tensor:
        """Return the values [B] of the states in which episodes were truncated, 0 for others."""
        # Few episodes are truncated, and the critic of all users takes longer than looking.
        value = torch.zeros(len(truncated), device=self.device)
        rows = truncated.nonzero().squeeze(1)
        if len(rows):
            last = tree_map(lambda v: v[rows], observe(world))
            value[rows] = self.net.value(self.state(last))
        return value

    def _credit(self, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Return advantages of positions [T, B, S] and of slates [T, B], and returns [T, B]."""
        config = self.config
        surprise = step.reward + config.gamma * step.next_value - step.value
        advantage, following = torch.zeros_like(surprise), torch.zeros_like(surprise[0])
        for t in reversed(range(len(surprise))):
            following = surprise[t] + config.gamma * config.gae_lambda * following * ~step.ended[t]
            advantage[t] = following
        explained = step.click_value * step.unexpected
        by_position = advantage.unsqueeze(2) - (explained.cumsum(2) - explained)
        by_position = (by_position - by_position.mean((0, 1))) / by_position.std().clamp(min=1e-6)
        return by_position, advantage, advantage + step.value

    def _loss(
        self,
        step: Step,
        by_position: Tensor,
        advantage: Tensor,
        returns: Tensor,
        effects: Tensor | None,
        factors: Tensor | None,
    ) -> Tensor:
        config = self.config
        found = self.net(step.state, step.gain)
        log_prob = plackett_luce.log_prob(found.score, step.slate, self._rules, effects, factors)
        ratio = (log_prob - step.log_prob).exp()
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        gain = torch.minimum(ratio * by_position, clipped * by_position).sum(1).mean()
        # The entropy of the first choice: that of a whole slate has no closed form.
        log_first = found.score.log_softmax(1)
        entropy = self.n_positions * -(log_first.exp() * log_first).sum(1).mean()
        value_loss = F.mse_loss(found.value, returns)
        click_loss = self.net.click_model.loss(found.click, step.slate, step.click)
        # The advantage of a slate is that of its unexpected clicks, each with its own value.
        explained = (found.click_value.gather(1, step.slate.clamp(min=0)) * step.unexpected).sum(1)
        worth_loss = F.mse_loss(explained, advantage)
        # The networks share no weights, so Adam does not care how their losses are weighted.
        return value_loss + click_loss + worth_loss - gain - config.entropy * entropy
