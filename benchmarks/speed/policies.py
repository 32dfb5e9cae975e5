"""The CPU time that each policy needs on the leaderboard.

    python -m benchmarks.speed.policies RecSim-ContentWise-v0

trains every policy once and runs it with other users, as `recsim bench` does for each seed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from agents.rollout import rollout
from benchmarks.harness import publish, run_script
from benchmarks.reports.tables import number, text
from benchmarks.studies.leaderboard import find_entries
from benchmarks.studies.trials import TRAINING_USERS, make_policy, separate_users
from recsim_env.make import make_world


def measure(environment: str, policies: str, users: int, steps: int) -> list[dict[str, Any]]:
    """Return `policy`, and the CPU seconds of `training` and of a rollout (`judging`), for each.

    Args:
        environment: its id.
        policies: comma-separated, or all; see `recsim bench`.
        users: of the rollout.
        steps: user-slate steps that learning policies train for.
    """
    rows = list[dict[str, Any]]()
    for entry in find_entries(policies, make_world(environment, num_users=1, device="cpu")):
        training, world = (
            make_world(environment, num_users=n, device="cpu") for n in (TRAINING_USERS, users)
        )
        separate_users(training, world)
        began = time.process_time()
        policy, _ = make_policy(entry, training, steps, seed=0)
        trained = time.process_time()
        rollout(world, policy, 0)
        ended = time.process_time()
        rows.append({"policy": entry.name, "training": trained - began, "judging": ended - trained})
        typer.echo(rows[-1], err=True)
    return rows


def main(
    environment: Annotated[str, typer.Argument(metavar="ENV_ID")] = "RecSim-ContentWise-v0",
    policies: Annotated[str, typer.Option(help="Comma-separated, or all.")] = "all",
    users: Annotated[int, typer.Option(min=1, help="Users of a rollout.")] = 500,
    train_steps: Annotated[int, typer.Option(min=0, help="Steps of training.")] = 100_000,
    out: Annotated[Path, typer.Option(help="Folder for the table.")] = Path("runs/policy_times"),
) -> None:
    """Measure the CPU time of each policy, on one thread."""
    torch.set_num_threads(1)
    rows = measure(environment, policies, users, train_steps)
    columns = {
        "policy": text("policy"),
        "training, s": number("training", 1),
        "judging, s": number("judging", 1),
    }
    total = sum(row["training"] + row["judging"] for row in rows)
    caption = f"{users} users, {train_steps:,} steps; {total / 60:.1f} minutes of a core in all"
    publish("policy_times", environment, columns, rows, caption=caption, out=out)


if __name__ == "__main__":
    run_script(main)
