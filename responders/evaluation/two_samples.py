"""Classifier two-sample test and MMD: can simulated sessions be told from logged ones?

Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests" (ICLR 2017); Gretton et al., "A Kernel
Two-Sample Test" (JMLR 2012).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from responders.behaviour.leaving import streaks
from responders.evaluation.bootstrap import user_weights
from responders.evaluation.metrics import weighted_metrics
from responders.evaluation.predict import Predictions
from responders.evaluation.sessions import repeated
from responders.log import ragged
from responders.log.catalogue import EMPTY
from responders.log.session_log import SessionLog

_FOLDS, _RESAMPLES, _PERMUTATIONS, _MMD_SESSIONS = 5, 200, 200, 1000
_R = 12  # slates of a sequence
_UNDEFINED = -1e6  # below every feature: a tree can split it off
_PRIOR = 10.0  # impressions at the mean rate, for the click rates of items


def session_features(logs: tuple[SessionLog, SessionLog]) -> tuple[list[str], list[np.ndarray]]:
    """Return the names [F] and values [E, F] of features of the sessions of two logs.

    Click rates of items are counted on both logs together, so that neither is preferred. Values
    that are undefined for a session, such as the mean position of its clicks if it has none, are
    NaN.
    """
    shown, clicked = (
        sum(np.bincount(log.slate[mask(log)], minlength=len(log.catalogue)) for log in logs)
        for mask in (lambda log: log.slate != EMPTY, lambda log: log.response > 0)
    )
    mean = np.sum(clicked) / np.sum(shown)
    appeal = np.log((clicked + _PRIOR * mean) / (shown + _PRIOR))
    named = [_features(log, appeal, np.log1p(shown)) for log in logs]
    return list(named[0]), [np.stack(list(values.values()), 1) for values in named]


def _features(log: SessionLog, appeal: np.ndarray, popularity: np.ndarray) -> dict[str, np.ndarray]:
    click, shown = log.response > 0, log.slate != EMPTY
    start, length = log.session_start[:-1], log.session_length
    session, step = ragged.owner(length), ragged.place(length)
    ends = log.session_start[1:] - 1
    clicks, seen = click.sum(1).astype(float), np.maximum(shown.sum(1), 1)
    rate, clicked = clicks / seen, clicks > 0

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values.astype(float), start)

    streak = streaks(log, np.arange(len(length)))
    row, position = np.nonzero(click)
    item, owner = log.slate[row, position], session[row]

    def mean_of_clicks(values: np.ndarray) -> np.ndarray:
        n = np.bincount(owner, minlength=len(length))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.bincount(owner, values, len(length)) / n

    def mean_of_shown(values: np.ndarray) -> np.ndarray:
        return total(np.where(shown, values[log.slate], 0).sum(1)) / total(seen)

    second = step >= length[session] / 2
    n_clicks = total(clicks)
    again = np.bincount(owner, repeated(owner, item), len(length))
    before = np.r_[False, clicked[:-1]] & (step > 0)
    return {
        "number of slates": length.astype(float),
        "clicks": n_clicks,
        "click rate": n_clicks / total(seen),
        "click rate on the first slate": rate[start],
        "click rate on the last slate": rate[ends],
        "second half's share of the clicks": mean_of_clicks(second[row].astype(float)),
        "share of slates with a click": total(clicked) / length,
        "clicked slates in a row": total(clicked & before) / length,
        "longest run of slates without a click": np.maximum.reduceat(streak, start).astype(float),
        "slates without a click at the end": streak[ends].astype(float),
        "most clicks on one slate": np.maximum.reduceat(clicks, start),
        "slates with several clicks": total(clicks > 1) / length,
        "mean position of the clicks": mean_of_clicks(position.astype(float)),
        "clicks on the first position": mean_of_clicks((position == 0).astype(float)),
        "clicks on an item clicked before": again,
        "appeal of the clicked items": mean_of_clicks(appeal[item]),
        "appeal of the shown items": mean_of_shown(appeal),
        "popularity of the clicked items": mean_of_clicks(popularity[item]),
        "popularity of the shown items": mean_of_shown(popularity),
        "likeness of the clicked items": _likeness(log, item, owner),
    }


def sequence_features(
    logs: tuple[SessionLog, SessionLog],
) -> tuple[list[str], list[np.ndarray]]:
    """Return names [F] and values [E, F]: clicks and their first position, slate by slate.

    The first 12 slates of a session; NaN after its end, and for the position on slates without a
    click. With many sessions, a classifier finds in them what no summary shows.
    """
    names = [f"{what} slate {r + 1}" for what in ("clicks on", "first click on") for r in range(_R)]
    found = []
    for log in logs:
        values = np.full((2, log.n_sessions, _R), np.nan)
        step = ragged.place(log.session_length)
        row = np.flatnonzero(step < _R)
        click, session = log.response[row] > 0, ragged.owner(log.session_length)[row]
        values[0, session, step[row]] = click.sum(1)
        first = np.where(click.any(axis=1), click.argmax(1), np.nan)
        values[1, session, step[row]] = first
        found.append(np.concatenate(list(values), 1))
    return names, found


def _likeness(log: SessionLog, item: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return [E] the mean cosine of the features of two clicked items; NaN without two clicks."""
    features = log.catalogue.features.astype(float)
    if not features.shape[1]:
        return np.full(log.n_sessions, np.nan)
    unit = features - features.mean(0)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    n = np.bincount(owner, minlength=log.n_sessions)
    sums = np.stack(
        [np.bincount(owner, unit[item, f], log.n_sessions) for f in range(unit.shape[1])]
    )
    own = np.bincount(owner, (unit[item] ** 2).sum(1), log.n_sessions)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n > 1, ((sums**2).sum(0) - own) / (n * (n - 1)), np.nan)


