"""Policies and rollouts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.finding import find_policy
from agents.oracle import OraclePolicy
from agents.policy import Policy
from agents.popular import PopularPolicy
from agents.registry import POLICIES
from agents.rollout import rollout
from agents.uniform import RandomPolicy
from benchmarks.studies.leaderboard import leaderboard
from recsim_env.make import make_world
from recsim_env.observations import HistoryObservation
from recsim_env.world import World
from responders import InputError
from responders.training.checkpoint import load_responder
from responders.training.fit import fit
from tests.conftest import log_of, missing_policies, random_responder


@pytest.fixture
def truth_world(small_log_path: Path) -> World:
    return make_world("any", num_users=200, responder=small_log_path)


def policies(world: World) -> list[Policy]:
    return [
        find_policy(name).make(world, 0) for name in sorted(POLICIES.keys() - missing_policies())
    ]


@pytest.mark.parametrize("scenario", ["contentwise", "rl4rs"])
def test_every_policy_gives_valid_slates(scenario: str) -> None:
    world = make_world(scenario, num_users=7)
    for policy in policies(world):
        world.reset(seed=0)
        policy.reset()
        observe = HistoryObservation(world)
        for _ in range(3):
            chosen = policy.act(observe(world))
            slate = chosen[0] if isinstance(chosen, tuple) else chosen
            world.check(slate.contiguous())
            assert not world.rules.broken(slate).any()
            assert (torch.sort(slate, 1).values.diff(dim=1) > 0).all(), type(policy)
            world.step(slate)


def test_every_policy_runs_without_features_and_counts() -> None:
    log = log_of(np.arange(6).reshape(3, 2), 0, [1, 1, 1])
    responder = random_responder("pbm", items=6, positions=2, features=0)
    world = World(responder, log, num_users=20, horizon=3)
    needs = {"popular", "oracle", "far_sighted"} | missing_policies()
    for name in POLICIES.keys() - needs:
        policy = find_policy(name).make(world, 0)
        policy.train(world, 60, seed=1)
        assert rollout(world, policy, seed=0).log.n_slates == 60, name


def test_a_rollout_is_a_log_of_what_happened(truth_world: World) -> None:
    run = rollout(truth_world, RandomPolicy(truth_world), seed=1)
    log = run.log.validate()
    assert log.synthetic
    assert log.n_sessions == 200
    starts = log.session_start[:-1]
    np.testing.assert_allclose(run.reward, np.add.reduceat(log.response.sum(1), starts))
    assert log.users.features.shape[1] == 3
    again = rollout(truth_world, RandomPolicy(truth_world), seed=1)
    np.testing.assert_array_equal(run.log.slate, again.log.slate)
    np.testing.assert_array_equal(run.log.response, again.log.response)


def test_a_rollout_can_train_a_responder(truth_world: World, tmp_path: Path) -> None:
    """The circle closes: simulated sessions are a log like any other."""
    log = rollout(truth_world, RandomPolicy(truth_world), seed=0).log
    users = fit(log, "slate_gru", tmp_path / "run", {"epochs": 1}, progress=False)
    assert users.synthetic


def test_the_oracle_is_the_upper_bound_and_random_the_lower(small_log_path: Path) -> None:
    rows = leaderboard(
        lambda n: make_world("any", num_users=n, responder=small_log_path),
        ["random", "popular", "epsilon_greedy", "oracle"],
        users=200,
        seeds=1,
        training_steps=5000,
        progress=False,
    )
    assert rows[0].policy == "oracle"
    assert rows[-1].policy == "random"
    assert rows[0].reward_low > rows[1].reward_high


def test_policies_say_what_they_lack(trained: Path) -> None:
    users = load_responder(trained)
    real = replace(users.initial_sessions, card={"synthetic": False})
    with pytest.raises(InputError, match="needs a known-truth world"):
        OraclePolicy(World(users.responder, real))
    bare = replace(
        users.initial_sessions, catalogue=replace(users.initial_sessions.catalogue, attributes={})
    )
    with pytest.raises(InputError, match="popularity is unknown"):
        PopularPolicy(World(users.responder, bare))
