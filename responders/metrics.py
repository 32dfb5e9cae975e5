"""How well a responder's probabilities fit logged clicks, overall and by position."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score

from responders.base import Responder, take_rows
from responders.batch import Part, SessionBatch, make_batch, plan_batches
from responders.errors import InputError
from responders.log import SessionLog
from responders.progress import progress_bar

METRICS = ("auc", "f1", "accuracy", "log_loss", "perplexity", "ece")
"""What `evaluate` measures with intervals."""

_BINS = 15
_DRAWN = 1024  # answers drawn at a time
_TINY = 1e-12


@dataclass(frozen=True)
class Predictions:
    """What a responder says of the counted positions of a log, P of them.

    Args:
        logit: [P] float64 log-odds of a click.
        click: [P] bool.
        position: [P] int64.
        user: [P] int64, for the bootstrap.
        session: [P] int64.
        item: [P] int64 catalogue indices.
    """

    logit: np.ndarray
    click: np.ndarray
    position: np.ndarray
    user: np.ndarray
    session: np.ndarray
    item: np.ndarray

    @property
    def probability(self) -> np.ndarray:
        """[P] float64."""
        return 1 / (1 + np.exp(-self.logit))


@torch.inference_mode()
def predict(
    responder: Responder,
    log: SessionLog,
    part: Part,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    progress: bool = False,
    draws: int = 0,
) -> Predictions:
    """Say how likely each counted click of `part` was, given all before it (*conditional*).

    With `draws`, given all before its slate but not the clicks in the slate itself
    (*unconditional*): the mean probability over so many answers that the responder draws. For a
    responder that does not read clicks above the two are the same.

    Args:
        responder: in whatever mode; it is evaluated in eval mode and left as it was.
        log: the log.
        part: the sessions, and which of their slates count.
        batch_size: sessions at a time.
        device: where the responder lies.
        progress: show a progress bar.
        draws: answers per slate for unconditional predictions; 0 = conditional ones.
    """
    training = responder.training
    responder.eval()
    logits, clicks, places, owners, items = [], [], [], [], []
    groups = plan_batches(part, batch_size)
    silent = not progress
    generator = torch.Generator(device).manual_seed(0)
    for group in progress_bar(groups, desc="evaluate", unit="batch", disable=silent, leave=False):
        batch = make_batch(log, group)
        step = torch.arange(batch.slate.shape[1])
        counted = (step >= torch.from_numpy(group.first)[:, None]) & (step < batch.length[:, None])
        keep = batch.shown & counted.unsqueeze(-1)
        if draws and responder.reads_clicks_above:
            logit = _unconditional(responder, batch.to(device), counted, draws, generator)
        else:
            logit = responder(batch.to(device))
        logit = logit.double().cpu()
        b, _, s = torch.nonzero(keep, as_tuple=True)
        logits.append(logit[keep].numpy())
        clicks.append(batch.click[keep].numpy() > 0)
        places.append(s.numpy())
        items.append(batch.slate[keep].numpy())
        owners.append(group.sessions[b.numpy()])
    responder.train(training)
    session = np.concatenate(owners)
    return Predictions(
        logit=np.concatenate(logits),
        click=np.concatenate(clicks),
        position=np.concatenate(places),
        user=log.user[session].astype(np.int64),
        session=session,
        item=np.concatenate(items),
    )


def _unconditional(
    responder: Responder,
    batch: SessionBatch,
    counted: torch.Tensor,
    draws: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return log-odds [B, R, S] of the counted [B, R] slates, clicks in the slate averaged out."""
    state = responder.start(batch.user)
    logits = torch.zeros(batch.slate.shape, device=batch.slate.device)
    for r in range(batch.slate.shape[1]):
        slate, wanted = batch.slate[:, r], counted[:, r].nonzero().squeeze(1).to(batch.slate.device)
        at_once = max(_DRAWN // draws, 1)  # a long memory, copied for every draw, must fit
        for some in wanted.split(at_once) if len(wanted) else ():
            many = some.repeat_interleave(draws)
            answer = responder.respond(take_rows(state, many), slate[many], generator)
            mean = answer.probability.view(len(some), draws, -1).double().mean(1)
            logits[some, r] = torch.logit(mean, eps=1e-7).float()
        state = responder.observe(state, slate, batch.click[:, r])
    return logits


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
    result |= _intervals(predictions, threshold, resamples, seed)
    result |= {
        "threshold": threshold,
        "n_positions": len(predictions.click),
        "n_sessions": len(np.unique(predictions.session)),
        "by_position": by_position,
    }
    return result


def _intervals(
    predictions: Predictions, threshold: float, resamples: int, seed: int
) -> dict[str, float | None]:
    """Return 95 % percentile intervals: users are drawn with replacement, positions go along."""
    _, user = np.unique(predictions.user, return_inverse=True)
    n_users = user.max() + 1
    if n_users < 2 or resamples < 2:
        return {}
    rng = np.random.default_rng(seed)
    weigh = _weighted(predictions, threshold)
    drawn = []
    for _ in range(resamples):
        weight = np.bincount(rng.integers(n_users, size=n_users), minlength=n_users)
        drawn.append(weigh(weight[user].astype(float)))
    interval: dict[str, float | None] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a metric undefined in every resample
        for name in drawn[0]:
            low, high = np.nanpercentile([row[name] for row in drawn], [2.5, 97.5])
            interval[f"{name}_low"] = None if np.isnan(low) else float(low)
            interval[f"{name}_high"] = None if np.isnan(high) else float(high)
    return interval


def _weighted(
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