def c2st(
    names: list[str], real: np.ndarray, other: np.ndarray, user: np.ndarray, seed: int = 0
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Train a classifier to tell real from simulated sessions; users are never in two folds.

    Args:
        names: [F] of the features.
        real: [E, F] features of logged sessions.
        other: [E, F] features of simulated sessions of the same users.
        user: [E] of each session, on both sides.
        seed: of folds, classifier and bootstrap.

    Returns:
        `auc` of predictions for held-out users, its 95 % interval over users `low`, `high`, and
        `telling`, the features whose shuffling costs most AUC, with their means on both sides; and
        the predicted chance [E] that each real and each simulated session is simulated.
    """
    groups = np.concatenate([user, user])
    x = np.nan_to_num(np.concatenate([real, other]), nan=_UNDEFINED)
    label = np.repeat([0, 1], len(real))
    chance, importance = np.zeros(len(x)), np.zeros(len(names))
    folds = GroupKFold(_FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(x, label, groups):
        model = HistGradientBoostingClassifier(
            max_iter=60, learning_rate=0.08, max_leaf_nodes=8, random_state=seed
        ).fit(x[train], label[train])
        chance[test] = model.predict_proba(x[test])[:, 1]
        some = test[:: max(len(test) // 1000, 1)]
        importance += _importance(model, x[some], label[some], seed) / _FOLDS
    low, high = np.percentile(_resampled_aucs(chance, label, groups, seed), [2.5, 97.5])
    top = [k for k in np.argsort(-importance)[:5] if importance[k] > 0]
    telling = [
        {
            "feature": names[k],
            "auc_lost": float(importance[k]),
            "real": _mean(real[:, k]),
            "simulated": _mean(other[:, k]),
        }
        for k in top
    ]
    auc = float(roc_auc_score(label, chance))
    facts = {"auc": auc, "low": float(low), "high": float(high), "telling": telling}
    return facts, chance[: len(real)], chance[len(real) :]


def _importance(
    model: HistGradientBoostingClassifier, x: np.ndarray, label: np.ndarray, seed: int
) -> np.ndarray:
    """Return the AUC [F] lost when a feature is shuffled, all features in one prediction."""
    rng, n_features = np.random.default_rng(seed), x.shape[1]
    shuffled = np.repeat(x[None], n_features, 0)
    for k in range(n_features):
        shuffled[k, :, k] = rng.permutation(x[:, k])
    scores = model.decision_function(shuffled.reshape(-1, n_features)).reshape(n_features, -1)
    intact = roc_auc_score(label, model.decision_function(x))
    return np.array([intact - roc_auc_score(label, score) for score in scores])


def _mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _resampled_aucs(
    chance: np.ndarray, label: np.ndarray, groups: np.ndarray, seed: int
) -> list[float]:
    users, index = np.unique(groups, return_inverse=True)
    zero = np.zeros(len(label), np.int64)
    scored = Predictions(logit(chance), label > 0, zero, index, zero, zero)
    weighted = weighted_metrics(scored, 0.5)
    return [
        weighted(weight[index].astype(float))["auc"]
        for weight in user_weights(len(users), _RESAMPLES, seed)
    ]


def mmd(real: np.ndarray, other: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Return the squared MMD of features [E, F] with a Gaussian kernel, and its p-value.

    Features are standardised, undefined ones replaced by the mean. The width of the kernel is the
    median distance. Sessions are paired, so each permutation swaps the members of random pairs. At
    most 1,000 sessions a side are read.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(real))[:_MMD_SESSIONS]
    n, x = len(rows), np.concatenate([real[rows], other[rows]])
    x = x[:, ~np.isnan(x).all(0)]
    x = (x - np.nanmean(x, 0)) / np.maximum(np.nanstd(x, 0), 1e-9)
    x = np.nan_to_num(x)
    square = ((x**2).sum(1)[:, None] + (x**2).sum(1) - 2 * x @ x.T).clip(min=0)
    width = float(np.median(square[np.triu_indices(2 * n, 1)]))
    kernel = np.exp(-square / max(width, 1e-9))
    np.fill_diagonal(kernel, 0)
    pair = np.arange(n)
    kernel[pair, n + pair] = kernel[n + pair, pair] = 0  # the same user's: not independent
    swap = np.where(rng.random((_PERMUTATIONS, n)) < 0.5, 1.0, -1.0)
    sign = np.concatenate([np.concatenate([np.ones((1, n)), swap])] * 2, 1)
    sign[:, n:] *= -1
    values = ((sign @ kernel) * sign).sum(1) / (n * (n - 1))
    return {"mmd": float(values[0]), "p": float((values >= values[0] - 1e-12).mean())}
