"""What attention over long sessions costs: SCOT against SessionTransformer.

    python -m benchmarks.speed.attention

trains each for one epoch on sessions of 100 slates × 10 items, in a process of its own, and prints
seconds and the peak of memory, with SCOT's share of SessionTransformer's.
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.reports.tables import show_table
from benchmarks.speed.memory import memory, peak_memory
from responders import Catalogue, SessionLog, Users
from responders.log.batch import Part, make_batch, plan_batches
from responders.models.build import build

_ITEMS, _POSITIONS, _CLICK_RATE = 1000, 10, 0.1  # as the ContentWise preset


def long_sessions(sessions: int, slates: int) -> SessionLog:
    """Return a log of random sessions; what is clicked does not matter here."""
    rng = np.random.default_rng(0)
    n = sessions * slates
    slate = rng.integers(0, _ITEMS, (n, _POSITIONS))
    return SessionLog(
        slate=slate,
        response=rng.random(slate.shape) < _CLICK_RATE,
        session_start=np.arange(sessions + 1) * slates,
        user=np.arange(sessions),
        time=np.tile(np.arange(slates), sessions),
        catalogue=Catalogue(np.arange(_ITEMS)),
        users=Users(np.arange(sessions), rng.normal(size=(sessions, 8))),
    )


def epoch(name: str, sessions: int, slates: int, batch_size: int, device: str) -> dict[str, float]:
    """Train for one epoch in this process; return seconds and peak memory in MB.

    The first batch is not timed. Memory counts from before the model is built.
    """
    log = long_sessions(sessions, slates)
    part = Part.of(log, np.arange(sessions))
    if sessions > 2:
        epoch(name, 2, 2, 1, device)  # loads what the libraries load on first use
    before = memory()
    responder, _ = build(name, log, part.sessions, {})
    responder.to(device).train()
    optimiser = torch.optim.Adam([p for p in responder.parameters() if p.requires_grad])
    began = 0.0
    for i, group in enumerate(plan_batches(part, batch_size)):
        if i == 1:
            _wait(device)
            began = time.perf_counter()
        loss, _ = responder.training_loss(make_batch(log, group).to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    _wait(device)
    seconds = (time.perf_counter() - began) * sessions / (sessions - batch_size)
    peak = (peak_memory() - before) / 1024
    if device != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {"seconds": seconds, "peak": peak}


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def main(
    sessions: Annotated[int, typer.Option(min=2, help="Of each epoch.")] = 512,
    slates: Annotated[int, typer.Option(min=1, help="Of each session.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Sessions in a batch.")] = 128,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure one epoch of each."""
    found: dict[str, Any] = {}
    context = multiprocessing.get_context("spawn")
    for name in ("session_transformer", "scot", "session_gru"):
        with ProcessPoolExecutor(1, context) as pool:
            found[name] = pool.submit(epoch, name, sessions, slates, batch_size, device).result()
    base = found["session_transformer"]
    show_table(
        f"one epoch of {sessions} sessions of {slates} slates × {_POSITIONS} items, click rate "
        f"{_CLICK_RATE:.0%}, batch {batch_size}, {device}",
        ["responder", "seconds", "share", "peak MB", "share"],
        [
            [
                name,
                f"{row['seconds']:.1f}",
                f"{row['seconds'] / base['seconds']:.2f}",
                f"{row['peak']:,.0f}",
                f"{row['peak'] / base['peak']:.2f}",
            ]
            for name, row in found.items()
        ],
    )


if __name__ == "__main__":
    typer.run(main)
