"""Does an environment hold out? A million random steps with autoreset, every invariant checked.

    python -m benchmarks.speed.soak                       1,000,000 steps of each environment
    python -m benchmarks.speed.soak --steps 100000        fewer

Checked in every step: nothing is NaN, probabilities lie in [0, 1], clicks fall on shown items only,
slates are what was asked for, and the history in the observation is what was shown. At the end the
growth of the process's memory since the first tenth is told.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium
import numpy as np
import typer

from benchmarks.reports.tables import console, show_table
from benchmarks.speed.memory import memory
from recsim_env.registry import ENVIRONMENTS
from responders.progress import progress_bar


@dataclass(frozen=True)
class Report:
    """What a run came to: user steps, episodes ended, growth of memory in MB and seconds."""

    steps: int
    episodes: int
    growth: float
    seconds: float


def soak(
    env_id: str, users: int = 1024, steps: int = 1_000_000, progress: bool = True, **options: Any
) -> Report:
    """Step `env_id` with random actions for `steps` user steps and check every one.

    Args:
        env_id: of a slate or page environment.
        users: B.
        steps: rounded up to whole batches.
        progress: show a progress bar.
        options: of the environment.

    Raises:
        AssertionError: an invariant is broken; it names which.
    """
    envs: Any = gymnasium.make_vec(env_id, num_envs=users, autoreset_mode="SameStep", **options)
    core = envs.unwrapped
    envs.action_space.seed(0)
    observation, _ = envs.reset(seed=0)
    rounds, episodes = -(-steps // users), 0
    early, began = 0.0, time.perf_counter()
    for i in progress_bar(range(rounds), desc=env_id, unit="step", disable=not progress):
        action = envs.action_space.sample()
        before = observation
        observation, reward, terminated, truncated, info = envs.step(action)
        ended = terminated | truncated
        episodes += int(ended.sum())
        assert np.isfinite(reward).all(), "a reward is NaN or infinite"
        assert core.observation_space.contains(observation), "an observation is not in its space"
        if "slate" in info:
            _check(before, observation, info, ended)
        if i == rounds // 10:
            early = memory()
    return Report(rounds * users, episodes, (memory() - early) / 1024, time.perf_counter() - began)


def _check(before: Any, after: Any, info: dict[str, Any], ended: np.ndarray) -> None:
    there = info["_slate"]
    slate, click, p = (info[name][there] for name in ("slate", "click", "probability"))
    assert np.isfinite(p).all(), "a probability is NaN"
    assert ((p >= 0) & (p <= 1)).all(), "a probability is outside [0, 1]"
    assert not (click & (slate < 0)).any(), "an empty position was clicked"
    assert not (p[slate < 0] != 0).any(), "an empty position has a probability"
    assert not (click & (p == 0)).any(), "what cannot be clicked was clicked"
    on = there & ~ended
    n = info["slate"].shape[1]
    assert (after["item"][on, -n:] == info["slate"][on]).all(), "the history is not what was shown"
    assert (after["click"][on, -n:] == info["click"][on]).all(), "the history's clicks are others"
    moved = (after["item"][on, :-n] == before["item"][on, n:]).all()
    assert moved, "the history did not move on by one slate"


def main(
    steps: Annotated[int, typer.Option(min=1, help="User steps of each environment.")] = 1_000_000,
    users: Annotated[int, typer.Option(min=1, help="Users stepped at once.")] = 1024,
) -> None:
    """Step every environment at random and check every step."""
    runs: list[tuple[str, dict[str, Any]]] = [
        *((env_id, {}) for env_id in ENVIRONMENTS if env_id != "RecSim-v0"),
        ("RecSim-ContentWise-v0", {"returns": "rule"}),
        ("RecSim-ContentWise-v0", {"candidates": 50, "retrieval": "random"}),
    ]
    rows = []
    for env_id, options in runs:
        report = soak(env_id, users, steps, **options)
        rows.append(
            [
                env_id + "".join(f", {k}={v}" for k, v in options.items()),
                f"{report.steps:,}",
                f"{report.episodes:,}",
                f"{report.growth:+.0f}",
                f"{report.seconds:,.0f}",
            ]
        )
    heads = ["environment", "steps", "episodes", "memory MB", "seconds"]
    show_table("random steps, every one checked", heads, rows)
    console().print("every invariant held")


if __name__ == "__main__":
    typer.run(main)
