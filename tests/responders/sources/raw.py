"""Raw files of every source for the tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from responders.log.session_log import SessionLog

CASES = Path(__file__).parents[2] / "cases"
DATA = Path(__file__).parents[4] / "shared" / "data"
NAMES = ("contentwise", "rl4rs", "trec-session", "open-bandit", "ebnerd", "movielens", "amazon")


def write_ebnerd(folder: Path, **changes: list) -> Path:
    columns: dict[str, pa.Array] = {
        "impression_id": pa.array([1, 2, 3], pa.uint32()),
        "impression_time": pa.array([2_000_000, 1_500_000, 9_000_000], pa.timestamp("us")),
        "article_ids_inview": pa.array([[7, 8], [5, 7, 9, 6], [9]], pa.large_list(pa.int32())),
        "article_ids_clicked": pa.array([[8], [7, 6], []], pa.large_list(pa.int32())),
        "user_id": pa.array([40, 40, 30], pa.uint32()),
        "session_id": pa.array([2, 2, 1], pa.uint32()),
    }
    columns |= {k: pa.array(v, columns[k].type) for k, v in changes.items()}
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / "behaviors.parquet")
    return folder


def make(source: str, folder: Path) -> Path:
    """Copy the case files of a source to `folder` and return its RAW."""
    if source == "ebnerd":
        return write_ebnerd(folder)
    shutil.copytree(CASES / source.replace("-", "_"), folder)
    return folder


def equal(a: SessionLog, b: SessionLog) -> bool:
    names = ("slate", "response", "session_start", "user", "time")
    same = all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)
    same &= a.catalogue.ids.tolist() == b.catalogue.ids.tolist()
    same &= a.users.ids.tolist() == b.users.ids.tolist()
    same &= np.array_equal(a.users.features, b.users.features)
    if a.propensity is not None and b.propensity is not None:
        same &= np.array_equal(a.propensity, b.propensity)
    return same and a.card["counts"] == b.card["counts"]


def shown(log: SessionLog) -> list[list[int]]:
    """Return the raw ids of each slate, without the padding at its end."""
    ids = np.append(log.catalogue.ids, -1)
    return [ids[row[: np.max(np.flatnonzero(row >= 0)) + 1]].tolist() for row in log.slate]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
