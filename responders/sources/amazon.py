"""Amazon 5-core sequences (Beauty and its like): a line is a user, then items in order.

RAW is that text file, plain or gzipped. Feedback is implicit: every item was chosen. There are
no times.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from responders.log.catalogue import Catalogue
from responders.log.session_log import SessionLog
from responders.sources._reading.build import build
from responders.sources._reading.files import only
from responders.sources._reading.parse import Ragged, integer_lists
from responders.sources._reading.raw import CHUNK_ROWS, Chunk, read_text
from responders.sources._reading.slates import Slates, Spec


def read(
    raw: Path,
    out: Path,
    catalogue: Catalogue | None = None,
    *,
    overwrite: bool = False,
    chunk_rows: int = CHUNK_ROWS,
    min_slates: int = 1,
    max_slates: int | None = None,
) -> SessionLog:
    """Convert `raw` to the log `out`: a session is a user, a slate one item, clicked.

    Args:
        raw: the file, or a folder with one *.txt[.gz].
        out: folder of the log.
        catalogue: items whose index is kept; new ones are appended.
        overwrite: replace `out` where it exists.
        chunk_rows: lines read at a time.
        min_slates: shortest session kept.
        max_slates: longest session kept; None = any.
    """
    path = _file(Path(raw))
    spec = Spec(
        name=f"amazon-{path.name.split('.')[0].lower()}",
        source="Amazon 5-core sequences; one item a slate, always clicked (implicit feedback)",
        licence="none stated",
        options={"min_slates": min_slates, "max_slates": max_slates},
        min_slates=min_slates,
        max_slates=max_slates,
        clock=False,
        together=True,
        notes={
            "slates": "one item each: what was chosen, not what was shown",
            "time": "the number of the item in its sequence: an order, no clock",
        },
    )

    def slates(scratch: Path) -> Iterator[Slates]:
        chunks = read_text(
            path, ["line"], separator="\t", names=["line"], quoted=False, chunk_rows=chunk_rows
        )
        return map(_slates, chunks)

    return build(spec, slates, Path(out), catalogue, overwrite)


def _file(raw: Path) -> Path:
    if not raw.is_dir():
        return raw
    found = [p for p in sorted(raw.glob("*.txt*")) if p.suffix in (".txt", ".gz")]
    return only(raw, found, "sequence file")


def _slates(chunk: Chunk) -> Slates:
    numbers = integer_lists(chunk, "line", separator=None)
    alone = numbers.length < 2
    if alone.any():
        row = int(np.argmax(alone))
        text = chunk.column("line")[row].as_py()
        raise chunk.fault(row, f"{text!r} is not a user and one item or more")
    length = numbers.length - 1
    head = numbers.place == 0
    return Slates(
        path=chunk.path,
        line=np.repeat(chunk.line, length),
        session=np.repeat(numbers.values[head], length),
        time=np.zeros(length.sum(), np.int64),
        item=Ragged(numbers.values[~head], np.ones(length.sum(), np.int64)),
        click=np.ones(length.sum(), np.int64),
    )
