"""A file of one's own is read like its frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responders.errors import InputError
from responders.log.session_log import SessionLog
from responders.sources import convert


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
    parts=st.integers(1, 3),
)
@pytest.mark.filterwarnings("ignore:no row has position 0")
def test_a_file_of_ones_own_is_read_like_its_frame(
    columns: dict[str, list],
    left_out: list[str],
    kind: str,
    chunk_rows: int,
    parts: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """One file, or a folder of several."""
    folder = tmp_path_factory.mktemp("own")
    frame = pd.DataFrame(columns)
    session = ["user", "visit"]
    if left_out == ["user"]:
        frame["player"], session = frame["user"], ["player", "visit"]
        frame = frame.drop(columns="user")
    else:
        frame = frame.drop(columns=left_out)
    path = folder / "own"
    path.mkdir()
    for i, rows in enumerate(np.array_split(np.arange(len(frame)), min(parts, len(frame)))):
        file, part = path / f"part-{i}.{kind}", frame.iloc[rows]
        part.to_csv(file, index=False) if kind == "csv" else part.to_parquet(file)
    path = file if parts == 1 else path
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


def test_faults_in_a_folder_of_files(tmp_path: Path, logs: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    with pytest.raises(InputError, match=r"raw has no .csv, .csv.gz or .parquet file"):
        convert("csv", raw, logs / "log")
    (raw / "a.csv").write_text(OWN)
    (raw / "b.csv").write_text(OWN.replace("1,1,8,0,20", "1,1,8,2,20"))
    with pytest.raises(InputError, match=r"b\.csv, line 3, column click: 2.0 is neither"):
        convert("csv", raw, logs / "log")
    (raw / "b.csv").write_text(OWN.replace("click", "klick"))
    with pytest.raises(InputError, match=r"b\.csv has no column 'click'"):
        convert("csv", raw, logs / "log")
    (raw / "c.parquet").touch()
    with pytest.raises(InputError, match="raw has both"):
        convert("csv", raw, logs / "log")
    assert not list(logs.iterdir())


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_folder_at_a_url(kind: str, logs: Path) -> None:
    """Every store that fsspec knows is read like the disk; here its memory is one."""
    upath = pytest.importorskip("upath")
    folder = upath.UPath(f"memory://{kind}/shown")
    folder.mkdir(parents=True)
    frame = pd.DataFrame({"session": [1, 1, 2, 2], "item": [7, 8, 8, 9], "click": [0, 1, 1, 0]})
    frame["time"] = [1, 2, 1, 2]
    for session, rows in frame.groupby("session"):
        text = rows.to_csv(index=False).encode() if kind == "csv" else rows.to_parquet()
        (folder / f"{session}.{kind}").write_bytes(text)
    found = convert("csv", str(folder), logs / "remote").to_frame()
    pd.testing.assert_frame_equal(found, SessionLog.from_frame(frame).to_frame())


def test_known_names_in_a_folder_at_a_url(logs: Path) -> None:
    upath = pytest.importorskip("upath")
    folder = upath.UPath("memory://films")
    folder.mkdir(parents=True)
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,5,4.5,10\n1,6,2,20\n")
    (folder / "movies.csv").write_text("movieId,title,genres\n5,A (1990),Drama\n6,B (1991),War\n")
    log = convert("movielens", str(folder), logs / "films")
    assert log.response.ravel().tolist() == [1, 0]
    assert "year" in log.catalogue.feature_names


@pytest.mark.parametrize(
    ("raw", "out", "message"),
    [
        ("nowhere://bucket/shown", "log", "nowhere://bucket/shown cannot be reached"),
        ("memory://missing", "log", "there is no file or folder memory://missing"),
        ("memory://missing", "s3://bucket/log", "a log is written to a local folder"),
    ],
)
def test_faults_of_a_url(raw: str, out: str, message: str, logs: Path) -> None:
    pytest.importorskip("upath")
    with pytest.raises(InputError, match=message):
        convert("csv", raw, out if "://" in out else logs / out)
    assert not list(logs.iterdir())
