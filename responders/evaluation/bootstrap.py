"""Bootstrap over users: each user is drawn with replacement, together with all their positions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np


def user_weights(n_users: int, resamples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield `resamples` arrays [n_users] int64: how often each user was drawn."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(n_users, size=n_users), minlength=n_users)


def run_and_user_weights(users: Sequence[int], resamples: int) -> Iterator[np.ndarray]:
    """Yield `resamples` arrays [Σ users]: how often each user of each run was drawn.

    Runs are drawn with replacement, then users within each run that was drawn, so that intervals
    include the variance between runs (training seeds).

    Args:
        users: number of users in each run.
        resamples: number of resamples.
    """
    rng = np.random.default_rng(0)
    for _ in range(resamples):
        times_drawn = np.bincount(rng.integers(len(users), size=len(users)), minlength=len(users))
        yield np.concatenate(
            [
                np.bincount(rng.integers(n, size=n * times), minlength=n)
                for n, times in zip(users, times_drawn, strict=True)
            ]
        )


def crossed_samples(values: np.ndarray) -> np.ndarray:
    """Return 1,000 means of `values` [runs, users], of which both are drawn again.

    For runs with the same users: a user is drawn in all runs at once.
    """
    rng = np.random.default_rng(0)

    def drawn(n: int) -> np.ndarray:
        return rng.multinomial(n, np.full(n, 1 / n), size=1000) / n

    runs, users = values.shape
    return np.einsum("br,ru,bu->b", drawn(runs), values, drawn(users), optimize=True)


def interval(name: str, value: float, samples: np.ndarray | Sequence[float]) -> dict[str, float]:
    """Return a value and its 95 % percentile interval: `name`, `name_low` and `name_high`.

    Args:
        name: of the value.
        value: of the data.
        samples: of the resamples; NaN, where it is undefined, is left out.
    """
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


def crossed_interval(name: str, values: np.ndarray) -> dict[str, float]:
    """Return the mean of `values` [runs, users] and its `interval`."""
    return interval(name, values.mean(), crossed_samples(values))


def percentile_intervals(samples: Sequence[dict[str, float]]) -> dict[str, float | None]:
    """Return 95 % percentile intervals of resampled metrics.

    Args:
        samples: the metrics of each resample; NaN where a metric is undefined.

    Returns:
        `<metric>_low` and `<metric>_high` of every metric, None if it is undefined in all
        resamples.
    """
    intervals: dict[str, float | None] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a metric undefined in every resample
        for name in samples[0]:
            low, high = np.nanpercentile([sample[name] for sample in samples], [2.5, 97.5])
            intervals[f"{name}_low"] = None if np.isnan(low) else float(low)
            intervals[f"{name}_high"] = None if np.isnan(high) else float(high)
    return intervals
