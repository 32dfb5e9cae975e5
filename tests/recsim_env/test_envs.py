"""The Gymnasium environments: checkers, seeding, errors, rendering, registration."""

import copy
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from recsim_env.make import ASSETS, make_env, make_vector_env, open_responder
from recsim_env.registry import ENVIRONMENTS
from recsim_env.skills import SKILLS
from responders import InputError, SessionLog

SLATES, PAGES = "RecSim-ContentWise-v0", "RecSim-RL4RS-v0"


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | env,
        cwd="/",
        check=False,
    )


FRESH = """
import sys
import gymnasium as gym, recsim_env
for env_id in {ids}:
    e = gym.make(env_id)
    e.reset(seed=0)
    o, r, *_ = e.step(e.action_space.sample())
    v = gym.make_vec(env_id, num_envs=256)
    v.reset(seed=0)
    shape = v.step(v.action_space.sample())[1].shape
    print(e.spec.id, type(r).__name__, type(v).__name__, shape)
slow = [m for m in ("sklearn", "scipy.stats", "torch._dynamo") if m in sys.modules]
assert not slow, f"only training needs {{slow}}"
"""
SUITE = [env_id for env_id, scenario in ENVIRONMENTS.items() if scenario in SKILLS]


@pytest.mark.parametrize("ids", [[i for i in ENVIRONMENTS if i not in SUITE], SUITE], ids=str)
def test_gym_make_works_in_a_fresh_interpreter_and_says_synthetic(ids: list[str]) -> None:
    done = run(FRESH.format(ids=ids))
    assert done.returncode == 0, done.stderr
    for env_id, line in zip(ids, done.stdout.splitlines(), strict=True):
        assert line.startswith(f"{env_id} float")
        assert line.endswith("VectorEnv (256,)")
    assert done.stderr.count("SYNTHETIC") == len(ids)
    assert len(done.stderr.splitlines()) == len(ids)


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_the_checkers_pass_without_warnings(env_id: str) -> None:
    env = gym.make(env_id)
    check_env(env.unwrapped, skip_render_check=True)
    sb3_check_env(env.unwrapped)
    for mode in ("ansi", "rgb_array"):
        check_env(gym.make(env_id, render_mode=mode).unwrapped)


@pytest.mark.parametrize("options", [{"observe": "flat"}, {"candidates": 30}, {"history": 2}])
def test_the_checkers_pass_with_options(options: dict[str, Any]) -> None:
    env = gym.make(SLATES, **options)
    check_env(env.unwrapped, skip_render_check=True)
    sb3_check_env(env.unwrapped)


def test_the_spec_and_card_say_synthetic() -> None:
    for name in ("contentwise", "rl4rs"):
        card = open_responder(ASSETS / name).card
        assert card["synthetic"] is True
        assert "synthetic" in card["data"]["name"]
    assert gym.spec(SLATES).kwargs["users"] == "synthetic unless a responder is given"


def test_embedded_responders_are_small() -> None:
    assert sum(f.stat().st_size for f in ASSETS.rglob("*") if f.is_file()) < 3_000_000


