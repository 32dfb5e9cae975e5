"""What is learned from the ends of sessions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from responders import SessionLog
from responders.behaviour.leaving import add_log_odds, fit_hazard, leave_chance, streaks
from responders.known_truth.logs import synthesize
from responders.known_truth.presets import TruthConfig
from responders.known_truth.world import truth_of
from responders.log import ragged
from responders.log.split import split_time, visible_log

DAY = 86_400


@pytest.fixture(scope="module")
def daily_log(small_world: TruthConfig, tmp_path_factory: pytest.TempPathFactory) -> SessionLog:
    """4,000 sessions with a slate a day, which begin within 60 days."""
    world = small_world.changed(max_slates=60, leaving=0.08, impatience=0.08, min_slates=2)
    log = synthesize(tmp_path_factory.mktemp("logs") / "daily", world, 4000, progress=False)
    begin = np.random.default_rng(0).integers(0, 60 * DAY, log.n_sessions)
    time = np.repeat(begin, log.session_length) + DAY * ragged.place(log.session_length)
    return replace(log, time=time)


def cut_at(log: SessionLog, moment: float) -> SessionLog:
    """The log as it was at `moment`."""
    earlier = np.append(0, np.cumsum(log.time < moment))
    seen = np.diff(earlier[log.session_start])
    return log.select(np.flatnonzero(seen), first_slates=seen[seen > 0])


@pytest.mark.parametrize("case", ["whole", "split by time", "ends early"])
def test_sessions_that_were_cut_are_no_departures(daily_log: SessionLog, case: str) -> None:
    truth = truth_of(daily_log)
    assert truth is not None
    if case == "whole":
        log, sessions = daily_log, np.arange(daily_log.n_sessions)
    elif case == "split by time":
        log, sessions = visible_log(daily_log, split_time(daily_log)["train"])
    else:
        log = cut_at(daily_log, 60 * DAY)
        sessions = np.arange(log.n_sessions)
        length = log.session_length
        going_on = log.time[log.session_start[1:] - 1] > 59 * DAY
        assert going_on.mean() > 0.1
        assert length.max() > 3
    hazard = fit_hazard(log, sessions)
    assert hazard.min_slates == 2
    streak = streaks(log, sessions)
    n_at_risk = np.bincount(streak, minlength=4)[:4]
    if any(hazard.weights):  # the head repeats what the streak says; compare it as a whole
        pytest.fail(f"the truth depends on the streak only, but the head is {hazard.weights}")
    for k in range(3):
        p, n = truth.hazard[k], n_at_risk[k]
        assert hazard.by_streak[k] == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5 + 0.01), k


def test_logs_without_a_clock_have_no_end_that_cuts(daily_log: SessionLog) -> None:
    plain = replace(daily_log, time=ragged.place(daily_log.session_length))
    sessions = np.arange(plain.n_sessions)
    assert fit_hazard(plain, sessions) == fit_hazard(plain, sessions, silence=0.0)


def test_chances_are_shifted_by_log_odds() -> None:
    chance = torch.tensor([0.0, 0.2, 1.0])
    found = add_log_odds(chance, torch.full((3,), 1.5))
    expected = 1 / (1 + np.exp(-(np.log(0.25) + 1.5)))
    assert found.tolist() == pytest.approx([0, expected, 1])
    assert add_log_odds(chance, None) is chance


def test_a_hazard_learns_that_clicks_are_regretted(
    small_world: TruthConfig, tmp_path: Path
) -> None:
    """It sees no regret; clicks stand for it, and explain the lengths better than streaks alone."""
    world = small_world.changed(
        clickbait=2.0, regret=1.5, leaving=0.05, impatience=0.0, min_slates=1, max_slates=60
    )
    log = synthesize(tmp_path / "log", world, 2000, progress=False)
    hazard = fit_hazard(log, np.arange(log.n_sessions))
    quiet = leave_chance(
        hazard.tables(),
        torch.zeros(2).long(),
        torch.ones(2),
        torch.tensor([0, 4]),
        torch.tensor([0, 4]),
    )
    assert quiet[1] > 1.2 * quiet[0]


def test_streaks_count_slates_without_a_click(small_log: SessionLog) -> None:
    sessions = np.arange(small_log.n_sessions)
    rows, streak = small_log.rows(sessions), streaks(small_log, sessions)
    clicked = small_log.response[rows].any(1)
    assert (streak[clicked] == 0).all()
    first = small_log.session_start[:-1]
    assert (streak[first] == ~clicked[first]).all()
    later = np.setdiff1d(np.flatnonzero(~clicked), first)
    assert (streak[later] == streak[later - 1] + 1).all()
