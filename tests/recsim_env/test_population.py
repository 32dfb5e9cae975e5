"""Users at the start of an episode."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from recsim_env import make_world
from recsim_env.loading import open_responder
from recsim_env.make import make_vector_env
from recsim_env.world import World
from responders import InputError, SessionLog, fit
from responders.behaviour.leaving import Hazard
from responders.known_truth.logs import synthesize
from responders.known_truth.presets import TruthConfig
from responders.log.split import make_split


@pytest.fixture(scope="module")
def uniform_log(small_world: TruthConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 sessions whose slates are random."""
    world = small_world.changed(max_slates=100, impatience=0.15, min_slates=2)
    out = tmp_path_factory.mktemp("logs") / "uniform"
    synthesize(out, world, 3000, policy="uniform", progress=False)
    return out


@pytest.mark.parametrize("warm_start", [0, 1, 3])
def test_sessions_are_as_long_as_logged_ones(uniform_log: Path, warm_start: int) -> None:
    """The warm start is part of the session: it counts for leaving, and who left is not there."""
    logged = SessionLog.load(uniform_log).session_length
    logged = logged[logged > warm_start]
    world = make_world(
        "any", num_users=2000, responder=str(uniform_log), warm_start=warm_start, horizon=200
    )
    generator, active = torch.Generator().manual_seed(0), torch.ones(2000, dtype=torch.bool)
    length = torch.full((2000,), float(warm_start))
    assert (world.episodes.visit_step == warm_start).all()
    while active.any():
        noise = torch.rand(2000, world.n_items, generator=generator)
        outcome = world.step(world.rules.choose(noise))
        length += active
        active &= ~(outcome.left | outcome.truncated)
    simulated = length.numpy()
    error = np.hypot(logged.std() / len(logged) ** 0.5, simulated.std() / 2000**0.5)
    # Both start from the same few users, so their streaks at the start are not independent draws.
    assert simulated.mean() == pytest.approx(logged.mean(), abs=4 * error)


def test_counters_continue_from_the_warm_start(uniform_log: Path) -> None:
    log = SessionLog.load(uniform_log)
    world = make_world("any", num_users=300, responder=str(uniform_log), warm_start=2)
    episodes = world.episodes
    clicks = episodes.clicks.sum(2)
    assert torch.equal(episodes.visit_clicks, clicks.sum(1))
    last, before = clicks[:, -1], clicks[:, -2]
    streak = torch.where(last > 0, 0, torch.where(before > 0, 1, 2))
    assert torch.equal(episodes.streak, streak)
    assert (episodes.step == 0).all()
    first = world.initial_sessions
    assert (first.session_length[episodes.user.numpy()] > 2).all()
    assert int(first.session_length.max()) == min(4, int(log.session_length.max()))


def test_true_users_leave_at_the_latest_when_the_world_says(
    small_world: TruthConfig, tmp_path: Path
) -> None:
    world = small_world.changed(max_slates=5, leaving=0.0, impatience=0.0)
    synthesize(tmp_path / "log", world, 50, progress=False)
    users = make_world("any", num_users=20, responder=str(tmp_path / "log"))
    for step in range(1, 6):
        outcome = users.step(users.rules.choose(torch.rand(20, users.n_items)))
        assert outcome.left.all() == (step == 5)
        assert outcome.left.any() == (step == 5)


def test_an_episode_can_start_with_a_chosen_user() -> None:
    envs = gym.make_vec("RecSim-ContentWise-v0", num_envs=3)
    _, info = envs.reset(seed=0, options={"user": [5, 900, 31]})
    assert info["user_index"].tolist() == [5, 900, 31]
    _, info = envs.reset(options={"user": 7})
    assert info["user_index"].tolist() == [7, 7, 7]
    mask = np.array([False, True, False])
    _, info = envs.reset(options={"user": 9, "reset_mask": mask})
    assert info["user_index"].tolist() == [7, 9, 7]
    env = gym.make("RecSim-ContentWise-v0")
    assert env.reset(seed=1, options={"user": 12})[1]["user_index"] == 12
    for options, message in (
        ({"users": 3}, "no option 'users'; did you mean user"),
        ({"user": 1000}, "rows of the population, 0 to 999"),
        ({"user": [1, 2]}, "rows of the population"),
        ({"reset_mask": np.zeros(3, bool)}, "every entry is False"),
    ):
        with pytest.raises(InputError, match=message):
            envs.reset(options=options)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda total: total * torch.nan, "NaN or infinity"),
        (lambda total: total.double() * 1e300, "NaN or infinity"),
        (lambda total: total.to(torch.complex64), "complex numbers"),
    ],
)
def test_a_reward_function_must_return_numbers(
    change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    world = make_world("contentwise", num_users=2, reward=lambda slate, click, p: change(p.sum(1)))
    with pytest.raises(InputError, match=message):
        world.step(torch.arange(10).expand(2, -1))


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


def test_a_split_by_time_starts_with_users_that_were_not_trained_on(
    small_log: SessionLog, tmp_path: Path
) -> None:
    users = fit(small_log, "pbm", tmp_path / "run", split="time", progress=False)
    assert users.card["initial_users"] == "users held out of training"
    part = make_split(small_log, "time", 0)["train"]
    trained = set(small_log.users.ids[small_log.user[part.sessions]].tolist())
    assert not trained & set(users.initial_sessions.users.ids.tolist())


def test_the_fractions_of_the_split_are_an_argument(small_log: SessionLog, tmp_path: Path) -> None:
    users = fit(small_log, "pbm", tmp_path / "run", fractions=(0.5, 0.2, 0.3), progress=False)
    assert users.card["metrics"]["n_sessions"] == 180
    assert users.card["split"]["fractions"] == [0.5, 0.2, 0.3]
    with pytest.raises(InputError, match="add up to 1"):
        fit(small_log, "pbm", tmp_path / "other", fractions=(0.5, 0.2, 0.2), progress=False)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["contentwise", "rl4rs"])
