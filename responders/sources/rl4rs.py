"""RL4RS (NetEase Fuxi): slates of nine items of a mobile game's shop, clicked (bought) or not.

RAW is a folder with ``rl4rs_dataset_*_sl.csv`` and ``item_info.csv`` (either may be gzipped), or
the csv itself with item_info beside it. Separator ``@``: timestamp, session_id, sequence_id,
exposed_items (9 ids, comma; 0 = empty position), user_feedback (9 times 0 or 1), user_seqfeature,
user_protrait (the misspelling is the file's), item_feature, behavior_policy_id.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from responders.errors import InputError, near_matches
from responders.log.catalogue import Catalogue
from responders.log.session_log import SessionLog
from responders.sources._reading.build import build
from responders.sources._reading.files import existing, need
from responders.sources._reading.parse import (
    Ragged,
    distinct_integers,
    float_lists,
    floats,
    integer_lists,
    integers,
)
from responders.sources._reading.raw import CHUNK_ROWS, Chunk, read_text
from responders.sources._reading.slates import NO_ITEM, Slates, Spec

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
        raw: the folder or the csv.
        out: folder of the log.
        catalogue: items whose index is kept; new ones are appended.
        overwrite: replace `out` where it exists.
        chunk_rows: rows read at a time.
        which: the part of a folder to read, "a" or "b"; by default the only one, else "b".
        min_slates: shortest session kept.
        max_slates: longest session kept; None = any.
    """
    path = _file(Path(raw), which)
    spec = Spec(
        name=path.name.split(".")[0].replace("_dataset", "").replace("_", "-"),
        source="RL4RS, slates of a mobile game's shop",
        licence="CC BY-SA 4.0",
        options={"min_slates": min_slates, "max_slates": max_slates},
        min_slates=min_slates,
        max_slates=max_slates,
        unique="sequence_id",
        items=_catalogue(need(path.parent, "item_info.csv")),
        notes={"user_features": "user_protrait of the session's first slate"},
    )

    def slates(scratch: Path) -> Iterator[Slates]:
        chunks = read_text(path, _COLUMNS, separator="@", quoted=False, chunk_rows=chunk_rows)
        return map(_slates, chunks)

    return build(spec, slates, Path(out), catalogue, overwrite)


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


def _catalogue(path: Path) -> Catalogue:
    ids: list[np.ndarray] = []
    vectors: list[np.ndarray] = []
    price, layer, special = [], [], []
    for chunk in read_text(path, _ITEM_COLUMNS, separator=" ", quoted=False):
        vector = float_lists(chunk, "item_vec")
        width = int(vector.length[0]) if not vectors else vectors[0].shape[1]
        if (vector.length != width).any():
            row = int(np.argmax(vector.length != width))
            raise chunk.fault(row, f"{vector.length[row]} numbers, not {width}", "item_vec")
        vectors.append(vector.values.reshape(-1, width))
        ids.append(distinct_integers(chunk, "item_id"))
        price.append(floats(chunk, "price"))
        layer.append(integers(chunk, "location").astype(np.int8))
        special.append(integers(chunk, "special_item") == 2)
    return Catalogue(
        ids=np.concatenate(ids),
        features=np.concatenate(vectors),
        price=np.concatenate(price),
        attributes={"layer": np.concatenate(layer), "special": np.concatenate(special)},
    )


def _slates(chunk: Chunk) -> Slates:
    item, click = integer_lists(chunk, "exposed_items"), integer_lists(chunk, "user_feedback")
    bad = item.length != click.length
    if bad.any():
        row = int(np.argmax(bad))
        what = f"{click.length[row]} values for {item.length[row]} exposed_items"
        raise chunk.fault(row, what, "user_feedback")
    return Slates(
        path=chunk.path,
        line=chunk.line,
        session=integers(chunk, "session_id"),
        time=integers(chunk, "timestamp"),
        fine=integers(chunk, "sequence_id"),
        item=Ragged(np.where(item.values == 0, NO_ITEM, item.values), item.length),
        click=click.values,
        portrait=_portrait(chunk),
    )


def _portrait(chunk: Chunk) -> Ragged:
    try:
        return float_lists(chunk, "user_protrait")
    except InputError:  # a part that is no number: the features are left out, the card says so
        return Ragged(np.zeros(0), np.zeros(len(chunk), np.int64))
