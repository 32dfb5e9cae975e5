"""Amazon 5-core sequences, such as Beauty: a line is a user and then items in order.

RAW is the text file, plain or gzipped. Feedback is implicit: every item was chosen. There are no
times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from responders.log.catalogue import Catalogue
from responders.log.session_log import SessionLog
from responders.sources._reading.assemble import assemble
from responders.sources._reading.chunk import CHUNK_ROWS, Chunk
from responders.sources._reading.files import only, raw_path
from responders.sources._reading.parse import Ragged, integer_lists
from responders.sources._reading.slates import Slates, SourceSpec
from responders.sources._reading.text import read_text


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
        catalogue: keep the index of these items; new items are appended.
        overwrite: replace `out` if it exists.
        chunk_rows: lines in memory at a time.
        min_slates: shortest session kept.
        max_slates: longest session kept; None = any.
    """
    path = _file(raw_path(raw))
    spec = SourceSpec(
        name=f"amazon-{path.name.split('.')[0].lower()}",
        source="Amazon 5-core sequences; one item a slate, always clicked (implicit feedback)",
        licence="none stated",
        options={"min_slates": min_slates, "max_slates": max_slates},
        min_slates=min_slates,
        max_slates=max_slates,
        has_time=False,
        consecutive=True,
        notes={
            "slates": "one item each: what was chosen, not what was shown",
            "time": "the number of the item in its sequence; the source has no times",
        },
    )
    chunks = read_text(
        path, ["line"], separator="\t", names=["line"], quoted=False, chunk_rows=chunk_rows
    )
    slates = map(_slates, chunks)
    return assemble(spec, lambda _: slates, Path(out), catalogue, overwrite)


def _file(raw: Path) -> Path:
    if not raw.is_dir():
        return raw
    found = [p for p in sorted(raw.glob("*.txt*")) if p.suffix in (".txt", ".gz")]
    return only(raw, found, "sequence file")


def _slates(chunk: Chunk) -> Slates:
    numbers = integer_lists(chunk, "line", separator=None)
    short = numbers.length < 2
    if short.any():
        row = int(np.argmax(short))
        text = chunk.column("line")[row].as_py()
        raise chunk.fault(row, f"{text!r} is not a user and one item or more; correct the line")
    length = numbers.length - 1
    is_user = numbers.place == 0
    return Slates(
        path=chunk.path,
        line=np.repeat(chunk.line, length),
        session=np.repeat(numbers.values[is_user], length),
        time=np.zeros(length.sum(), np.int64),
        item=Ragged(numbers.values[~is_user], np.ones(length.sum(), np.int64)),
        click=np.ones(length.sum(), np.int64),
    )
