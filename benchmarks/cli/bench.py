"""`recsim bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agents.registry import POLICIES
from benchmarks.cli.options import (
    DEVICE,
    Device,
    Jobs,
    Overwrite,
    Ray,
    Seeds,
    Threads,
    command_line,
    find_workers,
)
from responders.errors import InputError


def bench(
    environment: Annotated[
        str,
        typer.Argument(metavar="ENV_ID", help="Such as RecSim-v0; suite = a world for each skill."),
    ],
    policies: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(POLICIES)}, FILE.py:Class, package.module:Class, or the folder of a "
            "saved policy; comma-separated, or all."
        ),
    ] = "all",
    users: Annotated[int, typer.Option(min=1, help="Simulated users per seed.")] = 500,
    seeds: Seeds = 3,
    out: Annotated[Path, typer.Option(help="Folder for tables, plot and TensorBoard.")] = Path(
        "runs/bench"
    ),
    responder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A trained responder or a synthetic log (true users)."),
    ] = None,
    train_responder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The same, for the users that policies learn from."),
    ] = None,
    train_steps: Annotated[
        int, typer.Option(min=0, help="User-slate steps that learning policies train for.")
    ] = 100_000,
    log: Annotated[
        Path | None,
        typer.Option(metavar="LOG", help="Log for policies that learn from logs."),
    ] = None,
    curve: Annotated[
        bool,
        typer.Option("--curve", help="Learning curves: also train for 2/3, 4/9, … of the steps."),
    ] = False,
    jobs: Jobs = 1,
    ray: Ray = None,
    overwrite: Overwrite = False,
    device: Device = DEVICE,
    threads: Threads = None,
) -> None:
    """Run policies with the same simulated users and print a leaderboard.

    `suite` runs them in a world for each skill and prints their scores: 0 is that of random slates,
    1 that of a reference which knows the truth. The same command continues an interrupted run.

    Example: `recsim bench RecSim-v0 --responder runs/session_gru --users 500 --out runs/bench`
    """
    from benchmarks.reports import leaderboard as report
    from benchmarks.studies import leaderboard as study

    options: dict[str, Any] = {
        "users": users,
        "seeds": seeds,
        "training_steps": train_steps,
        "workers": find_workers(jobs, ray, threads, device),
        "device": device,
        "out": out,
        "overwrite": overwrite,
        "command": command_line(),
    }
    if environment == "suite":
        _bench_suite(
            policies,
            {
                "responder": responder,
                "train-responder": train_responder,
                "log": log,
                "curve": curve or None,
            },
            options,
        )
        return
    result = study.run(
        environment,
        policies,
        responder=responder,
        training_responder=train_responder,
        log=log,
        curve=curve,
        **options,
    )
    report.show(result.rows, result.title)
    for path in result.files:
        typer.echo(f"wrote {path}")


def _bench_suite(policies: str, fixed: dict[str, Any], options: dict[str, Any]) -> None:
    from benchmarks.reports import suite as report
    from benchmarks.studies import suite as study

    for name, value in fixed.items():
        if value is not None:
            raise InputError(
                f"the suite has users of its own, and no learning curves: leave out --{name}"
            )
    result = study.run(policies, **options)
    report.show(result.scores)
    for path in result.files:
        typer.echo(f"wrote {path}")
