"""Lines, chunks and sessions are read exactly, whatever the blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responders.sources import convert
from responders.sources._reading import assemble, parse, text
from responders.sources._reading.slates import Slates, SourceSpec
from tests.responders.sources.raw import NAMES, equal, make, shown


@pytest.mark.parametrize("source", NAMES)
@pytest.mark.parametrize("chunk_rows", [1, 2])
def test_chunks_do_not_matter(source: str, chunk_rows: int, tmp_path: Path, logs: Path) -> None:
    folder = make(source, tmp_path / "raw")
    whole = convert(source, folder, logs / "whole")
    assert equal(convert(source, folder, logs / "parts", chunk_rows=chunk_rows), whole)


_FIELD = st.text(st.sampled_from('ab," \n'), max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(_FIELD, _FIELD, st.integers(0, 3)), min_size=1, max_size=8),
    chunk_rows=st.integers(1, 5),
    block=st.integers(1, 40),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
)
def test_lines_are_exact_whatever_the_blocks(
    rows: list[tuple[str, str, int]],
    chunk_rows: int,
    block: int,
    end: str,
    last: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Fields may wrap and empty lines may stand between records; blocks may cut anywhere."""
    path = tmp_path_factory.mktemp("lines") / "rows.csv"
    content, expected, line = "x,y" + end, [], 2
    for x, y, blank in rows:
        content += end * blank
        line += blank
        expected.append((x, y, line))
        record = ",".join('"' + f.replace('"', '""') + '"' for f in (x, y))
        content += record + end
        line += record.count("\n") + 1
    path.write_bytes((content if last else content.removesuffix(end)).encode())
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_BLOCK", block)
        for chunk in text.read_text(path, ["y", "x"], chunk_rows=chunk_rows):
            assert len(chunk) <= chunk_rows
            columns = (chunk.column(c).to_pylist() for c in ("x", "y"))
            found += list(zip(*columns, chunk.line.tolist(), strict=True))
    assert found == expected


@settings(max_examples=40, deadline=None)
@given(
    slates=st.lists(
        st.tuples(
            st.integers(0, 3),  # session
            st.integers(0, 4),  # time
            st.lists(st.tuples(st.integers(5, 9), st.booleans()), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_assemble_against_a_plain_loop(
    slates: list[tuple[int, int, list[tuple[int, bool]]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    def chunks(scratch: Path) -> list[Slates]:
        return [
            Slates(
                path=Path("made.csv"),
                line=np.array([n]),
                session=np.array([session]),
                time=np.array([time]),
                item=parse.Ragged(np.array([i for i, _ in shown]), np.array([len(shown)])),
                click=np.array([int(c) for _, c in shown]),
            )
            for n, (session, time, shown) in enumerate(slates)
        ]

    spec = SourceSpec("made", "a test", "none")
    out = tmp_path_factory.mktemp("assemble") / "log"
    log = assemble.assemble(spec, lambda scratch: iter(chunks(scratch)), out).validate()
    row, moved = 0, 0
    for session in sorted({s for s, _, _ in slates}):
        last = -1
        for _, time, shown_here in sorted(
            (s for s in slates if s[0] == session), key=lambda s: s[1]
        ):
            last = max(time, last + 1)
            moved += last != time
            assert log.time[row] == last
            assert shown(log)[row] == [i for i, _ in shown_here]
            assert log.response[row, : len(shown_here)].tolist() == [c for _, c in shown_here]
            row += 1
    assert row == log.n_slates
    assert log.card["counts"]["ties_moved"] == moved
