"""All slates of a source in one staged table, checked chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from responders.errors import InputError
from responders.sources._reading.parse import Ragged
from responders.sources._reading.slates import NO_ITEM, Slates, SourceSpec, check
from responders.sources._reading.staged_table import StagedTable, to_lists


class StagedSlates:
    """Stage the slates that show an item.

    Attributes:
        table: the slates.
        units: "line" or "row", what the table's `line` counts, by raw file.
        counts: slates read and slates left out.
    """

    def __init__(self, spec: SourceSpec, scratch: Path) -> None:
        self.spec, self.table = spec, StagedTable(scratch / "staged.arrow")
        self.units: dict[Path, str] = {}
        self.counts = {"slates_read": 0, "slates_empty": 0}
        self._feature_counts: set[int] = set()

    def fill(self, chunks: Iterator[Slates]) -> None:
        """Check and stage all slates."""
        with self.table as table:
            for slates in chunks:
                check(slates, self.spec)
                table.add(self._rows(self._cut(slates)))
        if self.counts["slates_read"] == self.counts["slates_empty"]:
            raise InputError("the source has no slate that shows an item")

    def sorted(self) -> Iterator[pa.Table]:
        """Yield the slates by session and time."""
        columns = list(self.table.columns)
        order: list[str] = [c for c in ("session", "time", "tie_breaker", "number") if c in columns]
        if len(self._feature_counts) > 1 or 0 in self._feature_counts:
            columns.remove("user_features")
            self.spec.notes["user_features"] = (
                "left out: the rows do not all have the same number of them"
            )
        return self.table.sorted(order, columns)

    def _cut(self, slates: Slates) -> Slates:
        """Return the slates without the positions beyond `max_positions`."""
        if self.spec.max_positions is None:
            return slates
        limit, counts = self.spec.max_positions, self.spec.counts
        keep = slates.item.place < limit
        lost = int(slates.click[~keep].sum())
        counts["clicks_cut_off"] = counts.get("clicks_cut_off", 0) + lost
        p = slates.propensity
        return replace(
            slates,
            item=Ragged(slates.item.values[keep], np.minimum(slates.item.length, limit)),
            click=slates.click[keep],
            propensity=None if p is None else p[keep],
        )

    def _rows(self, slates: Slates) -> pa.Table:
        n, item = len(slates.line), slates.item
        self.units.setdefault(slates.path, slates.unit)
        file = list(self.units).index(slates.path)
        shows_item = np.zeros(n, bool)
        shows_item[item.owner[item.values != NO_ITEM]] = True
        first = self.counts["slates_read"] - self.counts["slates_empty"]
        columns: dict[str, Any] = {
            "session": slates.session,
            "time": slates.time,
            "tie_breaker": slates.tie_breaker,
            "number": first + np.cumsum(shows_item) - 1,  # of the slates that show an item
            "file": np.full(n, file, np.int16),
            "line": slates.line,
            "user": slates.user,
            "item": to_lists(item.values, item.length, np.int64),
            "click": to_lists(slates.click, item.length, np.uint8),
        }
        if slates.propensity is not None:
            columns["propensity"] = to_lists(slates.propensity, item.length, np.float32)
        if slates.user_features is not None:
            features = slates.user_features
            self._feature_counts |= set(np.unique(features.length).tolist())
            columns["user_features"] = to_lists(features.values, features.length, np.float32)
        table = pa.table({k: v for k, v in columns.items() if v is not None})
        self.counts["slates_read"] += n
        self.counts["slates_empty"] += int((~shows_item).sum())
        return table if shows_item.all() else table.filter(pa.array(shows_item))
