"""Speed of converting raw logs, and whether memory is independent of the file size.

    python -m benchmarks.speed.ingest --source rl4rs --rows 2000000

writes synthetic files in the published format with a tenth of the rows and with all rows, converts
each in its own process, and prints rows per second and peak resident memory.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from benchmarks.speed.memory import memory, peak_memory, peak_private
from responders.log.ragged import offsets, owner
from responders.sources import convert

_BLOCK = 4096  # rows generated at a time


def text_of(values: np.ndarray, separator: str) -> pa.Array:
    """Return each row of [n, k] numbers as one string."""
    cells = pa.array(values.ravel()).cast(pa.string())
    start = pa.array(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1])
    return pc.binary_join(pa.ListArray.from_arrays(start, cells), separator)


def lines_of(columns: list[Any], separator: str) -> bytes:
    """Return the rows of several columns of numbers or strings as lines of text."""
    strings = [pa.array(c).cast(pa.string()) for c in columns]
    lines = pc.binary_join_element_wise(*strings, separator)
    joined = pc.binary_join(
        pa.ListArray.from_arrays(pa.array([0, len(lines)], pa.int32()), lines), "\n"
    )
    return joined[0].as_py().encode() + b"\n"


def _blocks(rows: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the number of rows of each block."""
    for first in range(0, rows, _BLOCK):
        yield first, min(_BLOCK, rows - first)


def write_rl4rs(folder: Path, rows: int, seed: int = 0) -> Path:
    """Write `rows` slates of 9 items in sessions of 1 to 6, with lines of the published length."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(283, 40)).round(4)
    ids = np.arange(1, 284)
    items = [ids, text_of(vectors, ","), rng.integers(1, 99, 283) / 2, ids % 3 + 1, ids % 3]
    header = b"item_id item_vec price location special_item\n"
    (folder / "item_info.csv").write_bytes(header + lines_of(items, " "))
    item_feature = text_of(vectors[:9].reshape(1, -1), ",")[0].as_py()
    user_features = text_of(rng.normal(size=(1000, 42)).round(3), ",")
    path = folder / "rl4rs_dataset_b_sl.csv"
    session = 1
    with path.open("wb") as file:
        file.write(
            b"timestamp@session_id@sequence_id@exposed_items@user_feedback@user_seqfeature@"
            b"user_protrait@item_feature@behavior_policy_id\n"
        )
        for first, n in _blocks(rows):
            length = rng.integers(1, 7, n)
            index = owner(length)[:n]  # the last session of a block may be cut
            sequence = np.arange(n) - offsets(length)[index] + 1
            user = session + index
            session += int(index[-1]) + 1
            columns = [
                2_000_000 + first + np.arange(n),
                user,
                sequence,
                text_of(rng.integers(1, 284, (n, 9)), ","),
                text_of(rng.integers(0, 2, (n, 9)), ","),
                text_of(rng.integers(1, 284, (n, 20)), ","),
                user_features.take(pa.array(user % 1000)),
                pa.array([item_feature]).take(pa.array(np.zeros(n, np.int64))),
                np.ones(n, np.int64),
            ]
            file.write(lines_of(columns, "@"))
    return folder


def write_contentwise(folder: Path, rows: int, seed: int = 0) -> Path:
    """Write `rows` interactions, half of them from one of rows / 4 recommendations."""
    rng = np.random.default_rng(seed)
    recommendations, users = max(rows // 4, 10), max(rows // 250, 5)
    with gzip.open(folder / "impressions-direct-link.csv.gz", "wb", compresslevel=1) as file:
        file.write(
            b"recommendation_id,row_position,recommendation_list_length,recommended_series_list\n"
        )
        for first, n in _blocks(recommendations):
            ids = first + np.arange(n)
            shown = _series(ids[:, None], np.arange(20))
            left, right = text_of(shown[:, :12], " "), text_of(shown[:, 12:], " ")
            series = pc.binary_join_element_wise('"[', left, "\n ", right, ']"', "")
            file.write(lines_of([ids, rng.integers(0, 9, n), np.full(n, 20), series], ","))
    with gzip.open(folder / "interactions.csv.gz", "wb", compresslevel=1) as file:
        file.write(
            b"utc_ts_milliseconds,user_id,item_id,series_id,episode_number,series_length,"
            b"item_type,recommendation_id,interaction_type,vision_factor,explicit_rating\n"
        )
        for first, n in _blocks(rows):
            recommendation = rng.integers(0, recommendations, n)
            columns = [
                1_546_300_800_000 + (first + np.arange(n)) * 700,
                recommendation * 7 % users,
                rng.integers(0, 145_000, n),
                _series(recommendation, rng.integers(0, 20, n)),
                *(np.ones(n, np.int64) for _ in range(3)),
                np.where(rng.random(n) < 0.5, -1, recommendation),
                np.zeros(n, np.int64),
                rng.random(n).round(3),
                np.full(n, -1.0),
            ]
            file.write(lines_of(columns, ","))
    return folder


def _series(recommendation: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return the series that `write_contentwise` recommends in a position."""
    return (recommendation * 31 + position * 977) % 28_000


