"""The cost of long sessions: attention, recurrent states and scans.

    python -m benchmarks.speed.attention

trains each responder for one epoch on sessions of 100 slates × 10 items, in a separate process, and
prints seconds and peak memory, also relative to the first responder's. Then it prints what one step
costs after sessions of up to 10,000 positions: CPU time, so that other work on the machine does not
count, with and without the explicit effects that all of them share, and the size of the users'
states. Attention reaches as many slates (clicks, in SCOT) as the session has slates.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch.utils._pytree import tree_leaves

from benchmarks.harness import (
    PeakMemory,
    describe,
    names_in,
    publish,
    run_script,
    synchronize,
)
from benchmarks.reports.tables import number, text
from benchmarks.workers import run_cases
from responders import Catalogue, SessionLog, Users
from responders.config import known_settings, make_config
from responders.log.batch import Part, make_batch, plan_batches
from responders.models.base import Responder
from responders.models.build import build_responder, responder_class

RESPONDERS = ("session_transformer", "scot", "session_gru", "min_gru", "linear_attention", "hstu")
"""The responders measured; shares are relative to the first, those of a step to SCOT."""

POSITIONS = "100,1000,10000"
"""Lengths of the sessions after which a step is measured."""

_ITEMS, _POSITIONS, _CLICK_RATE = 1000, 10, 0.1  # as the ContentWise preset
_LONGEST = {"session_transformer": 1000}  # positions; beyond, its cache takes gigabytes
_EFFECTS_OFF = {"exposure": False, "match": False, "examination": False}
_ROUNDS = 15

Row = dict[str, Any]

_COLUMNS = {
    "responder": text("responder"),
    "seconds": number("seconds", 1),
    "share of seconds": number("seconds_share", 2),
    "peak MB": number("peak_mb"),
    "share of peak": number("peak_mb_share", 2),
}
_STEP_COLUMNS = {
    "responder": text("responder"),
    "positions": number("positions"),
    "CPU ms / step": number("step_ms", 2),
    "share of scot's": number("share", 2),
    "network alone, ms": number("network_ms", 2),
    "share of scot's network": number("network_share", 2),
    "state, KB / user": number("state_kb", 1),
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
    for i, rows in enumerate(plan_batches(part, batch_size)):
        if i == 1:
            synchronize(device)
            began = time.perf_counter()
        loss, _ = responder.training_loss(make_batch(log, part.take(rows)).to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    synchronize(device)
    seconds = (time.perf_counter() - began) * sessions / (sessions - batch_size)
    return {"seconds": seconds, "peak_mb": peak.mb}


def step(positions: int, users: int, responders: Sequence[str] = RESPONDERS) -> list[Row]:
    """Return, for each responder, the CPU time of a step on the CPU after `positions` positions.

    Returns:
        Rows with `responder`, `positions`, the mean `step_ms` of all `users` together, its `share`
        of SCOT's, the same without explicit effects, `network_ms` and `network_share`, and
        `state_kb` of one user.
    """
    names = [name for name in responders if positions <= _LONGEST.get(name, positions)]
    whole, network = (_time_steps(names, positions, users, off) for off in ({}, _EFFECTS_OFF))
    rows: list[Row] = []
    for name in names:
        row: Row = {"responder": name, "positions": positions, "state_kb": whole[name][1]}
        for column, times in (("step", whole), ("network", network)):
            row[f"{column}_ms"] = 1000 * times[name][0]
            row["share" if column == "step" else "network_share"] = (
                times[name][0] / times["scot"][0] if "scot" in times else None
            )
        rows.append(row)
    return rows


@torch.inference_mode()
def _time_steps(
    names: Sequence[str], positions: int, users: int, settings: dict[str, Any]
) -> dict[str, tuple[float, float]]:
    """Return the CPU seconds of a step of each responder, and the KB of a user's state.

    The responders answer in turn, so that a change in the machine's speed affects all of them.
    """
    slates = max(1, positions // _POSITIONS)
    log = long_sessions(users, slates)
    batch = make_batch(log, Part.of(log, np.arange(users)))
    responders = {name: _reaching(name, log, slates, settings) for name in names}
    states: dict[str, Any] = {name: r.start(batch.user) for name, r in responders.items()}
    for name, responder in responders.items():
        for t in range(slates):
            states[name] = responder.observe(states[name], batch.slate[:, t], batch.click[:, t])
    uniform, seconds = torch.rand(users, _POSITIONS), dict.fromkeys(names, 0.0)
    for i in range(_ROUNDS + 1):
        for name, responder in responders.items():
            began = time.process_time()
            responder.respond(states[name], batch.slate[:, i % slates], uniform)
            if i:  # the first call allocates memory
                seconds[name] += time.process_time() - began
    return {
        name: (
            seconds[name] / _ROUNDS,
            sum(t.nbytes for t in tree_leaves(states[name])) / users / 1024,
        )
        for name in names
    }


def _reaching(name: str, log: SessionLog, slates: int, settings: dict[str, Any]) -> Responder:
    """Return an untrained responder that remembers `slates` slates, prepared for stepping."""
    kind = responder_class(name).config_class
    config = make_config(kind, known_settings(kind, {"window": slates}) | settings, name)
    responder, _ = build_responder(name, log, np.arange(log.n_sessions), config)
    responder.eval().prepare()
    return responder


def main(
    sessions: Annotated[int, typer.Option(min=2, help="Of each epoch.")] = 512,
    slates: Annotated[int, typer.Option(min=1, help="Of each session.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Sessions in a batch.")] = 128,
    responders: Annotated[str, typer.Option(help="Names, comma-separated.")] = ",".join(RESPONDERS),
    positions: Annotated[
        str, typer.Option(help="Lengths of the sessions after which a step is measured.")
    ] = POSITIONS,
    users: Annotated[int, typer.Option(min=1, help="Users of a step.")] = 256,
    device: Annotated[str, typer.Option(help="Of the epochs: cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder for the tables.")] = None,
) -> None:
    """Measure one epoch, and steps, of each."""
    names = names_in(responders)
    cases = {name: (name, sessions, slates, batch_size, device) for name in names}
    results = dict(run_cases(epoch, cases, label="attention"))
    baseline = results[names[0]]
    rows: list[Row] = [
        {"responder": name, **results[name]}
        | {f"{key}_share": value / baseline[key] for key, value in results[name].items()}
        for name in names
    ]
    title = (
        f"one epoch of {sessions} sessions of {slates} slates × {_POSITIONS} items, click rate "
        f"{_CLICK_RATE:.0%}, batch {batch_size}, {describe(device)}"
    )
    publish("attention", title, _COLUMNS, rows, out=out)
    lengths = {n: (int(n), users, names) for n in names_in(positions)}
    measured = dict(run_cases(step, lengths, label="steps"))
    rows = [row for n in lengths for row in measured[n]]
    publish("steps", f"one step of {users} users, {describe('cpu')}", _STEP_COLUMNS, rows, out=out)


if __name__ == "__main__":
    run_script(main)
