"""Logged sessions as episodes: what was seen, done, earned, and how it ended."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsim_env.adapters import logged
from recsim_env.adapters.export import Episode, collect, d3rlpy_arrays
from recsim_env.adapters.logged import action_space, log_episodes, log_to_minari
from recsim_env.make import make_vector_env
from responders import InputError, SessionLog, Users
from responders.behaviour.leaving import departures
from tests.conftest import log_of


def with_features(length: list[int], **fields: Any) -> SessionLog:
    """A log of sessions of the given lengths on 6 items, by users with two features."""
    users = Users(np.arange(len(length)), np.arange(2.0 * len(length)).reshape(-1, 2))
    return log_of(length=length, items=6, users=users, **fields)


SMALL = {
    "slate": [[0, 1], [2, -1], [3, 4], [5, 0], [1, 2]],
    "click": [[1, 0], [0, 0], [1, 1], [0, 0], [0, 1]],
    "length": [3, 2],
}


def test_a_session_becomes_an_episode() -> None:
    log = with_features(**SMALL, propensity=np.full((5, 2), 0.25, np.float32))
    first, second = log_episodes(log, history=2)
    np.testing.assert_array_equal(first.action, [[0, 1], [2, -1], [3, 4]])
    np.testing.assert_array_equal(first.reward, [1.0, 0.0, 2.0])
    np.testing.assert_array_equal(
        first.observation["item"],
        [[-1, -1, -1, -1], [-1, -1, 0, 1], [0, 1, 2, -1], [2, -1, 3, 4]],
    )
    np.testing.assert_array_equal(
        first.observation["click"], [[0, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 1]]
    )
    np.testing.assert_array_equal(first.observation["step"], [[0], [1], [2], [3]])
    np.testing.assert_array_equal(second.observation["user"], [[2.0, 3.0]] * 3)
    np.testing.assert_array_equal(second.info["propensity"], [[0, 0], [0.25, 0.25], [0.25, 0.25]])
    assert action_space(log).contains(first.action[1])


def naive(log: SessionLog, session: int, step: int, history: int) -> np.ndarray:
    seen = [np.full(log.n_positions, -1)] * history
    start = log.session_start[session]
    seen += list(log.slate[start : start + step])
    return np.concatenate(seen[len(seen) - history :])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(1, 4), st.integers(1, 9))
def test_every_history_is_what_came_before(length: list[int], history: int, block: int) -> None:
    """Whatever the lengths, and in however small blocks it is computed."""
    rng = np.random.default_rng(len(length))
    log = with_features(slate=rng.integers(0, 6, (sum(length), 3)), length=length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logged, "_ROWS", block)
        episodes = log_episodes(log, history=history)
    assert [len(e) for e in episodes] == length
    for session, episode in enumerate(episodes):
        for step in range(len(episode) + 1):
            np.testing.assert_array_equal(
                episode.observation["item"][step], naive(log, session, step, history)
            )


def played(envs: Any) -> tuple[list[Episode], SessionLog]:
    """Episodes of an environment with history observations, and the log that they would leave."""
    rng = np.random.default_rng(0)
    episodes = collect(
        envs,
        lambda _: np.stack([rng.permutation(envs.world.n_items)[:10] for _ in range(6)]),
        episodes=12,
        progress=False,
    )
    length = np.array([len(e) for e in episodes])
    log = log_of(
        np.concatenate([e.action for e in episodes]),
        np.concatenate([e.observation["click"][1:, -10:] for e in episodes]),
        length,
        items=envs.world.catalogue,
        users=Users(np.arange(12), np.stack([e.observation["user"][0] for e in episodes])),
    )
    return episodes, log


def test_a_log_of_an_environment_gives_its_episodes_back() -> None:
    envs = make_vector_env(6, "contentwise", autoreset_mode="Disabled", horizon=7, history=3)
    episodes, log = played(envs)
    for written, read in zip(episodes, log_episodes(log, observe=envs), strict=True):
        for name, values in written.observation.items():
            np.testing.assert_array_equal(read.observation[name], values)
            assert read.observation[name].dtype == values.dtype
        np.testing.assert_array_equal(read.action, written.action)
        np.testing.assert_array_equal(read.reward, written.reward)
        if len(written) < 7:  # at the horizon a log does not show who left
            assert read.terminated
    flat = make_vector_env(6, "contentwise", autoreset_mode="Disabled", horizon=7, observe="flat")
    for episode in log_episodes(log, observe=flat):
        assert episode.observation.shape == (len(episode) + 1, *flat.single_observation_space.shape)
        assert (episode.observation[0, -2:] == [0.0, 1.0]).all()  # nothing passed, no click yet


def test_sessions_longer_than_the_horizon_are_truncated() -> None:
    envs = make_vector_env(6, "contentwise", autoreset_mode="Disabled", horizon=9)
    _, log = played(envs)
    shorter = make_vector_env(6, "contentwise", horizon=2)
    for episode, length in zip(log_episodes(log, observe=shorter), log.session_length, strict=True):
        assert len(episode) == min(length, 2)
        assert not (episode.terminated and length > 2)
        assert shorter.single_observation_space["step"].contains(episode.observation["step"][-1])


def test_only_a_session_that_the_log_cannot_have_cut_terminates() -> None:
    """The log ends at 1000 s; the last session may have gone on."""
    time = np.array([0, 10, 100, 110, 50, 1000])
    log = log_of(np.zeros((6, 1), int), 0, [2, 2, 1, 1], time=time)
    ended = departures(log, np.arange(4))
    np.testing.assert_array_equal(ended, [False, False, True, False])  # 2 = the longest, twice
    assert [e.terminated for e in log_episodes(log)] == ended.tolist()
    assert not any(e.terminated for e in log_episodes(log, silence=2000))


def test_a_log_of_single_items_has_discrete_actions() -> None:
    """One position, or one filled position of several as in Open Bandit."""
    one = log_of([[3], [1], [5]], [[1], [0], [0]], [1, 1, 1])
    several = log_of(
        [[-1, 3], [1, -1], [-1, 5]],
        [[0, 1], [0, 0], [0, 0]],
        [1, 1, 1],
        propensity=np.array([[0, 0.5], [0.25, 0], [0, 0.75]], np.float32),
    )
    for log in (one, several):
        assert action_space(log) == gym.spaces.Discrete(6)
        arrays = d3rlpy_arrays(log_episodes(log, observe="flat"))
        assert arrays["actions"].tolist() == [[3], [1], [5]]
        assert arrays["rewards"].tolist() == [[1.0], [0.0], [0.0]]
        assert arrays["terminals"].tolist() == [1.0, 1.0, 1.0]
        assert arrays["observations"].dtype == np.float32
    info = [e.info for e in log_episodes(several)]
    assert [i["propensity"].tolist() for i in info] == [[0, 0.5], [0, 0.25], [0, 0.75]]
    assert [i["position"][1] for i in info] == [1, 0, 1]


def test_any_number_per_slate_is_a_reward(small_log: SessionLog) -> None:
    reward = np.arange(small_log.n_slates) / 2
    episodes = log_episodes(small_log, reward=reward)
    np.testing.assert_array_equal(np.concatenate([e.reward for e in episodes]), reward)
    for bad in (reward[1:], reward * np.nan):
        with pytest.raises(InputError, match="one finite number for each"):
            log_episodes(small_log, reward=bad)


def test_what_cannot_be_exported_is_refused(small_log: SessionLog) -> None:
    with pytest.raises(InputError, match="slates have one item"):
        d3rlpy_arrays(log_episodes(small_log, observe="flat"))
    with pytest.raises(InputError, match="observed as 'flatt'; did you mean flat"):
        log_episodes(small_log, observe="flatt")
    with pytest.raises(InputError, match="another catalogue"):
        log_episodes(small_log, observe=make_vector_env(1, "contentwise"))
    for options in ({"observe": "state"}, {"returns": "rule"}, {"paged": True}):
        envs = make_vector_env(1, "contentwise", **options)
        with pytest.raises(InputError, match="slates and clicks alone"):
            log_episodes(small_log, observe=envs)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Minari recommends an author, a permalink, …
@pytest.mark.parametrize("observe", ["history", "flat"])
def test_minari_reads_a_log(observe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    log = with_features(**SMALL, propensity=np.full((5, 2), 0.25, np.float32))
    log_to_minari(log, "mine/logged-v0", observe=observe, description="a log")
    data = minari.load_dataset("mine/logged-v0")
    assert data.total_episodes == 2
    assert data.total_steps == 5
    for written, read in zip(
        log_episodes(log, observe=observe), data.iterate_episodes(), strict=True
    ):
        np.testing.assert_array_equal(read.actions, written.action)
        np.testing.assert_array_equal(read.rewards, written.reward)
        assert all(data.action_space.contains(action) for action in read.actions)
        assert bool(read.terminations[-1]) == written.terminated
        assert bool(read.truncations[-1]) != written.terminated
        assert not read.terminations[:-1].any()
        np.testing.assert_array_equal(read.infos["propensity"], written.info["propensity"])
        if observe == "flat":
            np.testing.assert_array_equal(read.observations, written.observation)
            assert all(data.observation_space.contains(o) for o in read.observations)
        else:
            np.testing.assert_array_equal(read.observations["item"], written.observation["item"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_dataset_for_an_environment_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    envs = gym.make_vec(
        "RecSim-ContentWise-v0", num_envs=6, horizon=5, autoreset_mode="Disabled"
    ).unwrapped
    _, log = played(envs)
    log_to_minari(log, "mine/spec-v0", observe=envs)
    env = minari.load_dataset("mine/spec-v0").recover_environment()
    assert env.observation_space == envs.single_observation_space
    assert env.action_space == envs.single_action_space
