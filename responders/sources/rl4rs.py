"""RL4RS (NetEase Fuxi): slates of nine items of a mobile game's shop, clicked (bought) or not.

RAW is a folder with ``rl4rs_dataset_*_sl.csv`` and ``item_info.csv`` (either may be gzipped), or
the first of them in such a folder. Its columns, separated by ``@``, are timestamp, session_id,
sequence_id, exposed_items (9 ids separated by commas; 0 = empty position), user_feedback (9 times
0 or 1), user_seqfeature, user_protrait (spelled like this), item_feature and behavior_policy_id.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from responders.errors import InputError, near_matches
from responders.log.catalogue import Catalogue
from responders.log.session_log import SessionLog
from responders.sources._reading.assemble import assemble
from responders.sources._reading.chunk import CHUNK_ROWS, Chunk
from responders.sources._reading.files import existing, need, raw_path
from responders.sources._reading.parse import (
    Ragged,
    distinct_integers,
    float_lists,
    floats,
    integer_lists,
    integers,
)
from responders.sources._reading.slates import NO_ITEM, Slates, SourceSpec
from responders.sources._reading.text import read_text

_COLUMNS = [
    "timestamp",
    "session_id",
    "sequence_id",
    "exposed_items",
    "user_feedback",
    "user_protrait",
]
_ITEM_COLUMNS = ["item_id", "item_vec", "price", "location", "special_item"]


def read(
    raw: Path,
    out: Path,
    catalogue: Catalogue | None = None,
    *,
    overwrite: bool = False,
    chunk_rows: int = CHUNK_ROWS,
    which: str | None = None,
    min_slates: int = 3,
    max_slates: int | None = None,
) -> SessionLog:
    """Convert `raw` to the log `out`; every session is a user of its own.

    The catalogue has item_info's items in its order: 40 features, price, and the attributes
    `layer` (int8, 1 to 3) and `special` (bool, special_item == 2).

    Args:
        raw: the folder or the CSV file.
        out: folder of the log.
        catalogue: keep the index of these items; new items are appended.
        overwrite: replace `out` if it exists.
        chunk_rows: rows in memory at a time.
        which: the part of the folder to read, "a" or "b"; None = the only part, or "b" of several.
        min_slates: shortest session kept.
        max_slates: longest session kept; None = any.
    """
    path = _file(raw_path(raw), which)
    spec = SourceSpec(
        name=path.name.split(".")[0].replace("_dataset", "").replace("_", "-"),
        source="RL4RS, slates of a mobile game's shop",
        licence="CC BY-SA 4.0",
        options={"min_slates": min_slates, "max_slates": max_slates},
        min_slates=min_slates,
        max_slates=max_slates,
        unique="sequence_id",
        items=read_items(need(path.parent, "item_info.csv")),
        notes={"user_features": "user_protrait of the session's first slate"},
    )
    chunks = read_text(path, _COLUMNS, separator="@", quoted=False, chunk_rows=chunk_rows)
    slates = map(_slates, chunks)
    return assemble(spec, lambda _: slates, Path(out), catalogue, overwrite)


def _file(raw: Path, which: str | None) -> Path:
    if not existing(raw).is_dir():
        return raw
    found = {
        p.name.removeprefix("rl4rs_dataset_").split("_sl.csv")[0]: p
        for p in sorted(raw.glob("rl4rs_dataset_*_sl.csv*"), reverse=True)
        if p.name.endswith(("_sl.csv", "_sl.csv.gz"))
    }
    if not found:
        raise InputError(f"{raw} has no rl4rs_dataset_*_sl.csv (plain or .gz)")
    if which is None:
        which = next(iter(found)) if len(found) == 1 else "b"
    if which not in found:
        raise InputError(f"{raw} has no rl4rs_dataset_{which}_sl.csv; {near_matches(which, found)}")
    return found[which]


def read_items(path: Path) -> Catalogue:
    """Return the catalogue in `item_info.csv[.gz]`, see `read`."""
    table = Chunk.whole(read_text(path, _ITEM_COLUMNS, separator=" ", quoted=False))
    vector = float_lists(table, "item_vec")
    width = int(vector.length[0])
    message = f"{{}} numbers where the first item has {width}; correct the line"
    table.reject(vector.length != width, message, vector.length, column="item_vec")
    layer = integers(table, "location")
    message = "location {} is not 1, 2 or 3; correct the line"
    table.reject((layer < 1) | (layer > 3), message, layer, column="location")
    return Catalogue(
        ids=distinct_integers(table, "item_id"),
        features=vector.values.reshape(-1, width),
        price=floats(table, "price"),
        attributes={
            "layer": layer.astype(np.int8),
            "special": integers(table, "special_item") == 2,
        },
    )


def _slates(chunk: Chunk) -> Slates:
    item, click = integer_lists(chunk, "exposed_items"), integer_lists(chunk, "user_feedback")
    message = "{} values for {} exposed_items; correct the line"
    differ = item.length != click.length
    chunk.reject(differ, message, click.length, item.length, column="user_feedback")
    return Slates(
        path=chunk.path,
        line=chunk.line,
        session=integers(chunk, "session_id"),
        time=integers(chunk, "timestamp"),
        tie_breaker=integers(chunk, "sequence_id"),
        item=Ragged(np.where(item.values == 0, NO_ITEM, item.values), item.length),
        click=click.values,
        user_features=_user_features(chunk),
    )


def _user_features(chunk: Chunk) -> Ragged:
    try:
        return float_lists(chunk, "user_protrait")
    except InputError:  # not numbers: the features are left out, and the card says so
        return Ragged(np.zeros(0), np.zeros(len(chunk), np.int64))
