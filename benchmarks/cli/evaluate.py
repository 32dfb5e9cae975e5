"""`recsim evaluate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.options import DEVICE, Device, LogPath, Threads, set_threads
from responders.errors import InputError
from responders.log.session_log import SessionLog


class Split(StrEnum):
    """The values of `--split`."""

    TEST = "test"
    ALL = "all"


def evaluate(
    responder: Annotated[Path, typer.Argument(metavar="RESPONDER", help="Folder from `train`.")],
    log: LogPath,
    split: Annotated[
        Split, typer.Option(help="test: the users held out in training; all: every session.")
    ] = Split.TEST,
    context: Annotated[
        float,
        typer.Option(min=0, max=0.99, help="Share of a session's slates that are only history."),
    ] = 0.8,
    draws: Annotated[
        int,
        typer.Option(min=0, help="Answers drawn per slate for unconditional metrics; 0 = none."),
    ] = 32,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write flat JSON.")] = None,
    device: Device = DEVICE,
    threads: Threads = None,
) -> None:
    """Test a responder on a log: AUC, F1, accuracy, log-loss, perplexity, calibration error.

    Each has a 95 % bootstrap interval over users and is also shown by position. The last 20 % of
    each session's slates count, the others are history (`--context 0` counts all); for a responder
    trained on a split by time, the slates of the test period count. Metrics are conditional on the
    clicks above in the same slate; for a responder that reads them, `unconditional_…` metrics
    average over them. On a synthetic log the Bayes optimum is shown as well.

    Example: `recsim evaluate runs/session_gru logs/known --json metrics.json`
    """
    from benchmarks.harness import check_out
    from benchmarks.reports.tables import kind_of, print_metrics
    from benchmarks.studies.evaluate import evaluate_responder

    set_threads(threads)
    if json is not None:
        check_out(json.absolute().parent, "--json")
        if json.exists() and not json.is_file():
            raise InputError(f"{json} is not a file: choose another --json")
    loaded = SessionLog.load(log)
    result = evaluate_responder(
        responder, loaded, split=split, context=context, draws=draws, device=device, progress=True
    )
    if split is Split.TEST and not result.same_log:
        typer.echo(
            "note: the responder was trained on another log, so the test split may contain users "
            "seen in training; --split all counts every session",
            err=True,
        )
    if result.refitted and result.same_log:
        typer.echo("note: the responder was trained on all users of this log", err=True)
    print_metrics(result.metrics, f"{result.responder} on {log}, {split} ({kind_of(loaded)})")
    if json is not None:
        result.save(json)
        typer.echo(f"wrote {json}")
