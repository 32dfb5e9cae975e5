"""The hazard: the chance that a user ends the session, learned from a log or given by a rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from responders.errors import InputError, check_finite
from responders.log import ragged
from responders.log.session_log import SessionLog

_STREAKS = 21
_PRIOR = 20.0
_NEXT_SLATES = 0.99  # share of next slates that follow within the silence that means leaving
_SLATES, _SIGNIFICANT = 500_000, 0.01


@dataclass(frozen=True)
class Hazard:
    """The chance that a user leaves after a slate.

    Its log-odds are those of `by_streak` plus `weights` times the session so far: log(1 + slates),
    clicks on the last slate, clicks per slate. A fixed rule is a table: with Hazard((0, 0, 0, 1)),
    users leave after three slates in a row without a click.

    Args:
        by_streak: [K] chance by the number of slates in a row without a click; the last value also
            holds for longer streaks.
        min_slates: nobody leaves before this number of slates.
        weights: of the session so far; zeros = only the streak matters.
        max_slates: everybody has left after this number of slates; None = there is no such number.

    Raises:
        InputError: a chance is outside [0, 1], or weights are not three finite numbers.
    """

    by_streak: tuple[float, ...]
    min_slates: int = 1
    weights: tuple[float, float, float] = (0.0, 0.0, 0.0)
    max_slates: int | None = None

    def __post_init__(self) -> None:
        if not self.by_streak or not all(0 <= p <= 1 for p in self.by_streak):
            raise InputError(f"by_streak must be chances between 0 and 1, not {self.by_streak}")
        if len(self.weights) != 3:
            raise InputError(f"weights of a hazard are three numbers, not {self.weights}")
        for weight in self.weights:
            check_finite("a weight of the hazard", weight)

    def tables(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor | None]:
        """Return `by_streak` [K] and `weights` [3] (None if all are zero) as tensors."""
        weights = None
        if any(self.weights):
            weights = torch.tensor(self.weights, dtype=torch.float32, device=device)
        return torch.tensor(self.by_streak, dtype=torch.float32, device=device), weights


def leave_chance(
    tables: tuple[Tensor, Tensor | None],
    streak: Tensor,
    step: Tensor,
    last_clicks: Tensor,
    clicks: Tensor,
) -> Tensor:
    """Return the chance [B] to leave after a slate, regardless of `min_slates`.

    Args:
        tables: from `Hazard.tables`.
        streak: [B] int64 slates in a row without a click.
        step: [B] int64 slates answered.
        last_clicks: [B] clicks on the last slate.
        clicks: [B] clicks of the session.
    """
    by_streak, weights = tables
    chance = by_streak.index_select(0, streak.clamp(max=len(by_streak) - 1))
    if weights is None:
        return chance
    slates = step.float()  # whole numbers would become PyTorch's default dtype
    features = slates.log1p(), last_clicks.float(), clicks.float() / slates.clamp(min=1)
    session = torch.stack(features, 1)
    return torch.sigmoid(torch.logit(chance, eps=1e-7) + session @ weights)


def add_log_odds(chance: Tensor, log_odds: Tensor | None) -> Tensor:
    """Add `log_odds` [B] (None = nothing) to those of chances [B]; chances of 0 and 1 stay."""
    return chance if log_odds is None else torch.sigmoid(torch.logit(chance) + log_odds)


def streaks(log: SessionLog, sessions: np.ndarray) -> np.ndarray:
    """Return the number of slates in a row without a click up to each slate, int64.

    The slates are those of `sessions`, session by session; each session starts at 0.
    """
    rows = log.rows(sessions)
    length = log.session_length[sessions]
    clicked = np.concatenate([log.response[block].any(1) for block in log.blocks(sessions)])
    index = np.arange(len(rows))
    first = np.repeat(ragged.offsets(length)[:-1], length)
    last_reset = np.maximum.accumulate(np.where(clicked, index, -1))
    return index - np.maximum(last_reset, first - 1)


def fit_hazard(log: SessionLog, sessions: np.ndarray, silence: float | None = None) -> Hazard:
    """Estimate the hazard from the lengths of `sessions`.

    The table by streak is a discrete Kaplan-Meier estimate, with rare streaks shrunk towards the
    overall rate. A logistic head on the session so far is kept if it fits the lengths better than
    the table alone (likelihood ratio test, p < 0.01).

    A session that is cut by the end of the log is no departure (right-censoring): only slates after
    which the log continues for at least `silence` count. Nobody leaves before the shortest length
    of the completed sessions, because shorter ones were filtered out. Sessions of the greatest
    length are treated as censored if there are several: the log may have cut them there.

    Args:
        log: the log; a part of it that ends early is a log that ends there.
        sessions: indices of sessions.
        silence: seconds without a slate that count as leaving; None = the time within which 99 of
            100 next slates of a session follow. It is 0 for logs without a clock, in which all
            sessions start at the same time.
    """
    length = log.session_length[sessions]
    at_risk, shortest = _at_risk(log, sessions, silence)
    first = np.repeat(ragged.offsets(length)[:-1], length)
    step = 1 + ragged.place(length)
    streak = np.minimum(streaks(log, sessions), _STREAKS - 1)
    left = step == np.repeat(length, length)
    n_at_risk = np.bincount(streak[at_risk], minlength=_STREAKS)
    n_left = np.bincount(streak[at_risk & left], minlength=_STREAKS)
    overall = n_left.sum() / max(n_at_risk.sum(), 1)
    rate = (n_left + _PRIOR * overall) / (n_at_risk + _PRIOR)
    table = Hazard(tuple(float(r) for r in rate), shortest)
    sample = np.flatnonzero(at_risk)
    sample = sample[:: max(len(sample) // _SLATES, 1)]
    clicks = np.concatenate([log.response[block].sum(1) for block in log.blocks(sessions)])
    clicks_so_far = np.cumsum(clicks)
    clicks_before = np.where(first > 0, clicks_so_far[np.maximum(first - 1, 0)], 0)
    features = np.stack([np.log1p(step), clicks, (clicks_so_far - clicks_before) / step], 1)[sample]
    return _with_head(table, streak[sample], features, left[sample])


def departures(log: SessionLog, sessions: np.ndarray, silence: float | None = None) -> np.ndarray:
    """Return [K] bool for `sessions`: whether the user left at the end, or the log cut the session.

    The rules and `silence` are those of `fit_hazard`.
    """
    at_risk, _ = _at_risk(log, sessions, silence)
    return at_risk[ragged.offsets(log.session_length[sessions])[1:] - 1]


def _at_risk(
    log: SessionLog, sessions: np.ndarray, silence: float | None
) -> tuple[np.ndarray, int]:
    """Return [n] bool, the slates of `sessions` after which leaving would show, and the first step.

    See `fit_hazard` for the rules.
    """
    length = log.session_length[sessions]
    ends = ragged.offsets(length)[1:] - 1
    observed = _followed(log, sessions, silence)
    completed = length[observed[ends]] if observed[ends].any() else length
    shortest, longest = int(completed.min()), int(length.max())
    step = 1 + ragged.place(length)
    cut = (length == longest).sum() > 1 and longest > shortest
    return observed & (step >= shortest) & ~((step == longest) & cut), shortest


def _followed(log: SessionLog, sessions: np.ndarray, silence: float | None) -> np.ndarray:
    """Return [n] bool for the slates of `sessions`: whether the log shows if another one followed.

    See `fit_hazard` for `silence`.
    """
    time = log.time[log.rows(sessions)]
    begin = log.time[log.session_start[:-1]]
    if begin.min() == begin.max():
        return np.ones(len(time), dtype=bool)
    if silence is None:
        same_session = ragged.place(log.session_length[sessions])[1:] > 0
        gaps = np.diff(time)[same_session]
        silence = float(np.quantile(gaps, _NEXT_SLATES)) if len(gaps) else 0.0
    return time <= log.time.max() - silence


def _with_head(table: Hazard, streak: np.ndarray, session: np.ndarray, left: np.ndarray) -> Hazard:
    """Return the hazard with a logistic head on `session` [n, 3], or `table` if it fits as well.

    Args:
        table: the counted hazard.
        streak: [n] of slates at risk.
        session: [n, 3] the session so far.
        left: [n] bool, whether the user left.
    """
    if not 0 < left.sum() < len(left):
        return table
    from scipy.special import chdtrc  # slow to import; no world needs it
    from sklearn.linear_model import LogisticRegression

    odds = np.clip(np.array(table.by_streak), 1e-6, 1 - 1e-6)
    odds = np.log(odds / (1 - odds))
    inputs = np.column_stack([odds[streak], session])
    model = LogisticRegression(C=np.inf, max_iter=1000).fit(inputs, left)

    def log_likelihood(p: np.ndarray) -> float:
        return float(np.log(np.where(left, p, 1 - p).clip(1e-12)).sum())

    head, base = model.predict_proba(inputs)[:, 1], np.array(table.by_streak)[streak]
    gain = 2 * (log_likelihood(head) - log_likelihood(base))
    if chdtrc(inputs.shape[1] + 1, gain) > _SIGNIFICANT:
        return table
    slope, *weights = model.coef_[0]
    by_streak = 1 / (1 + np.exp(-(model.intercept_[0] + slope * odds)))
    step, last, rate = (float(w) for w in weights)
    return Hazard(tuple(float(p) for p in by_streak), table.min_slates, (step, last, rate))
