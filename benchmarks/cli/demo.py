"""`recsim demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.options import DEVICE, Device, Threads, set_threads


def demo(
    out: Annotated[
        Path | None, typer.Option(help="Folder for results; by default a new one in runs.")
    ] = None,
    device: Device = DEVICE,
    threads: Threads = None,
) -> None:
    """Run everything once, in two minutes: log, responder, environment, policies, leaderboard.

    Everything is written to `--out`, by default runs/demo, or runs/demo-2, -3, … if that exists.
    """
    from benchmarks.studies.demo import run

    set_threads(threads)
    run(out, device=device)
