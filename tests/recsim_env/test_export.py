"""Episodes leave the environment: offline datasets, and libraries that drive it themselves."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from recsim_env.adapters.export import collect, d3rlpy_arrays, to_minari
from recsim_env.make import make_vector_env
from responders import InputError

SLATES = "RecSim-ContentWise-v0"


def small(**options: Any) -> Any:
    return make_vector_env(
        6, "contentwise", autoreset_mode="Disabled", horizon=7, candidates=20, **options
    )


def test_episodes_are_those_that_were_played() -> None:
    """Played again with the recorded actions, the first round of users answers the same."""
    envs = small(observe="flat")
    found = collect(envs, episodes=6, seed=3, progress=False)
    assert len(found) == 6
    again, _ = envs.reset(seed=3)
    for step in range(max(len(e) for e in found)):
        playing = [i for i, e in enumerate(found) if step < len(e)]
        for i in playing:
            np.testing.assert_array_equal(found[i].observation[step], again[i])
        action = np.zeros((6, 10), int)
        for i in playing:
            action[i] = found[i].action[step]
        again, reward, terminated, truncated, _ = envs.step(action)
        for i in playing:
            assert reward[i] == found[i].reward[step]
            if step == len(found[i]) - 1:
                assert terminated[i] == found[i].terminated
                assert terminated[i] or truncated[i]
                np.testing.assert_array_equal(found[i].observation[-1], again[i])
        if (terminated | truncated).any():
            envs.reset(options={"reset_mask": terminated | truncated})


def test_a_policy_of_your_own_and_whole_rounds() -> None:
    envs = small(observe="history")
    first = lambda observation: np.tile(np.arange(10), (len(observation["item"]), 1))  # noqa: E731
    found = collect(envs, first, episodes=10, seed=0, progress=False)
    assert all((e.action == np.arange(10)).all() for e in found)
    assert all(len(e.observation["item"]) == len(e) + 1 for e in found)
    with pytest.raises(InputError, match='autoreset_mode="Disabled"'):
        collect(make_vector_env(2), episodes=1)


def test_arrays_are_as_d3rlpy_takes_them() -> None:
    found = collect(small(observe="flat", action="arm"), episodes=9, progress=False)
    arrays = d3rlpy_arrays(found)
    steps = sum(len(e) for e in found)
    assert arrays["observations"].shape[0] == arrays["actions"].shape[0] == steps
    assert arrays["rewards"].shape == (steps, 1)
    assert arrays["terminals"].sum() + arrays["timeouts"].sum() == 9
    assert not (arrays["terminals"] * arrays["timeouts"]).any()
    assert all(arrays[name].dtype == np.float32 for name in ("observations", "rewards"))
    assert arrays["actions"].shape == (steps, 1)
    scores = d3rlpy_arrays(
        collect(small(observe="flat", action="scores"), episodes=1, progress=False)
    )
    assert scores["actions"].dtype == np.float32
    with pytest.raises(InputError, match='action="arm", "scores" or "proto"'):
        d3rlpy_arrays(collect(small(observe="flat"), episodes=1, progress=False))
    with pytest.raises(InputError, match='observe="flat"'):
        d3rlpy_arrays(collect(small(), episodes=1, progress=False))
    several = collect(small(observe="flat", reward=("clicks",)), episodes=1, progress=False)
    with pytest.raises(InputError, match="one reward"):
        d3rlpy_arrays(several)
    with pytest.raises(InputError, match="no episode"):
        d3rlpy_arrays([])


@pytest.mark.filterwarnings("ignore::UserWarning")  # Minari recommends an author, a permalink, …
@pytest.mark.parametrize("observe", ["flat", "history"])
def test_minari_reads_what_was_written(
    observe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    envs = small(observe=observe)
    found = collect(envs, episodes=5, progress=False)
    to_minari(found, envs, "recsim/contentwise/random-v0", description="synthetic users")
    data = minari.load_dataset("recsim/contentwise/random-v0")
    assert data.total_episodes == 5
    for written, read in zip(found, data.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(written.action, read.actions)
        np.testing.assert_array_equal(written.reward, read.rewards)
        assert bool(read.terminations[-1]) == written.terminated
        assert bool(read.truncations[-1]) != written.terminated
        given = written.observation if observe == "flat" else written.observation["item"]
        kept = read.observations if observe == "flat" else read.observations["item"]
        np.testing.assert_array_equal(given, kept)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_datasets_make_their_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    envs = gym.make_vec(
        SLATES, num_envs=3, horizon=4, candidates=20, observe="flat", autoreset_mode="Disabled"
    )
    found = collect(envs.unwrapped, episodes=2, progress=False)
    to_minari(found, envs.unwrapped, "recsim/spec-v0")
    env = minari.load_dataset("recsim/spec-v0").recover_environment()
    assert env.observation_space == envs.single_observation_space
    assert env.unwrapped.vector.world.horizon == 4
    assert envs.spec.kwargs["num_envs"] == 3  # the caller's is unchanged


@pytest.mark.filterwarnings("ignore")  # TorchRL's and TensorDict's own
def test_torchrl_drives_it() -> None:
    gym_of = pytest.importorskip("torchrl.envs.libs.gym")
    utils = pytest.importorskip("torchrl.envs.utils")
    one = gym_of.GymWrapper(gym.make(SLATES, observe="flat", candidates=20))
    utils.check_env_specs(one)
    many = gym_of.GymWrapper(
        gym.make_vec(
            SLATES, num_envs=5, observe="flat", candidates=20, horizon=3, autoreset_mode="Disabled"
        )
    )
    steps = many.rollout(8, break_when_any_done=False)
    assert steps["next", "reward"].shape == (5, 8, 1)
    assert steps["next", "done"].sum() >= 10  # every user ended at the horizon of 3, or before
