"""`recsim rank`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.options import (
    DEVICE,
    Device,
    Jobs,
    LogPath,
    Overwrite,
    Ray,
    Settings,
    Threads,
    command_line,
    find_workers,
)
from responders.errors import InputError


def rank(
    log: LogPath,
    policies: Annotated[
        str,
        typer.Option(
            help="Policies that learn from logs, FILE.py:Class, package.module:Class, or the "
            "folder of a saved policy; comma-separated. Others are compared with the first."
        ),
    ] = "popular,item_knn,sasrec",
    out: Annotated[Path, typer.Option(help="Folder for tables and plot.")] = Path("runs/rank"),
    splits: Annotated[
        str, typer.Option(help="global (one moment for all), leave_one_out; comma-separated.")
    ] = "global,leave_one_out",
    targets: Annotated[
        str,
        typer.Option(help="Clicks after it: first, last, random, successive or all (as one set)."),
    ] = "last",
    validation: Annotated[
        str, typer.Option(help="time (just before the test), users (a share of them) or none.")
    ] = "time",
    test_share: Annotated[
        float, typer.Option(metavar="F", help="Share of the clicks that are after the moment.")
    ] = 0.1,
    validation_share: Annotated[
        float, typer.Option(metavar="F", help="Share of the clicks, or users, for validation.")
    ] = 0.1,
    cutoffs: Annotated[str, typer.Option(help="Lengths of lists; comma-separated.")] = "5,10,20",
    seen: Annotated[
        str, typer.Option(help="Items of the history: keep (rank them) or filter.")
    ] = "keep",
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions with different seeds.")] = 1,
    jobs: Jobs = 1,
    ray: Ray = None,
    settings: Settings = None,
    overwrite: Overwrite = False,
    device: Device = DEVICE,
    threads: Threads = None,
) -> None:
    """Rank what users clicked next among all items: NDCG, hit rate, MRR, MAP, recall.

    The global split has one moment: policies learn from what was before it, and targets are after
    it. Leave-one-out asks for the last click of each user, whenever that was; a second table shows
    how much later data it learns from. `--set` changes a setting of every policy that has it. The
    same command continues an interrupted ranking.

    Example: `recsim rank logs/movielens --policies popular,item_knn,sasrec --out runs/rank`
    """
    from benchmarks.reports import rank as report
    from benchmarks.studies.ranking.splits import SplitOptions
    from benchmarks.studies.ranking.study import rank as study
    from responders.config import parse_settings

    lengths = cutoffs.split(",")
    if not all(k.strip().isdigit() for k in lengths):
        raise InputError(f"cut-offs are whole numbers such as 5,10,20, not {cutoffs!r}")
    result = study(
        log,
        policies,
        splits=splits,
        options=SplitOptions(targets, validation, test_share, validation_share),  # type: ignore[arg-type]
        cutoffs=[int(k) for k in lengths],
        seen=seen,  # type: ignore[arg-type]
        settings=parse_settings(settings),
        seeds=seeds,
        workers=find_workers(jobs, ray, threads, device),
        device=device,
        out=out,
        overwrite=overwrite,
        command=command_line(),
    )
    report.show(result.rows, result.leaks, result.facts)
    for path in result.files:
        typer.echo(f"wrote {path}")