WRITERS: dict[str, Callable[[Path, int], Path]] = {
    "rl4rs": write_rl4rs,
    "contentwise": write_contentwise,
}


def convert_here(source: str, raw: Path, out: Path) -> dict[str, Any]:
    """Convert in this process; return seconds, counts and peak memory.

    `peak_mb` is all resident memory, including pages of mapped files, which the system can reclaim;
    `private_mb` excludes them.
    """
    started, before = time.perf_counter(), memory("VmRSS")
    with peak_private() as private:
        log = convert(source, raw, out)
    seconds = time.perf_counter() - started
    peak = peak_memory()
    counts = log.card["counts"]
    return {
        "seconds": seconds,
        "before_mb": before / 1024,
        "peak_mb": peak / 1024,
        "private_mb": private[0] / 1024,
        "slates": log.n_slates,
        "sessions": log.n_sessions,
        "counts": counts,
    }


def measure(source: str, rows: int) -> dict[str, Any]:
    """Write a raw file of `rows` rows, convert it in a new process and return the measurements."""
    with tempfile.TemporaryDirectory(prefix="recsim-ingest-") as name:
        raw, out = Path(name) / "raw", Path(name) / "log"
        raw.mkdir()
        WRITERS[source](raw, rows)
        size = sum(p.stat().st_size for p in raw.iterdir())
        command = [sys.executable, "-m", "benchmarks.speed.ingest", "--child", str(raw), str(out)]
        process = subprocess.run(
            [*command, "--source", source], capture_output=True, text=True, check=False
        )
        if process.returncode:
            raise SystemExit(process.stderr)
        figures = json.loads(process.stdout)
    return {
        "source": source,
        "rows": rows,
        "file_mb": size / 2**20,
        "rows_per_second": rows / figures["seconds"],
        **figures,
    }


def _table(results: list[dict[str, Any]]) -> Table:
    table = Table(title=f"converting {results[0]['source']}")
    for name in ("rows", "file MB", "seconds", "rows/s", "peak MB", "private MB", "sessions"):
        table.add_column(name, justify="right")
    for r in results:
        table.add_row(
            f"{r['rows']:,}",
            f"{r['file_mb']:,.0f}",
            f"{r['seconds']:.1f}",
            f"{r['rows_per_second']:,.0f}",
            f"{r['peak_mb']:,.0f}",
            f"{r['private_mb']:,.0f}",
            f"{r['sessions']:,}",
        )
    return table


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", choices=sorted(WRITERS), default="rl4rs")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--child", type=Path, nargs=2, metavar=("RAW", "OUT"), help=argparse.SUPPRESS
    )
    chosen = parser.parse_args(arguments)
    if chosen.child:
        print(json.dumps(convert_here(chosen.source, *chosen.child)))
        return
    if chosen.rows < 1000:
        parser.error("--rows must be 1000 or more")
    results = [measure(chosen.source, rows) for rows in (chosen.rows // 10, chosen.rows)]
    ratio = {k: results[1][k] / results[0][k] for k in ("peak_mb", "private_mb")}
    console = Console()
    console.print(_table(results))
    console.print(
        f"ten times the rows: peak x {ratio['peak_mb']:.2f}, private x {ratio['private_mb']:.2f}"
    )
    if chosen.json:
        chosen.json.write_text(json.dumps({"results": results, "ratio": ratio}, indent=1) + "\n")


if __name__ == "__main__":
    main()
