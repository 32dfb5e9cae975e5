"""Conversion of pandas frames in long format: one row per shown item."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from responders.errors import InputError, near_matches
from responders.log import columns as read
from responders.log.catalogue import EMPTY, Catalogue, Users
from responders.log.tables import as_frame, catalogue_of, users_of

_WIDEST = 9_999
_LEAST = float(np.finfo(np.float32).smallest_subnormal)  # smaller ones would become 0


@dataclass(frozen=True)
class Names:
    """The columns of a frame; None = the column of the field's own name, if there is one."""

    session: str | Sequence[str] = "session"
    item: str = "item"
    click: str = "click"
    step: str | None = None
    position: str | None = None
    time: str | None = None
    user: str | None = None
    propensity: str | None = None
    price: str | None = None
    item_features: Sequence[str] = ()
    user_features: Sequence[str] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            given = getattr(self, field.name)
            several = field.name in ("session", "item_features", "user_features")
            names = given if several and isinstance(given, list | tuple) else [given]
            if not all(isinstance(name, str) for name in names):
                if given is None and field.default is None:
                    continue
                raise InputError(f"{field.name} must name a column, not {given!r}")
            if several:
                object.__setattr__(self, field.name, tuple(names))

    @property
    def sessions(self) -> list[str]:
        """The columns that identify a session together."""
        return list(self.session)

    def found(self, columns: Sequence[Any], what: str = "the frame") -> dict[str, str]:
        """Return the name of each field's column in `what`, which has `columns`.

        Raises:
            InputError: a column that was asked for or that is necessary is not there.
        """
        have = list(map(str, columns))
        twice = [name for name in have if have.count(name) > 1]
        if twice:
            raise InputError(f"{what} has two columns {twice[0]!r}: give each its own name")
        names = {"item": self.item, "click": self.click}
        for field in ("step", "position", "time", "user", "propensity", "price"):
            given = getattr(self, field)
            if given is not None or (field in have and field != "price"):
                names[field] = given or field
        if not self.sessions:
            raise InputError("session names no column: give the column of the session ids")
        for name in (*self.sessions, *names.values(), *self.item_features, *self.user_features):
            if name not in have:
                message = f"{what} lacks column {name!r}: it has {', '.join(have)}; "
                message += near_matches(str(name), have)
                raise InputError(message.replace("\n", " "))
        if not {"step", "time"} & names.keys():
            raise InputError(
                f"{what} has neither a column step nor a column time, so which rows are one slate "
                "is not known: name one of them (step=…, time=…)"
            )
        return names


