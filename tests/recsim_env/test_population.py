"""Users at the start of an episode."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recsim_env import make_world
from responders import SessionLog
from responders.known_truth.logs import synthesize
from responders.known_truth.presets import TruthConfig


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
