"""Damaged input gives one `InputError` or a right answer, never another exception."""

from __future__ import annotations

import json
import shutil
import warnings
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

from responders import Catalogue, InputError, SessionLog, Users, fit, load_responder
from responders.sources import convert
from tests.responders.test_log import tiny

ODD = st.one_of(
    st.integers(-2, 3),
    st.sampled_from([2**31, 2**53 + 1, 2**63, 2**64 - 1, -(2**70), 10**12]),
    st.sampled_from([0.5, 1.0, -0.0, 1e300, float("nan"), float("inf"), 1j]),
    st.sampled_from(["", "1", "1.5", "a", "\ud800", "nan", "true", "2024-01-01", "1 days", "é"]),
    st.sampled_from([None, True, False, pd.NaT, pd.NA, b"1", (1, 2)]),
    st.sampled_from([pd.Timestamp("2024-01-01"), pd.Timedelta("1s"), pd.Timestamp(0, tz="UTC")]),
    st.builds(list),
    st.builds(dict),
)
KINDS: list[Any] = [None, object, "category", "Int64", "string", float, bool, "datetime64[ns]"]
COLUMNS = ["session", "step", "position", "item", "click", "time", "user", "propensity", "age"]


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """A right frame of four rows, of which a column or two are odd."""
    columns: dict[str, Any] = {
        "session": [1, 1, 1, 2],
        "step": [0, 0, 1, 0],
        "position": [0, 1, 0, 0],
        "item": ["a", "b", "c", "a"],
        "click": [0, 1, 0, 1],
        "time": [10, 10, 42, 7],
        "user": [1, 1, 1, 2],
        "propensity": [0.5, 0.5, 1, 1],
        "age": [1, 2, 3, 1],
    }
    frame = pd.DataFrame(columns)
    for name in draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=2)):
        values = [*columns[name]]
        for row in draw(st.lists(st.integers(0, 3), max_size=4)):
            values[row] = draw(ODD)
        if draw(st.booleans()):
            values = [draw(ODD)] * 4
        series = pd.Series(values, dtype=object)
        kind = draw(st.sampled_from(KINDS))
        try:
            frame[name] = pd.Series(values) if kind is None else series.astype(kind)
        except (ValueError, TypeError, OverflowError, AttributeError):
            frame[name] = series  # pandas itself does not take these values as this type
    return frame


def answer(call: Callable[[], Any], names: str = "") -> Any:
    """Return the answer, or None for an `InputError` of one line that names `names`."""
    try:
        return call()
    except InputError as error:
        if "\n" in str(error):
            raise AssertionError("the error has more than one line") from error
        if names not in str(error) and "setting" not in str(error):
            raise AssertionError(f"the error does not name {names}") from error
        return None


@settings(max_examples=100, deadline=None)
@given(frame=frames(), features=st.booleans())
def test_odd_frames(frame: pd.DataFrame, features: bool) -> None:
    before = frame.copy(deep=True)
    chosen = {"item_features": ["age"], "user_features": []} if features else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no row has position 0")
        log = answer(lambda: SessionLog.from_frame(frame, **chosen))
    pd.testing.assert_frame_equal(frame, before)
    if log is None:
        return
    assert int((log.slate >= 0).sum()) == len(frame)
    assert len(log.catalogue) == frame["item"].nunique()
    assert log.n_sessions == frame["session"].nunique()
    truth = {"true": 1.0, "false": 0.0}
    clicks = [truth.get(str(c).lower(), c) for c in frame["click"].tolist()]
    assert log.response.sum() == sum(map(float, clicks))


CELLS = ["", "x", "1e300", "-1", "9" * 20, "1.5", "2024-01-01", "1 days", "nan", "inf", " 1", "007"]
CELLS += ["0x10", "é", '"a\nb"', "true", "0", '"', "1,1", "\0"]


@settings(max_examples=40, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8), st.sampled_from(CELLS))),
    chunk_rows=st.integers(1, 4),
)
@pytest.mark.filterwarnings("ignore:no row has position 0")
def test_odd_files_of_ones_own(
    edits: list[tuple[int, int, str]], chunk_rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("own")
    rows = [COLUMNS, *(f"1 {k} 0 a 0 {k + 7} 1 0.5 3".split() for k in range(4))]
    rows = [list(row) for row in rows]
    for row, column, cell in edits:
        rows[row][column] = cell
    path = folder / "own.csv"
    path.write_text("\n".join(map(",".join, rows)))
    before = path.read_bytes()
    log = answer(
        lambda: convert("csv", path, folder / "log", item_features=["age"], chunk_rows=chunk_rows)
    )
    assert path.read_bytes() == before
    assert {p.name for p in folder.iterdir()} == {"own.csv", *(["log"] if log else [])}
    if log:
        assert log.validate().n_slates == 4


# --- saved logs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = tiny(
        propensity=np.array([[0.5, 1], [1, 0], [1, 1]]),
        catalogue=Catalogue(["a", "b", "c"], [[1], [2], [3]], [1, 2, 3], {"layer": np.ones(3)}),
        users=Users([7, 8], [[1.0], [2.0]], ("kids",)),
        card={"name": "saved", "synthetic": False},
    )
    return log.save(tmp_path_factory.mktemp("saved") / "log")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_load(folder: Path, load: Callable[[Path], Any], names: str = "") -> None:
    before = contents(folder)
    answer(lambda: load(folder), names)
    assert contents(folder) == before


