"""Metrics of predicted click probabilities on logged clicks, overall and by position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score

from responders.errors import InputError
from responders.evaluation.bootstrap import percentile_intervals, user_weights
from responders.evaluation.predict import Predictions

METRICS = ("auc", "f1", "accuracy", "log_loss", "perplexity", "ece")
"""The metrics for which `evaluate` returns intervals."""

_BINS = 15
_SPARSE = 20  # impressions in training, below which an item is rarely shown
_TINY = 1e-12


def log_loss(logit: np.ndarray, click: np.ndarray) -> float:
    """Return the mean negative log-likelihood of clicks, in nats."""
    return float(losses(logit, click).mean())


def losses(logit: np.ndarray, click: np.ndarray) -> np.ndarray:
    """Return the negative log-likelihood of each click, in nats."""
    return np.logaddexp(0, np.where(click, -logit, logit))


def best_threshold(predictions: Predictions) -> float:
    """Return the probability threshold with the highest F1; fit it on validation sessions."""
    if not predictions.click.any():
        return 0.5
    precision, recall, threshold = precision_recall_curve(
        predictions.click, predictions.probability
    )
    f1 = 2 * precision * recall / np.maximum(precision + recall, _TINY)
    return float(threshold[min(int(np.argmax(f1)), len(threshold) - 1)])


def sparse_auc(predictions: Predictions, shown: np.ndarray) -> float | None:
    """Return the AUC over positions with rarely shown items; None if undefined.

    Args:
        predictions: P positions.
        shown: [N] impressions of each item in training.
    """
    sparse = shown[predictions.item] < _SPARSE
    click = predictions.click[sparse]
    if not 0 < click.sum() < len(click):
        return None
    return float(roc_auc_score(click, predictions.logit[sparse]))


def calibration(predictions: Predictions) -> tuple[np.ndarray, ...]:
    """Return the mean probability, click rate and size [15] of 15 bins of equal size."""
    p = predictions.probability
    bin_ = _equal_bins(p)
    count = np.bincount(bin_, minlength=_BINS)
    filled = np.maximum(count, 1)
    rate = np.bincount(bin_, predictions.click, _BINS) / filled
    return np.bincount(bin_, p, _BINS) / filled, rate, count


def _equal_bins(p: np.ndarray) -> np.ndarray:
    """Return the bin [P] int64 of each value, bins of equal size in order of `p`."""
    bin_ = np.empty(len(p), dtype=np.int64)
    bin_[np.argsort(p, kind="stable")] = np.arange(len(p)) * _BINS // len(p)
    return bin_


def _point(predictions: Predictions, threshold: float) -> dict[str, float | None]:
    """Return the metrics of one set of positions; None where a metric is undefined."""
    click, p = predictions.click, predictions.probability
    mean, rate, count = calibration(predictions)
    loss = log_loss(predictions.logit, click)
    predicted = p >= threshold
    has_both = 0 < click.sum() < len(click)
    return {
        "auc": float(roc_auc_score(click, predictions.logit)) if has_both else None,
        "f1": float(f1_score(click, predicted, zero_division=0)),
        "accuracy": float((predicted == click).mean()),
        "log_loss": loss,
        "perplexity": float(np.exp(loss)),
        "ece": float((count * np.abs(mean - rate)).sum() / count.sum()),
        "click_rate": float(click.mean()),
        "predicted_rate": float(p.mean()),
    }


def evaluate(
    predictions: Predictions, threshold: float, *, resamples: int = 200, seed: int = 0
) -> dict[str, Any]:
    """Return all metrics, their 95 % bootstrap intervals over users, and those by position.

    `perplexity` is that of click models: the mean over positions of exp(log-loss at the position).
    `ece` uses 15 bins of equal size; its interval is corrected for the bias of the bootstrap. `f1`
    and `accuracy` predict a click from `threshold` on.

    Returns:
        Flat keys `auc f1 accuracy log_loss perplexity ece click_rate predicted_rate threshold
        n_positions n_sessions`, `<metric>_low` and `<metric>_high` of `auc f1 accuracy log_loss
        perplexity ece`, and `by_position`, a list of dicts. A metric that is undefined (the AUC
        of positions without a click) is None.

    Raises:
        InputError: there are no positions.
    """
    if not len(predictions.click):
        raise InputError("no position is left to evaluate: the sessions hold no shown item")
    positions = np.unique(predictions.position)
    by_position = []
    for s in positions:
        at_position = predictions.position == s
        part = Predictions(*(v[at_position] for v in vars(predictions).values()))
        by_position.append({"position": int(s), "n": len(part.click), **_point(part, threshold)})
    result: dict[str, Any] = dict(_point(predictions, threshold))
    result["perplexity"] = float(np.mean([row["perplexity"] for row in by_position]))
    _, user = np.unique(predictions.user, return_inverse=True)
    if user.max() > 0 and resamples > 1:
        weighted = weighted_metrics(predictions, threshold)
        draws = user_weights(user.max() + 1, resamples, seed)
        samples = [weighted(weight[user].astype(float)) for weight in draws]
        # Resampling adds noise to every bin, which raises the calibration error of each resample.
        bias = np.mean([sample["ece"] for sample in samples]) - result["ece"]
        for sample in samples:
            sample["ece"] = max(sample["ece"] - bias, 0.0)
        result |= percentile_intervals(samples)
    result |= {
        "threshold": threshold,
        "n_positions": len(predictions.click),
        "n_sessions": len(np.unique(predictions.session)),
        "by_position": by_position,
    }
    return result


def weighted_auc(logit: np.ndarray, click: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return a function from weights [P] to the AUC; NaN without both clicks and others.

    It is computed from clicks and non-clicks accumulated over the distinct scores, ties counting
    half.
    """
    _, score = np.unique(logit, return_inverse=True)
    n_scores = score.max() + 1

    def auc(weight: np.ndarray) -> float:
        clicks_by_score = np.bincount(score, weight * click, n_scores)
        others_by_score = np.bincount(score, weight * ~click, n_scores)
        others_below = np.cumsum(others_by_score) - others_by_score / 2
        pairs = clicks_by_score.sum() * others_by_score.sum()
        return float((clicks_by_score * others_below).sum() / pairs) if pairs else np.nan

    return auc


def weighted_metrics(
    predictions: Predictions, threshold: float
) -> Callable[[np.ndarray], dict[str, float]]:
    """Return a function from weights [P] to metrics, which computes only what weights change."""
    click, position = predictions.click, predictions.position
    auc, n_positions = weighted_auc(predictions.logit, click), position.max() + 1
    loss = losses(predictions.logit, click)
    p = predictions.probability
    predicted = p >= threshold
    bin_ = _equal_bins(p)

    def metrics(weight: np.ndarray) -> dict[str, float]:
        hits = (weight * (predicted & click)).sum()
        n_at = np.bincount(position, weight, n_positions)
        loss_at = np.bincount(position, weight * loss, n_positions)[n_at > 0] / n_at[n_at > 0]
        gap = np.bincount(bin_, weight * (p - click), _BINS)
        return {
            "auc": auc(weight),
            "f1": 2 * hits / max((weight * predicted).sum() + (weight * click).sum(), _TINY),
            "accuracy": float((weight * (predicted == click)).sum() / weight.sum()),
            "log_loss": float((weight * loss).sum() / weight.sum()),
            "perplexity": float(np.exp(loss_at).mean()),
            "ece": float(np.abs(gap).sum() / weight.sum()),
        }

    return metrics
