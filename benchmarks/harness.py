"""Shared code of the benchmarks: timing, peak memory and reports."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import typer

from benchmarks.errors import one_line_errors
from benchmarks.reports.tables import Cell, console, fill, markdown_table, show_table
from benchmarks.speed.memory import forget_peak, memory, peak_memory
from responders import InputError


def synchronize(device: torch.device | str) -> None:
    """Wait until `device` has finished its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def time_calls(
    calls: Sequence[Callable[[], object]],
    *,
    seconds: float = 0.0,
    rounds: int = 1,
    warmup: int = 1,
    device: torch.device | str = "cpu",
) -> list[list[float]]:
    """Time the calls in turn, so that a change in the machine's speed affects all of them equally.

    Args:
        calls: what to time.
        seconds: keep going for at least this long.
        rounds: time each call at least this often.
        warmup: rounds at the start that are not counted.
        device: synchronized after each call.

    Returns:
        For each call, its time in seconds in each round.
    """
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while len(times[0]) < warmup + rounds or time.perf_counter() < end:
        for call, call_times in zip(calls, times, strict=True):
            began = time.perf_counter()
            call()
            synchronize(device)
            call_times.append(time.perf_counter() - began)
    return [call_times[warmup:] for call_times in times]


class PeakMemory:
    """Measures the peak of the memory allocated since this object was created.

    Args:
        device: on a GPU, its allocated memory is measured, otherwise the process's resident memory.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._cuda = torch.device(device).type == "cuda"
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        forget_peak()
        self._before = self._now()

    def _now(self) -> float:
        return torch.cuda.memory_allocated() / 2**20 if self._cuda else memory() / 1024

    @property
    def mb(self) -> float:
        """The peak so far in MiB, less the memory in use at the start."""
        peak = torch.cuda.max_memory_allocated() / 2**20 if self._cuda else peak_memory() / 1024
        return peak - self._before


def describe(device: torch.device | str) -> str:
    """Return the hardware's name and PyTorch's version, for titles."""
    name = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    if torch.device(device).type == "cuda":
        name = torch.cuda.get_device_name()
    return f"{name}, torch {torch.__version__}"


def run_script(command: Callable[..., None]) -> None:
    """Run a typer command; bad input becomes one line on stderr and exit code 1."""
    with one_line_errors():
        typer.run(command)


def names_in(text: str | Sequence[str]) -> list[str]:
    """Return the names in a list or a comma-separated text."""
    names = text.split(",") if isinstance(text, str) else text
    return [name.strip() for name in names if name.strip()]


def check_out(out: Path, option: str = "--out") -> None:
    """Raise `InputError` if the folder `out` cannot be written; call it before any work."""
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"{existing} is a file: choose another {option}")
    if not os.access(existing, os.W_OK):
        raise InputError(f"{existing} is not writable: choose another {option}")


def publish(
    name: str,
    title: str,
    columns: Mapping[str, Cell],
    rows: Sequence[Mapping[str, Any]],
    *,
    caption: str | None = None,
    out: Path | None = None,
    plot: Callable[[pd.DataFrame, Path], None] | None = None,
) -> None:
    """Print a table; with `out`, also write it and its plot there.

    Args:
        name: of the files: NAME.csv (all values), NAME.md (the printed table), NAME.png.
        title: of the table.
        columns: the cells of the printed table by column name.
        rows: the values, a row per case.
        caption: below the printed table.
        out: folder of the files, created if missing.
        plot: draws the values into a file.
    """
    cells = fill(columns, rows)
    show_table(title, list(columns), cells, caption)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    frame, files = pd.DataFrame(list(rows)), [out / f"{name}.{end}" for end in ("csv", "md")]
    frame.to_csv(files[0], index=False)
    note = f"\n\n{caption}" if caption else ""
    files[1].write_text(f"{title}\n\n{markdown_table(list(columns), cells)}{note}\n")
    if plot is not None:
        files.append(out / f"{name}.png")
        plot(frame, files[-1])
    console().print(f"wrote {', '.join(map(str, files))}")
