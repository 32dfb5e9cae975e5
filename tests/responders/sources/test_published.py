"""The published files, where they are here, give the published figures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from responders.log.session_log import SessionLog
from responders.sources import convert
from tests.responders.sources.raw import DATA, make

REAL: list[tuple[str, str, Callable[[SessionLog], tuple], tuple]] = [
    (
        "trec-session",
        "trec_session",
        lambda log: (log.n_sessions, log.n_slates, log.n_positions, int(log.response.sum())),
        (1127, 3233, 10, 1445),
    ),
    (
        "ebnerd",
        "ebnerd_test",
        lambda log: (log.n_sessions, log.n_slates, log.n_positions, len(log.users)),
        (485, 1046, 81, 38),
    ),
    (
        "open-bandit",
        "obd_sample/random_men.csv.gz",
        lambda log: (log.n_slates, len(log.catalogue), log.catalogue.features.shape[1]),
        (10_000, 34, 28),
    ),
    (
        "open-bandit",
        "obd_sample/bts_women.csv.gz",
        lambda log: (log.n_slates, len(log.catalogue), len(log.users)),
        (10_000, 46, 212),
    ),
    (
        "movielens",
        "ml_latest_small",
        lambda log: (len(log.users), len(log.catalogue), log.n_slates),
        (610, 9742, 100_836),
    ),
    (
        "amazon",
        "amazon_beauty/Beauty.txt.gz",
        lambda log: (len(log.users), len(log.catalogue), log.n_slates),
        (22_363, 12_101, 198_502),
    ),
]


@pytest.mark.parametrize(("source", "name", "figures", "expected"), REAL)
def test_published_files(
    source: str,
    name: str,
    figures: Callable[[SessionLog], tuple],
    expected: tuple,
    logs: Path,
) -> None:
    if not (DATA / name).exists():
        pytest.skip("the published files are not here")
    log = convert(source, DATA / name, logs / "log").validate()
    assert figures(log) == expected


@pytest.mark.skipif(not (DATA / "rl4rs").exists(), reason="the published files are not here")
def test_published_items_of_rl4rs(tmp_path: Path, logs: Path) -> None:
    folder = make("rl4rs", tmp_path / "raw")
    (folder / "item_info.csv").unlink()
    shutil.copy(DATA / "rl4rs" / "item_info.csv.gz", folder)
    log = convert("rl4rs", folder, logs / "log").validate()
    assert log.catalogue.features.shape == (283, 40)
    assert np.bincount(log.catalogue.attributes["layer"]).tolist() == [0, 39, 108, 136]
    assert int(log.catalogue.attributes["special"].sum()) == 113
