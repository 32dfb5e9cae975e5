"""Faults in raw files are named with file, line and value."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from responders.errors import InputError
from responders.registry import load
from responders.sources import SOURCES, convert
from tests.responders.sources.raw import CASES, NAMES, edit, make, write_ebnerd

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
    if says is None:  # not a fault: the session continues in the next line
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
