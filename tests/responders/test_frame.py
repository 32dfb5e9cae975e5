"""Logs from pandas frames; one clear error per fault."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from responders import Catalogue, InputError, SessionLog


def frame(**changes: Any) -> pd.DataFrame:
    columns = {
        "session": [1, 1, 2],
        "step": [0, 1, 0],
        "position": [0, 0, 0],
        "item": ["a", "b", "a"],
        "click": [0, 1, 0],
        "time": [1, 2, 3],
    }
    return pd.DataFrame(columns | changes)


FRAME_FAULTS = [
    (frame().drop(columns="click").rename(columns={"item": "items"}), "lacks column 'item'"),
    (frame().drop(columns="click"), "lacks column 'click'"),
    (frame().iloc[:0], "empty"),
    (frame(item=["a", None, "a"]), "'item' is missing .* in row 1"),
    (frame(click=[0, 2, 0]), r"click 2 \(session 1, step 1, position 0\) is neither 0 nor 1"),
    (frame(position=[0, -1, 0]), "position -1 .* negative"),
    (frame(position=[0, 0.5, 0]), "position 0.5 .* not a whole number"),
    (frame(step=[0, 0, 0]), "holds two items"),
    (frame(step=[0, 0, 0], position=[0, 1, 0]), "differs within a slate"),
    (frame(time=[1, -2, 3]), "time -2 .* negative"),
    (frame(time=[2, 2, 3]), r"time 2 \(session 1, step 1, .* does not increase"),
    (frame(time=["1", "x", "3"]), r"time 'x' \(session 1, step 1, .* is not a time"),
    (frame(time=[1, 10**12, 3]), "time 1000000000000 .* milliseconds"),
    (frame(item=[1, "1", 2]), r"item '1' .* is of type str where the first is of type int"),
    (frame(item=[1.5, 2, 3]), "item 1.5 .* is not a whole number"),
    (frame(item=[{"id": 1}, {"id": 2}, {"id": 1}]), "item .* is of type dict; ids are integers or"),
    (frame(item=np.array([2**64 - 1, 2, 3], np.uint64)), "item 18446744073709551615 .*astype"),
    (frame(click=["yes", "no", "no"]), "click 'yes' .* is not a finite number"),
    (frame(click=[[1], 0, 1]), r"click \[1\] .* is not a number"),
    (frame(step=[0, 1e300, 0]), "step 1e\\+300 .* not a whole number"),
    (frame(propensity=[0.5, 0.0, 1]), r"propensity 0.0 .* not in \(0, 1\]"),
    (frame(session=[1, 1, 1], step=[0, 1, 2], user=[5, 5, 6]), r'user 6 .*\["user", "session"\]'),
    (frame().drop(columns=["step", "time"]), "neither a column step nor a column time"),
    (pd.concat([frame(), frame()[["item"]]], axis=1), "two columns 'item'"),
    ({"session": [1, 2], "item": [1]}, "a dict that does not make a frame"),
    ([frame()], "must be a pandas DataFrame or a dict of columns"),
]


@pytest.mark.parametrize(("bad", "message"), FRAME_FAULTS)
def test_each_fault_of_a_frame_has_one_clear_error(bad: pd.DataFrame, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SessionLog.from_frame(bad)


SECONDS = [1_700_000_000, 1_700_000_060, 1_700_000_003]


@pytest.mark.parametrize(
    "times",
    [
        SECONDS,
        [t + 0.75 for t in SECONDS],
        [str(t) for t in SECONDS],
        pd.to_datetime(SECONDS, unit="s"),
        pd.to_datetime(SECONDS, unit="s", utc=True).tz_convert("Asia/Tokyo"),
        pd.to_timedelta(SECONDS, unit="s"),
        [str(t) for t in pd.to_timedelta(SECONDS, unit="s")],
        pd.to_datetime(SECONDS, unit="s").strftime("%Y-%m-%d %H:%M:%S.9"),
        pd.to_datetime(SECONDS, unit="s").strftime("%Y-%m-%dT%H:%M:%SZ"),
        ["2023-11-14T23:13:20+01:00", "2023-11-14 22:14:20", "2023-11-14 22:13:23Z"],
        pd.to_datetime(SECONDS, unit="s").to_pydatetime().astype(object),
        pd.array(SECONDS, "Int64"),
    ],
)
def test_times_of_a_frame_become_seconds(times: Any) -> None:
    assert SessionLog.from_frame(frame(time=times)).time.tolist() == SECONDS


@pytest.mark.parametrize("kind", [str, float, "category", "Int64", "string", np.uint8, object])
def test_numbers_of_a_frame_may_have_any_type(kind: Any) -> None:
    given = frame(item=[7, 8, 7], propensity=[1, 1, 1])
    typed = given.astype(dict.fromkeys(given.columns.drop("item"), kind))
    log = SessionLog.from_frame(typed)
    expected = SessionLog.from_frame(given)
    for name in ("slate", "response", "session_start", "time", "propensity", "user"):
        np.testing.assert_array_equal(getattr(log, name), getattr(expected, name))


def test_whole_floats_are_integer_ids_and_text_stays_text() -> None:
    assert SessionLog.from_frame(frame(item=[7.0, 8.0, 7.0])).catalogue.ids.tolist() == [7, 8]
    assert SessionLog.from_frame(frame(item=["7", "8", "7"])).catalogue.ids.tolist() == ["7", "8"]


def test_positions_from_1_are_moved_with_a_warning() -> None:
    given = frame(session=[1, 1, 2], step=[0, 0, 0], time=[1, 1, 3], position=[1, 2, 1])
    with pytest.warns(UserWarning, match="positions are taken to count from 1"):
        log = SessionLog.from_frame(given)
    assert log.slate.tolist() == [[0, 1], [0, -1]]
    assert SessionLog.from_frame(frame(position=[2, 3, 2])).n_positions == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"session": 5}, "session must name a column, not 5"),
        ({"session": None}, "session must name a column, not None"),
        ({"item_features": [3]}, "item_features must name a column"),
        ({"catalogue": 5}, "catalogue must be a Catalogue, not int"),
        ({"items": frame()["item"]}, "items must be a pandas DataFrame or a dict .*, not Series"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        SessionLog.from_frame(frame(), **options)
    assert "\n" not in str(error.value)


def test_two_users_of_one_session_id_are_named_before_the_place_they_share() -> None:
    given = frame(session=[1, 1, 1], step=[0, 0, 0], position=[0, 1, 0], time=[1, 1, 1])
    given = given.assign(user=["x", "x", "y"])
    with pytest.raises(InputError, match=r'user .y.*pass session=\["user", "session"\]'):
        SessionLog.from_frame(given)
    assert SessionLog.from_frame(given, session=["user", "session"]).n_sessions == 2


def test_one_feature_may_be_named_alone() -> None:
    log = SessionLog.from_frame(frame().assign(age=[30, 30, 30]), user_features="age")
    assert log.users.feature_names == ("age",)


def test_columns_that_are_not_there_are_filled_in() -> None:
    given = frame(session=[1, 1, 1], step=[0, 0, 1], time=[5, 5, 9])
    for left_out in (["position"], ["position", "step"]):
        log = SessionLog.from_frame(given.drop(columns=left_out))
        assert (log.slate.tolist(), log.time.tolist()) == ([[0, 1], [0, -1]], [5, 9])
    log = SessionLog.from_frame(given.drop(columns=["position", "time"]))
    assert log.time.tolist() == [0, 1]


def test_columns_may_have_other_names_and_sessions_two_columns() -> None:
    given = frame(session=[1, 1, 1], user=["x", "y", "x"], step=[0, 0, 1], time=[1, 5, 3])
    log = SessionLog.from_frame(
        given.rename(columns=str.upper).to_dict("list"),
        session=["USER", "SESSION"],
        item="ITEM",
        click="CLICK",
        step="STEP",
        time="TIME",
        user="USER",
    )
    assert log.session_length.tolist() == [2, 1]
    assert log.users.ids.tolist() == ["x", "y"]
    assert log.time.tolist() == [1, 3, 5]
    alone = SessionLog.from_frame(
        given.drop(columns="user").assign(k=[1, 2, 1]), session=["session", "k"]
    )
    assert alone.users.ids.tolist() == [0, 1]


def test_features_and_prices_of_columns_keep_their_names(tmp_path: Path) -> None:
    given = frame(age=[3, 4.5, 3], cost=[9, 8, 9], user=["u", "u", "v"], kids=[1, 1, 2], big=True)
    log = SessionLog.from_frame(
        given, item_features=["age"], user_features=["kids", "big"], price="cost"
    )
    log.save(tmp_path / "log")
    loaded = SessionLog.load(tmp_path / "log")
    for made in (log, loaded, loaded.select([0, 1]), SessionLog.concat([log, loaded])):
        assert made.catalogue.feature_names == ("age",)
        assert made.catalogue.features.tolist() == [[3], [4.5]]
        assert made.catalogue.price is not None
        assert made.catalogue.price.tolist() == [9, 8]
        assert made.users.feature_names == ("kids", "big")
        assert made.users.features.tolist() == [[1, 1], [2, 1]]
    assert log.select([1]).users.features.tolist() == [[2, 1]]
    assert log.catalogue.extended(["z"]).feature_names == ("age",)
    with pytest.raises(InputError, match=r"age 4.0 .* differs from another row of the same"):
        SessionLog.from_frame(given.assign(age=[3, 4, 4]), item_features=["age"])
    with pytest.raises(InputError, match=r"kids 2.0 .* differs from another row of the same"):
        SessionLog.from_frame(given.assign(kids=[1, 2, 2]), user_features=["kids"])
    with pytest.raises(InputError, match=r"lacks column 'agee'.*did you mean age"):
        SessionLog.from_frame(given, item_features=["agee"])


def test_items_and_users_may_be_frames_of_their_own() -> None:
    items = pd.DataFrame({"item": ["c", "b", "a"], "age": [1, 2, 3], "cost": [7, 8, 9]})
    users = pd.DataFrame({"kids": [5, 6, 7]}, index=[2, 1, 9])
    for table in (items, items.set_index("item"), items.rename(columns={"item": "id"})):
        log = SessionLog.from_frame(frame(), items=table, users=users, price="cost")
        assert log.catalogue.ids.tolist() == ["c", "b", "a"]
        assert log.catalogue.feature_names == ("age",)
        assert log.catalogue.price is not None
        assert log.catalogue.price.tolist() == [7, 8, 9]
        assert log.slate[:, 0].tolist() == [2, 1, 2]
        assert (log.users.ids.tolist(), log.users.features.tolist()) == ([1, 2], [[6], [5]])
    with pytest.raises(InputError, match=r"item 'a' .*not in the catalogue"):
        SessionLog.from_frame(frame(), items=items[:2])
    with pytest.raises(InputError, match="users has no row for user 1"):
        SessionLog.from_frame(frame(), users=users[:1])
    with pytest.raises(InputError, match=r"items, row 1: item 'c' is there twice"):
        SessionLog.from_frame(frame(), items=items.assign(item=["c", "c", "a"]))
    with pytest.raises(InputError, match="items, row 0: age 'x' is not a finite number"):
        SessionLog.from_frame(frame(), items=items.assign(age=["x", "y", "z"]))


def test_an_item_outside_the_catalogue_is_named() -> None:
    with pytest.raises(InputError, match=r"item 'b' .*is not in the catalogue"):
        SessionLog.from_frame(frame(), Catalogue(["a"]))
