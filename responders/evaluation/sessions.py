"""Statistics of whole sessions, and how far simulated sessions are from logged ones.

Every statistic is a vector of K ratios of sums over sessions, so that the bootstrap over users only
weights sums. It is given for two logs with the same sessions in the same order: those that were
logged, and those of simulated users who saw the same slates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from responders.evaluation.bootstrap import user_weights
from responders.log import ragged
from responders.log.catalogue import EMPTY
from responders.log.session_log import SessionLog

ENOUGH_USERS, ENOUGH_EVENTS = 50, 30
"""A number is given if at least this many users and events stand behind it in the log."""

_STEPS, _CLICKS, _TENTHS, _LENGTHS = 10, 6, 10, 128
_RESAMPLES, _HALVES = 200, 100

Kind = Literal["rates", "shares", "counts"]


@dataclass(frozen=True)
class Sums:
    """Numerators and denominators of one statistic, session by session.

    Args:
        title: in plain words.
        kind: rates = ratios of their own; shares = a distribution over unordered or ordered bins;
            counts = a distribution over numbers.
        labels: [K] of the bins.
        numerator: [E, K] float64.
        denominator: [E, K] float64.
        at: [K] float64, the numbers of the bins of `counts`.
    """

    title: str
    kind: Kind
    labels: list[str]
    numerator: np.ndarray
    denominator: np.ndarray
    at: np.ndarray | None = None


def popularity_tenths(shown: np.ndarray) -> np.ndarray:
    """Return the tenth [N] int64 of each item: 0 = the most shown items with 10 % of impressions.

    Args:
        shown: [N] impressions of each item; items never shown are in the last tenth.
    """
    order = np.argsort(-shown, kind="stable")
    before = np.cumsum(shown[order]) - shown[order] / 2
    tenth = np.empty(len(shown), np.int64)
    tenth[order] = np.minimum(before * _TENTHS / max(shown.sum(), 1), _TENTHS - 1).astype(np.int64)
    tenth[shown == 0] = _TENTHS - 1
    return tenth


def session_sums(log: SessionLog, tenth: np.ndarray, longest: int) -> dict[str, Sums]:
    """Return the statistics of a log by name.

    Args:
        log: the log.
        tenth: [N] from `popularity_tenths`.
        longest: slates of the longest session of the logs that are compared.
    """
    shown, click = log.slate != EMPTY, log.response > 0
    length, start = log.session_length, log.session_start[:-1]
    session, step = ragged.owner(length), ragged.place(length)
    clicks = click.sum(1)
    add = _adder(session, log.n_sessions)
    result = {
        "ctr_by_position": Sums(
            "click rate by position", "rates", _numbers(log.n_positions),
            np.add.reduceat(click, start, dtype=float), np.add.reduceat(shown, start, dtype=float),
        ),
        "ctr_by_slate": Sums(
            "click rate by slate number", "rates", _numbers(_STEPS, last=True),
            add(np.minimum(step, _STEPS - 1), _STEPS, clicks),
            add(np.minimum(step, _STEPS - 1), _STEPS, shown.sum(1)),
        ),
        "clicks_per_slate": _distribution(
            "clicks on a slate", _numbers(_CLICKS, first=0, last=True),
            add(np.minimum(clicks, _CLICKS - 1), _CLICKS), np.arange(_CLICKS),
        ),
        "session_length": _lengths(length, longest),
    }  # fmt: skip
    return result | _click_sums(log, tenth, session) | _dependence(shown, click, step, add)


def _click_sums(log: SessionLog, tenth: np.ndarray, session: np.ndarray) -> dict[str, Sums]:
    """Return the statistics of the clicked items."""
    row, position = np.nonzero(log.response)
    item = log.slate[row, position]
    at = _adder(session[row], log.n_sessions)
    per_session = at(np.zeros(len(row), np.int64), 1)
    return {
        "click_popularity": _distribution(
            "clicks by popularity of the item (tenths of impressions, most shown first)",
            _numbers(_TENTHS), at(tenth[item], _TENTHS), None,
        ),
        "repeat_clicks": Sums(
            "share of clicks on an item clicked before in the session", "rates", ["repeated"],
            at(np.zeros(len(row), np.int64), 1, repeated(session[row], item)), per_session,
        ),
    }  # fmt: skip


def _dependence(
    shown: np.ndarray, click: np.ndarray, step: np.ndarray, add: Callable[..., np.ndarray]
) -> dict[str, Sums]:
    """Return how clicks depend on clicks on the slate before and above in the same slate."""
    clicked = click.sum(1) > 0
    later = step > 0
    kind = np.where(np.r_[False, clicked[:-1]], 0, 1)  # of the slate before
    above = (click.cumsum(1) - click) > 0
    inner = shown.copy()
    inner[:, :1] = False
    both = [(inner & above), (inner & ~above)]
    zero = np.zeros(len(step), np.int64)

    def two(values: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([add(zero, 1, v.sum(1)) for v in values], 1)

    return {
        "after_click": Sums(
            "chance of a click on a slate, by what happened on the slate before", "rates",
            ["after a click", "after none"],
            add(kind, 2, clicked & later), add(kind, 2, later),
        ),
        "below_click": Sums(
            "click rate of a position, by clicks above it in the slate", "rates",
            ["below a click", "below none"], two([b & click for b in both]), two(both),
        ),
    }  # fmt: skip


def repeated(session: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Return [n] bool: whether the item of a click was clicked before in the session."""
    order = np.lexsort((item, session))  # stable: in time order within a session and item
    same = (np.diff(session[order]) == 0) & (np.diff(item[order]) == 0)
    again = np.zeros(len(item), bool)
    again[order[1:]] = same
    return again


