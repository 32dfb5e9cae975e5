"""Speed of other recommender simulators: user-slate steps per second with a random policy.

    python -m benchmarks.peers.simulators --python recsim=ENV/bin/python --python sardine=…

Each peer needs its own virtual environment (see docs/simulators.md), whose interpreter runs
`measure.py` with the peer's file. Random actions are drawn before the clock starts, as in
`benchmarks.speed.throughput`; the result is the median of ten windows. One step is one user
answering one slate.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.harness import publish, run_script
from benchmarks.peers import measure
from benchmarks.peers.registry import PEERS, Peer
from benchmarks.reports.plots import plot_bars
from benchmarks.reports.tables import Cell, number
from responders.progress import progress_bar

ITEMS, SLATE = 1000, 10

_COLUMNS: dict[str, Cell] = {
    "simulator": lambda row: row["simulator"],
    "version": lambda row: row["version"] or "–",
    "setting, or reason for no result": lambda row: row["reason"] or row["setting"],
    "steps/s": number("steps_per_second", missing="–"),
}

Pythons = Annotated[
    list[str] | None,
    typer.Option(
        "--python", metavar="NAME=PATH", help="The interpreter with this simulator; repeatable."
    ),
]


def parse_pythons(pairs: Sequence[str] | None) -> dict[str, str]:
    """Return the interpreters of NAME=PATH options by peer."""
    pythons = {}
    for pair in pairs or []:
        name, equals, path = pair.partition("=")
        if not equals or name not in PEERS:
            names = ", ".join(PEERS)
            raise typer.BadParameter(f"{pair!r} is not NAME=PATH with NAME one of {names}")
        pythons[name] = path
    return pythons


def measure_all(
    pythons: Mapping[str, str], seconds: float, names: Sequence[str] = tuple(PEERS)
) -> list[dict[str, Any]]:
    """Measure the peers `names`, one after another, and return a row for each.

    Args:
        pythons: interpreters by peer, also used for other peers of the same distribution; by
            default the running one.
        seconds: for each row.
        names: keys of `PEERS`.

    Returns:
        Rows with `simulator`, `version`, `setting`, and `steps_per_second` or a `reason`.
    """
    shared = {PEERS[name].distribution: path for name, path in pythons.items()}
    rows = []
    for name in progress_bar(names, unit="simulator"):
        peer = PEERS[name]
        python = pythons.get(name, shared.get(peer.distribution, sys.executable))
        rows.append({"simulator": name, "setting": peer.setting, **_run(peer, python, seconds)})
    return rows


def _run(peer: Peer, python: str, seconds: float) -> dict[str, Any]:
    command = [
        *(str(Path(shutil.which(python) or python).absolute()), str(Path(measure.__file__))),
        *(peer.code, peer.distribution, "--seconds", str(seconds)),
        *("--size", str(peer.users), str(ITEMS), str(SLATE)),
    ]
    failed = {"version": None, "steps_per_second": None}
    try:
        with tempfile.TemporaryDirectory() as folder:  # T-RECS writes a log in its working folder
            process = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=300 + 10 * seconds,
                cwd=folder,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {**failed, "reason": f"{type(error).__name__}: {error}"[:200]}
    try:
        row: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        lines = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
        return {**failed, "reason": lines[-1][:200]}
    return row


def publish_simulators(rows: Sequence[Mapping[str, Any]], out: Path | None) -> None:
    """Print the rows, the fastest first; with `out`, write simulators.csv, .md and .png there."""
    ordered = sorted(rows, key=lambda row: -(row["steps_per_second"] or 0))
    publish(
        "simulators",
        "user-slate steps per second of simulators, this machine, this run",
        _COLUMNS,
        ordered,
        caption="ours are trained networks, other users are formulas; see docs/simulators.md",
        out=out,
        plot=lambda _, path: _plot([row for row in ordered if row["steps_per_second"]], path),
    )


def _plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    names = [f"{row['simulator']}: {row['setting'][:62]}" for row in rows]
    plot_bars(
        path,
        "simulators",
        names,
        [row["steps_per_second"] for row in rows],
        "user-slate steps per second, random policy (log scale)",
        highlight=[name for name in names if name.startswith("recsim-env")],
        log=True,
    )


def main(
    python: Pythons = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Per row.")] = 5.0,
    out: Annotated[Path | None, typer.Option(help="Folder for table and plot.")] = None,
) -> None:
    """Measure all simulators."""
    publish_simulators(measure_all(parse_pythons(python), seconds), out)


if __name__ == "__main__":
    run_script(main)
