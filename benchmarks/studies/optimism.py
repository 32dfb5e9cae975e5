"""Whether a policy is worth in the learned world what it is worth in the true one.

    python -m benchmarks.studies.optimism LOG... --responders session_gru,slate_gru

trains responders on synthetic logs, runs policies with the learned users and with the true ones,
the same users in both, and prints the ratio of the clicks in a session. `greedy` shows what the
learned responder expects to be clicked: nothing exploits its errors more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from agents.oracle import OraclePolicy
from agents.registry import known_policies
from agents.rollout import rollout
from benchmarks.cli.options import Names, PolicySteps, Settings, TrainingsOut, WorldUsers
from benchmarks.harness import check_out, names_in, publish, run_script
from benchmarks.reports.plots import plot_bars
from benchmarks.reports.tables import number, text, with_interval
from benchmarks.studies.trials import separate_users
from recsim_env.loading import hazard_of
from recsim_env.world import World
from responders import InputError, SessionLog, fit
from responders.config import parse_settings
from responders.evaluation.bootstrap import interval, run_and_user_weights
from responders.known_truth.world import KnownTruth, truth_of
from responders.registry import load
from responders.training.checkpoint import Checkpoint
from responders.training.fit import configure

POLICIES = "random,popular,greedy"
"""The policies compared by default."""


def measure(
    checkpoint: Checkpoint, policies: Sequence[str], users: int, steps: int, seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the clicks in a session of each user, in the learned world and in the true one.

    Args:
        checkpoint: a responder trained on a synthetic log.
        policies: names; each is trained in the learned world, with other users.
        users: B; the same initial users in both worlds.
        steps: of training, for a policy that learns.
        seed: of users and policies.

    Returns:
        For each policy, and `oracle`, clicks [B] in both worlds (the oracle's in the true one).

    Raises:
        InputError: the responder was not trained on a synthetic log.
    """
    starts = checkpoint.initial_sessions
    truth = true_users(starts)
    training, learned = (
        World(checkpoint.responder, starts, checkpoint.hazard, num_users=users) for _ in range(2)
    )
    true = World(truth, starts, hazard_of(truth), num_users=users)
    for world in (learned, true):
        separate_users(training, world)
    values = {}
    for name in policies:
        policy = load(known_policies(), name, "policy")(learned, seed=seed)
        policy.train(training, steps, seed + 1)
        values[name] = rollout(learned, policy, seed).reward, rollout(true, policy, seed).reward
    best = rollout(true, OraclePolicy(true), seed).reward
    return values | {"oracle": (best, best)}


def true_users(log: SessionLog) -> KnownTruth:
    """Return the users of a synthetic log.

    Raises:
        InputError: the log is of real users.
    """
    truth = truth_of(log)
    if truth is None:
        raise InputError("the log is of real users: their true answers to a policy are unknown")
    return truth


