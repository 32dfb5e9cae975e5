"""`recsim tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.options import (
    DEVICE,
    Device,
    Jobs,
    Ray,
    Seeds,
    Settings,
    Threads,
    command_line,
    find_workers,
)


def tune(
    environment: Annotated[str, typer.Argument(metavar="ENV_ID", help="Such as RecSim-v0.")],
    policy: Annotated[str, typer.Option(help="A policy that learns, as for `bench`.")],
    out: Annotated[Path, typer.Option(help="Folder of the study.")],
    trials: Annotated[int, typer.Option(min=1, help="Settings to try.")] = 20,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY[=LOW:HIGH]",
            help="Search this setting, in this range; repeatable. By default, all that have one.",
        ),
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Simulated users to evaluate with.")] = 500,
    seeds: Seeds = 3,
    responder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A trained responder or a synthetic log (true users)."),
    ] = None,
    train_steps: Annotated[
        int, typer.Option(min=0, help="User-slate steps that the policy trains for.")
    ] = 100_000,
    log: Annotated[
        Path | None, typer.Option(metavar="LOG", help="Log for policies that learn from logs.")
    ] = None,
    jobs: Jobs = 1,
    ray: Ray = None,
    settings: Settings = None,
    device: Device = DEVICE,
    threads: Threads = None,
) -> None:
    """Search for the settings of a policy that earn the most, with Optuna.

    The best settings are then compared with the default ones, with other seeds and users. `--set`
    fixes a setting. The same command continues a study, also with more trials.

    Example: `recsim tune RecSim-ContentWise-v0 --policy slateq --trials 50 --out runs/tune`
    """
    from benchmarks.reports import leaderboard as report
    from benchmarks.studies import tuning
    from responders.config import parse_settings

    result = tuning.tune(
        environment,
        policy,
        trials,
        out=out,
        search={key: text for key, _, text in (word.partition("=") for word in search or [])},
        settings=parse_settings(settings),
        responder=responder,
        log=log,
        users=users,
        training_steps=train_steps,
        seeds=seeds,
        workers=find_workers(jobs, ray, threads, device),
        device=device,
        command=command_line(),
    )
    report.show(result.rows, result.title)
    typer.echo(" ".join(f"--set {key}={value}" for key, value in result.facts["settings"].items()))
    for path in result.files:
        typer.echo(f"wrote {path}")
