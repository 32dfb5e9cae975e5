"""Slates as a raw file has them, the description of their source, and the checks on one chunk."""

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

_LATEST = 10**11  # seconds, the year 5138; later times are surely milliseconds


@dataclass(frozen=True)
class Slates:
    """n slates with m positions in total, as a raw file has them.

    Args:
        path: the file.
        line: [n] int64, the line or row of each slate in the file.
        session: [n] raw session ids, int64 or str; the log has sessions in the order of their ids.
        time: [n] int64 seconds.
        item: raw item ids, int64 values [m]; NO_ITEM = empty position.
        click: [m] int64, 0 or 1.
        tie_breaker: [n] int64, orders the slates of a session that have the same time.
        user: [n] int64, or None if a session's id is also its user's id.
        propensity: [m] float64.
        user_features: numbers that describe the user, the same number in every slate, or none.
        unit: "line" or "row", what `line` counts.
    """

    path: Path
    line: np.ndarray
    session: np.ndarray
    time: np.ndarray
    item: Ragged
    click: np.ndarray
    tie_breaker: np.ndarray | None = None
    user: np.ndarray | None = None
    propensity: np.ndarray | None = None
    user_features: Ragged | None = None
    unit: str = "line"

    def reject(
        self, bad: np.ndarray, message: str, values: np.ndarray, per_position: bool = False
    ) -> None:
        """Raise `InputError` at the first slate or position that is bad, if there is one.

        Args:
            bad: [n] bool, or [m] if per_position.
            message: what is wrong and how to fix it; {} stands for the bad value.
            values: of the shape of `bad`.
            per_position: whether `bad` and `values` have an entry per position.
        """
        if bad.any():
            at = int(np.argmax(bad))
            slate = int(self.item.owner[at]) if per_position else at
            where = f"{self.path}, {self.unit} {int(self.line[slate])}"
            raise InputError(f"{where}: {message.format(values[at])}")


@dataclass
class SourceSpec:
    """What a source is and how its sessions are made.

    Args:
        name: name of the log.
        source: what it is, in words.
        licence: of the data.
        options: the converter's options, for the card.
        min_slates: shortest session kept.
        max_slates: longest session kept; None = any.
        max_positions: later positions of a slate are cut off; None = none.
        has_time: False if the file has an order but no times; time is then the number of the slate
            within its session.
        consecutive: whether the slates of a session must be consecutive in the file.
        unique: name of the file's column of `Slates.tie_breaker` if its values must differ within
            a session.
        items: the source's own table of items; slates may show no others.
        make_users: returns the users, given their sorted distinct `user` ids.
        notes: further entries of the card; may be added while reading.
        counts: further counts; may be added while reading.
    """

    name: str
    source: str
    licence: str
    options: dict[str, Any] = field(default_factory=dict)
    min_slates: int = 1
    max_slates: int | None = None
    max_positions: int | None = None
    has_time: bool = True
    consecutive: bool = False
    unique: str | None = None
    items: Catalogue | None = None
    make_users: Callable[[np.ndarray], Users] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

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


def check(slates: Slates, spec: SourceSpec) -> None:
    """Raise `InputError` for a fault that one chunk can show."""
    item, click, time = slates.item.values, slates.click, slates.time
    slates.reject(time < 0, "time {} is negative; give seconds since an origin", time)
    late = time > _LATEST
    slates.reject(late, "time {} s is beyond the year 5000; is it in milliseconds?", time)
    wrong = (click != 0) & (click != 1)
    slates.reject(wrong, "click {} is neither 0 nor 1; correct the row", click, True)
    empty = item == NO_ITEM
    wrong = (click == 1) & empty
    slates.reject(wrong, "click {} on an empty position; correct the row", click, True)
    if spec.items is not None:
        unknown = (spec.items.index(item) == EMPTY) & ~empty
        message = "item {} is not in the item table; correct the row or the table"
        slates.reject(unknown, message, item, True)
    if slates.propensity is not None:
        p = slates.propensity
        wrong = ~((p.astype(np.float32) > 0) & (p <= 1)) & ~empty
        slates.reject(wrong, "propensity {} is not in (0, 1]; correct the row", p, True)
