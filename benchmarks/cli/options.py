"""Options shared by several commands and studies."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from benchmarks.workers import Workers

LogPath = Annotated[Path, typer.Argument(metavar="LOG", help="Folder of a session log.")]
SyntheticLogPath = Annotated[Path, typer.Argument(metavar="LOG", help="Folder of a synthetic log.")]
TableOut = Annotated[Path, typer.Option(help="Folder for the table.")]
TrainingsOut = Annotated[Path, typer.Option(help="Folder for trainings and table.")]
Names = Annotated[str, typer.Option(help="Names, comma-separated.")]
WorldUsers = Annotated[int, typer.Option(min=2, help="Users of each world.")]
PolicySteps = Annotated[int, typer.Option(min=1, help="Steps in which a policy learns.")]
Repetitions = Annotated[int, typer.Option(min=1, help="Repetitions.")]
Seed = Annotated[int, typer.Option(min=0, help="Fixes everything random.")]
Seeds = Annotated[int, typer.Option(min=1, help="Repetitions with different seeds.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")]
DEVICE = "auto"
"""The default of `Device` in every command."""
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of PyTorch; by default its own choice.")
]
Jobs = Annotated[int, typer.Option(min=1, help="Runs at a time.")]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="auto|ADDRESS", help="Use a Ray cluster; --threads are CPUs of each run."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeatable."),
]


def set_threads(threads: int | None) -> None:
    """Let PyTorch use `threads` CPU threads; None leaves its default."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def find_workers(jobs: int, ray: str | None, threads: int | None, device: str) -> Workers:
    """Return what does the runs, and limit this process's threads too.

    On Ray, each run has a GPU if `device` is one.
    """
    from benchmarks.workers import Workers
    from responders.device import pick_device

    set_threads(threads)
    gpus = 0 if ray is None else int(pick_device(device).type == "cuda")
    return Workers(jobs, threads, ray, gpus)


def command_line() -> str:
    """Return the command as it was typed, to be stored with its results."""
    return shlex.join(["recsim", *sys.argv[1:]])
