"""Leaderboard: policies with the same simulated users, with 95 % intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from agents.policy import Policy
from agents.registry import POLICIES
from agents.rollout import Rollout, rollout
from benchmarks.harness import names_in
from benchmarks.reports.leaderboard import Row, write
from recsim_env.make import find_responder, make_world, open_responder
from recsim_env.scenarios import find_scenario
from recsim_env.world import World
from responders import EMPTY, InputError
from responders.device import pick_device
from responders.errors import check_whole, near_matches
from responders.evaluation.bootstrap import percentile_intervals, run_and_user_weights
from responders.files import new_folder
from responders.known_truth.world import truth_of
from responders.progress import progress_bar
from responders.registry import load

_RESAMPLES = 1000
_TRAINING_SEED = 1_000_000  # so that training and evaluation have different users
_TRAINING_USERS = 256


@dataclass(frozen=True)
class Leaderboard:
    """The result of `run`: the rows, best first, and how they were produced.

    Args:
        rows: one for each policy.
        title: the environment and the kind of users.
        facts: environment, responder, synthetic or not.
        files: the files written; empty without `out`.
    """

    rows: list[Row]
    title: str
    facts: dict[str, Any]
    files: list[Path]


def run(
    environment: str,
    policies: str | Sequence[str] = "all",
    *,
    responder: str | Path | None = None,
    users: int = 500,
    seeds: int = 3,
    training_steps: int = 100_000,
    device: torch.device | str = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: bool = True,
) -> Leaderboard:
    """Run policies in an environment, as `recsim bench` does.

    Args:
        environment: its id, such as RecSim-v0.
        policies: names in `agents.registry.POLICIES`, as a list or comma-separated; or all.
        responder: folder of a trained responder or of a synthetic log (its true users); by default
            the environment's own.
        users: number of users per seed.
        seeds: number of repetitions, including training.
        training_steps: user-slate steps that a learning policy may train for.
        device: auto, cpu or cuda.
        out: folder for tables, plot and TensorBoard run; it appears when all is done.
        overwrite: replace `out` if it exists.
        command: the command line, for the files.
        progress: show a progress bar.

    Raises:
        InputError: an unknown name, a policy that does not support the environment, or an `out`
            that exists or is not writable.
    """
    with nullcontext() if out is None else new_folder(Path(out), overwrite) as building:
        board, facts = _run(
            environment, policies, responder, users, seeds, training_steps, device, progress
        )
        facts["command"] = command
        files = [] if building is None else write(board, building, facts)
    kind = "SYNTHETIC users" if facts["synthetic"] else "users learned from a real log"
    title = f"{environment}: {kind}, {facts['responder']}"
    return Leaderboard(board, title, facts, [Path(str(out)) / file.name for file in files])


def _run(
    environment: str,
    policies: str | Sequence[str],
    responder: str | Path | None,
    users: int,
    seeds: int,
    training_steps: int,
    device: torch.device | str,
    progress: bool,
) -> tuple[list[Row], dict[str, Any]]:
    """Return the rows of a leaderboard and how they were produced."""
    checkpoint = open_responder(responder or find_responder(find_scenario(environment)))
    new_world = partial(_new_world, environment, checkpoint, pick_device(device))
    rows = leaderboard(
        new_world,
        policy_names(policies, new_world(1)),
        users=users,
        seeds=seeds,
        training_steps=training_steps,
        progress=progress,
    )
    name = checkpoint.card["responder"]["name"]
    facts = {
        "environment": environment,
        "responder": name,
        "synthetic": checkpoint.synthetic,
    }
    return rows, facts


def _new_world(environment: str, responder: Any, device: torch.device, num_users: int) -> World:
    return make_world(environment, num_users=num_users, responder=responder, device=device)


def policy_names(policies: str | Sequence[str], world: World) -> list[str]:
    """Return the names of the policies; `all` = all that can run in `world`.

    Raises:
        InputError: no name, or an unknown name.
    """
    if policies == "all":
        known_truth = truth_of(world.initial_sessions) is not None
        return [name for name in POLICIES if name != "oracle" or known_truth]
    names = names_in(policies)
    if not names:
        raise InputError(f"no policy given; known: {', '.join(POLICIES)}")
    for name in names:
        if name not in POLICIES:
            raise InputError(f"policy {name!r} is unknown; {near_matches(name, POLICIES)}")
    return names


def make_policy(
    name: str, new_world: Callable[[int], World], steps: int, seed: int
) -> tuple[Policy, int]:
    """Return the policy `name`, trained if it learns, and the user-slate steps of training.

    Args:
        name: a key of `agents.registry.POLICIES`.
        new_world: returns a world with the given number of users.
        steps: training budget of policies that learn.
        seed: of the policy.
    """
    world = new_world(_TRAINING_USERS)
    policy: Policy = load(POLICIES, name, "policy")(world, seed=seed)
    return policy, policy.train(world, steps, _TRAINING_SEED + seed)


def leaderboard(
    new_world: Callable[[int], World],
    policies: list[str],
    *,
    users: int = 500,
    seeds: int = 3,
    training_steps: int = 100_000,
    progress: bool = True,
) -> list[Row]:
    """Run each policy with the same users; return a row for each, best mean reward first.

    Args:
        new_world: returns a world with the given number of users.
        policies: keys of `agents.registry.POLICIES`.
        users: number of users per seed.
        seeds: number of repetitions, including training.
        training_steps: user-slate steps that a learning policy may train for, with other users.
        progress: show a progress bar.

    Raises:
        InputError: users or seeds below 1, or a policy does not support the world.
    """
    check_whole("users", users, 1)
    check_whole("seeds", seeds, 1)
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
    clicks, shown = (np.concatenate(sums) for sums in zip(*map(_sums, runs), strict=True))
    length = np.concatenate([run.log.session_length for run in runs])
    by_session = [
        {"ctr": weight @ clicks / (weight @ shown), "length": weight @ length / weight.sum()}
        for weight in run_and_user_weights([run.log.n_sessions for run in runs], _RESAMPLES)
    ]
    by_user = [
        {"reward": weight @ reward / weight.sum()}
        for weight in run_and_user_weights([len(run.reward) for run in runs], _RESAMPLES)
    ]
    intervals: dict[str, Any] = percentile_intervals(by_session) | percentile_intervals(by_user)
    return Row(
        policy=name,
        reward=float(reward.mean()),
        ctr=float(clicks.sum() / shown.sum()),
        length=float(length.mean()),
        sessions=len(reward),
        seeds=len(runs),
        training_steps=trained,
        seconds=round(seconds, 2),
        **_coverage(runs),
        **intervals,
    )


def _sums(run: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """Return clicks and shown items [sessions] of each session."""
    log, start = run.log, run.log.session_start[:-1]
    by_slate = (log.response.sum(1, dtype=np.int64), (log.slate != EMPTY).sum(1))
    return np.add.reduceat(by_slate[0], start), np.add.reduceat(by_slate[1], start)


def _coverage(runs: list[Rollout]) -> dict[str, Any]:
    """Return the mean share of the catalogue shown, with its interval over seeds."""
    shares = [
        len(np.unique(run.log.slate[run.log.slate != EMPTY])) / len(run.log.catalogue)
        for run in runs
    ]
    mean = float(np.mean(shares))
    if len(runs) == 1:
        return {"coverage": mean, "coverage_low": None, "coverage_high": None}
    half = float(stats.t.ppf(0.975, len(runs) - 1) * stats.sem(shares))
    low, high = max(mean - half, 0.0), min(mean + half, 1.0)
    return {"coverage": mean, "coverage_low": low, "coverage_high": high}
