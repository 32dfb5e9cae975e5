"""A million random steps of every environment with autoreset, checking invariants.

    python -m benchmarks.speed.soak                       1,000,000 steps of each environment
    python -m benchmarks.speed.soak --steps 100000        fewer

Checked in every step: nothing is NaN, probabilities are in [0, 1], only shown items are clicked,
and the history in the observation is what was shown. The table shows how much the process's memory
grew after the first tenth of the steps.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
import typer

from benchmarks.harness import publish, run_script
from benchmarks.reports.tables import number, text
from benchmarks.speed.memory import memory
from benchmarks.workers import run_cases
from recsim_env.registry import ENVIRONMENTS
from responders.progress import progress_bar


@dataclass(frozen=True)
class Report:
    """User steps, episodes that ended, growth of memory in MB, and seconds of a run."""

    steps: int
    episodes: int
    growth: float
    seconds: float


def soak(
    env_id: str, users: int = 1024, steps: int = 1_000_000, progress: bool = True, **options: Any
) -> Report:
    """Step `env_id` with random actions for `steps` user steps and check every step.

    Args:
        env_id: of a slate or page environment.
        users: B.
        steps: rounded up to whole batches.
        progress: show a progress bar.
        options: of the environment.

    Raises:
        AssertionError: an invariant is violated; the message names it.
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
    shown = info["_slate"]
    slate, click, probability = (info[k][shown] for k in ("slate", "response", "probability"))
    assert np.isfinite(probability).all(), "a probability is NaN"
    assert ((probability >= 0) & (probability <= 1)).all(), "a probability is outside [0, 1]"
    assert not (click & (slate < 0)).any(), "an empty position was clicked"
    assert not (probability[slate < 0] != 0).any(), "an empty position has a probability"
    assert not (click & (probability == 0)).any(), "an item with probability 0 was clicked"
    continuing = shown & ~ended  # users whose episode has not ended
    n = info["slate"].shape[1]
    new, old = after["item"][continuing], before["item"][continuing]
    assert (new[:, -n:] == info["slate"][continuing]).all(), "the history is not what was shown"
    clicked = after["click"][continuing, -n:] == info["response"][continuing]
    assert clicked.all(), "the clicks in the history are not those of the slate"
    assert (new[:, :-n] == old[:, n:]).all(), "the history did not move by one slate"


def _soak(env_id: str, users: int, steps: int, options: dict[str, Any]) -> Report:
    return soak(env_id, users, steps, **options)


_RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    **{env_id: (env_id, {}) for env_id in ENVIRONMENTS if env_id != "RecSim-v0"},
    "RecSim-ContentWise-v0, returns=rule": ("RecSim-ContentWise-v0", {"returns": "rule"}),
    "RecSim-ContentWise-v0, 50 random candidates": (
        "RecSim-ContentWise-v0",
        {"candidates": 50, "retrieval": "random"},
    ),
}
_COLUMNS = {
    "environment": text("environment"),
    "steps": number("steps"),
    "episodes": number("episodes"),
    "memory MB": lambda row: f"{row['growth']:+.0f}",
    "seconds": number("seconds"),
}


def main(
    steps: Annotated[int, typer.Option(min=1, help="User steps of each environment.")] = 1_000_000,
    users: Annotated[int, typer.Option(min=1, help="Users stepped at once.")] = 1024,
    out: Annotated[Path | None, typer.Option(help="Folder for the table.")] = None,
) -> None:
    """Step every environment at random and check every step."""
    cases = {name: (env_id, users, steps, options) for name, (env_id, options) in _RUNS.items()}
    reports = dict(run_cases(_soak, cases, progress=False))
    rows = [{"environment": name, **asdict(reports[name])} for name in cases]
    title = "random steps, all checked"
    publish("soak", title, _COLUMNS, rows, caption="all invariants hold", out=out)


if __name__ == "__main__":
    run_script(main)
