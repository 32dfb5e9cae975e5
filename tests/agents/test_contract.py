"""What a policy is given: enough for a contextual bandit or DQN in thirty lines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents import Policy, Transition
from agents.epsilon_greedy import EpsilonGreedyConfig, EpsilonGreedyPolicy
from agents.rollout import rollout
from agents.uniform import RandomPolicy, chance_at_random
from recsim_env import World, make_world
from responders import Catalogue, InputError
from responders.behaviour.slate_rules import SlateRules


class Bandit(Policy):
    """LinUCB (Li et al., 2010) on the users' features, with a regression of its own per item."""

    def __init__(self, world: World, config: Any = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        d = world.features.shape[1] + 1
        self.gram = torch.eye(d).repeat(self.n_items, 1, 1)
        self.target = torch.zeros(self.n_items, d)

    def context(self, observation: dict[str, Tensor]) -> Tensor:
        return torch.nn.functional.pad(observation["user"], (0, 1), value=1.0)

    def score(self, observation: dict[str, Tensor]) -> Tensor:
        weight = torch.linalg.solve(self.gram, self.target)
        return self.context(observation) @ weight.t()

    def act(self, observation: dict[str, Tensor]) -> Tensor:
        x = self.context(observation)
        variance = torch.einsum("bd,nde,be->bn", x, torch.linalg.inv(self.gram), x)
        return self.rules.choose(self.score(observation) + 0.3 * variance.sqrt())

    def learn(self, transition: Transition) -> None:
        step = transition.only_active()
        x = self.context(step.observation)[:, None].expand(*step.slate.shape, -1)
        x, item = x[step.slate >= 0], step.slate[step.slate >= 0]
        click = step.click[step.slate >= 0].float()
        self.gram.index_add_(0, item, x[:, :, None] * x[:, None])
        self.target.index_add_(0, item, x * click[:, None])


class DQN(Policy):
    """One-step Q-learning of items' values, shared among the items of a slate."""

    def __init__(self, world: World, config: Any = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        torch.manual_seed(seed)
        self.q = torch.nn.Linear(world.features.shape[1] + self.n_items, self.n_items)
        self._optimiser = torch.optim.Adam(self.q.parameters(), 0.02)

    def score(self, observation: dict[str, Tensor]) -> Tensor:
        item, click = observation["item"].clamp(min=0), observation["click"].float()
        clicked = torch.zeros(len(item), self.n_items).scatter_add(1, item, click)
        return self.q(torch.cat([observation["user"], clicked], 1))

    @torch.no_grad()
    def act(self, observation: dict[str, Tensor]) -> Tensor:
        score = self.score(observation)
        return self.rules.choose(score + 0.05 * torch.randn_like(score))

    def learn(self, transition: Transition) -> None:
        step = transition.only_active()
        with torch.no_grad():
            future = self.score(step.next_observation).topk(self.n_positions).values.mean(1)
        stays = (~step.left).float()  # after a truncation the user would have stayed
        target = step.reward / self.n_positions + 0.5 * future * stays
        value = self.score(step.observation).gather(1, step.slate.clamp(min=0)).mean(1)
        loss = (value - target).square().mean()
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()


@pytest.mark.parametrize("kind", [Bandit, DQN])
def test_a_learner_in_thirty_lines_beats_chance(kind: type[Policy], small_log_path: Path) -> None:
    world = make_world("any", num_users=100, responder=small_log_path)
    policy = kind(world)
    assert policy.train(world, 6000, seed=10) >= 6000
    assert policy.steps >= 6000
    assert policy.synthetic
    evaluation = make_world("any", num_users=300, responder=small_log_path)
    learned, random = (
        rollout(evaluation, p, seed=0).reward.mean() for p in (policy, RandomPolicy(world))
    )
    assert learned > 1.3 * random


class Recorder(RandomPolicy):
    """Keeps what it sees, shows and learns from."""

    seen: list[Any]

    def reset(self) -> None:
        self.seen, self.learned = [], []

    def act(self, observation: dict[str, Tensor]) -> Any:
        chosen = super().act(observation)
        self.seen.append((observation, chosen[0]))
        return chosen

    def learn(self, transition: Transition) -> None:
        self.learned.append(transition)


def test_rows_of_learn_are_those_of_act(small_log_path: Path) -> None:
    world = make_world("any", num_users=30, responder=small_log_path, horizon=6)
    policy = Recorder(world)
    run = rollout(world, policy, seed=0, learn=True)
    assert len(policy.learned) == len(policy.seen) > 3
    alive, reward = torch.ones(30, dtype=torch.bool), torch.zeros(30)
    for i, (t, (observation, slate)) in enumerate(zip(policy.learned, policy.seen, strict=True)):
        assert t.observation is observation
        torch.testing.assert_close(t.slate, slate)
        assert t.active.equal(alive)
        if i + 1 < len(policy.seen):
            assert t.next_observation is policy.seen[i + 1][0]
        shown, clicked = (t.next_observation[n][:, -world.n_positions :] for n in ("item", "click"))
        assert shown.equal(t.slate)
        assert clicked.bool().equal(t.click)
        reward += t.reward * t.active
        assert not (t.left & t.truncated).any()
        alive = alive & ~(t.left | t.truncated)
        few = t.only_active()
        assert few.active.all()
        assert few.observation["user"].equal(observation["user"][t.active])
    assert not alive.any()
    assert any(t.truncated.any() for t in policy.learned)
    np.testing.assert_allclose(run.reward, reward)


def test_propensities_reach_the_log(small_log_path: Path) -> None:
    world = make_world("any", num_users=400, responder=small_log_path)
    log = rollout(world, RandomPolicy(world), seed=0).log.validate()
    assert log.propensity is not None
    np.testing.assert_allclose(log.propensity, 1 / 40)
    bandit = EpsilonGreedyPolicy(world, EpsilonGreedyConfig(epsilon=0.5))
    bandit.clicked += torch.rand(40, generator=torch.Generator().manual_seed(0))
    log = rollout(world, bandit, seed=0).log.validate()
    best = bandit.rules.choose(bandit.clicked / bandit.shown)[0].numpy()
    assert log.propensity is not None
    for position, item in enumerate(best):
        is_best = log.slate[:, position] == item
        assert is_best.mean() == pytest.approx(0.5 + 0.5 / 40, abs=0.03)
        np.testing.assert_allclose(log.propensity[is_best, position], 0.5 + 0.5 / 40)
        np.testing.assert_allclose(log.propensity[~is_best, position], 0.5 / 40)
    assert rollout(world, DQN(world), seed=0).log.propensity is None


def test_propensities_of_random_slates_respect_layers() -> None:
    world = make_world("rl4rs", num_users=5)
    slate = RandomPolicy(world).act({"item": torch.zeros(5, 1)})
    assert isinstance(slate, Tensor)  # special items make the chances unequal
    layer = np.array([1, 1, 1, 1, 2, 2])
    rules = SlateRules.of(Catalogue(np.arange(6), attributes={"layer": layer}), 4)
    chance = chance_at_random(rules, torch.device("cpu"))
    assert chance is not None
    assert chance.tolist() == [0.25, 0.25, 0.5, 0.5]


@pytest.mark.parametrize(
    ("slate", "message"),
    [
        (torch.zeros(4, 5), "dtype torch.float32"),
        (torch.zeros(4, 9, dtype=torch.int64), "4 users × 5 positions"),
        (torch.full((4, 5), 40), "the catalogue has items 0 to 39"),
        (np.zeros((4, 5)), "returned ndarray, not a tensor"),
        ((torch.zeros(4, 5, dtype=torch.int64), torch.ones(4)), "propensities have shape"),
        (torch.full((4, 5), -1), "showed nothing"),
    ],
)
def test_slates_that_no_user_can_see_are_refused(
    slate: Any, message: str, small_log_path: Path
) -> None:
    class Wrong(Policy):
        def act(self, observation: dict[str, Tensor]) -> Any:
            return slate

    world = make_world("any", num_users=4, responder=small_log_path)
    with pytest.raises(InputError, match=f"Wrong.*{message}"):
        rollout(world, Wrong(world), seed=0)


def test_a_rollout_needs_a_single_reward(small_log_path: Path) -> None:
    rewards = ["clicks", "expected_clicks"]
    world = make_world("any", num_users=3, responder=small_log_path, reward=rewards)
    with pytest.raises(InputError, match="the world has 2: give a weight to each"):
        rollout(world, RandomPolicy(world), seed=0)