def optimism(
    log: SessionLog,
    responders: str | Sequence[str],
    out: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    policies: str | Sequence[str] = POLICIES,
    users: int = 500,
    seeds: int = 1,
    steps: int = 100_000,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train responders on a synthetic log and return a row for each with each policy.

    Args:
        log: of a known-truth world.
        responders: names, as a list or comma-separated.
        out: folder of the trainings; finished ones are used again.
        settings: of the responders.
        policies: names.
        users: B.
        seeds: of training.
        steps: of training of a policy that learns.
        progress: show progress bars.

    Returns:
        Rows with `responder`, `policy`, `log_loss`, the clicks in a session `learned` and `true`,
        their `ratio`, the policy's share of the oracle's clicks in truth (`of_oracle`), and the
        95 % intervals `ratio_low`, `ratio_high`, `of_oracle_low` and `of_oracle_high` over seeds of
        training and users.

    Raises:
        InputError: the log is not synthetic, or an unknown name.
    """
    check_names(log, responders, policies, settings or {})
    rows = []
    for responder in names_in(responders):
        runs, losses = [], []
        for seed in range(seeds):
            checkpoint = learned_users(log, responder, out, settings or {}, seed, progress)
            losses.append(checkpoint.card["metrics"]["log_loss"])
            runs.append(measure(checkpoint, names_in(policies), users, steps, seed))
        loss = float(np.mean(losses))
        rows += [
            {"responder": responder, "policy": policy, "log_loss": loss, **ratios(runs, policy)}
            for policy in names_in(policies)
        ]
    return rows


def check_names(
    log: SessionLog,
    responders: str | Sequence[str],
    policies: str | Sequence[str],
    settings: Mapping[str, Any],
) -> None:
    """Raise `InputError` for a log of real users, an unknown name or a wrong setting."""
    true_users(log)
    for policy in names_in(policies):
        load(known_policies(), policy, "policy")
    for responder in names_in(responders):
        configure(responder, settings)


def learned_users(
    log: SessionLog,
    responder: str,
    out: Path,
    settings: Mapping[str, Any],
    seed: int,
    progress: bool,
) -> Checkpoint:
    """Return the responder, trained in a folder of `out`; a finished training is used again."""
    return fit(
        log, responder, out / f"{responder}-{seed}", settings,
        seed=seed, resume=True, progress=progress,
    )  # fmt: skip


def ratios(
    runs: Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]], policy: str
) -> dict[str, float]:
    """Return the facts of a row of `optimism`, of what `measure` returned for each training."""
    learned, true = (np.concatenate([run[policy][world] for run in runs]) for world in (0, 1))
    best = np.concatenate([run["oracle"][1] for run in runs])
    weights = np.stack(list(run_and_user_weights([len(run[policy][0]) for run in runs], 1000)))
    ratio, share = (weights @ learned) / (weights @ true), (weights @ true) / (weights @ best)
    return {
        "learned": learned.mean(),
        "true": true.mean(),
        **interval("ratio", learned.mean() / true.mean(), ratio),
        **interval("of_oracle", true.mean() / best.mean(), share),
    }


def plot(rows: pd.DataFrame, path: Path) -> None:
    """Draw the ratio of each policy with each responder, and its interval."""
    plot_bars(
        path,
        "Clicks from learned users / from the true (synthetic) users",
        [f"{row.log}, {row.responder}: {row.policy}" for row in rows.itertuples()],
        rows["ratio"].tolist(),
        "learned world / true world",
        intervals=list(zip(rows["ratio_low"], rows["ratio_high"], strict=True)),
    )


def main(
    logs: Annotated[
        list[Path], typer.Argument(metavar="LOG...", help="Folders of synthetic logs.")
    ],
    responders: Names = "session_gru",
    policies: Names = POLICIES,
    settings: Settings = None,
    users: WorldUsers = 500,
    seeds: Annotated[int, typer.Option(min=1, help="Of training.")] = 1,
    steps: PolicySteps = 100_000,
    out: TrainingsOut = Path("runs/optimism"),
) -> None:
    """Compare the values of policies in learned worlds with those in the true one."""
    check_out(out)
    chosen = parse_settings(settings)
    opened = {path.name: SessionLog.load(path) for path in logs}
    if len(opened) < len(logs):
        raise InputError("two logs have the same name: rename one folder")
    for log in opened.values():
        check_names(log, responders, policies, chosen)
    rows = [
        {"log": name, **row}
        for name, log in opened.items()
        for row in optimism(
            log, responders, out / name, settings=chosen, policies=policies, users=users,
            seeds=seeds, steps=steps,
        )
    ]  # fmt: skip
    columns = {
        "log": text("log"),
        "responder": text("responder"),
        "policy": text("policy"),
        "log-loss": number("log_loss", 4),
        "learned": number("learned", 1),
        "true": number("true", 1),
        "learned / true": with_interval("ratio", 2),
        "of the oracle's": with_interval("of_oracle", 2),
    }
    caption = (
        f"clicks in a session of {users:,} synthetic users, {seeds} seeds of training; 95 % "
        "intervals over users and seeds"
    )
    title = "Policies in learned worlds and in the true one"
    publish("optimism", title, columns, rows, caption=caption, out=out, plot=plot)


if __name__ == "__main__":
    run_script(main)
