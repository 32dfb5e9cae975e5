"""The rows of a leaderboard from its trials: means, intervals and paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.reports.leaderboard import Difference, Row
from benchmarks.studies.trials import Trial
from responders.evaluation.bootstrap import interval, percentile_intervals, run_and_user_weights

_RESAMPLES = 1000


def summarise(trials: Sequence[Trial]) -> tuple[list[Row], list[Difference]]:
    """Return a row for each policy, best first, and the differences between them."""
    by_policy: dict[str, list[Trial]] = {}
    for trial in trials:
        by_policy.setdefault(trial.policy, []).append(trial)
    rewards = np.array(
        [np.concatenate([t.reward for t in own]) for own in by_policy.values()]
    )  # [policies, users of all seeds]
    order = np.argsort(-rewards.mean(1), kind="stable")
    names, rewards = [list(by_policy)[i] for i in order], rewards[order]
    users = [len(trial.reward) for trial in by_policy[names[0]]]
    samples = np.array(
        [rewards @ weight / weight.sum() for weight in run_and_user_weights(users, _RESAMPLES)]
    )
    differences = [
        Difference(
            names[i], names[j],
            float(rewards[i].mean() - rewards[j].mean()),
            *map(float, np.percentile(samples[:, i] - samples[:, j], [2.5, 97.5])),
        )
        for i in range(len(names))
        for j in range(i + 1, len(names))
    ]  # fmt: skip
    behind = {d.other: d for d in differences if d.policy == names[0]}
    rows = [
        _row(by_policy[name], rewards[i], samples[:, i], behind.get(name))
        for i, name in enumerate(names)
    ]
    return rows, differences


def _row(
    trials: list[Trial], reward: np.ndarray, samples: np.ndarray, behind: Difference | None
) -> Row:
    per_session = _session_means(trials)
    over_seeds: dict[str, Any] = {
        f"{name}{end}": value
        for name in ("coverage", "gini", "parity")
        for end, value in _over_seeds([getattr(t, name) for t in trials]).items()
    }
    return Row(
        policy=trials[0].policy,
        **interval("reward", reward.mean(), samples),
        behind=None if behind is None else behind.difference,
        behind_low=None if behind is None else behind.low,
        behind_high=None if behind is None else behind.high,
        sessions=len(reward),
        seeds=len(trials),
        training_steps=trials[0].training_steps,
        train_seconds=round(float(np.mean([t.train_seconds for t in trials])), 3),
        decision_ms=round(float(np.mean([t.decision_ms for t in trials])), 6),
        **per_session,
        **over_seeds,
    )


def _session_means(trials: list[Trial]) -> dict[str, Any]:
    """Return ctr, length, diversity, novelty and returns, with bootstrap intervals."""
    names = ("clicks", "shown", "length", "diversity", "novelty", "returns")
    columns = {
        name: np.concatenate([getattr(t, name) for t in trials])
        for name in names
        if getattr(trials[0], name) is not None
    }

    def means(weight: np.ndarray) -> dict[str, float]:
        sums = {name: float(weight @ column) for name, column in columns.items()}
        ctr = sums.pop("clicks") / sums.pop("shown")
        return {"ctr": ctr} | {name: total / weight.sum() for name, total in sums.items()}

    sessions = [len(t.length) for t in trials]
    samples = [means(weight) for weight in run_and_user_weights(sessions, _RESAMPLES)]
    missing = {
        f"{name}{end}": None for name in names for end in ("", "_low", "_high")
        if name not in columns
    }  # fmt: skip
    return missing | means(np.ones(sum(sessions))) | percentile_intervals(samples)


def _over_seeds(values: list[float]) -> dict[str, float | None]:
    """Return the mean of shares and its Student's t interval over seeds, None with one seed."""
    if None in values:  # the catalogue lacks what it needs
        return dict.fromkeys(("", "_low", "_high"))
    mean = float(np.mean(values))
    if len(values) == 1:
        return {"": mean, "_low": None, "_high": None}
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {"": mean, "_low": max(mean - half, 0.0), "_high": min(mean + half, 1.0)}
