"""How well a responder's probabilities fit logged clicks, overall and by position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score

from responders.errors import InputError
from responders.evaluation.bootstrap import percentile_intervals, user_weights
from responders.evaluation.predict import Predictions

METRICS = ("auc", "f1", "accuracy", "log_loss", "perplexity", "ece")
"""What `evaluate` measures with intervals."""

_BINS = 15
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


def sparse_auc(predictions: Predictions, shown: np.ndarray, fewer: int = 20) -> float | None:
    """Return the AUC over positions with items shown `fewer` times in training; None if undefined.

    Args:
        predictions: P positions.
        shown: [N] impressions of each item in training.
        fewer: items shown less often are sparse.
    """
    sparse = shown[predictions.item] < fewer
    click = predictions.click[sparse]
    if not 0 < click.sum() < len(click):
        return None
    return float(roc_auc_score(click, predictions.logit[sparse]))


def calibration(predictions: Predictions, bins: int = _BINS) -> tuple[np.ndarray, ...]:
    """Return mean probability, click rate and count [bins] of bins of equal count."""
    p = predictions.probability
    bin_ = _equal_bins(p, bins)
    count = np.bincount(bin_, minlength=bins)
    filled = np.maximum(count, 1)
    rate = np.bincount(bin_, predictions.click, bins) / filled
    return np.bincount(bin_, p, bins) / filled, rate, count


def _equal_bins(p: np.ndarray, bins: int) -> np.ndarray:
    """Return the bin [P] int64 of each value, bins of equal count in order of `p`."""
    bin_ = np.empty(len(p), dtype=np.int64)
    bin_[np.argsort(p, kind="stable")] = np.arange(len(p)) * bins // len(p)
    return bin_


def _point(predictions: Predictions, threshold: float) -> dict[str, float | None]:
    """Return the metrics of one set of positions; None where a metric is undefined."""
    click, p = predictions.click, predictions.probability
    mean, rate, count = calibration(predictions)
    loss = log_loss(predictions.logit, click)
    called = p >= threshold
    both = 0 < click.sum() < len(click)
    return {
        "auc": float(roc_auc_score(click, predictions.logit)) if both else None,
        "f1": float(f1_score(click, called, zero_division=0)),
        "accuracy": float((called == click).mean()),
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

    `perplexity` is the click-model one, the mean over positions of exp(log-loss at the position);
    `ece` uses 15 bins of equal count; `f1` and `accuracy` call a click at `threshold`.

    Returns:
        Flat keys `auc f1 accuracy log_loss perplexity ece click_rate predicted_rate threshold
        n_positions n_sessions`, `<metric>_low` and `<metric>_high` of `auc f1 accuracy log_loss
        perplexity ece`, and `by_position`, a list of dicts. A metric that is undefined (the AUC
        of positions without a click) is None.

    Raises:
        InputError: there is no position to count.
    """
    if not len(predictions.click):
        raise InputError("no position is left to evaluate: the sessions hold no shown item")
    positions = np.unique(predictions.position)
    by_position = []
    for s in positions:
        here = predictions.position == s
        part = Predictions(*(v[here] for v in vars(predictions).values()))
        by_position.append({"position": int(s), "n": int(here.sum()), **_point(part, threshold)})
    result: dict[str, Any] = dict(_point(predictions, threshold))
    result["perplexity"] = float(np.mean([row["perplexity"] for row in by_position]))
    _, user = np.unique(predictions.user, return_inverse=True)
    if user.max() > 0 and resamples > 1:
        weigh = weighted_metrics(predictions, threshold)
        draws = user_weights(user.max() + 1, resamples, seed)
        result |= percentile_intervals([weigh(weight[user].astype(float)) for weight in draws])
    result |= {
        "threshold": threshold,
        "n_positions": len(predictions.click),
        "n_sessions": len(np.unique(predictions.session)),
        "by_position": by_position,
    }
    return result


def weighted_metrics(
    predictions: Predictions, threshold: float
) -> Callable[[np.ndarray], dict[str, float]]:
    """Return a function from weights [P] to metrics; what does not depend on weights is done once.

    The AUC is computed from clicks and non-clicks accumulated over the distinct scores, ties
    counting half.
    """
    click, position = predictions.click, predictions.position
    _, score = np.unique(predictions.logit, return_inverse=True)
    n_scores, n_positions = score.max() + 1, position.max() + 1
    loss = losses(predictions.logit, click)
    p = predictions.probability
    called = p >= threshold
    bin_ = _equal_bins(p, _BINS)

    def metrics(weight: np.ndarray) -> dict[str, float]:
        ones = np.bincount(score, weight * click, n_scores)
        zeros = np.bincount(score, weight * ~click, n_scores)
        below = np.cumsum(zeros) - zeros / 2
        pairs = ones.sum() * zeros.sum()
        hits = (weight * (called & click)).sum()
        seen = np.bincount(position, weight, n_positions)
        at = np.bincount(position, weight * loss, n_positions)[seen > 0] / seen[seen > 0]
        gap = np.bincount(bin_, weight * (p - click), _BINS)
        return {
            "auc": float((ones * below).sum() / pairs) if pairs else np.nan,
            "f1": 2 * hits / max((weight * called).sum() + (weight * click).sum(), _TINY),
            "accuracy": float((weight * (called == click)).sum() / weight.sum()),
            "log_loss": float((weight * loss).sum() / weight.sum()),
            "perplexity": float(np.exp(at).mean()),
            "ece": float(np.abs(gap).sum() / weight.sum()),
        }

    return metrics
