"""Leaderboard: policies among the same simulated users, with 95 % intervals."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from torch.utils.tensorboard import SummaryWriter

from agents.epsilon_greedy import EpsilonGreedyPolicy
from agents.oracle import OraclePolicy
from agents.policy import Policy
from agents.popular import PopularPolicy
from agents.random import RandomPolicy
from agents.rollout import Rollout, rollout
from benchmarks.reports.tables import show_table
from recsim_env.world import World
from responders import EMPTY, InputError
from responders.errors import near_matches
from responders.files import write_json
from responders.known_truth.world import truth_of
from responders.progress import progress_bar

POLICIES = ("random", "popular", "epsilon_greedy", "ppo", "oracle")
_METRICS = ("reward", "ctr", "length", "coverage")
_RESAMPLES = 1000
_TRAINING_SEED = 1_000_000  # users met in training are not those of the evaluation


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard: means with 95 % intervals.

    `reward` is the mean reward of a session, `ctr` the share of shown items clicked, `length` the
    slates of a session, `coverage` the share of the catalogue shown by one seed. Intervals of the
    first three are by bootstrap over users, that of coverage by Student's t over seeds (None with
    one seed).
    """

    policy: str
    reward: float
    reward_low: float
    reward_high: float
    ctr: float
    ctr_low: float
    ctr_high: float
    length: float
    length_low: float
    length_high: float
    coverage: float
    coverage_low: float | None
    coverage_high: float | None
    sessions: int
    seeds: int
    training_steps: int
    seconds: float


def policy_names(text: str, world: World) -> list[str]:
    """Return the policies of a comma list; `all` = all that can run in `world`."""
    if text == "all":
        known_truth = truth_of(world.contexts) is not None
        return [p for p in POLICIES if p != "oracle" or known_truth]
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError(f"no policy given; known: {', '.join(POLICIES)}")
    for name in names:
        if name not in POLICIES:
            raise InputError(f"policy {name!r} is unknown; {near_matches(name, POLICIES)}")
    return names


def make_policy(
    name: str, new_world: Callable[[int], World], steps: int, seed: int
) -> tuple[Policy, int]:
    """Return the policy `name`, trained where it learns, and the user-slate steps it trained for.

    Args:
        name: one of `POLICIES`.
        new_world: makes the world of so many users.
        steps: training budget of policies that learn.
        seed: of the policy.
    """
    world = new_world(256)
    if name == "random":
        return RandomPolicy(world, seed), 0
    if name == "popular":
        return PopularPolicy(world), 0
    if name == "oracle":
        return OraclePolicy(world), 0
    if name == "ppo":
        from agents.ppo import PPOPolicy

        world.reset(seed=_TRAINING_SEED + seed)
        ppo = PPOPolicy(world, seed=seed)
        ppo.train(steps)
        return ppo, steps
    bandit = EpsilonGreedyPolicy(world, seed=seed)
    done = 0
    while done < steps:
        run = rollout(world, bandit, _TRAINING_SEED + seed + done, learn=True)
        done += run.log.n_slates
    return bandit, done


