"""`recsim interpret`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.options import (
    LogPath,
    Overwrite,
    Seed,
    Settings,
    Threads,
    command_line,
    set_threads,
)


def interpret(
    responder: Annotated[
        Path,
        typer.Argument(
            metavar="RESPONDER", help="Folder from `train`, or of a saved sequential policy."
        ),
    ],
    log: LogPath,
    out: Annotated[Path, typer.Option(help="Folder of the report.")],
    sessions: Annotated[
        int, typer.Option(min=1, help="Learn from, and test with, at most this many sessions.")
    ] = 5000,
    seed: Seed = 0,
    settings: Settings = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
) -> None:
    """Find sparse features of hidden states and name them by items, attributes and users.

    A top-k sparse autoencoder learns from the training users and is measured on the test users:
    explained variance, change of the log-loss with reconstructed states and, on a synthetic log,
    correlation with the true clusters. Writes features.csv, interpretation.json and report.html,
    and the autoencoder into RESPONDER, where `steer={feature: strength}` of `gym.make` and
    `load_policy` finds it. `--set` changes the autoencoder: features, active, tied, epochs, …

    Example: `recsim interpret runs/session_gru logs/known --out runs/features`
    """
    from benchmarks.reports.interpret import show
    from benchmarks.studies.interpret import interpret as study
    from responders.config import parse_settings

    set_threads(threads)
    result = study(
        responder,
        log,
        out,
        settings=parse_settings(settings),
        sessions=sessions,
        seed=seed,
        overwrite=overwrite,
        progress=True,
        command=command_line(),
    )
    show(result.features, result.facts)
    for path in result.files:
        typer.echo(f"wrote {path}")
