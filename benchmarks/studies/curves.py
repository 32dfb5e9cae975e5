"""Learning curves: the reward of policies that were trained for fewer steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from agents.finding import Entry
from agents.from_log import LogPolicy
from benchmarks.reports.curves import Point
from benchmarks.studies.trials import Trial
from responders.evaluation.bootstrap import interval, run_and_user_weights

_POINTS = 10
_RATIO = 1.5  # of the steps of one point to those of the point before
_REFERENCE = "oracle"
_RESAMPLES = 1000


def budgets(training_steps: int) -> list[int]:
    """Return up to nine budgets below `training_steps`, ascending, each 2/3 of the next.

    Policies that learned from all steps, which the leaderboard has, are the last point.
    """
    fewer = {int(training_steps / _RATIO**k) for k in range(1, _POINTS)}
    return sorted(fewer - {0, training_steps})


def learners(entries: Sequence[Entry], trials: Sequence[Trial], from_log: bool) -> list[Entry]:
    """Return the policies whose reward depends on the budget of steps.

    Args:
        entries: of the leaderboard.
        trials: their results with all steps.
        from_log: whether a log is given, from which some learn instead.
    """
    trained = {trial.policy for trial in trials if trial.training_steps}
    return [
        entry
        for entry in entries
        if entry.name in trained
        and isinstance(entry.source, type)
        and not (from_log and issubclass(entry.source, LogPolicy))
    ]


def summarise_curves(
    trials: Sequence[Trial], fewer: Mapping[int, Sequence[Trial]], names: Sequence[str]
) -> list[Point]:
    """Return the points of each of `names`, in the order of steps.

    Budgets that a policy rounds up to the same number of steps are one point.

    Args:
        trials: with all steps, of all policies.
        fewer: with fewer steps, by budget.
        names: of policies that learn.
    """
    reference = _rewards(trials).get(_REFERENCE)
    ascending = [*(fewer[steps] for steps in sorted(fewer)), trials]
    levels = [_rewards(each) for each in ascending]
    used = [{trial.policy: trial.training_steps for trial in each} for each in ascending]
    users = [len(trial.reward) for trial in trials if trial.policy == names[0]] if names else []
    weights = np.stack(list(run_and_user_weights(users, _RESAMPLES))) if names else np.ones(0)
    points: list[Point] = []
    for name in names:
        for reward, steps in zip(levels, used, strict=True):
            own = reward[name]
            if points and (points[-1].policy, points[-1].training_steps) == (name, steps[name]):
                continue
            found = interval("reward", own.mean(), weights @ own / weights.sum(1))
            if reference is not None:
                gap = reference - own
                found |= interval("regret", gap.mean(), weights @ gap / weights.sum(1))
            points.append(Point(name, steps[name], **found))
    return points


def _rewards(trials: Sequence[Trial]) -> dict[str, np.ndarray]:
    """Return the rewards of the users of all seeds, by policy."""
    found: dict[str, list[list[float]]] = {}
    for trial in sorted(trials, key=lambda each: each.seed):
        found.setdefault(trial.policy, []).append(trial.reward)
    return {name: np.concatenate(rewards) for name, rewards in found.items()}