def leaderboard(
    new_world: Callable[[int], World],
    policies: list[str],
    *,
    users: int = 500,
    seeds: int = 3,
    training_steps: int = 100_000,
    progress: bool = True,
) -> list[Row]:
    """Run each policy among the same users; return its line, best mean reward first.

    Args:
        new_world: makes the world of so many users.
        policies: names, see `POLICIES`.
        users: of each seed.
        seeds: how often everything is repeated, training included.
        training_steps: user-slate steps that a learning policy may train for, with other users.
        progress: show a progress bar.

    Raises:
        InputError: users or seeds below 1, or a policy cannot run in this world.
    """
    for name, value in (("users", users), ("seeds", seeds)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    world = new_world(users)
    rows = []
    with progress_bar(total=len(policies) * seeds, desc="leaderboard", disable=not progress) as bar:
        for name in policies:
            began, runs, trained = time.perf_counter(), [], 0
            for seed in range(seeds):
                bar.set_postfix_str(f"{name}, seed {seed}", refresh=False)
                policy, trained = make_policy(name, new_world, training_steps, seed)
                runs.append(rollout(world, policy, seed))
                bar.update()
            rows.append(_row(name, runs, trained, time.perf_counter() - began))
    return sorted(rows, key=lambda row: -row.reward)


def _row(name: str, runs: list[Rollout], trained: int, seconds: float) -> Row:
    reward = np.concatenate([run.reward for run in runs])
    length = np.concatenate([run.log.session_length for run in runs]).astype(float)
    starts = [run.log.session_start[:-1] for run in runs]
    clicks, shown = (
        np.concatenate(
            [np.add.reduceat(of(run), start) for run, start in zip(runs, starts, strict=True)]
        ).astype(float)
        for of in (lambda r: r.log.response.sum(1), lambda r: (r.log.slate != EMPTY).sum(1))
    )
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(length), size=len(length)) for _ in range(_RESAMPLES)]
    low_high: dict[str, Any] = {}
    for metric, samples in {
        "reward": [reward[rng.integers(len(reward), size=len(reward))].mean() for _ in drawn],
        "ctr": [clicks[d].sum() / shown[d].sum() for d in drawn],
        "length": [length[d].mean() for d in drawn],
    }.items():
        low, high = np.percentile(samples, [2.5, 97.5])
        low_high |= {f"{metric}_low": float(low), f"{metric}_high": float(high)}
    covered = [
        len(np.unique(run.log.slate[run.log.slate >= 0])) / len(run.log.catalogue) for run in runs
    ]
    half = None
    if len(runs) > 1:
        half = stats.t.ppf(0.975, len(runs) - 1) * stats.sem(covered)
    mean = float(np.mean(covered))
    return Row(
        policy=name,
        reward=float(reward.mean()),
        ctr=float(clicks.sum() / shown.sum()),
        length=float(length.mean()),
        coverage=mean,
        coverage_low=None if half is None else max(float(mean - half), 0.0),
        coverage_high=None if half is None else min(float(mean + half), 1.0),
        sessions=len(reward),
        seeds=len(runs),
        training_steps=trained,
        seconds=round(seconds, 2),
        **low_high,
    )


def show(rows: list[Row], title: str) -> None:
    """Print the leaderboard."""

    def cell(row: Row, metric: str, scale: float = 1.0, digits: int = 2) -> str:
        value, low, high = (getattr(row, metric + end) for end in ("", "_low", "_high"))
        text = f"{scale * value:.{digits}f}"
        return (
            text if low is None else f"{text} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
        )

    show_table(
        title,
        ["policy", "reward / session", "CTR %", "slates / session", "coverage %", "trained on"],
        [
            [
                row.policy,
                cell(row, "reward"),
                cell(row, "ctr", 100),
                cell(row, "length", 1, 1),
                cell(row, "coverage", 100, 1),
                f"{row.training_steps:,} steps" if row.training_steps else "–",
            ]
            for row in rows
        ],
        f"{rows[0].sessions} sessions each; brackets: 95 % intervals",
    )


def write(rows: list[Row], out: Path, facts: dict[str, Any]) -> list[Path]:
    """Write leaderboard.csv, .json, .png and a TensorBoard run into `out`; return the files.

    Args:
        rows: the lines.
        out: folder.
        facts: how the table was made: environment, responder, synthetic or not, command.
    """
    out.mkdir(parents=True, exist_ok=True)
    table, picture = out / "leaderboard.csv", out / "leaderboard.png"
    pd.DataFrame([asdict(row) for row in rows]).to_csv(table, index=False)
    write_json(out / "leaderboard.json", {**facts, "rows": [asdict(row) for row in rows]})
    _plot(rows, picture, facts)
    with SummaryWriter(str(out / "tensorboard")) as board:
        for row in rows:
            for metric in _METRICS:
                board.add_scalar(f"{metric}/{row.policy}", getattr(row, metric), 0)
    return [table, out / "leaderboard.json", picture, out / "tensorboard"]


def _plot(rows: list[Row], path: Path, facts: dict[str, Any]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.6 + 0.5 * len(rows) + 0.8), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(rows))[::-1]
    reward = np.array([row.reward for row in rows])
    error = [
        reward - [row.reward_low for row in rows],
        [row.reward_high for row in rows] - reward,
    ]
    axes.barh(place, reward, xerr=error, color="#4c78a8", capsize=4)
    axes.set_yticks(place, [row.policy for row in rows])
    kind = "synthetic users" if facts.get("synthetic") else "users learned from a real log"
    axes.set(xlabel="mean reward of a session (95 % interval)")
    axes.set_title(f"{facts.get('environment', '')} – {kind}", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
