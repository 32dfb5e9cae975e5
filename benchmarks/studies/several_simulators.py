"""Whether a policy that learns with several simulators is worth more with the true users.

    python -m benchmarks.studies.several_simulators LOG

trains each responder several times on a synthetic log, lets `slate_ppo` learn with the first of
each and with all of them (each episode is answered by one, drawn at its start), with and without a
memory of how the user has answered, and compares the clicks of true users whom nobody has met. A
memory can find out which simulator answers, and so adapt to the truth (Sim2Rec, Chen et al.,
arXiv:2305.04832).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from agents.oracle import OraclePolicy
from agents.popular import PopularPolicy
from agents.rollout import rollout
from agents.slate_ppo import SlatePPOConfig, SlatePPOPolicy
from benchmarks.cli.options import Names, PolicySteps, Settings, SyntheticLogPath, TrainingsOut
from benchmarks.harness import check_out, names_in, publish, run_script
from benchmarks.reports.plots import plot_bars
from benchmarks.reports.tables import number, text, with_interval
from benchmarks.studies.optimism import check_names, learned_users, true_users
from recsim_env.make import make_world
from responders import InputError, SessionLog
from responders.config import make_config, parse_settings
from responders.errors import check_whole
from responders.evaluation.bootstrap import interval, run_and_user_weights
from responders.training.checkpoint import Checkpoint

RESPONDERS = "session_gru,slate_gru"
"""The responders by default; each is trained twice."""
ALL = "all"
_SCENARIO = "gap"  # for its horizon
_TRAINING_USERS = 256
_RESAMPLES = 1000

Case = tuple[str, int]
"""The simulators that a policy learns with (a responder or `all`), and its memory."""


def measure(
    simulators: Mapping[str, Checkpoint],
    configs: Sequence[SlatePPOConfig],
    users: int,
    steps: int,
    seed: int,
) -> dict[Case, tuple[np.ndarray, np.ndarray]]:
    """Return the clicks in a session of each user, in the world of training and in the true one.

    Args:
        simulators: two or more responders of one synthetic log; a policy learns with all of them,
            and one with each whose name ends in -0.
        configs: of `slate_ppo`, with different memories.
        users: B; true users whom no simulator has met, the same for all policies.
        steps: of training.
        seed: of users and policies.

    Returns:
        For each case, clicks [B] in both worlds; `popular` and `oracle` have those in the true one
        twice.
    """
    truth = true_users(next(iter(simulators.values())).initial_sessions)
    true = make_world(_SCENARIO, num_users=users, responder=truth.config)
    found: dict[Case, tuple[np.ndarray, np.ndarray]] = {}
    for name in (ALL, *(name for name in simulators if name.endswith("-0"))):
        options: dict[str, Any] = {"responder": simulators.get(name)}
        if name == ALL:
            options = {"responder": list(simulators.values()), "one_member": True}
        training = make_world(_SCENARIO, num_users=_TRAINING_USERS, **options)
        learned = make_world(_SCENARIO, num_users=users, **options)
        for config in configs:
            policy = SlatePPOPolicy(training, config, seed)
            policy.train(training, steps, seed + 1)
            found[name, config.memory] = (
                rollout(learned, policy, seed).reward,
                rollout(true, policy, seed).reward,
            )
    for name, reference in (("popular", PopularPolicy(learned)), ("oracle", OraclePolicy(true))):
        found[name, 0] = (rollout(true, reference, seed).reward,) * 2
    return found


def several_simulators(
    log: SessionLog,
    responders: str | Sequence[str],
    out: Path,
    *,
    trainings: int = 2,
    settings: Mapping[str, Any] | None = None,
    policy: Mapping[str, Any] | None = None,
    memories: Sequence[int] = (0, 32),
    users: int = 500,
    seeds: int = 3,
    steps: int = 100_000,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train responders on a synthetic log, and policies with them; return a row for each policy.

    Args:
        log: of a known-truth world.
        responders: names.
        out: folder of the responders' trainings; finished ones are used again.
        trainings: of each responder, with seeds of their own.
        settings: of the responders.
        policy: settings of `slate_ppo`.
        memories: values of its setting `memory` to compare.
        users: B.
        seeds: of the policies' training.
        steps: of the policies' training.
        progress: show progress bars.

    Returns:
        Rows with `simulators`, `memory`, the clicks in a session `learned` and `true`, and how much
        more true clicks the policy has that learned with all simulators and the largest memory,
        `gain`, from the same users; 95 % intervals of the last two over seeds and users.

    Raises:
        InputError: the log is not synthetic, an unknown name, or a single training.
    """
    names = names_in(responders)
    if len(names) * check_whole("trainings", trainings, 1) < 2:
        raise InputError("give two or more responders or trainings: one simulator is no set")
    check_names(log, names, (), settings or {})
    configs = [
        make_config(SlatePPOConfig, {**(policy or {}), "memory": memory}, "slate_ppo")
        for memory in memories
    ]
    simulators = {
        f"{name}-{seed}": learned_users(log, name, out, settings or {}, seed, progress)
        for name in names
        for seed in range(trainings)
    }
    runs = [measure(simulators, configs, users, steps, seed) for seed in range(seeds)]
    weights = np.stack(list(run_and_user_weights([users] * seeds, _RESAMPLES)))
    weights = weights / weights.sum(1, keepdims=True)
    learned, true = (
        {case: np.concatenate([run[case][world] for run in runs]) for case in runs[0]}
        for world in (0, 1)
    )
    best = true[ALL, max(memories)]
    rows = []
    for (name, memory), clicks in true.items():
        row = {"simulators": name, "memory": memory, "learned": learned[name, memory].mean()}
        for key, values in (("true", clicks), ("gain", best - clicks)):
            row |= interval(key, values.mean(), weights @ values)
        rows.append(row)
    return rows


def plot(rows: pd.DataFrame, path: Path) -> None:
    """Draw the true clicks of each policy, and their interval."""
    plot_bars(
        path,
        "Clicks of true (synthetic) users",
        [f"{row.simulators}, memory {row.memory}" for row in rows.itertuples()],
        rows["true"].tolist(),
        "clicks in a session",
        intervals=list(zip(rows["true_low"], rows["true_high"], strict=True)),
    )


def main(
    log: SyntheticLogPath,
    responders: Names = RESPONDERS,
    trainings: Annotated[int, typer.Option(min=1, help="Of each responder.")] = 2,
    settings: Settings = None,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Setting of slate_ppo.")
    ] = None,
    users: Annotated[int, typer.Option(min=2, help="True users.")] = 500,
    seeds: Annotated[int, typer.Option(min=1, help="Of the policies.")] = 3,
    steps: PolicySteps = 100_000,
    out: TrainingsOut = Path("runs/several_simulators"),
) -> None:
    """Compare policies that learn with one simulator and with several, with true users."""
    check_out(out)
    rows = several_simulators(
        SessionLog.load(log), responders, out, trainings=trainings,
        settings=parse_settings(settings), policy=parse_settings(policy),
        users=users, seeds=seeds, steps=steps,
    )  # fmt: skip
    columns = {
        "simulators": text("simulators"),
        "memory": number("memory"),
        "learned": number("learned", 1),
        "true": with_interval("true", 1),
        "all with memory − this": with_interval("gain", 2),
    }
    caption = (
        f"clicks in a session of {users:,} synthetic users, {seeds} seeds of the policies; 95 % "
        "intervals over seeds and users"
    )
    title = f"Policies from one simulator and from several: {log.name}"
    publish("several_simulators", title, columns, rows, caption=caption, out=out, plot=plot)


if __name__ == "__main__":
    run_script(main)
