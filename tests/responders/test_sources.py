"""The readers of raw logs: right results, one clear error per fault, nothing left behind."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responders.errors import InputError
from responders.log.catalogue import Catalogue
from responders.log.session_log import SessionLog
from responders.registry import load
from responders.sources import SOURCES, convert
from responders.sources._reading import assemble, parse, staging, text
from responders.sources._reading.slates import Slates, SourceSpec

CASES = Path(__file__).parents[1] / "cases"
DATA = Path(__file__).parents[3] / "shared" / "data"
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


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """An empty folder for logs: what is not asked for must not stay in it."""
    folder = tmp_path / "logs"
    folder.mkdir()
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


# --- right results -----------------------------------------------------------------------------


@pytest.mark.parametrize("source", NAMES)
def test_every_source_makes_a_valid_log_with_a_full_card(
    source: str, tmp_path: Path, logs: Path
) -> None:
    log = convert(source, make(source, tmp_path / "raw"), logs / "log").validate()
    assert set(log.card) >= {"name", "source", "licence", "synthetic", "converter", "counts"}
    assert log.card["synthetic"] is False
    counts = log.card["counts"]
    assert counts["slates_kept"] == log.n_slates
    assert counts["sessions_kept"] == log.n_sessions
    assert counts["clicks"] == int(log.response.sum())
    assert [p.name for p in logs.iterdir()] == ["log"]
    left = {p.name for p in (logs / "log").iterdir()} - {".cache"}
    tables = {"slates.parquet", "sessions.parquet", "catalogue.parquet", "users.parquet"}
    assert left == tables | {"card.json"}


def test_rl4rs(tmp_path: Path, logs: Path) -> None:
    log = convert("rl4rs", make("rl4rs", tmp_path / "raw"), logs / "log")
    assert log.session_length.tolist() == [4, 3]
    assert log.time.tolist() == [105, 106, 107, 110, 200, 201, 202]
    assert shown(log)[:4] == [
        [1, 2, 3, 4, 5, 6, 7, 8, 9],
        [4, 5, 6, 1, 2, 3, 7, 8, 9],
        [2, 3, 1, 5, 4, 6, 8],
        [9, 8, 7, 6, 5, 4, 3, 2, 1],
    ]
    assert log.response[:3].tolist() == [
        [1, 0, 0, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0, 0, 1],
        [0, 1, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert log.catalogue.ids.tolist() == list(range(1, 10))
    assert log.catalogue.features.shape == (9, 40)
    assert log.catalogue.features[0, :3] == pytest.approx([-0.3, 0.0, 0.3])
    assert log.catalogue.price is not None
    assert log.catalogue.price[:2].tolist() == [1.5, 3.0]
    assert log.catalogue.attributes["layer"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert np.flatnonzero(log.catalogue.attributes["special"]).tolist() == [8]
    assert log.users.ids.tolist() == [7, 8]
    assert log.users.features[1, :2].tolist() == [800, 801]
    assert log.users.features.shape == (2, 42)
    counts = log.card["counts"]
    assert (counts["ties_moved"], counts["sessions_too_short"]) == (2, 1)


def test_rl4rs_leaves_out_user_features_that_differ_in_length(tmp_path: Path, logs: Path) -> None:
    folder = make("rl4rs", tmp_path / "raw")
    edit(folder / "rl4rs_dataset_b_sl.csv", "@900,901,", "@901,")
    log = convert("rl4rs", folder, logs / "log").validate()
    assert log.users.features.shape == (2, 0)
    assert "left out" in log.card["user_features"]


def test_rl4rs_takes_part_b_of_several_or_the_one_asked_for(tmp_path: Path, logs: Path) -> None:
    folder = make("rl4rs", tmp_path / "raw")
    text = (folder / "rl4rs_dataset_b_sl.csv").read_text().replace("@8@", "@88@")
    (folder / "rl4rs_dataset_a_sl.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert convert("rl4rs", folder, logs / "b").users.ids.tolist() == [7, 8]
    assert convert("rl4rs", folder, logs / "a", which="a").users.ids.tolist() == [7, 88]
    file = folder / "rl4rs_dataset_a_sl.csv.gz"
    assert convert("rl4rs", file, logs / "file").users.ids.tolist() == [7, 88]
    with pytest.raises(InputError, match=r"no rl4rs_dataset_c_sl.csv; .*a, b"):
        convert("rl4rs", folder, logs / "c", which="c")


def check_contentwise(log: SessionLog) -> None:
    log.validate()
    assert shown(log) == [[12, 53, 7], [12, 7], [*range(1, 25), 53]]
    assert [np.flatnonzero(r).tolist() for r in log.response] == [[0, 1], [1], [24]]
    assert log.time.tolist() == [5000, 5001, 9000]
    assert log.users.ids.tolist() == [1]
    counts = log.card["counts"]
    expected = {
        "interactions_read": 10,
        "interactions_without_recommendation": 1,
        "interactions_of_unknown_recommendation": 1,
        "impressions_read": 6,
        "impressions_without_interaction": 1,
        "recommendation_series_groups": 7,
        "groups_outside_the_list": 1,
        "slates_read": 5,
        "sessions_too_short": 1,
        "ties_moved": 1,
        "items": 25,
    }
    assert {k: counts[k] for k in expected} == expected


@pytest.mark.parametrize("packed", [False, True])
def test_contentwise_text(packed: bool, tmp_path: Path, logs: Path) -> None:
    folder = make("contentwise", tmp_path / "raw")
    for path in list(folder.iterdir()) if packed else []:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    check_contentwise(convert("contentwise", folder, logs / "log"))


@pytest.mark.parametrize("printed", [False, True])
@pytest.mark.parametrize("index", ["recommendation_id", "__index_level_0__"])
def test_contentwise_parquet(printed: bool, index: str, tmp_path: Path, logs: Path) -> None:
    case, folder = CASES / "contentwise", tmp_path / "raw"
    for name in ("interactions", "impressions-direct-link"):
        (folder / name).mkdir(parents=True)
        chunks = list(text.read_text(case / f"{name}.csv", _header(case / f"{name}.csv")))
        (chunk,) = chunks
        columns = {n: chunk.column(n) for n in chunk.table.column_names}
        for n in set(columns) - {"recommended_series_list", "vision_factor", "explicit_rating"}:
            columns[n] = pa.array(parse.integers(chunk, n).astype(np.int32 if n != "x" else int))
        if name == "interactions":
            ms = parse.integers(chunk, "utc_ts_milliseconds")
            columns["utc_ts_milliseconds"] = pa.array(ms, pa.timestamp("ms"))
        else:
            columns[index] = columns.pop("recommendation_id")
            if not printed:
                lists = parse.integer_lists(chunk, "recommended_series_list", None)
                columns["recommended_series_list"] = staging.to_lists(
                    lists.values, lists.length, np.int32
                )
        table = pa.table(columns)
        half = len(table) // 2
        pq.write_table(table.slice(0, half), folder / name / "part.0.parquet")
        pq.write_table(table.slice(half), folder / name / "part.1.parquet")
    check_contentwise(convert("contentwise", folder, logs / "log"))


def _header(path: Path) -> list[str]:
    return path.read_text().splitlines()[0].split(",")


def test_contentwise_cuts_positions(tmp_path: Path, logs: Path) -> None:
    folder = make("contentwise", tmp_path / "raw")
    log = convert("contentwise", folder, logs / "log", max_positions=2).validate()
    assert shown(log) == [[12, 53], [12, 7], [1, 2]]
    assert log.card["counts"]["clicks_cut_off"] == 1


def test_trec_session(tmp_path: Path, logs: Path) -> None:
    folder = make("trec-session", tmp_path / "raw")
    log = convert("trec-session", folder, logs / "log")
    assert log.users.ids.tolist() == [30, 31, 40]
    assert log.session_length.tolist() == [1, 2, 2]
    assert log.time.tolist() == [0, 0, 1, 0, 1]
    assert shown(log)[0] == [11, 11, *range(31, 39)]
    assert shown(log)[4] == [51, 52, 53, 54, 55]
    assert log.response[0].tolist() == [1, 1] + [0] * 8
    assert 91 not in log.catalogue.ids
    alone = convert("trec-session", folder / "test_per_query_quid.txt", logs / "alone")
    assert alone.users.ids.tolist() == [50]
    (folder / "train_per_query_quid.txt").unlink()
    with pytest.raises(InputError, match=r"no train_per_query_quid.txt.*test_per.*valid_per"):
        convert("trec-session", folder, logs / "none")


def test_trec_session_keeps_equal_ids_of_two_files_apart(tmp_path: Path, logs: Path) -> None:
    folder = make("trec-session", tmp_path / "raw")
    path = folder / "valid_per_query_quid.txt"
    path.write_text(path.read_text().replace("40\t", "31\t"))
    log = convert("trec-session", folder, logs / "log").validate()
    assert log.users.ids.tolist() == ["train/30", "train/31", "valid/31"]
    assert log.session_length.tolist() == [1, 2, 2]


def test_open_bandit(tmp_path: Path, logs: Path) -> None:
    log = convert("open-bandit", make("open-bandit", tmp_path / "raw"), logs / "log")
    assert log.slate.tolist() == [[-1, -1, 1], [3, -1, -1], [-1, 0, -1], [1, -1, -1]]
    assert np.argwhere(log.response).tolist() == [[1, 0]]
    assert log.propensity is not None
    assert (log.propensity == np.where(log.slate >= 0, np.float32(0.25), 0)).all()
    assert log.user.tolist() == [0, 1, 0, 2]
    assert log.users.features.sum(1).tolist() == [4, 4, 4]
    assert log.users.features.shape[1] == len(log.card["user_feature_columns"]) == 6
    assert log.catalogue.features.shape[1] == len(log.card["item_feature_columns"]) == 1 + 2 + 1 + 4
    assert log.catalogue.features[:, 0].tolist() == [-0.5, -0.25, 0.0, 0.25]
    assert (np.diff(log.time) == [23, 123, 0]).all()


def test_ebnerd(tmp_path: Path, logs: Path) -> None:
    log = convert("ebnerd", make("ebnerd", tmp_path / "raw"), logs / "log")
    assert shown(log) == [[9], [5, 7, 9, 6], [7, 8]]
    assert [np.flatnonzero(r).tolist() for r in log.response] == [[], [1, 3], [1]]
    assert log.time.tolist() == [9, 1, 2]
    assert log.users.ids[log.user].tolist() == [30, 40]


def test_movielens(tmp_path: Path, logs: Path) -> None:
    folder = make("movielens", tmp_path / "raw")
    log = convert("movielens", folder, logs / "log")
    assert shown(log) == [[10], [30], [20], [40], [10]]
    assert log.response.ravel().tolist() == [1, 0, 1, 0, 1]
    assert log.time.tolist() == [400, 500, 501, 900, 1000]
    assert log.card["counts"]["ties_moved"] == 1
    low = convert("movielens", folder / "ratings.csv", logs / "low", threshold=3.5)
    assert low.response.ravel().tolist() == [1, 1, 1, 0, 1]


def test_amazon(tmp_path: Path, logs: Path) -> None:
    log = convert("amazon", make("amazon", tmp_path / "raw"), logs / "log")
    assert shown(log) == [[1], [2], [3], [4], [2], [5], [1], [6], [2]]
    assert log.response.all()
    assert log.time.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]


def test_slates_without_an_item_are_counted_and_left_out(tmp_path: Path, logs: Path) -> None:
    folder = make("trec-session", tmp_path / "raw")
    path = folder / "train_per_query_quid.txt"
    edit(path, "[21, 22, 23, 24, 25, 26, 27, 28, 29, 30]", str([0] * 10))
    log = convert("trec-session", path, logs / "log").validate()
    assert log.card["counts"]["slates_empty"] == 1
    assert log.n_slates == 2


def test_a_slate_without_an_item_does_not_interrupt_its_session(tmp_path: Path, logs: Path) -> None:
    path = tmp_path / "one_per_query_quid.txt"
    rows = [("[1, 2]", "[0, 1]"), ("[0, 0]", "[0, 0]"), ("[2, 1]", "[0, 0]")]
    path.write_text("".join(f"5\t1\t{shown}\t[1, 1]\t{click}\n" for shown, click in rows))
    log = convert("trec-session", path, logs / "log").validate()
    assert shown(log) == [[1, 2], [2, 1]]
    assert log.time.tolist() == [0, 1]


# --- the index of a given catalogue --------------------------------------------------------------


@pytest.mark.parametrize("source", ["contentwise", "trec-session", "movielens", "ebnerd", "amazon"])
def test_catalogue_keeps_its_index_and_gets_cold_items(
    source: str, tmp_path: Path, logs: Path
) -> None:
    folder = make(source, tmp_path / "raw")
    whole = convert(source, folder, logs / "whole")
    first = Catalogue(whole.catalogue.ids[[2, 0]])
    log = convert(source, folder, logs / "log", catalogue=first).validate()
    assert log.catalogue.ids[:2].tolist() == first.ids.tolist()
    assert log.catalogue.fingerprint(2) == first.fingerprint()
    assert log.card["counts"]["cold_items"] == len(whole.catalogue) - 2
    assert shown(log) == shown(whole)


def test_catalogue_of_another_log_and_an_item_table(tmp_path: Path, logs: Path) -> None:
    folder = make("rl4rs", tmp_path / "raw")
    whole = convert("rl4rs", folder, logs / "whole")
    some = Catalogue(
        whole.catalogue.ids[3:],
        whole.catalogue.features[3:],
        whole.catalogue.price[3:] if whole.catalogue.price is not None else None,
        {k: v[3:] for k, v in whole.catalogue.attributes.items()},
    )
    log = convert("rl4rs", folder, logs / "log", catalogue=some).validate()
    assert log.catalogue.ids.tolist() == [4, 5, 6, 7, 8, 9, 1, 2, 3]
    assert log.card["counts"]["cold_items"] == 3
    edit(folder / "rl4rs_dataset_b_sl.csv", "@9,8,7,6,5,4,3,2,1@", "@9,8,7,6,5,4,3,2,77@")
    with pytest.raises(InputError, match="line 4: item 77 is not in the item table"):
        convert("rl4rs", folder, logs / "bad", catalogue=some)


def test_catalogue_of_other_kind_of_ids(tmp_path: Path, logs: Path) -> None:
    folder = make("movielens", tmp_path / "raw")
    with pytest.raises(InputError, match="ids of one kind"):
        convert("movielens", folder, logs / "log", catalogue=Catalogue(np.array(["a", "b"])))
    assert not list(logs.iterdir())


# --- faults --------------------------------------------------------------------------------------


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


RL4RS, TREC = "rl4rs_dataset_b_sl.csv", "train_per_query_quid.txt"
BANDIT, IMPRESSIONS = "random_men.csv", "impressions-direct-link.csv"
NINE = "@9,8,7,6,5,4,3,2,1@"
FAULTS = [
    ("rl4rs", RL4RS, "\n110@", "\nten@", [RL4RS, "line 4", "timestamp", "'ten'"]),
    ("rl4rs", RL4RS, "\n110@", "\n-110@", [RL4RS, "line 4", "-110", "negative"]),
    ("rl4rs", RL4RS, "\n110@", "\n1546300800000@", [RL4RS, "line 4", "milliseconds"]),
    ("rl4rs", RL4RS, "110@7@3@", "110@7@1@", [RL4RS, "line 4", "7", "sequence_id twice"]),
    ("rl4rs", RL4RS, NINE, "@9,8,7,x,5,4,3,2,1@", ["line 4", "exposed_items", "'x'"]),
    ("rl4rs", RL4RS, NINE, "@9,8,7,6,5,4,3,2@", ["line 4", "9 values for 8 exposed_items"]),
    ("rl4rs", RL4RS, NINE, "@9,8,7,6,5,4,3,2,10@", ["line 4", "item 10", "item table"]),
    ("rl4rs", RL4RS, "@0,0,0,0,0,0,0,0,0@", "@0,0,2,0,0,0,0,0,0@", ["line 4", "click 2"]),
    ("rl4rs", RL4RS, "@0,0,0,0,0,0,0,0,0@", "@0,0,-1,0,0,0,0,0,0@", ["line 4", "click -1"]),
    ("rl4rs", RL4RS, "@0,1,0,0,0,0,0,0,0@", "@0,1,0,0,0,0,0,0,1@", ["line 6", "empty position"]),
    ("rl4rs", RL4RS, "\n110@7@", "\n110@", [RL4RS, "line 4", "8 fields where 9", "110@3"]),
    (
        "rl4rs",
        RL4RS,
        "exposed_items",
        "exposed_itms",
        ["no column 'exposed_items'", "did you mean"],
    ),
    ("rl4rs", "item_info.csv", "\n3 ", "\n2 ", ["item_info.csv, line 4", "item 2", "twice"]),
    ("rl4rs", "item_info.csv", " 1.5 ", " nan ", ["item_info.csv, line 2", "price", "'nan'"]),
    ("rl4rs", "item_info.csv", " 1.5 ", " 1e300 ", ["item_info.csv, line 2", "price", "'1e300'"]),
    ("trec-session", TREC, "31\t6", "x\t6", [TREC, "line 2", "session_id", "'x'"]),
    ("trec-session", TREC, "31\t6\t", "31\t", [TREC, "line 2", "4 fields where 5"]),
    ("trec-session", TREC, "[1, 0,", "[0,", [TREC, "line 1", "9 clicks for 10 documents"]),
    ("trec-session", TREC, "[1, 0,", "[7, 0,", [TREC, "line 1", "click 7"]),
    ("trec-session", TREC, "30\t7", "31\t7", None),
    ("contentwise", "interactions.csv", "5000200", "-5000200", ["line 3", "-5000200", "negative"]),
    ("contentwise", "interactions.csv", "5000300,1,902", "5000300,a,902", ["line 4", "'a'"]),
    ("contentwise", IMPRESSIONS, "[88]", "[8 ... 8]", [IMPRESSIONS, "line 6", "'...'"]),
    ("contentwise", IMPRESSIONS, "\n105,", "\n101,", [IMPRESSIONS, "line 6", "101", "twice"]),
    ("contentwise", IMPRESSIONS, '24 53]"', "24 53]", [IMPRESSIONS, "line 3", "quote"]),
    ("open-bandit", BANDIT, ",1,3,0,0.25", ",1,4,0,0.25", [BANDIT, "line 2", "position 4"]),
    ("open-bandit", BANDIT, ",3,1,1,0.25", ",3,1,1,0.0", [BANDIT, "line 3", "propensity 0.0"]),
    ("open-bandit", BANDIT, ",3,1,1,0.25", ",3,1,1,inf", [BANDIT, "line 3", "'inf'"]),
    ("open-bandit", BANDIT, ",3,1,1,0.25", ",9,1,1,0.25", [BANDIT, "line 3", "item 9"]),
    ("open-bandit", BANDIT, "2019-11-24 00:05:39+", "yesterday+", [BANDIT, "line 4", "yesterday"]),
    ("movielens", "ratings.csv", "3.5,500", "3.5,-500", ["ratings.csv, line 3", "-500"]),
    ("movielens", "ratings.csv", "1,30,3.5", "1,30,good", ["ratings.csv, line 3", "'good'"]),
    ("amazon", "Beauty.txt", "2 4 2", "2", ["Beauty.txt, line 2", "'2'"]),
    ("amazon", "Beauty.txt", "2 4 2", "2 4 b2", ["Beauty.txt, line 2", "'b2'"]),
    ("amazon", "Beauty.txt", "\n3 5", "\n1 5", ["Beauty.txt, line 3", "session 1", "together"]),
]


@pytest.mark.parametrize(("source", "name", "old", "new", "says"), FAULTS)
def test_faults_name_file_line_and_value(
    source: str,
    name: str,
    old: str,
    new: str,
    says: list[str] | None,
    tmp_path: Path,
    logs: Path,
) -> None:
    folder = make(source, tmp_path / "raw")
    edit(folder / name, old, new)
    if says is None:  # not a fault: the session goes on in the next line
        assert convert(source, folder, logs / "log").session_length.tolist() == [3, 2]
        return
    with pytest.raises(InputError) as caught:
        convert(source, folder, logs / "log")
    for part in says:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(logs.iterdir())


def test_a_location_of_rl4rs_that_is_no_layer_is_refused(tmp_path: Path, logs: Path) -> None:
    folder = make("rl4rs", tmp_path / "raw")
    path = folder / "item_info.csv"
    lines = path.read_text().splitlines()
    k = lines[0].split(" ").index("location")
    for value in ("300", "257", "0", "-1"):
        fields = lines[2].split(" ")
        fields[k] = value
        path.write_text("\n".join([*lines[:2], " ".join(fields), *lines[3:]]))
        with pytest.raises(InputError, match=f"item_info.csv, line 3, column location: .*{value}"):
            convert("rl4rs", folder, logs / "log")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_refused_with_a_remedy(encoding: str, tmp_path: Path, logs: Path) -> None:
    path = tmp_path / "ratings.csv"
    text = (CASES / "movielens" / "ratings.csv").read_text()
    path.write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match="is UTF-16 text, not UTF-8; convert it with `iconv"):
        convert("movielens", path, logs / "log")


TYPES = [pa.int8(), pa.float64(), pa.string(), pa.binary(), pa.bool_(), pa.null(), pa.date32()]
TYPES += [pa.timestamp("s"), pa.time64("us"), pa.duration("s"), pa.decimal128(9, 2)]
TYPES += [pa.list_(pa.string()), pa.list_(pa.int8(), 2), pa.struct({"a": pa.int8()})]
TYPES += [pa.dictionary(pa.int8(), pa.string()), pa.map_(pa.string(), pa.int8())]
EBNERD = ["impression_time", "article_ids_inview", "article_ids_clicked", "user_id", "session_id"]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("column", EBNERD)
def test_columns_of_a_wrong_type_are_refused(
    column: str, kind: pa.DataType, tmp_path: Path, logs: Path
) -> None:
    path = write_ebnerd(tmp_path / "raw") / "behaviors.parquet"
    table = pq.read_table(path)
    values = pa.nulls(len(table), kind)
    pq.write_table(table.set_column(table.column_names.index(column), column, values), path)
    may_be_empty = pa.types.is_list(kind) or pa.types.is_string(kind)
    if column == "article_ids_clicked" and may_be_empty:  # a missing list: nothing was clicked
        assert convert("ebnerd", path, logs / "log").response.sum() == 0
        return
    with pytest.raises(InputError, match="article_ids|" + column):
        convert("ebnerd", path, logs / "log")
    assert not list(logs.iterdir())


def test_a_session_that_is_interrupted_by_another(tmp_path: Path, logs: Path) -> None:
    path = make("trec-session", tmp_path / "raw") / TREC
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(
        InputError, match="line 4: session 31 continues after lines of another session"
    ):
        convert("trec-session", path, logs / "log")
    assert not list(logs.iterdir())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"article_ids_clicked": [[8], [4], []]}, "row 1, column article_ids_clicked: article 4"),
        ({"impression_time": [2, -5_000_000, 3]}, "row 1: time -5 is negative"),
        ({"user_id": [40, 41, 30]}, "row 0: session 2 has two users"),
        ({"session_id": [2, None, 1]}, "row 1, column session_id: None is not an integer"),
    ],
)
def test_faults_of_ebnerd(changes: dict, says: str, tmp_path: Path, logs: Path) -> None:
    folder = write_ebnerd(tmp_path / "raw", **changes)
    with pytest.raises(InputError, match=says):
        convert("ebnerd", folder, logs / "log")
    assert not list(logs.iterdir())


@pytest.mark.parametrize("source", NAMES)
def test_missing_and_damaged_files(source: str, tmp_path: Path, logs: Path) -> None:
    with pytest.raises(InputError, match="no file or folder"):
        convert(source, tmp_path / "nowhere", logs / "log")
    with pytest.raises(InputError, match="no file"):
        load(SOURCES, source, "source")(tmp_path / "nowhere", logs / "log")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"(has no|found: none)"):
        convert(source, empty, logs / "log")
    folder = make(source, tmp_path / "raw")
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"(is empty|cannot be read as Parquet)"):
        convert(source, folder, logs / "log")
    assert not list(logs.iterdir())


def test_damaged_gzip_and_text(tmp_path: Path, logs: Path) -> None:
    path = tmp_path / "ratings.csv.gz"
    text = (CASES / "movielens" / "ratings.csv").read_bytes()
    path.write_bytes(gzip.compress(text)[:-9])
    with pytest.raises(InputError, match=r"ratings.csv.gz is damaged"):
        convert("movielens", path, logs / "log")
    packed = bytearray(gzip.compress(text))
    packed[-8] ^= 1  # the checksum
    path.write_bytes(packed)
    with pytest.raises(InputError, match=r"ratings.csv.gz is damaged"):
        convert("movielens", path, logs / "log")
    path.write_bytes(text.replace(b"1,30,", b"1,3\xff0,"))
    with pytest.raises(InputError, match=r"line 3: .* is not UTF-8"):
        convert("movielens", path, logs / "log")
    path.write_bytes(text.splitlines()[0] + b"\n\n")
    with pytest.raises(InputError, match="has no rows"):
        convert("movielens", path, logs / "log")
    path.write_bytes(text.replace(b"\n1,30", b"\r1,30"))
    with pytest.raises(InputError, match="carriage return"):
        convert("movielens", path, logs / "log")
    assert not list(logs.iterdir())


@pytest.mark.parametrize("source", [name for name in NAMES if name != "open-bandit"])
def test_no_session_survives(source: str, tmp_path: Path, logs: Path) -> None:
    folder = make(source, tmp_path / "raw")
    with pytest.raises(InputError, match=r"there are \d+ sessions, the longest of \d slates"):
        convert(source, folder, logs / "log", min_slates=50, max_slates=60)
    with pytest.raises(InputError, match="leave no session"):
        convert(source, folder, logs / "log", min_slates=3, max_slates=2)
    assert not list(logs.iterdir())


def test_bounds_of_sessions(tmp_path: Path, logs: Path) -> None:
    folder = make("amazon", tmp_path / "raw")
    log = convert("amazon", folder, logs / "log", min_slates=3, max_slates=3)
    assert log.users.ids.tolist() == [1]
    assert log.catalogue.ids.tolist() == [1, 2, 3]
    counts = log.card["counts"]
    assert (counts["sessions_too_short"], counts["sessions_too_long"]) == (1, 1)


def test_convert_names_what_it_does_not_know(tmp_path: Path, logs: Path) -> None:
    folder = make("rl4rs", tmp_path / "raw")
    with pytest.raises(InputError, match="source 'rlrs' is unknown; did you mean rl4rs"):
        convert("rlrs", folder, logs / "log")
    with pytest.raises(InputError, match="no option 'min_slate'; did you mean min_slates"):
        convert("rl4rs", folder, logs / "log", min_slate=2)
    convert("rl4rs", folder, logs / "log")
    with pytest.raises(InputError, match="exists already"):
        convert("rl4rs", folder, logs / "log")
    assert convert("rl4rs", folder, logs / "log", overwrite=True, min_slates=2).n_sessions == 3
    assert [p.name for p in logs.iterdir()] == ["log"]
    (folder / "item_info.csv").unlink()
    with pytest.raises(InputError, match=r"no item_info.csv .*rl4rs_dataset_b_sl.csv"):
        convert("rl4rs", folder, logs / "other")


def test_the_registry_imports_no_large_package() -> None:
    program = """
