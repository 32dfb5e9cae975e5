"""Rewards, scalar and vector."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from recsim_env.adapters.sb3 import SB3VecEnv
from recsim_env.adapters.wrappers import (
    ScalariseReward,
    VectorScalariseReward,
)
from recsim_env.make import make_vector_env, make_world
from recsim_env.rewards import RewardContext, make_reward
from recsim_env.world import World
from responders import Catalogue, InputError, SessionLog
from responders.training.checkpoint import load_responder
from tests.conftest import random_slates

SLATES = "RecSim-ContentWise-v0"


def test_vector_rewards_and_their_weighted_sum() -> None:
    names = ("clicks", "diversity", "novelty", "satisfaction")
    envs = gym.make_vec(SLATES, num_envs=8, reward=names)
    envs.reset(seed=0)
    assert envs.unwrapped.reward_space.shape == (4,)
    action = envs.action_space.sample()
    _, reward, *_, info = envs.step(action)
    assert reward.shape == (8, 4)
    np.testing.assert_array_equal(reward[:, 0], info["response"].sum(1))
    assert ((reward[:, 3] >= 0) & (reward[:, 3] <= 1)).all()
    weights = [1.0, 0.5, 0.1, 2.0]
    again = VectorScalariseReward(gym.make_vec(SLATES, num_envs=8, reward=names), weights)
    again.reset(seed=0)
    np.testing.assert_allclose(again.step(action)[1], reward @ weights, rtol=1e-6)
    mixed = gym.make_vec(SLATES, num_envs=8, reward=dict(zip(names, weights, strict=True)))
    mixed.reset(seed=0)
    np.testing.assert_allclose(mixed.step(action)[1], reward @ weights, rtol=1e-5)
    env = gym.make(SLATES, reward=names, disable_env_checker=True)  # it wants numbers
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[1].shape == (4,)
    one = ScalariseReward(env, weights)
    one.reset(seed=0)
    assert isinstance(one.step(one.action_space.sample())[1], float)
    for bad in ([1.0], [1.0, np.nan, 1, 1]):
        with pytest.raises(InputError, match="finite weights are needed"):
            ScalariseReward(env, bad)
    with pytest.raises(InputError, match="has a single reward"):
        ScalariseReward(gym.make(SLATES), weights)


def test_objectives_are_what_they_say() -> None:
    world = make_world(
        "contentwise", num_users=3, reward=("diversity", "novelty", "expected_clicks")
    )
    features = world.catalogue.features - world.catalogue.features.mean(0)
    slate = random_slates(world)
    slate[2, 1:] = -1
    outcome = world.step(slate)
    shown = world.catalogue.attributes["shown"] + 1.0
    bits = -np.log2(shown / shown.sum())
    for user in range(2):
        vectors = features[slate[user].numpy()]
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosine = (vectors @ vectors.T)[np.triu_indices(10, 1)]
        assert float(outcome.reward[user, 0]) == pytest.approx(float((1 - cosine).mean()), abs=1e-4)
        assert float(outcome.reward[user, 1]) == pytest.approx(bits[slate[user].numpy()].mean())
    assert float(outcome.reward[2, 0]) == 0
    assert outcome.reward[0, 2] > outcome.reward[2, 2] > 0  # ten items, and one


def test_rewards_can_be_weighted_by_whole_numbers_and_differentiated() -> None:
    world = make_world("contentwise", num_users=4, reward={"clicks": 1, "diversity": np.int64(2)})
    outcome = world.step(random_slates(world))
    policy = torch.ones(4, requires_grad=True)
    (policy * outcome.reward).sum().backward()  # as policy gradients do
    assert torch.equal(policy.grad, outcome.reward)  # type: ignore[arg-type]
    outcome.click[:] = True  # the caller's


def test_what_cannot_be_rewarded_is_told(trained: Path, small_log: SessionLog) -> None:
    bare = Catalogue(np.arange(4))
    context = RewardContext(bare, lambda slate: slate.float(), "cpu")
    for name, message in (("diversity", "item features"), ("novelty", "column `shown`")):
        with pytest.raises(InputError, match=message):
            make_reward(name, context)
    for nothing in ((), {}):
        with pytest.raises(InputError, match="names nothing"):
            make_reward(nothing, context)
    with pytest.raises(InputError, match="learns from one reward"):
        SB3VecEnv(make_vector_env(2, reward=("clicks",), autoreset_mode="SameStep"))


def test_rewards() -> None:
    world = make_world("rl4rs", num_users=4, reward="revenue")
    price = torch.from_numpy(np.array(world.catalogue.price))
    slate = world.rules.choose(torch.rand(4, world.n_items))
    outcome = world.step(slate)
    torch.testing.assert_close(outcome.reward, (price[slate] * outcome.click).sum(1))
    own = make_world("rl4rs", num_users=4, reward=lambda slate, click, p: -click.float().sum(1))
    assert (own.step(slate).reward <= 0).all()
    with pytest.raises(InputError, match="reward 'click' is unknown; did you mean clicks"):
        make_world("rl4rs", reward="click")


@pytest.mark.parametrize("members", [1, 2])
def test_expected_rewards_do_not_depend_on_the_clicks_drawn(members: int) -> None:
    asset = str(Path(__file__).parents[2] / "recsim_env/assets/rl4rs")
    world = make_world(
        "rl4rs",
        num_users=60,
        responder=[asset] * members,
        reward=("expected_clicks", "clicks", "expected_revenue", "revenue"),
    )
    world.reset(user=torch.zeros(60, dtype=torch.int64))
    score = torch.rand(1, world.n_items, generator=torch.Generator().manual_seed(0))
    outcome = world.step(world.rules.choose(score).expand(60, -1))
    reward = outcome.reward.double()
    assert (reward[:, [0, 2]].std(0) < 1e-3).all()
    for expected, drawn in ((0, 1), (2, 3)):
        error = reward[:, drawn].std() / 60**0.5
        bias = 0.1 * reward[0, expected]  # of averaging over 64 draws of the clicks above
        assert abs(reward[:, drawn].mean() - reward[0, expected]) < 4 * error + bias
    assert outcome.probability.std(0).max() > 0.01  # conditional on the clicks above


def test_revenue_needs_prices(trained: Path, small_log: SessionLog) -> None:
    users = load_responder(trained)

    free = replace(
        users.initial_sessions, catalogue=replace(users.initial_sessions.catalogue, price=None)
    )
    with pytest.raises(InputError, match="needs prices"):
        World(users.responder, free, reward="revenue")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda slate, click, p: click.sum(), "one number for each of 4 users"),
        (lambda slate, click, p: click, "one number for each of 4 users"),
        (lambda slate, click, p: 1.0, "one number for each of 4 users"),
        (lambda slate, click, p: p.sum(1) * torch.nan, "NaN or infinity"),
        (lambda slate, click, p: p.sum(1).double() * 1e300, "NaN or infinity"),
        (lambda slate, click, p: p.sum(1).to(torch.complex64), "complex numbers"),
    ],
)
def test_a_reward_function_returns_one_number_for_each_user(function: Any, message: str) -> None:
    world = make_world("contentwise", num_users=4, reward=function)
    with pytest.raises(InputError, match=message):
        world.step(random_slates(world))
