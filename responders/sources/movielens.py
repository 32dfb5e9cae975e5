"""MovieLens ratings as slates of one film, clicked if the rating is high.

RAW is ``ratings.csv[.gz]`` (userId,movieId,rating,timestamp) or the folder that contains it. If the
folder has ``movies.csv[.gz]`` (movieId,title,genres) as well, the films have features: a column for
each genre, and the year in the title.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from responders.log.catalogue import Catalogue
from responders.log.session_log import SessionLog
from responders.sources._reading.assemble import assemble
from responders.sources._reading.chunk import CHUNK_ROWS, Chunk
from responders.sources._reading.files import find, need
from responders.sources._reading.parse import Ragged, distinct_integers, floats, integers
from responders.sources._reading.slates import Slates, SourceSpec
from responders.sources._reading.text import read_text

_COLUMNS = ["userId", "movieId", "rating", "timestamp"]


def read(
    raw: Path,
    out: Path,
    catalogue: Catalogue | None = None,
    *,
    overwrite: bool = False,
    chunk_rows: int = CHUNK_ROWS,
    threshold: float = 4.0,
    min_slates: int = 1,
    max_slates: int | None = None,
) -> SessionLog:
    """Convert `raw` to the log `out`: a session is a user, in the order of time.

    Args:
        raw: the file or its folder.
        out: folder of the log.
        catalogue: keep the index of these items; new items are appended.
        overwrite: replace `out` if it exists.
        chunk_rows: rows in memory at a time.
        threshold: a rating of at least this many stars is a click.
        min_slates: shortest session kept.
        max_slates: longest session kept; None = any.
    """
    raw = Path(raw)
    path = need(raw, "ratings.csv") if raw.is_dir() else raw
    films = find(raw, "movies.csv") if raw.is_dir() else None
    spec = SourceSpec(
        name="movielens",
        source=f"MovieLens ratings; one film a slate, clicked if rated {threshold} or more",
        licence="GroupLens: research use, no commercial use without permission; see its README",
        options={"threshold": threshold, "min_slates": min_slates, "max_slates": max_slates},
        min_slates=min_slates,
        max_slates=max_slates,
        items=None if films is None else _catalogue(films),
        notes={"slates": "one item each: what was rated, not what was shown"},
    )
    chunks = read_text(path, _COLUMNS, chunk_rows=chunk_rows)
    slates = (_slates(chunk, threshold) for chunk in chunks)
    return assemble(spec, lambda _: slates, Path(out), catalogue, overwrite)


def _catalogue(path: Path) -> Catalogue:
    table = Chunk.whole(read_text(path, ["movieId", "title", "genres"]))
    genres = pd.Series(table.column("genres").to_pylist()).str.get_dummies("|")
    titles = pd.Series(table.column("title").to_pylist())
    year = titles.str.extract(r"\((\d{4})\)", expand=False).astype(float)
    year = year.fillna(year.median()).fillna(0)
    return Catalogue(
        ids=distinct_integers(table, "movieId"),
        features=np.column_stack([genres, year]),
        feature_names=(*genres.columns, "year"),
    )


def _slates(chunk: Chunk, threshold: float) -> Slates:
    return Slates(
        path=chunk.path,
        line=chunk.line,
        session=integers(chunk, "userId"),
        time=integers(chunk, "timestamp"),
        item=Ragged(integers(chunk, "movieId"), np.ones(len(chunk), np.int64)),
        click=(floats(chunk, "rating") >= threshold).astype(np.int64),
    )
