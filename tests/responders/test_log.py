"""SessionLog: its invariants, storage and pandas form; one clear error per fault."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responders import Catalogue, InputError, SessionLog, Users
from responders.log import session_log
from responders.log.storage import LogWriter


def tiny(**changes: Any) -> SessionLog:
    """Two sessions, three slates of two positions, three items."""
    log = SessionLog(
        slate=np.array([[0, 1], [2, -1], [1, 0]]),
        response=np.array([[0, 1], [0, 0], [1, 0]]),
        session_start=np.array([0, 2, 3]),
        user=np.array([0, 1]),
        time=np.array([5, 9, 2]),
        catalogue=Catalogue(np.array(["a", "b", "c"])),
        users=Users(np.array([7, 8])),
        card={"name": "tiny", "synthetic": True},
    )
    return replace(log, **changes)


FAULTS = [
    ({"slate": [[0, 3], [2, -1], [1, 0]]}, "slate 0 .* position 1: item 3 is not in the catalogue"),
    ({"slate": [[0, 1], [2, -2], [1, 0]]}, "slate 1 .* item -2 is not in the catalogue"),
    ({"slate": [[0, 1], [-1, -1], [1, 0]]}, "slate 1 .* every position is empty"),
    ({"response": [[0, 1], [0, 1], [1, 0]]}, "slate 1 .* click on an empty position"),
    ({"response": [[0, 2], [0, 0], [1, 0]]}, "response 2 is neither 0 nor 1"),
    ({"response": [[0, 1]]}, r"response has shape \(1, 2\)"),
    ({"time": [5, 5, 2]}, "does not increase in session 0: slate 0 is at 5 s and slate 1 at 5"),
    ({"time": [9, 5, 2]}, "does not increase in session 0"),
    ({"time": [-1, 5, 2]}, "time -1 is negative"),
    ({"time": [1, 2]}, r"time has shape \(2,\)"),
    ({"session_start": [0, 2, 2]}, "session_start must run from 0 to 3"),
    ({"session_start": [0, 3, 3]}, "session 1 has no slate"),
    ({"user": [0, 2]}, "outside the 2 users"),
    ({"propensity": [[0.5, 0.0], [1, 0], [1, 1]]}, r"propensity 0.0 is not in \(0, 1\]"),
    ({"catalogue": Catalogue(np.array(["a", "b", "a"]))}, "'a' occurs more than once"),
    ({"catalogue": Catalogue([1, 2, 3], [[1], [np.nan], [2]])}, "features of item 2 is NaN"),
    ({"catalogue": Catalogue([1, 2, 3], price=[1, 2])}, "price has 2 rows for 3 items"),
    ({"catalogue": Catalogue([])}, "catalogue is empty"),
]


@pytest.mark.parametrize(("changes", "message"), FAULTS)
def test_each_fault_has_one_clear_error(changes: dict[str, Any], message: str) -> None:
    arrays = {k: np.array(v) if isinstance(v, list) else v for k, v in changes.items()}
    with pytest.raises(InputError, match=message):
        tiny(**arrays).validate()


def test_an_empty_log_is_refused() -> None:
    empty = {"slate": np.zeros((0, 2)), "response": np.zeros((0, 2)), "time": np.zeros(0)}
    with pytest.raises(InputError, match="log is empty"):
        tiny(**empty, session_start=np.array([0]), user=np.zeros(0)).validate()


def test_arrays_are_immutable() -> None:
    with pytest.raises(ValueError, match="read-only"):
        tiny().slate[0, 0] = 1


@st.composite
def logs(draw: st.DrawFn) -> SessionLog:
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    length = rng.integers(1, 6, draw(st.integers(1, 8)))
    shape = (int(length.sum()), draw(st.integers(1, 4)))
    n_items = draw(st.integers(1, 7))
    slate = rng.integers(-1, n_items, shape)
    slate[:, 0] = np.maximum(slate[:, 0], 0)
    text = draw(st.booleans())
    ids = [f"i{i}" for i in range(n_items)] if text else np.arange(n_items) * 3 + 1
    with_propensity = draw(st.booleans())
    return SessionLog(
        slate=slate,
        response=(rng.random(shape) < 0.3) & (slate >= 0),
        session_start=np.r_[0, np.cumsum(length)],
        user=rng.integers(0, 3, len(length)),
        time=np.concatenate([np.cumsum(rng.integers(1, 50, n)) for n in length]),
        catalogue=Catalogue(
            ids,
            rng.normal(size=(n_items, draw(st.integers(0, 2)))),
            price=rng.random(n_items) if draw(st.booleans()) else None,
            attributes={"layer": rng.integers(0, 3, n_items).astype(np.int8)},
        ),
        users=Users([10, 20, 30], rng.normal(size=(3, draw(st.integers(0, 2))))),
        propensity=np.where(slate >= 0, rng.uniform(0.1, 1, shape), 0) if with_propensity else None,
        card={"name": "random", "synthetic": True, "licence": "none"},
    )


def assert_same(a: SessionLog, b: SessionLog) -> None:
    for name in ("slate", "response", "session_start", "user", "time"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.propensity is None) == (b.propensity is None)
    if a.propensity is not None:
        np.testing.assert_array_equal(a.propensity, b.propensity)
    np.testing.assert_array_equal(a.catalogue.ids, b.catalogue.ids)
    np.testing.assert_array_equal(a.catalogue.features, b.catalogue.features)
    np.testing.assert_array_equal(a.catalogue.attributes["layer"], b.catalogue.attributes["layer"])
    assert (a.catalogue.price is None) == (b.catalogue.price is None)
    np.testing.assert_array_equal(a.users.ids, b.users.ids)
    np.testing.assert_array_equal(a.users.features, b.users.features)


@settings(max_examples=25, deadline=None)
@given(log=logs())
def test_save_and_load_give_the_same_log(
    log: SessionLog, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log") / "log"
    log.save(folder)
    loaded = SessionLog.load(folder).validate()
    assert_same(log, loaded)
    assert loaded.card == log.card


@settings(max_examples=25, deadline=None)
@given(log=logs())
def test_to_frame_and_back(log: SessionLog) -> None:
    frame = log.to_frame()
    again = SessionLog.from_frame(frame.sample(frac=1, random_state=0), log.catalogue)
    width = again.n_positions  # positions empty in every slate leave no trace in the frame
    assert (log.slate[:, width:] == -1).all()
    np.testing.assert_array_equal(again.slate, log.slate[:, :width])
    np.testing.assert_array_equal(again.response, log.response[:, :width])
    np.testing.assert_array_equal(again.session_start, log.session_start)
    np.testing.assert_array_equal(again.users.ids[again.user], log.users.ids[log.user])
    pd.testing.assert_frame_equal(again.to_frame(), frame)


@settings(max_examples=25, deadline=None)
@given(log=logs(), data=st.data())
def test_select_and_concat(log: SessionLog, data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.booleans(), min_size=log.n_sessions, max_size=log.n_sessions))
    mask = np.array(parts)
    chosen = [log.select(m).validate() for m in (mask, ~mask) if m.any()]
    assert sum(part.n_slates for part in chosen) == log.n_slates
    whole = SessionLog.concat(chosen).validate()
    order = np.r_[np.flatnonzero(mask), np.flatnonzero(~mask)]
    np.testing.assert_array_equal(whole.slate, log.slate[log.rows(order)])
    np.testing.assert_array_equal(whole.users.ids[whole.user], log.users.ids[log.user[order]])


def test_select_cuts_sessions_to_their_first_slates() -> None:
    cut = tiny().select(np.array([1, 0]), first_slates=1).validate()
    np.testing.assert_array_equal(cut.slate, [[1, 0], [0, 1]])
    np.testing.assert_array_equal(cut.session_length, [1, 1])


def test_concat_refuses_another_catalogue() -> None:
    with pytest.raises(InputError, match="log 1 has another catalogue"):
        SessionLog.concat([tiny(), tiny(catalogue=Catalogue(["a", "b", "x"]))])


def large(seed: int) -> SessionLog:
    rng = np.random.default_rng(seed)
    shape = (200_000, 10)
    return SessionLog(
        slate=rng.integers(0, 1_000_000, shape),
        response=rng.random(shape) < 0.1,
        session_start=np.arange(0, 200_001, 10),
        user=np.zeros(20_000),
        time=np.tile(np.arange(10), 20_000),
        catalogue=Catalogue(np.arange(1_000_000)),
        users=Users([0]),
        card={"name": "large", "synthetic": True},
    )


def test_a_large_log_is_memory_mapped(tmp_path: Path) -> None:
    log = large(0)
    log.save(tmp_path / "log")
    for _ in range(2):  # the second load reads the cache that the first one made
        loaded = SessionLog.load(tmp_path / "log")
        assert isinstance(loaded.slate.base, np.memmap)
        np.testing.assert_array_equal(loaded.slate, log.slate)
        np.testing.assert_array_equal(loaded.time, log.time)
    large(1).save(tmp_path / "log", overwrite=True)
    assert not np.array_equal(SessionLog.load(tmp_path / "log").slate, log.slate), "stale cache"
    (tmp_path / "log" / "slates.parquet").write_bytes(b"x" * 5_000_000)
    with pytest.raises(InputError, match=r"slates\.parquet cannot be read"):
        SessionLog.load(tmp_path / "log")


def test_saving_over_a_log_needs_overwrite(tmp_path: Path) -> None:
    tiny().save(tmp_path / "log")
    with pytest.raises(InputError, match="exists already"):
        tiny().save(tmp_path / "log")
    tiny(time=np.array([6, 9, 2])).save(tmp_path / "log", overwrite=True)
    assert SessionLog.load(tmp_path / "log").time[0] == 6


def write_half(path: Path) -> None:
    with LogWriter(path) as writer:
        writer.append(tiny().slate, tiny().response, tiny().time)


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        tiny(time=np.array([9, 5, 2])).save(tmp_path / "log")
    with pytest.raises(RuntimeError, match="finish was not called"):
        write_half(tmp_path / "log")
    assert list(tmp_path.iterdir()) == []


def test_loading_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no log at"):
        SessionLog.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"is not a session log: it has no card\.json"):
        SessionLog.load(tmp_path / "empty")
    for name in ("slates", "sessions", "catalogue", "users"):
        folder = tmp_path / name
        tiny().save(folder)
        file = folder / f"{name}.parquet"
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(InputError, match=rf"{name}\.parquet cannot be read .* damaged"):
            SessionLog.load(folder)
    folder = tmp_path / "card"
    tiny().save(folder)
    (folder / "card.json").write_text("{")
    with pytest.raises(InputError, match=r"card\.json cannot be read"):
        SessionLog.load(folder)


def test_the_catalogue_finds_and_grows() -> None:
    catalogue = Catalogue([5, 3, 9], [[1.0], [2.0], [6.0]], price=[1, 2, 3])
    np.testing.assert_array_equal(catalogue.index([9, 4, 5]), [2, -1, 0])
    np.testing.assert_array_equal(catalogue.index(["9"]), [-1])
    grown = catalogue.extended([4, 9, 4, 1])
    np.testing.assert_array_equal(grown.ids, [5, 3, 9, 4, 1])
    np.testing.assert_allclose(grown.features[3:], 3.0)
    assert grown.fingerprint(3) == catalogue.fingerprint()
    assert grown.fingerprint() != catalogue.fingerprint()
    with pytest.raises(InputError, match="give ids of one kind"):
        catalogue.extended(["x"])


def test_summary_counts() -> None:
    summary = tiny().summary()
    assert summary["impressions"] == 5
    assert summary["clicks"] == 2
    assert summary["click_rate_by_position"] == [pytest.approx(1 / 3, abs=1e-4), 0.5]
    assert summary["slates_per_session"] == {"min": 1, "median": 1.5, "mean": 1.5, "max": 2}


def test_slates_are_read_in_blocks(small_log: SessionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = np.arange(0, 600, 7)
    monkeypatch.setattr(session_log, "_CHUNK", 9)
    monkeypatch.setattr(session_log, "_SESSIONS", 4)
    blocks = list(small_log.blocks(sessions))
    assert max(map(len, blocks)) <= 9
    np.testing.assert_array_equal(np.concatenate(blocks), small_log.rows(sessions))
    small_log.validate()
    monkeypatch.setattr(session_log, "_CHUNK", 3)  # so that some repeat starts a block
    for row in np.setdiff1d(np.arange(1, 20), small_log.session_start):
        time = small_log.time.copy()
        time[row] = time[row - 1]
        with pytest.raises(InputError, match=f"slate {row - 1} is at .* and slate {row} at"):
            replace(small_log, time=time).validate()
