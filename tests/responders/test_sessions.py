"""Statistics of whole sessions, and the classifier that compares two samples of sessions."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responders import SessionLog, Users
from responders.evaluation.sessions import (
    compare_sums,
    distance,
    gaps,
    popularity_tenths,
    return_sums,
    session_sums,
)
from responders.evaluation.two_samples import c2st, mmd, sequence_features, session_features
from tests.conftest import log_of


@pytest.fixture
def tiny() -> SessionLog:
    """Two users: three slates and one slate of the first, two slates of the second."""
    return log_of(
        [[0, 1], [0, 2], [1, -1], [2, 0], [3, 1], [3, 2]],
        [[1, 0], [1, 1], [0, 0], [0, 1], [0, 0], [1, 0]],
        [3, 1, 2],
        user=np.array([0, 0, 1]),
        time=np.array([0, 10, 20, 3620, 0, 50]),
        users=Users(np.arange(2)),
    )


def rates(log: SessionLog, name: str) -> list[float]:
    sums = session_sums(log, np.zeros(4, np.int64), longest=3)[name]
    with np.errstate(invalid="ignore"):  # slate numbers that do not occur
        return (sums.numerator.sum(0) / sums.denominator.sum(0)).tolist()


def test_statistics_by_hand(tiny: SessionLog) -> None:
    assert rates(tiny, "ctr_by_position") == [3 / 6, 2 / 5]
    assert rates(tiny, "ctr_by_slate")[:3] == [2 / 6, 3 / 4, 0]
    assert rates(tiny, "clicks_per_slate") == [2 / 6, 3 / 6, 1 / 6, 0, 0, 0]
    assert rates(tiny, "session_length") == [1 / 3, 1 / 3, 1 / 3]
    assert rates(tiny, "repeat_clicks") == [1 / 5]  # item 0 in the second slate of session 0
    # Slates after a clicked one: session 0's second (clicked) and third (not).
    assert rates(tiny, "after_click") == [1 / 2, 1]
    # Second positions: below a click in slates 0 (no click) and 1 (click) and 5 (none).
    assert rates(tiny, "below_click") == [1 / 3, 1 / 2]


def test_tenths_hold_equal_shares_of_impressions() -> None:
    shown = np.array([5, 50, 30, 10, 5, 0])
    assert popularity_tenths(shown).tolist() == [9, 2, 6, 8, 9, 9]


def test_returns_by_hand(tiny: SessionLog) -> None:
    gap, followed = gaps(tiny, np.arange(3))
    assert gap.tolist() == [3600, np.inf, np.inf]
    assert followed.tolist() == [3600, 0, 3570]
    sums = return_sums(gap, followed >= 3570, window=4000)
    assert sums["return_rate"].numerator.sum() / sums["return_rate"].denominator.sum() == 1 / 2
    assert sums["return_gap"].numerator.sum(0).tolist() == [0, 1, 0, 0, 0, 0]  # 1 to 6 hours


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=30), st.integers(0, 3))
def test_distance_of_lengths_is_the_shift_in_shares_of_the_mean(
    lengths: list[int], shift: int
) -> None:
    sums = [
        session_sums(of_lengths(np.array(lengths) + s), np.zeros(1, np.int64), 12)["session_length"]
        for s in (0, shift)
    ]
    real, other = ((s.numerator.sum(0), s.denominator.sum(0)) for s in sums)
    assert float(distance(sums[0], real, other)) == pytest.approx(shift / np.mean(lengths))


def of_lengths(length: np.ndarray, users: np.ndarray | None = None) -> SessionLog:
    """A log of one item, never clicked, with sessions of these lengths."""
    user = np.arange(len(length)) if users is None else users
    return log_of(np.zeros((length.sum(), 1), int), 0, length, user=user)


def test_two_halves_of_a_log_differ_by_the_floor(small_log: SessionLog) -> None:
    tenth = popularity_tenths(np.bincount(small_log.slate.ravel(), minlength=40))
    half = [np.arange(k, 600, 2) for k in (0, 1)]
    sums = [session_sums(small_log.select(h), tenth, 12) for h in half]
    for name in sums[0]:
        found = compare_sums(sums[0][name], sums[1][name], np.arange(300))
        assert found["distance_low"] <= found["floor_high"], name
        same = compare_sums(sums[0][name], sums[0][name], np.arange(300))
        assert same["distance"] == 0
        assert 0 < same["floor"] < same["floor_high"]


def test_a_small_log_says_so(small_log: SessionLog) -> None:
    few = small_log.select(np.arange(40))
    for sums in session_sums(few, np.zeros(40, np.int64), 12).values():
        found = compare_sums(sums, sums, few.user)
        assert "40 users" in found["too_small"]
        assert "distance" not in found
    silent = replace(small_log, response=np.zeros_like(small_log.response))
    sums = session_sums(silent, np.zeros(40, np.int64), 12)
    found = compare_sums(sums["ctr_by_position"], sums["ctr_by_position"], silent.user)
    assert "0 events" in found["too_small"]


def test_a_classifier_finds_what_was_changed(small_log: SessionLog) -> None:
    first, second = (small_log.select(np.arange(k, 600, 2)) for k in (0, 1))
    names, (a, b) = session_features((first, second))
    same, chance, _ = c2st(names, a, b, np.arange(300))
    assert same["low"] < 0.5 < same["high"]
    assert chance.shape == (300,)
    assert mmd(a, b)["p"] > 0.05
    changed = b.copy()
    changed[:, names.index("most clicks on one slate")] += 2
    told, _, _ = c2st(names, a, changed, np.arange(300))
    assert told["auc"] > 0.8
    assert told["telling"][0]["feature"] == "most clicks on one slate"
    assert mmd(a, changed)["p"] < 0.01


def test_a_sequence_holds_the_clicks_of_each_slate(tiny: SessionLog) -> None:
    names, (values, _) = sequence_features((tiny, tiny))
    clicks, first = names.index("clicks on slate 1"), names.index("first click on slate 1")
    np.testing.assert_array_equal(
        values[:, clicks : clicks + 3], [[1, 2, 0], [1, np.nan, np.nan], [0, 1, np.nan]]
    )
    np.testing.assert_array_equal(
        values[:, first : first + 3], [[0, 0, np.nan], [1, np.nan, np.nan], [np.nan, 0, np.nan]]
    )


def test_features_of_sessions_without_a_click_are_defined(tiny: SessionLog) -> None:
    silent = replace(tiny, response=np.zeros_like(tiny.response))
    names, (a, b) = session_features((tiny, silent))
    assert b[:, names.index("clicks")].tolist() == [0, 0, 0]
    assert np.isnan(b[:, names.index("mean position of the clicks")]).all()
    assert a[:, names.index("longest run of slates without a click")].tolist() == [1, 0, 1]
    assert a[:, names.index("slates without a click at the end")].tolist() == [1, 0, 0]
    assert a[:, names.index("clicks on an item clicked before")].tolist() == [1, 0, 0]
