"""Vector environments as a `VecEnv` of Stable-Baselines3."""

import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from recsim_env.adapters.sb3 import SB3VecEnv
from recsim_env.make import make_vector_env
from responders import InputError


def test_stable_baselines3_trains_on_the_native_face() -> None:
    vector = make_vector_env(
        8, "contentwise", observe="flat", candidates=20, autoreset_mode="SameStep", horizon=5
    )
    env = SB3VecEnv(vector)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(128)
    env.seed(3)
    first = env.reset()
    env.seed(3)
    np.testing.assert_array_equal(first, env.reset())
    ended = 0
    for _ in range(6):
        observation, reward, done, infos = env.step(np.zeros((8, 10), int))
        assert reward.dtype == np.float32
        for i in np.flatnonzero(done):
            ended += 1
            assert infos[i]["terminal_observation"].shape == observation[i].shape
            assert "TimeLimit.truncated" in infos[i]
    assert ended >= 8
    with pytest.raises(InputError, match="SameStep"):
        SB3VecEnv(make_vector_env(2, "contentwise"))


def test_maskable_ppo_reads_the_mask() -> None:
    env = SB3VecEnv(make_vector_env(4, "rl4rs", autoreset_mode="SameStep"))
    model = MaskablePPO(
        "MultiInputPolicy", env, n_steps=9, batch_size=36, n_epochs=1, seed=0, device="cpu"
    )
    model.learn(72)
    rewards = env.vector.world.rules.broken(env.vector._page)
    assert not rewards.any()


def test_stable_baselines3_gets_the_infos_of_ended_episodes() -> None:
    vector = make_vector_env(4, "contentwise", autoreset_mode="SameStep", horizon=2, leaving=False)
    env = VecMonitor(SB3VecEnv(vector), info_keywords=("user_index", "invalid"))
    env.reset()
    for _ in range(2):
        *_, infos = env.step(np.stack([env.action_space.sample() for _ in range(4)]))
    assert {"user_index", "invalid", "r", "l"} <= infos[0]["episode"].keys()


def test_stable_baselines_logs_episodes_without_a_monitor_and_passes_options() -> None:
    env = SB3VecEnv(
        make_vector_env(3, "contentwise", autoreset_mode="SameStep", horizon=2, leaving=False)
    )
    env.set_options({"user": 3})
    env.reset()
    assert env.vector.world.episodes.user.tolist() == [3, 3, 3]
    slates = np.tile(np.arange(10), (3, 1))
    for _ in range(2):  # the sums begin again with each episode
        total = env.step(slates)[1]
        _, reward, done, infos = env.step(slates)
        assert done.all()
        for user, info in enumerate(infos):
            assert info["episode"]["r"] == pytest.approx(total[user] + reward[user])
            assert info["episode"]["l"] == 2
