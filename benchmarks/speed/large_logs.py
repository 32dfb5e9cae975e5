"""Whether memory is independent of the size of a log, from raw file to trained responder.

    python -m benchmarks.speed.large_logs --millions 1,4,8,16

repeats a synthetic log with new session ids until it has so many million slates, writes it as the
text of one web search log, and then, each in a process of its own, converts it and trains a
responder for one epoch, with validation, test and everything that is estimated from the log. It
prints the peak of private memory (`RssAnon`: without pages of mapped files, which the system can
reclaim), its growth between the last two logs, and what 100 million slates would take. Metrics and
leaving are measured on a part of a large log, so what they take stops growing at some size.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.speed.ingest import lines_of, text_of
from benchmarks.speed.memory import peak_private
from responders import SessionLog, fit
from responders.known_truth.logs import synthesize
from responders.known_truth.presets import PRESETS
from responders.log.ragged import owner
from responders.sources import convert

_SESSIONS = 20_000  # of the log that is repeated


def write_raw(log: SessionLog, slates: int, path: Path) -> None:
    """Write `slates` slates or a few more: whole copies of `log`, as source trec-session reads."""
    shown = text_of(np.asarray(log.slate) + 1, ",")  # 0 = empty
    zeros = text_of(np.zeros_like(log.slate), ",")
    rest = pc.binary_join_element_wise(shown, zeros, text_of(log.response, ","), "\t")
    session = owner(log.session_length)
    with path.open("wb") as file:
        for copy in range(-(-slates // log.n_slates)):
            ids = pa.array(session + copy * log.n_sessions)
            file.write(lines_of([ids, np.zeros(log.n_slates, np.int64), rest], "\t"))


def run_here(task: str, responder: str, source: Path, out: Path) -> dict[str, float]:
    """Convert or train in this process; return the peak of private memory."""
    with peak_private() as peak:
        if task == "convert":
            log = convert("trec-session", source, out)
        else:
            log = SessionLog.load(source)
            settings = {"epochs": 1, "batch_size": 1024}
            fit(log, responder, out, settings, device="cpu", progress=False)
    return {"mb": peak[0] / 1024, "slates": log.n_slates, "sessions": log.n_sessions}


def measure(base: SessionLog, millions: float, responder: str, folder: Path) -> dict[str, Any]:
    """Convert a log of this size and train on it, each in a new process."""
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="recsim-large-", dir=folder) as name:
        raw, log, out = (Path(name) / n for n in ("train_per_query_quid.txt", "log", "run"))
        write_raw(base, int(millions * 1e6), raw)
        for task, source, target in (("convert", raw, log), ("train", log, out)):
            command = [
                sys.executable,
                "-m",
                "benchmarks.speed.large_logs",
                "--responder",
                responder,
            ]
            command += ["--child", task, str(source), str(target)]
            process = subprocess.run(command, capture_output=True, text=True, check=False)
            if process.returncode:
                raise SystemExit(process.stderr)
            found = json.loads(process.stdout.splitlines()[-1])
            row |= {"slates": found["slates"], "sessions": found["sessions"]}
            row[f"{task}_mb"] = found["mb"]
            raw.unlink(missing_ok=True)
    return row


def growth(rows: list[dict[str, Any]], column: str) -> float:
    """Return MB for each further million slates, from the last but one log to the last."""
    first, last = rows[-2:]
    return float((last[column] - first[column]) / (last["slates"] - first["slates"]) * 1e6)


def _table(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["slates", "sessions", "conversion (MB)", "training (MB)"]]
    for r in rows:
        counts = [f"{r['slates']:,}", f"{r['sessions']:,}"]
        table.append([*counts, f"{r['convert_mb']:,.0f}", f"{r['train_mb']:,.0f}"])
    if len(rows) > 1:
        grows = {column: growth(rows, column) for column in ("convert_mb", "train_mb")}
        table.append(["each further million", "", *(f"{g:.1f}" for g in grows.values())])
        left = 100 - rows[-1]["slates"] / 1e6
        reached = [rows[-1][column] + left * g for column, g in grows.items()]
        table.append(["100 million, extrapolated", "", *(f"{m:,.0f}" for m in reached)])
    return table


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", default="1,4", help="slates of the logs, comma-separated")
    parser.add_argument("--responder", default="mf", help="what is trained")
    parser.add_argument("--folder", type=Path, help="for the logs; about 400 bytes a slate")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument(
        "--child", nargs=3, metavar=("TASK", "SOURCE", "OUT"), help=argparse.SUPPRESS
    )
    chosen = parser.parse_args(arguments)
    if chosen.child:
        task, source, out = chosen.child
        print(json.dumps(run_here(task, chosen.responder, Path(source), Path(out))))
        return
    rows = []
    with tempfile.TemporaryDirectory(prefix="recsim-large-", dir=chosen.folder) as folder:
        base = synthesize(Path(folder) / "base", PRESETS["contentwise"], _SESSIONS, progress=False)
        for millions in chosen.millions.split(","):
            rows.append(measure(base, float(millions), chosen.responder, Path(folder)))
            print(*_table(rows)[len(rows)], sep=" | ", flush=True)
    table = _table(rows)
    print(*(" | ".join(row) for row in table), sep="\n")
    if chosen.csv:
        with chosen.csv.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(table)


if __name__ == "__main__":
    main()
