"""Several responders judged on the same positions: metrics, and differences to the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from responders.evaluation.bootstrap import interval
from responders.evaluation.metrics import weighted_metrics
from responders.evaluation.predict import Predictions

METRICS = ("auc", "log_loss", "ece", "top")


def judge(
    runs: Mapping[str, Sequence[Predictions]], resamples: int = 500
) -> dict[str, dict[str, float]]:
    """Return metrics and their paired differences to the first responder's.

    Args:
        runs: for each responder, the predictions of each training seed for the same positions.
        resamples: for the intervals.

    Returns:
        For each responder, `auc`, `log_loss`, `ece` and `top` (means over seeds), their differences
        to the first, `auc_gain` and so on, and the 95 % intervals `_low` and `_high` of all of them
        over seeds and users: both are drawn, the same ones for all responders. Those of `ece` are
        corrected for the bias of the bootstrap. `top` is predicted over observed clicks at the
        first position, over the same ratio at all positions: above 1, the effect of the position is
        overestimated.
    """
    metrics = {name: [_weighted(run) for run in found] for name, found in runs.items()}
    samples = {name: {metric: np.empty(resamples) for metric in METRICS} for name in runs}
    first, *_ = runs.values()
    user, rng = first[0].user, np.random.default_rng(0)
    n_users = int(user.max()) + 1
    for i in range(resamples):
        seeds = rng.integers(len(first), size=len(first))
        weight = np.bincount(rng.integers(n_users, size=n_users), minlength=n_users)
        for name, by_seed in metrics.items():
            drawn = {s: by_seed[s](weight[user].astype(float)) for s in np.unique(seeds)}
            for metric in METRICS:
                samples[name][metric][i] = np.mean([drawn[s][metric] for s in seeds])
    whole = np.ones(len(user))
    points = {
        name: {m: float(np.mean([f(whole)[m] for f in by_seed])) for m in METRICS}
        for name, by_seed in metrics.items()
    }
    for name, sample in samples.items():  # resampling adds noise to every bin: it raises the ECE
        sample["ece"] += points[name]["ece"] - np.nanmean(sample["ece"])
    reference = next(iter(runs))
    rows: dict[str, dict[str, float]] = {}
    for name, point in points.items():
        row = rows[name] = dict(point)
        for metric in METRICS:
            gain = samples[name][metric] - samples[reference][metric]
            row |= interval(metric, point[metric], samples[name][metric])
            row |= interval(f"{metric}_gain", point[metric] - points[reference][metric], gain)
    return rows


def _weighted(run: Predictions) -> Callable[[np.ndarray], dict[str, float]]:
    """Return a function from weights [P] to metrics, `top` among them."""
    metrics, is_first = weighted_metrics(run, 0.5), run.position == 0

    def weighted(weight: np.ndarray) -> dict[str, float]:
        at_top = weight * is_first
        ratios = [w @ run.probability / max(w @ run.click, 1e-9) for w in (at_top, weight)]
        return metrics(weight) | {"top": float(ratios[0] / max(ratios[1], 1e-9))}

    return weighted
