"""Conversion of pandas frames in long format: one row per shown item."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from responders.errors import InputError, near_matches
from responders.log.catalogue import EMPTY, Catalogue, Users

REQUIRED = ("session", "step", "position", "item", "click", "time")


def columns_of(frame: pd.DataFrame, catalogue: Catalogue | None = None) -> dict[str, Any]:
    """Return the fields of a `SessionLog` for a long-format frame; see `SessionLog.from_frame`."""
    _check_columns(frame)
    frame = frame.sort_values(["session", "step", "position"], kind="stable", ignore_index=True)
    _check_rows(frame)
    if catalogue is None:
        catalogue = Catalogue(np.unique(_ids(frame["item"])))
    item = catalogue.index(_ids(frame["item"]))
    if (item == EMPTY).any():
        row = int(np.argmax(item == EMPTY))
        raise InputError(f"item {frame['item'][row]!r}{_at(frame, row)} is not in the catalogue")

    slate_id = frame.groupby(["session", "step"], sort=False).ngroup().to_numpy()
    slate_first = np.flatnonzero(np.r_[True, np.diff(slate_id) > 0])
    position = frame["position"].to_numpy(np.int64)
    shape = (len(slate_first), int(position.max()) + 1)
    slate, response = np.full(shape, EMPTY, np.int32), np.zeros(shape, np.uint8)
    slate[slate_id, position] = item
    response[slate_id, position] = frame["click"]
    propensity = None
    if "propensity" in frame:
        propensity = np.zeros(shape, np.float32)
        propensity[slate_id, position] = frame["propensity"]

    slates = frame.iloc[slate_first]
    session = slates["session"].to_numpy()
    session_first = np.flatnonzero(np.r_[True, session[1:] != session[:-1]])
    slate_user = slates["user"] if "user" in frame else slates["session"]
    ids, user = np.unique(_ids(slate_user.iloc[session_first]), return_inverse=True)
    return {
        "slate": slate,
        "response": response,
        "session_start": np.r_[session_first, len(slate_first)],
        "user": user,
        "time": slates["time"].to_numpy(np.int64),
        "propensity": propensity,
        "catalogue": catalogue,
        "users": Users(ids),
        "card": {"name": "frame", "source": "pandas", "licence": "unknown", "synthetic": False},
    }


def _ids(column: pd.Series) -> np.ndarray:
    if column.dtype.kind in "iu":
        return column.to_numpy(np.int64)
    return column.astype(str).to_numpy(dtype=object)


def _at(frame: pd.DataFrame, row: int) -> str:
    session, step, position = (frame[c][row] for c in ("session", "step", "position"))
    return f" (session {session}, step {step}, position {position})"


def _check_columns(frame: pd.DataFrame) -> None:
    for name in REQUIRED:
        if name not in frame:
            raise InputError(
                f"the frame lacks column {name!r}: it has {', '.join(map(str, frame.columns))}; "
                + near_matches(name, map(str, frame.columns))
            )
    if not len(frame):
        raise InputError("the log is empty: the frame has no rows")
    for name in (*REQUIRED, *({"user", "propensity"} & set(frame.columns))):
        if frame[name].isna().any():
            row = int(np.argmax(frame[name].isna()))
            raise InputError(f"column {name!r} is missing (NaN) in row {row} of the frame")


def _check_rows(frame: pd.DataFrame) -> None:
    def fail(bad: Any, column: str, why: str) -> None:
        bad = np.asarray(bad)
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(f"{column} {frame[column][row]}{_at(frame, row)} {why}")

    fail(~frame["click"].isin([0, 1]), "click", "is neither 0 nor 1")
    for name in ("step", "position", "time"):
        if frame[name].dtype.kind not in "iu":
            number = pd.to_numeric(frame[name], errors="coerce")
            fail(~(number == np.floor(number)), name, "is not a whole number")
    fail(frame["position"] < 0, "position", "is negative; positions count from 0")
    fail(frame["position"] > 9_999, "position", "is beyond 9,999: is this column an item id?")
    fail(
        frame.duplicated(["session", "step", "position"]),
        "position",
        "holds two items; give each item of a slate its own position",
    )
    fail(frame["time"] < 0, "time", "is negative; give seconds since an origin")
    slate_time = frame.groupby(["session", "step"])["time"].transform("first")
    fail(frame["time"] != slate_time, "time", "differs within a slate; one slate has one time")
