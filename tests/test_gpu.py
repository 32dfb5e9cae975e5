"""What holds on the CPU must hold on a GPU. Skipped without one."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from agents import load_policy
from agents.finding import find_policy
from agents.registry import POLICIES
from agents.rollout import rollout
from benchmarks.studies.fidelity.study import fidelity
from recsim_env.make import make_world
from responders import SessionLog, fit
from responders.models.base import unroll
from responders.models.registry import RESPONDERS
from tests.conftest import missing_policies, random_batch, random_responder

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("name", sorted(RESPONDERS))
def test_responders_answer_as_on_the_cpu(name: str) -> None:
    responder, batch = random_responder(name), random_batch()
    with torch.no_grad():
        expected = responder(batch)[batch.shown]
        responder.to(DEVICE).prepare()
        given = batch.to(torch.device(DEVICE))
        for found in (responder(given), unroll(responder, given)):
            torch.testing.assert_close(found[given.shown].cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(POLICIES.keys() - missing_policies()))
def test_policies_learn_and_are_loaded_on_the_cpu(
    name: str, small_log_path: Path, tmp_path: Path
) -> None:
    world = make_world("any", num_users=64, responder=small_log_path, device=DEVICE)
    policy: Any = find_policy(name).make(world, 0)
    policy.train(world, 1000, seed=1)
    assert rollout(world, policy, seed=0).reward.mean() > 0
    if name not in ("greedy", "slate_greedy", "look_ahead", "oracle", "far_sighted"):
        policy.save(tmp_path / "policy")
        found = load_policy(tmp_path / "policy").recommend([[1, 2], []])
        assert [len(items) for items in found] == [policy.n_positions] * 2


def test_environments_step(small_log_path: Path) -> None:
    envs = gym.make_vec("RecSim-v0", num_envs=16, responder=small_log_path, device=DEVICE)
    envs.reset(seed=0)
    rewards = [envs.step(envs.action_space.sample())[1].mean() for _ in range(20)]
    assert 0 < sum(rewards) / 20 < envs.single_action_space.shape[0]


def test_a_responder_is_trained_and_compared(
    small_log: SessionLog, small_log_path: Path, tmp_path: Path
) -> None:
    fit(
        small_log, "min_gru", tmp_path / "run", {"epochs": 2, "embedding": "content"}, device=DEVICE
    )
    report = fidelity(
        tmp_path / "run", small_log_path, sessions=200, users=20, device=DEVICE, progress=False
    )
    assert report.rows[0]["auc"] > 0.5
