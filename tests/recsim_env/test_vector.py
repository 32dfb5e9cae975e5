"""Vector environments: the same users as one by one, autoreset, a seed for each user."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from recsim_env.registry import ENVIRONMENTS
from responders import InputError

SLATES, PAGES = "RecSim-ContentWise-v0", "RecSim-RL4RS-v0"


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_one_user_is_the_first_of_many(env_id: str) -> None:
    """The environment of one user and the vector environment are the same world."""
    one, many = gym.make(env_id).unwrapped, gym.make_vec(env_id, num_envs=3)
    first, _ = one.reset(seed=7)
    batch, _ = many.reset(seed=7)
    rng = np.random.default_rng(0)
    for _ in range(25):
        for name in first:
            np.testing.assert_allclose(first[name], batch[name][0], rtol=1e-5)
        actions = np.stack(
            [
                rng.integers(many.single_action_space.nvec if env_id != PAGES else 283)
                for _ in range(3)
            ]
        )
        first, reward, terminated, truncated, _ = one.step(actions[0])
        batch, rewards, terminations, truncations, _ = many.step(actions)
        assert reward == pytest.approx(rewards[0], rel=1e-5)
        assert (terminated, truncated) == (terminations[0], truncations[0])
        if terminated or truncated:
            return


def episodes(mode: AutoresetMode, steps: int = 40) -> list[Any]:
    env = gym.make_vec(SLATES, num_envs=3, autoreset_mode=mode, horizon=5)
    env.reset(seed=0)
    env.action_space.seed(0)
    seen = []
    for _ in range(steps):
        observation, reward, terminated, truncated, infos = env.step(env.action_space.sample())
        seen.append((observation, reward, terminated | truncated, infos))
        if mode == AutoresetMode.DISABLED and seen[-1][2].any():
            env.reset(options={"reset_mask": seen[-1][2]})
    return seen


def test_next_step_autoreset() -> None:
    before = np.zeros(3, bool)
    for observation, reward, done, infos in episodes(AutoresetMode.NEXT_STEP):
        assert (observation["step"][before, 0] == 0).all()
        assert (reward[before] == 0).all()
        assert not done[before].any()
        assert (infos["_response"] == ~before).all()
        assert not infos["response"][before].any()
        assert (observation["step"][done, 0] > 0).all()
        before = done


def test_same_step_autoreset() -> None:
    ended = 0
    for observation, _, done, infos in episodes(AutoresetMode.SAME_STEP):
        assert (observation["step"][done, 0] == 0).all()
        assert ("final_obs" in infos) == done.any()
        if done.any():
            ended += done.sum()
            np.testing.assert_array_equal(infos["_final_obs"], done)
            for i in np.flatnonzero(done):
                assert infos["final_obs"][i]["step"][0] > 0
                np.testing.assert_array_equal(
                    infos["final_info"]["response"][i], infos["response"][i]
                )
    assert ended > 5


def test_disabled_autoreset() -> None:
    assert any(done.any() for *_, done, _ in episodes(AutoresetMode.DISABLED))
    env = gym.make_vec(SLATES, num_envs=2, autoreset_mode="Disabled", horizon=1)
    env.reset(seed=0)
    action = np.tile(np.arange(10), (2, 1))
    env.step(action)
    with pytest.raises(InputError, match="user 0 has ended its episode: call reset"):
        env.step(action)
    env.reset(options={"reset_mask": np.array([True, True])})
    env.step(action)


def test_every_user_can_have_a_seed() -> None:
    """User i has the episode of a single environment with seed i of the list."""
    seeds, rng = [7, 3, 7], np.random.default_rng(0)
    envs = gym.make_vec(SLATES, num_envs=3, leaving=False)
    singles = [gym.make(SLATES, leaving=False) for _ in seeds]
    observation, _ = envs.reset(seed=seeds)
    for i, (env, seed) in enumerate(zip(singles, seeds, strict=True)):
        assert (env.reset(seed=seed)[0]["user"] == observation["user"][i]).all()
    for _ in range(3):
        action = np.tile(rng.choice(1000, 10, replace=False), (3, 1))
        _, reward, _, _, info = envs.step(action)
        for i, env in enumerate(singles):
            step = env.step(action[i])
            assert step[1] == reward[i]
            assert (step[4]["response"] == info["response"][i]).all()
    envs.reset(seed=[1, None, 2])
    for bad, message in (([1, 2], "2 seeds were given for 3 users"), ([1, 2, -3], "seed must be")):
        with pytest.raises(InputError, match=message):
            envs.reset(seed=bad)


def test_vector_environments_draw_every_user(tmp_path: Path) -> None:
    envs = gym.make_vec(
        "RecSim-ContentWise-v0", num_envs=2, render_mode="rgb_array", autoreset_mode="SameStep"
    )
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    first, second = envs.render()
    assert first.shape == second.shape
    assert (first != second).any()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_new_episode_is_drawn_without_a_slate(mode: str) -> None:
    envs = gym.make_vec(
        "RecSim-ContentWise-v0",
        num_envs=2,
        horizon=1,
        leaving=False,
        render_mode="ansi",
        autoreset_mode=mode,
    )
    envs.reset(seed=0)
    for _ in range(1 if mode == "SameStep" else 2):
        envs.step(envs.action_space.sample())
    for text in envs.render():
        assert "no slate shown yet" in text
