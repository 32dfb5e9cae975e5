"""Users at the start of an episode."""

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from recsim_env.make import make_world
from recsim_env.population import shift_weights
from responders import Catalogue, InputError, SessionLog
from responders.known_truth.logs import synthesize
from responders.known_truth.presets import TruthConfig
from responders.training.checkpoint import load_responder


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


def test_populations(trained: Path, small_log: SessionLog, small_log_path: Path) -> None:
    own = make_world("any", responder=trained, num_users=50)
    cold = make_world("any", responder=trained, num_users=50, population="cold")
    assert len(torch.unique(own.features, dim=0)) > 1
    assert len(torch.unique(cold.features, dim=0)) == 1
    torch.testing.assert_close(cold.features[0], own.features.mean(0))
    given = make_world("any", responder=trained, num_users=50, population=small_log_path)
    assert given.initial_sessions.n_sessions == small_log.n_sessions
    assert "clicked" in given.catalogue.attributes
    with pytest.raises(InputError, match="'held_ot' is not a log or a name; did you mean held_out"):
        make_world("any", responder=trained, population="held_ot")
    other = replace(small_log, catalogue=Catalogue(np.arange(7, 47)))
    with pytest.raises(InputError, match="another catalogue"):
        make_world("any", responder=trained, population=other)


def test_a_shift_names_the_features_of_users(trained: Path) -> None:
    log = load_responder(trained).initial_sessions
    names = tuple(f"user_{k}" for k in range(log.users.features.shape[1]))
    named = replace(log, users=replace(log.users, feature_names=names))
    np.testing.assert_array_equal(
        shift_weights(named, {"user_0": 1.0}), shift_weights(log, {"feature_0": 1.0})
    )
    with pytest.raises(InputError, match=r"shift by 'feature_0' is unknown; .*user_0"):
        shift_weights(named, {"feature_0": 1.0})


def test_a_shift_tilts_who_comes(trained: Path) -> None:
    contexts = load_responder(trained).initial_sessions
    weights = shift_weights(contexts, {"feature_0": 1.0})
    trait = contexts.users.features[contexts.user, 0]
    z = (trait - trait.mean()) / trait.std()
    np.testing.assert_allclose(np.log(weights), z - z.max(), atol=1e-5)
    plain, tilted = (
        make_world("any", responder=trained, num_users=2000, shift=shift)
        for shift in (None, {"feature_0": 1.5})
    )
    means = [float(world.features[world.episodes.user, 0].mean()) for world in (plain, tilted)]
    assert means[1] > means[0] + 0.5 * trait.std()
    expected = float((trait * shift_weights(contexts, {"feature_0": 1.5})).sum())
    expected /= float(shift_weights(contexts, {"feature_0": 1.5}).sum())
    assert means[1] == pytest.approx(expected, abs=0.15 * float(trait.std()))
    few = make_world("any", responder=trained, num_users=2000, shift={"click_rate": -2.0})
    rate = contexts.response.mean(1)[contexts.session_start[:-1]]
    assert rate[few.episodes.user.numpy()].mean() < rate.mean()
    with pytest.raises(
        InputError, match="shift by 'clickrate' is unknown; did you mean click_rate"
    ):
        make_world("any", responder=trained, shift={"clickrate": 1.0})