TYPES = [pa.int8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.string(), pa.bool_()]
TYPES += [pa.list_(pa.int32()), pa.list_(pa.float32(), 2), pa.timestamp("s"), pa.binary()]
TYPES += [pa.dictionary(pa.int32(), pa.string()), pa.null()]
VALUES = [-1, 1.5, 0, 2**31, 2**32, 10**18, float("nan"), float("inf"), "x", None, [], [0], [-2, 9]]


def edit_column(table: pa.Table, k: int, edit: str, data: st.DataObject) -> pa.Table:
    """Return the table with one fault in column k."""
    name, column = table.column_names[k], table.column(k)
    values = column.to_pylist()
    if edit == "drop":
        return table.drop_columns([name])
    if edit == "duplicate":
        return table.append_column(name, column)
    if edit == "rename":
        return table.rename_columns(["other" if n == name else n for n in table.column_names])
    if edit == "cut":
        return table.slice(0, data.draw(st.integers(0, len(table))))
    if edit == "repeat":
        return pa.concat_tables([table, table])
    if edit == "type":
        return table.set_column(k, name, pa.array(values).cast(data.draw(st.sampled_from(TYPES))))
    row, value = data.draw(st.integers(0, len(values) - 1)), data.draw(st.sampled_from(VALUES))
    if isinstance(values[row], list) and not isinstance(value, list):
        values[row][0] = value
    else:
        values[row] = value
    keep = data.draw(st.booleans())
    return table.set_column(k, name, pa.array(values, column.type if keep else None))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_edited_tables_of_a_log(
    data: st.DataObject, saved: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("edited") / "log"
    shutil.copytree(saved, folder)
    name = data.draw(st.sampled_from(["slates", "sessions", "catalogue", "users"]))
    path = folder / f"{name}.parquet"
    edits = ["drop", "duplicate", "rename", "cut", "repeat", "type", "value", "value", "bytes"]
    edit = data.draw(st.sampled_from(edits))
    if edit == "bytes":
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        flipped = data.draw(st.integers(1, 255))
        content[at] ^= flipped
        path.write_bytes(bytes(content) if data.draw(st.booleans()) else bytes(content[:at]))
    else:
        table = pq.read_table(path)
        k = data.draw(st.integers(0, table.num_columns - 1))
        try:
            pq.write_table(edit_column(table, k, edit, data), path)
        except (pa.ArrowException, TypeError, OverflowError):
            return  # Arrow has no such table
    check_load(folder, lambda folder: SessionLog.load(folder).validate())


FAULTS = [
    ("sessions", "user", pa.array([-1, 0]), "outside the 2 users"),
    ("sessions", "user", pa.array([2**32, 0]), "user has the value 4294967296"),
    ("slates", "time", pa.array([5.5, 9, 2]), "time has the type double"),
    ("catalogue", "id", pa.array(["a", "b", "a"]), "'a' occurs more than once"),
    ("users", "id", pa.array([7, 7]), "user id 7 occurs more than once"),
    ("users", "id", pa.array([7, None]), "a value of column id is missing"),
    ("catalogue", "price", pa.array([1, 2, np.nan], pa.float32()), "price of item c is NaN"),
]


@pytest.mark.parametrize(("table", "column", "values", "message"), FAULTS)
def test_a_damaged_log_is_refused_when_it_is_loaded(
    table: str, column: str, values: pa.Array, message: str, saved: Path, tmp_path: Path
) -> None:
    shutil.copytree(saved, tmp_path / "log")
    path = tmp_path / "log" / f"{table}.parquet"
    stored = pq.read_table(path)
    k = stored.column_names.index(column)
    pq.write_table(stored.set_column(k, column, values), path)
    with pytest.raises(InputError, match=message):
        SessionLog.load(tmp_path / "log")


# --- cards ---------------------------------------------------------------------------------------

JSON = st.sampled_from(
    [None, True, -1, 0, 3, 1.5, 10**30, float("nan"), "", "x", [], [1], [[0.5]], {}, {"a": 1}]
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    rows = {"session": np.arange(80) // 2, "step": np.arange(80) % 2, "time": np.arange(80)}
    frame = pd.DataFrame(rows | {"item": rng.integers(0, 5, 80), "click": rng.integers(0, 2, 80)})
    out = tmp_path_factory.mktemp("trained") / "pbm"
    fit(SessionLog.from_frame(frame), "pbm", out=out, progress=False)
    return out


def edit_json(card: Any, data: st.DataObject) -> None:
    """Drop, change or add an entry somewhere in `card`."""
    while True:
        keys = list(card) if isinstance(card, dict) else list(range(len(card)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(card[key], dict | list) and card[key] and data.draw(st.booleans()):
            card = card[key]
            continue
        if data.draw(st.booleans()):
            card[key] = data.draw(JSON)
        else:
            del card[key]
        return


@settings(max_examples=80, deadline=None)
@given(data=st.data(), of_log=st.booleans())
def test_edited_cards(
    data: st.DataObject,
    of_log: bool,
    saved: Path,
    trained: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("cards") / "edited"
    shutil.copytree(saved if of_log else trained, folder)
    card = json.loads((folder / "card.json").read_text())
    edit_json(card, data)
    (folder / "card.json").write_text(json.dumps(card))
    if of_log:
        check_load(folder, lambda f: SessionLog.load(f).summary())
    else:
        check_load(folder, load_responder, names=str(folder))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, "\ud800", '{"kind": 1}'])
def test_cards_that_are_not_cards(text: str, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "log")
    (tmp_path / "log" / "card.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError):
        SessionLog.load(tmp_path / "log")