import sys
import responders.sources
print([name for name in ("torch", "pandas", "duckdb", "pyarrow") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_every_source_can_be_loaded() -> None:
    assert set(NAMES) <= SOURCES.keys()
    for name in SOURCES:
        assert callable(load(SOURCES, name, "source"))


# --- lines and chunks ----------------------------------------------------------------------------


@pytest.mark.parametrize("source", NAMES)
@pytest.mark.parametrize("chunk_rows", [1, 2])
def test_chunks_do_not_matter(source: str, chunk_rows: int, tmp_path: Path, logs: Path) -> None:
    folder = make(source, tmp_path / "raw")
    whole = convert(source, folder, logs / "whole")
    assert equal(convert(source, folder, logs / "parts", chunk_rows=chunk_rows), whole)


_FIELD = st.text(st.sampled_from('ab," \n'), max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(_FIELD, _FIELD, st.integers(0, 3)), min_size=1, max_size=8),
    chunk_rows=st.integers(1, 5),
    block=st.integers(1, 40),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
)
def test_lines_are_exact_whatever_the_blocks(
    rows: list[tuple[str, str, int]],
    chunk_rows: int,
    block: int,
    end: str,
    last: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Fields may wrap and empty lines may stand between records; blocks may cut anywhere."""
    path = tmp_path_factory.mktemp("lines") / "rows.csv"
    content, expected, line = "x,y" + end, [], 2
    for x, y, blank in rows:
        content += end * blank
        line += blank
        expected.append((x, y, line))
        record = ",".join('"' + f.replace('"', '""') + '"' for f in (x, y))
        content += record + end
        line += record.count("\n") + 1
    path.write_bytes((content if last else content.removesuffix(end)).encode())
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_BLOCK", block)
        for chunk in text.read_text(path, ["y", "x"], chunk_rows=chunk_rows):
            assert len(chunk) <= chunk_rows
            columns = (chunk.column(c).to_pylist() for c in ("x", "y"))
            found += list(zip(*columns, chunk.line.tolist(), strict=True))
    assert found == expected


@settings(max_examples=40, deadline=None)
@given(
    slates=st.lists(
        st.tuples(
            st.integers(0, 3),  # session
            st.integers(0, 4),  # time
            st.lists(st.tuples(st.integers(5, 9), st.booleans()), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_assemble_against_a_plain_loop(
    slates: list[tuple[int, int, list[tuple[int, bool]]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    def chunks(scratch: Path) -> list[Slates]:
        return [
            Slates(
                path=Path("made.csv"),
                line=np.array([n]),
                session=np.array([session]),
                time=np.array([time]),
                item=parse.Ragged(np.array([i for i, _ in shown]), np.array([len(shown)])),
                click=np.array([int(c) for _, c in shown]),
            )
            for n, (session, time, shown) in enumerate(slates)
        ]

    spec = SourceSpec("made", "a test", "none")
    out = tmp_path_factory.mktemp("assemble") / "log"
    log = assemble.assemble(spec, lambda scratch: iter(chunks(scratch)), out).validate()
    row, moved = 0, 0
    for session in sorted({s for s, _, _ in slates}):
        last = -1
        for _, time, shown_here in sorted(
            (s for s in slates if s[0] == session), key=lambda s: s[1]
        ):
            last = max(time, last + 1)
            moved += last != time
            assert log.time[row] == last
            assert shown(log)[row] == [i for i, _ in shown_here]
            assert log.response[row, : len(shown_here)].tolist() == [c for _, c in shown_here]
            row += 1
    assert row == log.n_slates
    assert log.card["counts"]["ties_moved"] == moved


# --- the published files -------------------------------------------------------------------------

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
        (610, 9724, 100_836),
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


# --- your own file -------------------------------------------------------------------------------


@st.composite
def own_rows(draw: st.DrawFn) -> dict[str, list]:
    """Columns of a log: slates with text or integer items, positions from 0 or 1."""
    first, text_ids = draw(st.integers(0, 1)), draw(st.booleans())
    rows: list[tuple] = []
    for user, visit in draw(st.sets(st.tuples(st.integers(8, 11), st.integers(1, 2)), min_size=1)):
        for step in range(draw(st.integers(1, 3))):
            for place in range(draw(st.integers(1, 3))):
                item, click = draw(st.integers(8, 12)), draw(st.integers(0, 1))
                age, kids = item / 4, user % 3
                name = f"i{item}" if text_ids else item
                time = pd.Timestamp(1_700_000_000 + 9 * step, unit="s")
                rows.append((user, visit, step, place + first, name, click, time, age, kids))
    rows = draw(st.permutations(rows))
    names = ("user", "visit", "step", "position", "item", "click", "time", "age", "kids")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


@settings(max_examples=25, deadline=None)
@given(
    columns=own_rows(),
    left_out=st.sampled_from([[], ["position"], ["step"], ["time"], ["user"]]),
    kind=st.sampled_from(["csv", "parquet"]),
    chunk_rows=st.integers(1, 9),
)
@pytest.mark.filterwarnings("ignore:no row has position 0")
def test_a_file_of_ones_own_is_read_like_its_frame(
    columns: dict[str, list],
    left_out: list[str],
    kind: str,
    chunk_rows: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("own")
    frame = pd.DataFrame(columns)
    session = ["user", "visit"]
    if left_out == ["user"]:
        frame["player"], session = frame["user"], ["player", "visit"]
        frame = frame.drop(columns="user")
    else:
        frame = frame.drop(columns=left_out)
    path = folder / f"own.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    options: dict[str, Any] = {"session": session, "price": "age"}
    options |= {"item_features": ["age"], "user_features": [] if left_out == ["user"] else ["kids"]}
    expected = SessionLog.from_frame(frame, **options)
    log = convert("csv", path, folder / "log", chunk_rows=chunk_rows, **options).validate()
    for name in ("slate", "response", "session_start", "user", "time"):
        np.testing.assert_array_equal(getattr(log, name), getattr(expected, name))
    for a, b in ((log.catalogue, expected.catalogue), (log.users, expected.users)):
        assert a.ids.tolist() == b.ids.tolist()
        assert a.features.tolist() == b.features.tolist()
        assert a.feature_names == b.feature_names
    np.testing.assert_array_equal(log.catalogue.price, expected.catalogue.price)


OWN = "session,step,item,click,time,age\n1,0,7,1,10,3\n1,1,8,0,20,4\n2,0,7,0,5,3\n"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("1,1,8,0,20", "1,1,8,2,20", "own.csv, line 3, column click: 2.0 is neither 0 nor 1"),
        ("1,1,8,0,20", "1,1,8,0,soon", "line 3, column time: 'soon' is not a"),
        ("1,1,8,0,20", "1,1,8,0,10", "line 3, column time: 10 does not increase"),
        ("1,1,8,0,20", "1,1,,0,20", "line 3, column item: '' is missing"),
        ("0,5,3", "0,5,9", "line 4, column age: 9.0 differs from another row of the same item"),
        ("session,", "sesion,", "lacks column 'session'.*did you mean sesion"),
        ("step,item,click,time", "a,item,click,b", "neither a column step nor a column time"),
        (OWN.split("\n", 1)[1], "", "own.csv has no rows"),
    ],
)
def test_faults_of_a_file_of_ones_own(
    old: str, new: str, says: str, tmp_path: Path, logs: Path
) -> None:
    path = tmp_path / "own.csv"
    path.write_text(OWN.replace(old, new, 1))
    with pytest.raises(InputError, match=says):
        convert("csv", path, logs / "log", item_features=["age"], chunk_rows=2)
    assert not list(logs.iterdir())