def test_a_world_does_not_depend_on_global_settings_of_pytorch(name: str) -> None:
    slates = [torch.randperm(283, generator=torch.Generator().manual_seed(i)) for i in range(3)]

    def play(world: World) -> list[torch.Tensor]:
        rewards = []
        for slate in slates:
            outcome = world.step(slate[: world.n_positions].expand(4, -1))
            assert outcome.probability.dtype == torch.float32
            rewards += [outcome.reward, outcome.probability, outcome.leave_chance]
            world.reset(outcome.left | outcome.truncated)
        return rewards

    def world() -> World:
        return make_world(name, num_users=4, returns="rule", leaving=Hazard((0.3,), 1, (0.1, 0, 0)))

    plain = play(world())
    with torch.autocast("cpu", torch.bfloat16):
        cast = play(world())
    torch.set_default_dtype(torch.float64)
    try:
        double = play(world())
    finally:
        torch.set_default_dtype(torch.float32)
    for expected, one, other in zip(plain, cast, double, strict=True):
        assert torch.equal(expected, one)
        assert torch.equal(expected, other)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RecSim-ContentWise-v0", {"observe": "flat"}),
        ("RecSim-ContentWise-v0", {"observe": "state", "reward": "expected_clicks"}),
        ("RecSim-RL4RS-v0", {}),
        ("RecSim-v0", {"responder": "truth"}),
    ],
)
def test_environments_do_not_depend_on_global_settings_either(
    name: str, options: dict[str, Any], small_log_path: Path
) -> None:
    if options.get("responder"):
        options = {"responder": small_log_path}

    def play() -> list[Any]:
        envs = gym.make_vec(name, num_envs=4, **options)
        found = [envs.reset(seed=0)[0]]
        for step in range(9):
            item = (np.arange(np.prod(envs.action_space.shape)) + 4 * step) % 20
            actions = item.reshape(envs.action_space.shape)
            found += envs.step(actions)[:2]
        return found

    plain = play()
    for around in (
        torch.autocast("cpu", torch.bfloat16),
        torch.autocast("cpu", torch.float16),
        default_dtype(torch.float64),
        default_dtype(torch.float16),
    ):
        with around:
            found = play()
        assert torch.get_default_dtype() == torch.float32
        for expected, one in zip(plain, found, strict=True):
            np.testing.assert_equal(one, expected)


def test_what_cannot_fit_or_would_repeat_is_refused() -> None:
    with pytest.raises(InputError, match="1,000,000,000 users with a history of 10 slates need"):
        gym.make_vec("RecSim-ContentWise-v0", num_envs=10**9)
    with pytest.raises(InputError, match="seed must be below 2"):
        gym.make_vec("RecSim-ContentWise-v0", num_envs=2).reset(seed=1 << 63)


def test_vector_environments_draw_every_user(tmp_path: Path) -> None:
    envs = gym.make_vec(
        "RecSim-ContentWise-v0", num_envs=2, render_mode="rgb_array", autoreset_mode="SameStep"
    )
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    first, second = envs.render()
    assert first.shape == second.shape
    assert (first != second).any()


def test_stable_baselines3_gets_the_infos_of_ended_episodes() -> None:
    from stable_baselines3.common.vec_env import VecMonitor

    from recsim_env.adapters.sb3 import SB3VecEnv

    vector = make_vector_env(4, "contentwise", autoreset_mode="SameStep", horizon=2, leaving=False)
    env = VecMonitor(SB3VecEnv(vector), info_keywords=("user_index", "invalid"))
    env.reset()
    for _ in range(2):
        *_, infos = env.step(np.stack([env.action_space.sample() for _ in range(4)]))
    assert {"user_index", "invalid", "r", "l"} <= infos[0]["episode"].keys()


def test_pages_take_items_as_arms() -> None:
    env = gym.make("RecSim-RL4RS-v0", action="arm")
    assert env.action_space == gym.spaces.Discrete(283)


def test_stable_baselines_logs_episodes_without_a_monitor_and_passes_options() -> None:
    from recsim_env.adapters.sb3 import SB3VecEnv

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
