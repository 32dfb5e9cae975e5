"""Assemble the slates of a source, which come in chunks and in any order, to one `SessionLog`.

The slates are checked, staged in a file, sorted by session and time out of core, grouped
into sessions, filtered and written. Memory holds a chunk, the longest session, the ids of the items
and, per kept session, its length and user; never the whole file.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from responders.log.catalogue import EMPTY, Catalogue
from responders.log.session_log import SessionLog
from responders.log.storage import LogWriter
from responders.sources._reading.sessions import Sessions
from responders.sources._reading.slates import Slates, SourceSpec
from responders.sources._reading.staged_slates import StagedSlates
from responders.sources._reading.staged_table import StagedTable, flat, whole_groups


def assemble(
    spec: SourceSpec,
    read: Callable[[Path], Iterator[Slates]],
    out: Path,
    catalogue: Catalogue | None = None,
    overwrite: bool = False,
) -> SessionLog:
    """Write the slates of `read` as the log `out` and load it.

    Args:
        spec: what the source is.
        read: yields the slates, given a folder for scratch files.
        out: folder of the log.
        catalogue: keep its item index and append new items; by default the log has the source's
            own table of items or, without one, the items of the kept sessions in sorted order.
        overwrite: replace `out` if it exists.

    Raises:
        InputError: the raw data has a fault, or no session is kept.
    """
    with LogWriter(out, overwrite) as writer:
        scratch = writer.folder / "scratch"
        scratch.mkdir()
        staged = StagedSlates(spec, scratch)
        staged.fill(read(scratch))
        sessions = Sessions(spec, scratch, staged.units)
        with sessions.table:
            for table, length in whole_groups(staged.sorted(), "session"):
                sessions.add(table, length)
        sessions.check_any()
        items = _items(spec, catalogue, sessions.item_ids)
        items.validate()
        counts = spec.counts | staged.counts | sessions.counts | {"items": len(items)}
        if catalogue is not None:
            counts["cold_items"] = len(items) - len(catalogue)
        _write_slates(writer, sessions.table, items, sessions.width)
        users, user = sessions.users()
        card: dict[str, Any] = {"name": spec.name, "source": spec.source, "licence": spec.licence}
        card |= {"synthetic": False, "files": [p.name for p in staged.units]}
        card |= {"converter": spec.options, "counts": counts, **spec.notes}
        writer.finish(np.concatenate(sessions.length), user, items, users, card)
        del users  # its features may be mapped from the scratch folder, which is removed next
        shutil.rmtree(scratch)
    return SessionLog.load(out)


def _items(spec: SourceSpec, catalogue: Catalogue | None, shown: np.ndarray) -> Catalogue:
    if catalogue is not None:
        return catalogue.extended(shown)
    return spec.items if spec.items is not None else Catalogue(shown)


def _write_slates(writer: LogWriter, kept: StagedTable, items: Catalogue, width: int) -> None:
    """Append the kept slates, padded to `width` positions, as indices of `items`."""
    for rows in kept.tables(max(1, min(1 << 15, (1 << 20) // width))):
        item = flat(rows.column("item"), np.int64)
        shape, cell = (len(rows), width), (item.owner, item.place)
        slate, response = np.full(shape, EMPTY, np.int32), np.zeros(shape, np.uint8)
        slate[cell] = items.index(item.values)
        response[cell] = flat(rows.column("click"), np.uint8).values
        propensity = None
        if "propensity" in rows.column_names:
            propensity = np.zeros(shape, np.float32)
            propensity[cell] = flat(rows.column("propensity"), np.float32).values
        writer.append(slate, response, rows.column("time").to_numpy(), propensity)
