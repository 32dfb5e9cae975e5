"""Ensembles of responders in a world."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from recsim_env.adapters.wrappers import (
    PenaliseDisagreement,
    VectorPenaliseDisagreement,
)
from recsim_env.make import make_vector_env, make_world, open_responder
from responders import InputError, SessionLog
from responders.log.split import make_split
from responders.training.fit import fit
from tests.conftest import random_slates


@pytest.fixture(scope="module")
def second(small_log: SessionLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another responder of the small log."""
    out = tmp_path_factory.mktemp("runs") / "pbm"
    fit(small_log, "pbm", out, {}, progress=False)
    return out


def test_an_ensemble_says_how_far_it_disagrees(trained: Path, second: Path) -> None:
    envs = make_vector_env(6, responder=[trained, second])
    envs.reset(seed=0)
    *_, info = envs.step(envs.action_space.sample())
    assert info["disagreement"].shape == (6, 5)
    assert (info["disagreement"] > 0).any()
    alone = make_vector_env(6, responder=[trained])
    alone.reset(seed=0)
    assert (alone.step(alone.action_space.sample())[-1]["disagreement"] == 0).all()


def test_one_member_answers_each_episode(trained: Path, second: Path) -> None:
    world = make_world(
        "any", responder=[trained, second], num_users=400, one_member=True, leaving=False, seed=1
    )
    assert world.episodes.member is not None
    member = world.episodes.member.clone()
    assert 0.4 < member.float().mean() < 0.6
    slate = random_slates(world)
    state = world.episodes.memory
    outcome = world.step(slate)
    with torch.inference_mode():
        both = torch.stack(
            [
                m.logits(state["members"][i], slate, outcome.click.float())  # type: ignore[operator]
                for i, m in enumerate(world.responder.members)
            ]
        ).sigmoid()
    expected = both[member, torch.arange(400)]
    torch.testing.assert_close(outcome.probability, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(world.episodes.member, member)
    world.reset(torch.arange(400) < 200)
    assert torch.equal(world.episodes.member[200:], member[200:])
    assert not torch.equal(world.episodes.member[:200], member[:200])
    envs = make_vector_env(8, responder=[trained, second], one_member=True)
    _, info = envs.reset(seed=0)
    assert set(np.unique(info["member"])) <= {0, 1}
    with pytest.raises(InputError, match="one_member needs an ensemble"):
        make_world("any", responder=trained, one_member=True)


def test_members_must_share_a_catalogue(trained: Path, small_log: SessionLog) -> None:
    with pytest.raises(InputError, match="another catalogue"):
        open_responder([trained, *[Path(__file__).parents[2] / "recsim_env/assets/contentwise"]])
    with pytest.raises(InputError, match="at least one responder"):
        open_responder([])


def test_disagreement_can_be_penalised(trained: Path, second: Path) -> None:
    options: dict[str, Any] = {"responder": [str(trained), str(second)]}
    envs = [gym.make_vec("RecSim-v0", num_envs=4, **options) for _ in range(2)]
    wrapped = VectorPenaliseDisagreement(envs[1], 2.0)
    one, two = (env.reset(seed=5) for env in (envs[0], wrapped))
    action = envs[0].action_space.sample()
    _, plain, *_, info = envs[0].step(action)
    _, reward, *_ = wrapped.step(action)
    np.testing.assert_allclose(reward, plain - 2 * info["disagreement"].sum(1))
    assert one[0].keys() == two[0].keys()
    single = PenaliseDisagreement(gym.make("RecSim-v0", **options), 2.0)
    single.reset(seed=0)
    single.step(single.action_space.sample())
    in_world = make_world("any", reward={"clicks": 1.0, "disagreement": -2.0}, **options)
    outcome = in_world.step(random_slates(in_world))
    expected = outcome.click.sum(1) - 2 * outcome.disagreement.sum(1)
    torch.testing.assert_close(outcome.reward, expected)
    with pytest.raises(InputError, match="give several responders"):
        PenaliseDisagreement(gym.make("RecSim-ContentWise-v0"))
    with pytest.raises(InputError, match="needs an ensemble"):
        make_world(reward="disagreement")


def test_pages_can_be_penalised() -> None:
    asset = str(Path(__file__).parents[2] / "recsim_env/assets/rl4rs")
    envs = gym.make_vec("RecSim-RL4RS-v0", num_envs=2, responder=[asset, asset])
    wrapped = VectorPenaliseDisagreement(envs)
    wrapped.reset(seed=0)
    for _ in range(10):
        wrapped.step(wrapped.action_space.sample())


def test_an_ensemble_starts_with_users_that_no_member_trained_on(
    small_log: SessionLog, tmp_path: Path
) -> None:
    trained = set()
    for seed in (0, 1):
        fit(small_log, "pbm", tmp_path / str(seed), seed=seed, progress=False)
        part = make_split(small_log, "user", seed)["train"]
        trained |= set(small_log.users.ids[small_log.user[part.sessions]].tolist())
    users = open_responder([tmp_path / "0", tmp_path / "1"])
    assert users.card["initial_users"] == "users held out by every member"
    assert not trained & set(users.initial_sessions.users.ids.tolist())