def _adder(session: np.ndarray, n: int) -> Callable[..., np.ndarray]:
    """Return a function that sums weights [m] by session and bin into [n, K]."""

    def add(bin_: np.ndarray, k: int, weight: np.ndarray | None = None) -> np.ndarray:
        cell = session * k + bin_
        return np.bincount(cell, weight, n * k).reshape(n, k).astype(float)

    return add


def _lengths(length: np.ndarray, longest: int) -> Sums:
    """Return the distribution of session length, in at most 128 bins of equal width."""
    at = np.arange(1, longest + 1, -(-longest // _LENGTHS))
    bin_ = np.searchsorted(at, length, "right") - 1
    sums = np.zeros((len(length), len(at)))
    sums[np.arange(len(length)), bin_] = 1
    return _distribution("slates of a session", [str(a) for a in at], sums, at)


def _distribution(title: str, labels: list[str], counts: np.ndarray, at: np.ndarray | None) -> Sums:
    total = np.repeat(counts.sum(1, keepdims=True), counts.shape[1], 1)
    kind: Kind = "shares" if at is None else "counts"
    return Sums(title, kind, labels, counts, total, None if at is None else at.astype(float))


def _numbers(k: int, first: int = 1, last: bool = False) -> list[str]:
    labels = [str(i + first) for i in range(k)]
    return [*labels[:-1], f"{labels[-1]}+"] if last else labels


def gaps(log: SessionLog, sessions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds until each user's next session, and those that the log continues.

    Args:
        log: the log.
        sessions: [K] session indices.

    Returns:
        [K] float64, infinite if there is no other session; [K] float64, seconds for which the log
        continues after the session.
    """
    begin, end = log.time[log.session_start[:-1]], log.time[log.session_start[1:] - 1]
    order = np.lexsort((begin, log.user))
    follows = np.diff(log.user[order]) == 0
    gap = np.full(log.n_sessions, np.inf)
    gap[order[:-1][follows]] = (begin[order[1:]] - end[order[:-1]])[follows]
    gap[gap <= 0] = np.inf
    return gap[sessions], (log.time.max() - end[sessions]).astype(float)


def return_sums(gap: np.ndarray, observed: np.ndarray, window: float) -> dict[str, Sums]:
    """Return the statistics of coming back.

    Args:
        gap: [E] seconds until the next session, infinite if there is none.
        observed: [E] bool, sessions after which the log continues for `window`.
        window: seconds; later returns do not count.
    """
    back = observed & (gap <= window)
    hours = np.array([0, 1, 6, 24, 72, 168])
    bin_ = np.searchsorted(hours, np.where(back, gap, 0) / 3600, "right") - 1
    one_hot = np.eye(len(hours))[bin_] * back[:, None]
    labels = ["1 h", "6 h", "1 day", "3 days", "7 days", "longer"]
    return {
        "return_rate": Sums(
            f"share of sessions followed by another within {window / 3600:,.0f} h", "rates",
            ["return"], back[:, None].astype(float), observed[:, None].astype(float),
        ),
        "return_gap": _distribution("time until the next session, up to", labels, one_hot, None),
    }  # fmt: skip


def distance(sums: Sums, real: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the distances [...] of sums (numerator, denominator) [..., K] of two samples.

    rates: the mean absolute difference, weighted by the real denominators, in shares of the real
    mean. shares: the total variation distance. counts: the 1-Wasserstein distance in shares of the
    real mean. NaN where a sample has no denominator.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (numerator / denominator for numerator, denominator in (real, other))
        if sums.kind == "shares":
            return np.abs(a - b).sum(-1) / 2
        if sums.kind == "counts":
            assert sums.at is not None
            gap = np.abs(np.cumsum(a - b, -1))[..., :-1] @ np.diff(sums.at)
            return gap / (a @ sums.at)
        both = (real[1] > 0) & (other[1] > 0)
        weight = real[1] * both
        off = np.where(both, np.abs(a - b), 0)
        return (weight * off).sum(-1) / np.where(both, real[0], 0).sum(-1)


def compare_sums(real: Sums, other: Sums, user: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Return the distance of one statistic between logged and simulated sessions.

    Args:
        real: of E logged sessions.
        other: of E simulated sessions.
        user: [E] int64, of each session; the bootstrap draws users.
        seed: of the bootstrap.

    Returns:
        `title`, `labels`, `real`, `simulated` (lists of K), `real_low`, `real_high` (95 %
        intervals), `distance`, `distance_low`, `distance_high` (corrected for the bias of the
        bootstrap), `floor` and `floor_high`: the median and the 97.5 % quantile of the distance
        between two random halves of the logged users. If the log is too small to say, `too_small`
        says why and there is no number.
    """
    facts: dict[str, Any] = {"title": real.title, "kind": real.kind, "labels": real.labels}
    users, index = np.unique(user, return_inverse=True)
    r, o = (
        tuple(_by_user(index, len(users), array) for array in (s.numerator, s.denominator))
        for s in (real, other)
    )
    why = too_small(int((r[1].sum(1) > 0).sum()), int(r[0].sum()))
    if why is None and not o[1].sum():
        why = "the simulated sessions have nothing to measure it on"
    if why is not None:
        return facts | {"too_small": why}
    weight = np.stack(list(user_weights(len(users), _RESAMPLES, seed))).astype(float)
    once = np.ones(len(users))
    drawn_r, drawn_o = (tuple(weight @ array for array in arrays) for arrays in (r, o))
    point = float(distance(real, *(tuple(once @ x for x in arrays) for arrays in (r, o))))
    samples = distance(real, drawn_r, drawn_o)
    low, high = np.nanpercentile(samples - (np.nanmean(samples) - point), [2.5, 97.5])
    half = np.random.default_rng(seed).permuted(
        np.tile(np.arange(len(users)) % 2, (_HALVES, 1)), axis=1
    )
    halves = (tuple(h @ array for array in r) for h in (half, 1 - half))
    floors = distance(real, *halves)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = drawn_r[0] / drawn_r[1]
        real_low, real_high = np.nanpercentile(np.where(np.isnan(rates), 0, rates), [2.5, 97.5], 0)
    return facts | {
        "real": _ratio(r), "simulated": _ratio(o),
        "real_low": real_low.tolist(), "real_high": real_high.tolist(),
        "distance": point, "distance_low": max(float(low), 0.0), "distance_high": float(high),
        "floor": float(np.nanmedian(floors)), "floor_high": float(np.nanpercentile(floors, 97.5)),
    }  # fmt: skip


def too_small(users: int, events: int) -> str | None:
    """Return in words why so few users or events give no number; None if they do."""
    if users < ENOUGH_USERS:
        return f"too small to say: {users} users, at least {ENOUGH_USERS} are needed"
    if events < ENOUGH_EVENTS:
        return f"too small to say: {events} events, at least {ENOUGH_EVENTS} are needed"
    return None


def _by_user(index: np.ndarray, n: int, array: np.ndarray) -> np.ndarray:
    columns = [np.bincount(index, column, n) for column in array.T]
    return np.stack(columns, 1)


def _ratio(sums: tuple[np.ndarray, ...]) -> list[float | None]:
    """Return the ratios as a list, None where there is no denominator."""
    numerator, denominator = (array.sum(0) for array in sums)
    return [float(a / b) if b else None for a, b in zip(numerator, denominator, strict=True)]
