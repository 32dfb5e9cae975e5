"""MovieLens ratings as slates of one film, clicked if the rating is high.

MovieLens says what people watched, not what they were shown. With `negatives`, each film is shown
among others that are drawn at random: such slates are constructed, nobody saw them.

RAW is ``ratings.csv[.gz]`` (userId,movieId,rating,timestamp) or the folder that contains it. If the
folder has ``movies.csv[.gz]`` (movieId,title,genres) as well, the films have features: a column for
each genre, and the year in the title.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from responders.errors import InputError, check_seed, check_whole
from responders.log.catalogue import Catalogue
from responders.log.session_log import SessionLog
from responders.sources._reading.assemble import assemble
from responders.sources._reading.chunk import CHUNK_ROWS, Chunk
from responders.sources._reading.files import find, need, raw_path
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
    negatives: int = 0,
    seed: int = 0,
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
        negatives: put each film at a random position among this many others, different ones that
            the user never rated, drawn uniformly and not clicked; the file is then read at once.
        seed: of those draws.
        min_slates: shortest session kept.
        max_slates: longest session kept; None = any.

    Raises:
        InputError: the file is missing or has a fault, or there are too few films to draw from.
    """
    check_whole("negatives", negatives, 0)
    rng = np.random.default_rng(check_seed(seed))
    raw = raw_path(raw)
    path = need(raw, "ratings.csv") if raw.is_dir() else raw
    films = find(raw, "movies.csv") if raw.is_dir() else None
    spec = SourceSpec(
        name="movielens",
        source=f"MovieLens ratings; one film a slate, clicked if rated {threshold} or more"
        + (
            f"; CONSTRUCTED slates with {negatives} random films that were not" if negatives else ""
        ),
        licence="GroupLens: research use, no commercial use without permission; see its README",
        options={
            "threshold": threshold,
            "negatives": negatives,
            "seed": seed,
            "min_slates": min_slates,
            "max_slates": max_slates,
        },
        min_slates=min_slates,
        max_slates=max_slates,
        items=None if films is None else _catalogue(films),
        notes={
            "slates": f"constructed: what was rated among {negatives} films drawn at random"
            if negatives
            else "one item each: what was rated, not what was shown"
        },
    )
    chunks: Iterator[Chunk] = read_text(path, _COLUMNS, chunk_rows=chunk_rows)
    if negatives:
        chunks = iter([Chunk.whole(chunks)])
    slates = (_slates(chunk, threshold, negatives, rng) for chunk in chunks)
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


def _slates(chunk: Chunk, threshold: float, negatives: int, rng: np.random.Generator) -> Slates:
    user, film = integers(chunk, "userId"), integers(chunk, "movieId")[:, None]
    click = (floats(chunk, "rating") >= threshold).astype(np.int64)[:, None]
    if negatives:
        film, place = _with_negatives(user, film[:, 0], negatives, rng, chunk.path)
        click = click * (place[:, None] == np.arange(negatives + 1))
    return Slates(
        path=chunk.path,
        line=chunk.line,
        session=user,
        time=integers(chunk, "timestamp"),
        item=Ragged(film.ravel(), np.full(len(film), negatives + 1)),
        click=click.ravel(),
    )


def _with_negatives(
    user: np.ndarray, film: np.ndarray, negatives: int, rng: np.random.Generator, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Return slates [n, 1 + negatives] with each rated film and others, and its place [n]."""
    films, own = np.unique(film, return_inverse=True)
    who = np.unique(user, return_inverse=True)[1]
    rated = np.unique(who * len(films) + own)
    left = len(films) - int(np.bincount(rated // len(films)).max())
    if left < negatives:
        raise InputError(
            f"{path}: a user has rated all but {left} films, too few for {negatives} negatives"
        )
    drawn = rng.integers(len(films), size=(len(film), negatives))
    while True:  # draw again what the user rated, and what is in the slate already
        pair = who[:, None] * len(films) + drawn
        at = np.searchsorted(rated, pair).clip(max=len(rated) - 1)
        order = drawn.argsort(1, kind="stable")
        ascending = np.take_along_axis(drawn, order, 1)
        again = np.zeros(drawn.shape, bool)
        repeated = np.diff(ascending, axis=1, prepend=-1) == 0
        np.put_along_axis(again, order, repeated, 1)
        again |= rated[at] == pair
        if not again.any():
            break
        drawn[again] = rng.integers(len(films), size=int(again.sum()))
    slate, row = np.column_stack([own, drawn]), np.arange(len(film))
    place = rng.integers(negatives + 1, size=len(film))
    slate[:, 0] = slate[row, place]
    slate[row, place] = own
    return films[slate], place
