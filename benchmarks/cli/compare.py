"""`recsim compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.options import (
    DEVICE,
    Device,
    Jobs,
    LogPath,
    Ray,
    Seeds,
    Settings,
    Threads,
    command_line,
    find_workers,
)
from responders.models.registry import RESPONDERS


def compare(
    log: LogPath,
    responders: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(RESPONDERS)}; comma-separated, or all. Settings follow a colon: "
            "slate_gru:readout=soft."
        ),
    ] = "all",
    embeddings: Annotated[
        str,
        typer.Option(help="learned, svd, explicit, content, content_delta; comma-separated."),
    ] = "learned",
    split: Annotated[str, typer.Option(help="user, time; comma-separated.")] = "user,time",
    seeds: Seeds = 3,
    out: Annotated[Path, typer.Option(help="Folder for runs, tables and plot.")] = Path(
        "runs/compare"
    ),
    jobs: Jobs = 1,
    ray: Ray = None,
    device: Device = DEVICE,
    threads: Threads = None,
    settings: Settings = None,
) -> None:
    """Train and test responders on one log: a table and a plot of quality against cost.

    With the protocol of arXiv 2409.20055 (users split 80/10/10; the last 20 % of a test session's
    slates count) and with a split by time. Finished runs are kept: the same command continues where
    it stopped. `--set` changes a setting of every responder that has it. If the log is ContentWise
    or RL4RS, the published figures are shown as well.

    Example: `recsim compare logs/known --responders position_ctr,slate_gru,scot --seeds 3`
    """
    from benchmarks.reports import compare as report
    from benchmarks.studies import compare as study
    from responders.config import parse_settings

    try:
        comparison = study.compare(
            log,
            responders,
            embeddings=embeddings,
            splits=split,
            seeds=seeds,
            out=out,
            settings=parse_settings(settings),
            workers=find_workers(jobs, ray, threads, device),
            device=device,
            command=command_line(),
        )
    except KeyboardInterrupt:
        typer.echo("interrupted; finished runs are kept. Continue with the same command.", err=True)
        raise typer.Exit(130) from None
    report.show(comparison.table, comparison.log)
    for path in comparison.files:
        typer.echo(f"wrote {path}")
