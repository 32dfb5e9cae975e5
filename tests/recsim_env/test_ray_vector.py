"""Users in several Ray actors are those of one vector environment."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import recsim_env  # noqa: F401
from responders import InputError

ID, USERS = "RecSim-ContentWise-v0", 5


@pytest.fixture(scope="module", autouse=True)
def _machine() -> Iterator[None]:
    """Ray on this machine, with two CPUs."""
    ray = pytest.importorskip("ray")
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def in_actors(actors: int = 2, **options: Any) -> Any:
    from recsim_env.adapters.ray import RayVectorEnv

    return RayVectorEnv(ID, USERS, actors, **options)


def check_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, tuple):
        for part, wanted in zip(found, expected, strict=True):
            check_equal(part, wanted)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            check_equal(found[name], value)
    elif expected.dtype == object:  # final observations
        for row, wanted in zip(found, expected, strict=True):
            assert (row is None) == (wanted is None)
            if wanted is not None:
                check_equal(row, wanted)
    else:
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_actors_do_not_change_the_episodes(mode: str) -> None:
    options = {"horizon": 4, "observe": "flat", "autoreset_mode": mode}
    native, envs = gym.make_vec(ID, num_envs=USERS, **options), in_actors(**options)
    assert envs.observation_space == native.observation_space
    assert envs.metadata["autoreset_mode"] == native.metadata["autoreset_mode"]
    native.action_space.seed(0)
    for seed in (3, [1, 2, 3, 4, 5]):
        for env_seed in (seed, None):  # without a seed, the streams go on
            check_equal(envs.reset(seed=env_seed), native.reset(seed=env_seed))
        for _ in range(9):
            actions = native.action_space.sample()
            expected = native.step(actions)
            check_equal(envs.step(actions), expected)
            ended = expected[2] | expected[3]
            if mode == "Disabled" and ended.any():
                with pytest.raises(InputError, match="has ended its episode"):
                    envs.step(actions)
                options = {"reset_mask": ended}
                check_equal(envs.reset(options=options), native.reset(options=options))
    envs.close()


def test_the_death_of_an_actor_is_an_error_after_which_reset_begins_again() -> None:
    envs = in_actors()
    with pytest.raises(InputError, match="step before reset"):
        envs.step(envs.action_space.sample())
    expected = envs.reset(seed=0)[0]
    import ray

    pid = envs._actors[1].__ray_call__.remote(lambda _: os.getpid())
    os.kill(ray.get(pid), signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"actor 1 of 2, with the users 2 to 4, has died"):
        envs.step(envs.action_space.sample())
    with pytest.raises(InputError, match="step before reset"):
        envs.step(envs.action_space.sample())
    check_equal(envs.reset(seed=0)[0], expected)
    envs.close()


@pytest.mark.parametrize(
    ("actors", "options", "message"),
    [
        (6, {}, "6 actors are too many for 5 users"),
        (3, {}, "the Ray cluster has fewer than 3 CPUs"),
        (1, {"horizon": 0}, "horizon"),
    ],
)
def test_wrong_arguments_are_refused(actors: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        in_actors(actors, **options)
