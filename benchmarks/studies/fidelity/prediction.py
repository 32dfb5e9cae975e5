"""Part 1 of a report: how well single answers are predicted, for whom, where and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.studies.fidelity.cases import Data
from responders import EMPTY
from responders.evaluation.bootstrap import interval, percentile_intervals, user_weights
from responders.evaluation.metrics import (
    best_threshold,
    calibration,
    evaluate,
    losses,
    weighted_metrics,
)
from responders.evaluation.predict import Predictions, predict
from responders.evaluation.sessions import popularity_tenths, too_small
from responders.log import ragged
from responders.log.batch import Part
from responders.log.counts import count
from responders.models.build import build_responder

BASELINES = ("position_ctr", "item_ctr", "pbm")
RARE = 20  # impressions
_STEPS = 10
_RESAMPLES = 50


def baseline_predictions(name: str, data: Data) -> Predictions:
    """Return the predictions of a click model fitted by counting on the sessions that do not count.

    If hardly any are left, two are fitted: each half of the users is predicted by that of the other
    half.
    """
    log, part = data.log, data.part
    if len(data.rest) >= len(part):
        responder, _ = build_responder(name, log, data.rest)
        return predict(responder, log, part)
    half = np.unique(log.user[part.sessions], return_inverse=True)[1] % 2 > 0
    found = []
    for own, other in ((half, ~half), (~half, half)):
        responder, _ = build_responder(name, log, part.sessions[other])
        found.append(predict(responder, log, part.take(np.flatnonzero(own))))
    joined = (np.concatenate([getattr(p, k) for p in found]) for k in vars(found[0]))
    return Predictions(*joined)


def measure(
    predictions: Predictions, data: Data, threshold: float | None = None, *, segments: bool = True
) -> dict[str, Any]:
    """Return metrics overall, their intervals, the reliability curve and metrics by segment.

    Args:
        predictions: at the counted positions of `data`.
        data: the log.
        threshold: from which F1 predicts a click; None = the best on these positions.
        segments: whether to add them.

    Returns:
        The metrics of `evaluate`; `loss_by_user`, the sum of losses of each user, in their order;
        `reliability` with lists `predicted`, `clicked` and `n`; and `segments`: a list of rows by
        the name of what the positions are divided by. A log that is too small has `too_small`
        instead.
    """
    users = len(np.unique(predictions.user))
    why = too_small(users, int(predictions.click.sum()))
    if why is not None:
        return {"too_small": why}
    threshold = best_threshold(predictions) if threshold is None else threshold
    result = evaluate(predictions, threshold)
    del result["by_position"]
    _, user = np.unique(predictions.user, return_inverse=True)
    loss = np.bincount(user, losses(predictions.logit, predictions.click))
    result["loss_by_user"] = loss.round(5).tolist()
    mean, rate, n = calibration(predictions)
    result["reliability"] = {
        "predicted": mean.tolist(), "clicked": rate.tolist(), "n": n.tolist()
    }  # fmt: skip
    if segments:
        result["segments"] = {
            name: [_row(predictions, label == k, text, threshold) for k, text in enumerate(texts)]
            for name, (label, texts) in _segments(predictions, data).items()
        }
    return result


def against_baselines(found: dict[str, Any], baselines: dict[str, Any]) -> dict[str, Any]:
    """Return the name of the best baseline, its log-loss, and how much more its loss is.

    Args:
        found: of the responder, from `measure`.
        baselines: by name, from `measure`.

    Returns:
        `name`, `log_loss`, and `gain` with `gain_low` and `gain_high`: the difference of the
        log-losses on the same positions, and its 95 % interval over users.
    """
    name = min(BASELINES, key=lambda each: baselines[each]["log_loss"])
    more = np.array(baselines[name]["loss_by_user"]) - np.array(found["loss_by_user"])
    n = found["n_positions"]
    samples = [weight @ more / n for weight in user_weights(len(more), 1000)]
    gain = interval("gain", more.sum() / n, samples)
    return {"name": name, "log_loss": baselines[name]["log_loss"]} | gain


def _row(
    predictions: Predictions, rows: np.ndarray, label: str, threshold: float
) -> dict[str, Any]:
    chosen = Predictions(*(v[rows] for v in vars(predictions).values()))
    users, user = np.unique(chosen.user, return_inverse=True)
    facts: dict[str, Any] = {"label": label, "n": int(rows.sum())}
    why = too_small(len(users), int(chosen.click.sum()))
    if why is not None:
        return facts | {"too_small": why}
    weighted = weighted_metrics(chosen, threshold)
    samples = [weighted(w[user].astype(float)) for w in user_weights(len(users), _RESAMPLES)]
    point = weighted(np.ones(len(user))) | {
        "click_rate": float(chosen.click.mean()),
        "predicted_rate": float(chosen.probability.mean()),
    }
    for name, value in point.items():
        facts[name] = None if np.isnan(value) else value
    kept = [{name: sample[name] for name in ("auc", "log_loss")} for sample in samples]
    return facts | percentile_intervals(kept)


def _segments(predictions: Predictions, data: Data) -> dict[str, tuple[np.ndarray, Sequence[str]]]:
    """Return, by name of a division, the number of each position's segment and their labels."""
    log = data.log
    slates = np.bincount(log.user, log.session_length, len(log.users))
    third = np.quantile(slates[np.unique(predictions.user)], [1 / 3, 2 / 3])
    active = np.searchsorted(third, slates)
    begin = log.time[log.session_start[:-1]]
    quarter = np.searchsorted(np.quantile(begin, [0.25, 0.5, 0.75]), begin, "right")
    counted = count(log, data.known)[0].sum(1)
    result: dict[str, tuple[np.ndarray, Sequence[str]]] = {
        "position": (predictions.position, _numbers(log.n_positions)),
        "slate number": (_slate_number(predictions, data), [*_numbers(_STEPS - 1), f"{_STEPS}+"]),
        "popularity (tenths of impressions, most shown first)": (
            popularity_tenths(data.shown)[predictions.item], _numbers(10),
        ),
        "slates of the user": (
            active[predictions.user], ["fewest third", "middle third", "most third"],
        ),
    }  # fmt: skip
    if len(data.rest):
        cold = np.searchsorted([1, RARE], counted, "right")[predictions.item]
        names = ["never shown before", f"fewer than {RARE} times", f"{RARE} times or more"]
        result["impressions of the item before"] = cold, names
    if begin.min() < begin.max():
        names = ["first quarter", "second quarter", "third quarter", "last quarter"]
        result["time of the session"] = quarter[predictions.session], names
    return result


def _numbers(k: int) -> list[str]:
    return [str(i + 1) for i in range(k)]


def _slate_number(predictions: Predictions, data: Data) -> np.ndarray:
    """Return the slate number of each position, from 0; `_STEPS` - 1 includes all later ones.

    Predictions are ordered by slate and position within a session, like the log.
    """
    log = data.log
    _, at = np.unique(predictions.session, return_index=True)
    order = predictions.session[np.sort(at)]
    whole = Part.of(log, np.arange(log.n_sessions))
    first, end = whole.first, whole.end
    first[data.part.sessions], end[data.part.sessions] = data.part.first, data.part.end
    rows, step = log.rows(order), ragged.place(log.session_length[order])
    owner = order[ragged.owner(log.session_length[order])]
    counted = (step >= first[owner]) & (step < end[owner])
    row, _ = np.nonzero(log.slate[rows[counted]] != EMPTY)
    return np.minimum(step[counted][row], _STEPS - 1)
