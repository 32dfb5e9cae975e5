"""`recsim train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.cli.options import (
    DEVICE,
    Device,
    LogPath,
    Overwrite,
    Seed,
    Settings,
    Threads,
    command_line,
    set_threads,
)
from responders.log.session_log import SessionLog
from responders.models.registry import RESPONDERS


def train(
    log: LogPath,
    responder: Annotated[str, typer.Option(metavar="NAME", help=f"{', '.join(RESPONDERS)}.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, card and TensorBoard run.")],
    seed: Seed = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Maximum number of epochs.")] = None,
    fractions: Annotated[
        str, typer.Option(help="Shares of the users that train, validate and test.")
    ] = "0.8,0.1,0.1",
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Train again on all users, for the best number of epochs."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted training.")
    ] = False,
    overwrite: Overwrite = False,
    device: Device = DEVICE,
    devices: Annotated[
        int, typer.Option(min=1, help="Processes that train together, each on a GPU if possible.")
    ] = 1,
    threads: Threads = None,
    settings: Settings = None,
) -> None:
    """Train a responder on 80 % of a log's users and test it on 10 %.

    `--set` changes settings of the responder (`hidden_size=128`, `embedding=content`) and of the
    training (`learning_rate=0.001`, `batch_size=64`, `patience=7`). Ctrl-C saves and stops;
    `--resume` continues from there and gives the same result. With `--refit`, a second responder
    is trained on all users and saved; the metrics are those of the first. With `--devices N`, N
    processes each take a share of every batch.

    Example: `recsim train logs/known --responder session_gru --out runs/session_gru`
    """
    from benchmarks.reports.tables import print_metrics
    from responders.config import parse_settings
    from responders.log.split import parse_fractions
    from responders.training.fit import fit
    from responders.training.launch import fit_on_devices
    from responders.training.trainer import Interrupted

    set_threads(threads)
    chosen = parse_settings(settings)
    if epochs is not None:
        chosen["epochs"] = epochs
    options: dict[str, Any] = {
        "seed": seed,
        "fractions": parse_fractions(fractions),
        "refit": refit,
        "resume": resume,
        "overwrite": overwrite,
        "device": device,
        "command": command_line(),
    }
    try:
        if devices > 1:
            checkpoint = fit_on_devices(devices, log, responder, out, chosen, **options)
        else:
            checkpoint = fit(SessionLog.load(log), responder, out, chosen, **options)
    except Interrupted:
        command = command_line().removesuffix(" --resume")
        typer.echo(f"interrupted; everything is saved. Continue with: {command} --resume", err=True)
        raise typer.Exit(130) from None
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes started by torchrun, one prints
    title = f"{responder} on held-out users" + (", before the refit" if refit else "")
    print_metrics(checkpoint.card["metrics"], f"{title} ({out})")
    typer.echo(f"wrote {out}")