def fields_of(
    frame: Any,
    catalogue: Catalogue | None,
    names: Names,
    items: pd.DataFrame | None = None,
    users: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Return the fields of a `SessionLog` for a long-format frame; see `SessionLog.from_frame`."""
    frame = as_frame(frame, "the frame")
    if not isinstance(catalogue, Catalogue | None):
        raise InputError(f"catalogue must be a Catalogue, not {type(catalogue).__name__}")
    if items is not None:
        if catalogue is not None or names.item_features:
            raise InputError("give items, or a catalogue, or item_features, and not two of them")
        catalogue = catalogue_of(items, names.item, names.price)
        names = Names(**{**vars(names), "price": None})
    elif catalogue is not None and (names.item_features or names.price):
        raise InputError("a catalogue has its own features and prices: leave out the columns")
    if users is not None and names.user_features:
        raise InputError("give users or user_features, and not both")
    found = names.found(frame.columns)
    fault = _Fault(frame, names.sessions, found)
    table = typed(frame, names, found, fault)
    first = first_position(table["position"].min() if "position" in table else 0)
    table = ordered(table, found, first, fault)
    if catalogue is None:
        catalogue = _shown_items(table, names, fault)
    arrays = slates_of(table, catalogue, len(names.sessions), fault)
    keys = arrays.pop("users")
    features = table[[f"user:{n}" for n in names.user_features]].to_numpy(np.float64)
    known = Users(*one_row_each(keys[table["slate"]], features, names.user_features, fault, table))
    known = Users(known.ids, known.features, tuple(names.user_features))
    if users is not None:
        known = users_of(users, names.user or "user", known.ids)
    user = np.searchsorted(known.ids, keys[arrays["session_start"][:-1]])
    card = {"name": "frame", "source": "pandas", "licence": "unknown", "synthetic": False}
    return arrays | {"user": user, "catalogue": catalogue, "users": known, "card": card}


class _Fault:
    """Makes the error for a row of the frame, with its session, step and position."""

    def __init__(self, frame: pd.DataFrame, sessions: list[str], found: dict[str, str]) -> None:
        self.frame, self.sessions, self.found = frame, sessions, found

    def __call__(self, row: int, column: str, value: Any, why: str) -> InputError:
        near = [*self.sessions, *(self.found[n] for n in ("step", "position") if n in self.found)]
        at = ", ".join(f"{name} {self.frame[name].iloc[row]}" for name in near)
        shown = repr(value) if isinstance(value, str | bytes) else str(value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return InputError(f"{column} {shown} ({at}) {why}".replace("\n", " "))


def typed(
    frame: pd.DataFrame, names: Names, found: dict[str, str], fault: read.Fault
) -> pd.DataFrame:
    """Return the columns in their types.

    Its columns are session0, …, step, position, item, click, time, user, propensity, price,
    item:NAME, user:NAME and row, the number of the row in the frame.
    """
    features = [*names.item_features, *names.user_features]
    for name in (*names.sessions, *found.values(), *features):
        if frame[name].isna().any():
            row = int(np.argmax(frame[name].isna()))
            raise InputError(f"column {name!r} is missing (NaN) in row {row} of the frame")
    sessions = [f"session{i}" for i in range(len(names.sessions))]
    columns: dict[str, Any] = {
        key: read.ids(frame[name], name, fault)
        for key, name in zip(sessions, names.sessions, strict=True)
    }
    for field in ("item", "user"):
        if field in found:
            columns[field] = read.ids(frame[found[field]], found[field], fault)
    for field in ("step", "position"):
        if field in found:
            columns[field] = read.whole(frame[found[field]], found[field], fault)
    if "time" in found:
        exact, columns["time"] = read.times(frame[found["time"]], found["time"], fault)
        columns.setdefault("step", exact)
    for field in ("click", "propensity", "price"):
        if field in found:
            columns[field] = read.numbers(frame[found[field]], found[field], fault)
    for kind, chosen in (("item", names.item_features), ("user", names.user_features)):
        for name in chosen:
            columns[f"{kind}:{name}"] = read.numbers(frame[name], name, fault)
    return pd.DataFrame(columns | {"row": np.arange(len(frame))})


def first_position(least: int) -> int:
    """Return the number of the first position of a slate, given the least position of all rows."""
    if least == 1:
        warnings.warn("no row has position 0: positions are taken to count from 1", stacklevel=4)
    return int(least == 1)


def ordered(
    table: pd.DataFrame, found: dict[str, str], first: int, fault: read.Fault
) -> pd.DataFrame:
    """Return the rows of `typed` sorted by session, step and position, with the slate of each."""
    keys = [name for name in map(str, table) if name.startswith("session")] + ["step"]
    order = [*keys, "position" if "position" in table else "row"]
    table = table.sort_values(order, kind="stable", ignore_index=True)
    slate = table.groupby(keys, sort=False)
    table["slate"] = slate.ngroup()
    if "position" not in table:
        table["position"] = slate.cumcount()
    _check(table, fault, found)
    table["position"] -= first
    return table


def _check(table: pd.DataFrame, fault: read.Fault, found: dict[str, str]) -> None:
    def fail(bad: Any, field: str, why: str) -> None:
        read.reject(bad, found.get(field, field), table[field], why, of_row(table, fault))

    fail(~table["click"].isin([0, 1]), "click", "is neither 0 nor 1")
    fail(table["position"] < 0, "position", "is negative; positions count from 0")
    why = f"is beyond {_WIDEST:,}: is this column an item id?"
    fail(table["position"] > _WIDEST, "position", why)
    if "user" in table:  # before positions, which two users of one session id fill twice
        sessions = [name for name in map(str, table) if name.startswith("session")]
        first = table.groupby(sessions, sort=False)["user"].transform("first")
        why = (
            "is a second user of this session; if session ids are unique within a user only, "
            'pass session=["user", "session"]'
        )
        fail(table["user"] != first, "user", why)
    why = "holds two items; give each item of a slate its own position"
    fail(table.duplicated(["slate", "position"]), "position", why)
    if "propensity" in table:
        p = table["propensity"]
        fail(~((p >= _LEAST) & (p <= 1)), "propensity", "is not in (0, 1]")
    if "time" in table:
        first = table.groupby("slate")["time"].transform("first")
        fail(table["time"] != first, "time", "differs within a slate; one slate has one time")


def of_row(table: pd.DataFrame, fault: read.Fault) -> read.Fault:
    """Return `fault` for rows of the sorted table."""
    row = table["row"].to_numpy()
    return lambda at, column, value, why: fault(int(row[at]), column, value, why)


def slates_of(
    table: pd.DataFrame, catalogue: Catalogue, n_keys: int, fault: read.Fault
) -> dict[str, Any]:
    """Return the arrays of the log; `users` has the raw user id of each slate's session."""
    item = catalogue.index(table["item"].to_numpy())
    why = "is not in the catalogue"
    read.reject(item == EMPTY, "item", table["item"], why, of_row(table, fault))
    slate_id, position = table["slate"].to_numpy(), table["position"].to_numpy()
    first = np.flatnonzero(np.diff(slate_id, prepend=-1))
    shape = (len(first), int(position.max()) + 1)
    slate, response = np.full(shape, EMPTY, np.int32), np.zeros(shape, np.uint8)
    slate[slate_id, position] = item
    response[slate_id, position] = table["click"]
    propensity = None
    if "propensity" in table:
        propensity = np.zeros(shape, np.float32)
        propensity[slate_id, position] = table["propensity"]
    slates = table.iloc[first]
    keys = [slates[f"session{i}"].to_numpy() for i in range(n_keys)]
    begins = np.r_[True, np.any([key[1:] != key[:-1] for key in keys], axis=0)]
    start = np.r_[np.flatnonzero(begins), len(first)]
    session = np.cumsum(begins) - 1
    user = keys[0] if n_keys == 1 else session
    if "user" in table:
        user = slates["user"].to_numpy()
    time = np.arange(len(first)) - start[:-1][session]
    if "time" in table:
        time = slates["time"].to_numpy()
        late = (np.diff(time, prepend=-1) <= 0) & ~begins
        why = "does not increase from slate to slate; give every slate of a session its own second"
        read.reject(late, "time", time, why, of_row(slates, fault))
    return {
        "slate": slate,
        "response": response,
        "session_start": start,
        "time": time,
        "propensity": propensity,
        "users": user,
    }


def one_row_each(
    keys: np.ndarray,
    values: np.ndarray,
    names: Sequence[str],
    fault: read.Fault,
    table: pd.DataFrame,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct keys and their row of `values`, which must not differ within a key."""
    ids, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    for k, name in enumerate(names):
        differs = values[:, k] != values[first, k][inverse]
        why = "differs from another row of the same user or item; give each one value"
        read.reject(differs, name, values[:, k], why, of_row(table, fault))
    return ids, values[first]


def _shown_items(table: pd.DataFrame, names: Names, fault: read.Fault) -> Catalogue:
    """Return the items of the table in sorted order, with features and prices of its columns."""
    columns = [f"item:{n}" for n in names.item_features] + ["price"] * ("price" in table)
    values = table[columns].to_numpy(np.float64)
    labels = [*names.item_features, *([names.price] if names.price else [])]
    ids, values = one_row_each(table["item"].to_numpy(), values, labels, fault, table)
    n = len(names.item_features)
    price = values[:, n] if names.price else None
    return Catalogue(ids, values[:, :n], price, feature_names=tuple(names.item_features))
