"""The cost of attention over long sessions: SCOT against SessionTransformer.

    python -m benchmarks.speed.attention

trains each for one epoch on sessions of 100 slates × 10 items, in a separate process, and prints
seconds and peak memory, also relative to SessionTransformer's.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.harness import PeakMemory, describe, publish, run_cases, run_script, synchronize
from benchmarks.reports.tables import number, text
from responders import Catalogue, SessionLog, Users
from responders.log.batch import Part, make_batch, plan_batches
from responders.models.build import build_responder

RESPONDERS = ("session_transformer", "scot", "session_gru")
"""The responders measured; shares are relative to the first."""

_ITEMS, _POSITIONS, _CLICK_RATE = 1000, 10, 0.1  # as the ContentWise preset

_COLUMNS = {
    "responder": text("responder"),
    "seconds": number("seconds", 1),
    "share of seconds": number("seconds_share", 2),
    "peak MB": number("peak_mb"),
    "share of peak": number("peak_mb_share", 2),
}


def long_sessions(sessions: int, slates: int) -> SessionLog:
    """Return a log of random sessions and clicks."""
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
    """Train for one epoch in this process; return `seconds` and `peak_mb`.

    The first batch is not timed. Memory is measured from before the model is built.
    """
    log = long_sessions(sessions, slates)
    part = Part.of(log, np.arange(sessions))
    if sessions > 2:
        epoch(name, 2, 2, 1, device)  # so that memory allocated on first use is not counted
    peak = PeakMemory(device)
    responder, _ = build_responder(name, log, part.sessions)
    responder.to(device).train()
    optimiser = torch.optim.Adam([p for p in responder.parameters() if p.requires_grad])
    began = 0.0
    for i, group in enumerate(plan_batches(part, batch_size)):
        if i == 1:
            synchronize(device)
            began = time.perf_counter()
        loss, _ = responder.training_loss(make_batch(log, group).to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    synchronize(device)
    seconds = (time.perf_counter() - began) * sessions / (sessions - batch_size)
    return {"seconds": seconds, "peak_mb": peak.mb}


def main(
    sessions: Annotated[int, typer.Option(min=2, help="Of each epoch.")] = 512,
    slates: Annotated[int, typer.Option(min=1, help="Of each session.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Sessions in a batch.")] = 128,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder for the table.")] = None,
) -> None:
    """Measure one epoch of each."""
    cases = {name: (name, sessions, slates, batch_size, device) for name in RESPONDERS}
    results = dict(run_cases(epoch, cases, label="attention"))
    baseline = results[RESPONDERS[0]]
    rows = [
        {"responder": name, **results[name]}
        | {f"{key}_share": value / baseline[key] for key, value in results[name].items()}
        for name in RESPONDERS
    ]
    title = (
        f"one epoch of {sessions} sessions of {slates} slates × {_POSITIONS} items, click rate "
        f"{_CLICK_RATE:.0%}, batch {batch_size}, {describe(device)}"
    )
    publish("attention", title, _COLUMNS, rows, out=out)


if __name__ == "__main__":
    run_script(main)
