"""Estimates of other policies from propensities: by hand, and exactly right in expectation."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responders.evaluation.off_policy import cascade_dr, dr, ips, pseudo_inverse, snips

CLICK = np.array([[1.0, 0.0], [0.0, 1.0]])
WEIGHT = np.array([[2.0, 0.5], [1.0, 3.0]])
FILLED = np.ones((2, 2), bool)
LOGGED = np.array([[0.5, 0.25], [0.5, 0.25]])
EXPECTED = np.array([[0.4, 0.2], [0.4, 0.2]])


def test_values_by_hand() -> None:
    np.testing.assert_allclose(ips(CLICK, WEIGHT), [2, 3])
    # The weights of the positions add up to 3 and 3.5 instead of 2.
    np.testing.assert_allclose(snips(CLICK, WEIGHT, FILLED), [2 * 2 / 3, 3 * 2 / 3.5])
    # 0.4 + 0.2 + 2 (1 - 0.5) + 0.5 (0 - 0.25) and 0.6 + 1 (0 - 0.5) + 3 (1 - 0.25)
    np.testing.assert_allclose(dr(CLICK, WEIGHT, LOGGED, EXPECTED), [1.475, 2.35])
    # 1 - 2 + 2 + 0.5 and 1 - 2 + 1 + 3
    np.testing.assert_allclose(pseudo_inverse(CLICK, WEIGHT, FILLED), [1.5, 3])
    # 0.4 + 2 (1 - 0.5) + 2 · 0.2 + 1 (0 - 0.25) and 0.4 + 1 (0 - 0.5) + 1 · 0.2 + 3 (1 - 0.25)
    np.testing.assert_allclose(cascade_dr(CLICK, WEIGHT, LOGGED, EXPECTED), [1.55, 2.35])


def test_empty_positions_count_for_nothing() -> None:
    """A second, empty position (weight 1, the rest 0) changes no estimate."""
    one = np.array([True, False])
    filled, click, logged, expected = (x * one for x in (FILLED, CLICK, LOGGED, EXPECTED))
    weight = np.where(one, WEIGHT, 1.0)
    for wide, narrow in (
        (ips(click, weight), ips(CLICK[:, :1], WEIGHT[:, :1])),
        (snips(click, weight, filled), snips(CLICK[:, :1], WEIGHT[:, :1], FILLED[:, :1])),
        (pseudo_inverse(click, weight, filled), ips(CLICK[:, :1], WEIGHT[:, :1])),
        (dr(click, weight, logged, expected), [1.4, -0.1]),
        (cascade_dr(click, weight, logged, expected), [1.4, -0.1]),
    ):
        np.testing.assert_allclose(wide, narrow)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_estimators_are_unbiased_where_they_should_be(seed: int, cascading: bool) -> None:
    """The mean over all slates, weighted by their chance, is the value of the other policy.

    If a click depends on the items above, only cascade DR is unbiased. The model is wrong.
    """
    rng = np.random.default_rng(seed)
    n_items, n_positions = 3, 3
    logging, other = rng.dirichlet(np.ones(n_items) * 3, (2, n_positions)) * 0.97 + 0.01
    rate = rng.random((n_items, n_items, n_items))

    def click(slate: tuple[int, ...], s: int) -> float:
        above = slate[: s + 1] if cascading else (slate[s],)
        return float(rate[tuple([*above, 0, 0, 0][:3])]) * (s + 1) / 3

    def model(slate: tuple[int, ...], s: int) -> float:
        return 0.3 + 0.1 * slate[s] + 0.05 * sum(slate[:s])

    slates = list(product(range(n_items), repeat=n_positions))
    place = range(n_positions)
    chance, target = (
        np.array([np.prod([p[s, a[s]] for s in place]) for a in slates]) for p in (logging, other)
    )
    clicks = np.array([[click(a, s) for s in place] for a in slates])
    weight = np.array([[other[s, a[s]] / logging[s, a[s]] for s in place] for a in slates])
    logged = np.array([[model(a, s) for s in place] for a in slates])
    expected = np.array(
        [
            [
                sum(other[s, i] * model((*a[:s], i), s) for i in range(n_items))
                for s in place
            ]
            for a in slates
        ]
    )  # fmt: skip
    value = target @ clicks.sum(1)
    assert chance @ cascade_dr(clicks, weight, logged, expected) == pytest.approx(value)
    if not cascading:
        filled = np.ones(clicks.shape, bool)
        assert chance @ ips(clicks, weight) == pytest.approx(value)
        assert chance @ dr(clicks, weight, logged, expected) == pytest.approx(value)
        assert chance @ pseudo_inverse(clicks, weight, filled) == pytest.approx(value)