def test_a_responder_of_your_own(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = gym.make("RecSim-v0", responder=str(trained))
    assert env.action_space == gym.spaces.MultiDiscrete([40] * 5)
    (tmp_path / "contentwise").symlink_to(trained)
    for home, shape in ((tmp_path, (5,)), (tmp_path / "empty", (10,))):
        monkeypatch.setenv("RECSIM_HOME", str(home))
        assert gym.make(SLATES).action_space.shape == shape


def test_a_synthetic_log_is_answered_by_its_true_users(small_log_path: Path) -> None:
    users = open_responder(small_log_path)
    assert type(users.responder).__name__ == "KnownTruth"
    env = make_env("any", responder=small_log_path)
    env.reset(seed=0)
    assert env.step(np.arange(5))[4]["probability"].shape == (5,)


def test_a_log_of_real_users_cannot_answer(small_log: SessionLog, tmp_path: Path) -> None:

    replace(small_log, card={"name": "real", "synthetic": False}).save(tmp_path / "log")
    with pytest.raises(InputError, match="log of real users, which cannot answer new slates"):
        make_env("any", responder=tmp_path / "log")


def test_numpy_integers_are_seeds_and_actions() -> None:
    env, twin = (gym.make(SLATES, leaving=False).unwrapped for _ in range(2))
    env.reset(seed=np.int64(5))
    twin.reset(seed=5)
    for dtype in (np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64):
        assert env.step(np.arange(10, dtype=dtype))[1] == twin.step(list(range(10)))[1]
    with pytest.raises(InputError, match="seed must be a whole number"):
        env.reset(seed=-1)


def test_seeds_fix_the_episode() -> None:
    def episode(seed: int) -> list[Any]:
        env = gym.make_vec(SLATES, num_envs=4)
        env.reset(seed=seed)
        env.action_space.seed(0)
        return [env.step(env.action_space.sample())[1].tolist() for _ in range(10)]

    assert episode(3) == episode(3)
    assert episode(3) != episode(4)
    unseeded = [gym.make(SLATES).unwrapped.reset()[1]["user_index"] for _ in range(6)]
    assert len(set(unseeded)) > 1


def test_gymnasium_wrappers_work() -> None:
    env = gym.wrappers.FlattenObservation(gym.make(SLATES, leaving=False))
    env = gym.wrappers.RecordEpisodeStatistics(gym.wrappers.TimeLimit(env, 4))
    env.reset(seed=0)
    for _ in range(4):
        *_, truncated, info = env.step(env.action_space.sample())
    assert truncated
    assert info["episode"]["l"] == 4
    many = gym.wrappers.vector.RecordEpisodeStatistics(
        gym.make_vec(SLATES, num_envs=3, horizon=2, leaving=False)
    )
    many.reset(seed=0)
    for _ in range(2):
        *_, info = many.step(many.action_space.sample())
    assert (info["episode"]["l"] == 2).all()
    assert gym.make(SLATES, max_episode_steps=7).spec.max_episode_steps == 7
    assert gym.make_vec(SLATES, num_envs=2, max_episode_steps=7).unwrapped.world.horizon == 7


def test_episodes_can_be_filmed(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    env = gym.make(SLATES, render_mode="rgb_array", horizon=2, leaving=False)
    env = gym.wrappers.RecordVideo(
        env, str(tmp_path / "film"), episode_trigger=lambda episode: True
    )
    env.reset(seed=0)
    for _ in range(2):
        env.step(env.action_space.sample())
    env.close()
    assert [f.suffix for f in (tmp_path / "film").iterdir()] == [".mp4"]


BAD_ACTIONS = [
    (np.zeros(10, np.float32), "dtype float32"),
    (np.zeros(9, np.int64), r"shape \(1, 9\); this environment takes \(1, 10\)"),
    (np.full(10, 1000), "action 1000 of user 0, position 0 is out of range 0 to 999"),
    (np.r_[np.zeros(9, int), -1], "action -1 of user 0, position 9 is out of range"),
    (np.full(10, np.nan), "dtype float64"),
    (np.arange(10).astype(complex), "dtype complex128"),
    (np.arange(10).astype(object), "dtype object"),
    (["a"] * 10, "dtype <U1"),
    (None, "dtype object"),
    ([1, [2, 3]], "not an array"),
]


@pytest.mark.parametrize(("action", "message"), BAD_ACTIONS)
def test_bad_actions_are_named_and_change_nothing(action: Any, message: str) -> None:
    env, twin = (gym.make(SLATES).unwrapped for _ in range(2))
    env.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises(InputError, match=message):
        env.step(action)
    good = np.arange(10)
    assert env.step(good)[1] == twin.step(good)[1]


def test_stepping_at_the_wrong_time_is_named() -> None:
    env = gym.make(SLATES, horizon=1).unwrapped
    with pytest.raises(InputError, match="step before reset"):
        env.step(np.arange(10))
    env.reset(seed=0)
    env.step(np.arange(10))
    with pytest.raises(InputError, match="has ended its episode"):
        env.step(np.arange(10))


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_environments_can_be_copied_and_pickled(env_id: str) -> None:
    env = gym.make(env_id, leaving=False).unwrapped
    env.reset(seed=0)
    twins = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    env.action_space.seed(0)
    for _ in range(9):
        action = env.action_space.sample()
        reward = env.step(action)[1]
        assert [twin.step(action)[1] for twin in twins] == [reward, reward]


def test_bad_resets_and_names_are_named() -> None:
    env = gym.make_vec(SLATES, num_envs=2).unwrapped
    with pytest.raises(InputError, match="seed must be a whole number"):
        env.reset(seed=-3)
    with pytest.raises(InputError, match="first reset must be of all"):
        env.reset(options={"reset_mask": np.array([True, False])})
    env.reset(seed=0)
    with pytest.raises(InputError, match="reset_mask must be 2 booleans"):
        env.reset(options={"reset_mask": np.array([1, 0])})
    with pytest.raises(InputError, match="a seed resets all users"):
        env.reset(seed=1, options={"reset_mask": np.array([True, False])})
    with pytest.raises(InputError, match="there is no responder at"):
        make_env("any", responder="nowhere")
    with pytest.raises(InputError, match="environment 'contentwize' is unknown; did you mean cont"):
        make_env("contentwize")
    with pytest.raises(InputError, match="observe 'flatt' is unknown; did you mean flat"):
        make_env("contentwise", observe="flatt")
    with pytest.raises(InputError, match="render_mode 'human' is unknown"):
        make_env("contentwise", render_mode="human")
    with pytest.raises(InputError, match="candidates must be 1 to 1000"):
        make_env("contentwise", candidates=0)


def test_duplicates_are_left_empty_and_counted() -> None:
    env = gym.make(SLATES)
    env.reset(seed=0)
    *_, info = env.step(np.array([5, 5, 5, 6, 7, 8, 9, 10, 11, 11]))
    assert info["slate"].tolist() == [5, -1, -1, 6, 7, 8, 9, 10, 11, -1]
    assert info["duplicates"] == 3
    assert (info["probability"][[1, 2, 9]] == 0).all()


def test_candidates_are_the_most_clicked_items() -> None:
    env = make_vector_env(2, "contentwise", candidates=20)
    env.reset(seed=0)
    *_, info = env.step(np.tile(np.arange(10), (2, 1)))
    clicked = env.world.catalogue.attributes["clicked"]
    assert (clicked[info["slate"][0]] == np.sort(clicked)[::-1][:10]).all()


def test_infos_and_observations_share_no_names() -> None:
    for env_id, arguments in ((SLATES, {"returns": "rule"}), (PAGES, {})):
        env = gym.make(env_id, **arguments)
        observation, info = env.reset(seed=0)
        step = env.step(env.action_space.sample())
        assert not set(observation) & (set(info) | set(step[4]))


ASYNC = """
import gymnasium as gym, torch, recsim_env
torch.set_num_threads(2)
torch.randn(1000, 1000) @ torch.randn(1000, 1000)  # starts the threads that a fork loses
envs = gym.make_vec("RecSim-ContentWise-v0", num_envs=2, vectorization_mode="async")
envs.reset(seed=0)
print(envs.step(envs.action_space.sample())[1].shape)
envs.close()
"""


def test_environments_can_run_in_forked_processes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASYNC], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "(2,)"


def test_render() -> None:
    env = gym.make(SLATES, render_mode="ansi")
    env.reset(seed=0)
    assert "no slate shown yet" in env.render()
    env.step(np.arange(10))
    text = env.render()
    assert "P(click)" in text
    assert len(text.splitlines()) == 14
    picture = gym.make(SLATES, render_mode="rgb_array")
    picture.reset(seed=0)
    picture.step(np.arange(10))
    frame = picture.render()
    assert frame.dtype == np.uint8
    assert frame.ndim == 3
    assert frame.std() > 10


def test_infos_are_the_callers(trained: Path) -> None:
    envs = make_vector_env(3, responder=[trained, trained], one_member=True)
    _, info = envs.reset(seed=0)
    user, member = envs.world.episodes.user.clone(), envs.world.episodes.member.clone()
    for name in ("user_index", "member"):
        info[name][:] = -7
    assert torch.equal(envs.world.episodes.user, user)
    assert torch.equal(envs.world.episodes.member, member)


def test_the_last_info_of_an_episode_names_the_user() -> None:
    envs = gym.make_vec(
        "RecSim-ContentWise-v0", num_envs=8, autoreset_mode="SameStep", horizon=3, leaving=False
    )
    _, info = envs.reset(seed=0)
    users = info["user_index"]
    for _ in range(3):
        *_, info = envs.step(envs.action_space.sample())
    np.testing.assert_array_equal(info["final_info"]["user_index"], users)
    assert (info["user_index"] != users).any()


def test_what_cannot_fit_or_would_repeat_is_refused() -> None:
    with pytest.raises(InputError, match="1,000,000,000 users with a history of 10 slates need"):
        gym.make_vec("RecSim-ContentWise-v0", num_envs=10**9)
    with pytest.raises(InputError, match="seed must be below 2"):
        gym.make_vec("RecSim-ContentWise-v0", num_envs=2).reset(seed=1 << 63)
