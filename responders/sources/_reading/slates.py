"""Slates as they stand in a raw file, what their source is, and the checks on one chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from responders.errors import InputError
from responders.log.catalogue import EMPTY, Catalogue, Users
from responders.sources._reading.parse import Ragged

NO_ITEM = np.iinfo(np.int64).min
"""The raw item id of an empty position."""

_LATEST = 10**11  # seconds; later times are surely milliseconds


@dataclass(frozen=True)
class Slates:
    """Some slates as they stand in the raw file, n lists of m items in all.

    Args:
        path: the file.
        line: [n] int64, where each slate stands in it.
        session: [n] raw session ids, int64 or str; sorted by, they give the order of sessions.
        time: [n] int64 seconds.
        item: raw item ids, int64 values [m]; NO_ITEM = empty position.
        click: [m] int64, 0 or 1.
        fine: [n] int64, orders the slates of a session that fall in the same second.
        user: [n] int64 where a session's id is not its user's id.
        propensity: [m] float64.
        portrait: numbers that describe the user, as many in every slate, or none.
        unit: "line" or "row", what `line` counts.
    """

    path: Path
    line: np.ndarray
    session: np.ndarray
    time: np.ndarray
    item: Ragged
    click: np.ndarray
    fine: np.ndarray | None = None
    user: np.ndarray | None = None
    propensity: np.ndarray | None = None
    portrait: Ragged | None = None
    unit: str = "line"

    def fail(self, bad: np.ndarray, values: np.ndarray, what: str, each: str = "slate") -> None:
        """Raise `InputError` at the first bad slate [n] or, each="item", the first bad item [m].

        Args:
            bad: where it is wrong.
            values: of the same shape; the bad one takes the place of {} in `what`.
            what: the message.
            each: what `bad` and `values` run over.
        """
        if bad.any():
            at = int(np.argmax(bad))
            row = at if each == "slate" else int(self.item.row[at])
            where = f"{self.path}, {self.unit} {int(self.line[row])}"
            raise InputError(f"{where}: {what.format(values[at])}")


@dataclass
class Spec:
    """What a source is and how its sessions are made.

    Args:
        name: name of the log.
        source: what it is, in words.
        licence: of the data.
        options: the converter's options, for the card.
        min_slates: shortest session kept.
        max_slates: longest session kept; None = any.
        clock: False where the file has an order and no times: time is then the slate's number
            within its session.
        together: whether the slates of a session must be consecutive in the file.
        unique: name of the column given as `fine` that must not repeat within a session.
        items: the format's own table of items; a slate may show no other.
        users: makes the users from the sorted distinct `user` ids.
        notes: further entries of the card, which may be filled in while reading.
        counts: likewise, further counts.
        max_positions: positions of a slate beyond so many are cut off; None = none.
    """

    name: str
    source: str
    licence: str
    options: dict[str, Any] = field(default_factory=dict)
    min_slates: int = 1
    max_slates: int | None = None
    clock: bool = True
    together: bool = False
    unique: str | None = None
    items: Catalogue | None = None
    users: Callable[[np.ndarray], Users] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    max_positions: int | None = None

    def __post_init__(self) -> None:
        if self.min_slates < 1 or (self.max_slates or self.min_slates) < self.min_slates:
            raise InputError(
                f"min_slates {self.min_slates} and max_slates {self.max_slates} leave no session: "
                "give 1 <= min_slates <= max_slates"
            )
        if self.max_positions is not None and self.max_positions < 1:
            raise InputError(
                f"max_positions {self.max_positions} leaves no position: give 1 or more"
            )


def check(slates: Slates, spec: Spec) -> None:
    """Raise `InputError` for a fault that one chunk can show."""
    item, click = slates.item.values, slates.click
    slates.fail(slates.time < 0, slates.time, "time {} is negative; give seconds since an origin")
    late = slates.time > _LATEST
    slates.fail(late, slates.time, "time {} s is beyond the year 5000; are these milliseconds?")
    wrong = (click != 0) & (click != 1)
    slates.fail(wrong, click, "click {} is neither 0 nor 1", "item")
    empty = item == NO_ITEM
    slates.fail((click == 1) & empty, click, "click {} on an empty position", "item")
    if spec.items is not None:
        known = (spec.items.index(item) != EMPTY) | empty
        what = "item {} is not in the item table; correct the row or the table"
        slates.fail(~known, item, what, "item")
    if slates.propensity is not None:
        p = slates.propensity
        slates.fail(~((p > 0) & (p <= 1)) & ~empty, p, "propensity {} is not in (0, 1]", "item")
