"""Docstrings for Sphinx: Markdown headings, and the settings of a configuration as a table."""

from __future__ import annotations

import re
from typing import Any

from responders.config import Config, settings_of

HEADING = re.compile(r"^\s*#{2,}\s+(.*)$")


def with_headings(lines: list[str]) -> list[str]:
    """Return docstring lines with Markdown headings as rubrics."""
    found: list[str] = []
    for line in lines:
        heading = HEADING.match(line)
        found += [f".. rubric:: {heading[1]}", ""] if heading else [line]
    return found


LONE_STAR = re.compile(r"(?<![\w*`.])\*(?![\w*])")
"""An asterisk that marks no emphasis, as in [B, *]."""


def with_literal_blocks(lines: list[str]) -> list[str]:
    """Return docstring lines with indented paragraphs and tables of text as literal blocks."""
    found: list[str] = []
    for paragraph in "\n".join(lines).split("\n\n"):
        rows = paragraph.split("\n")
        if any(row.startswith("    ") or re.search(r"\S {3,}\S", row) for row in rows):
            found += ["::", "", *(f"    {row}" for row in rows), ""]
        else:
            found += [*rows, ""]
    return found


def settings_table(kind: type) -> list[str]:
    """Return the table of a configuration's settings, or of a class that has one; else nothing."""
    if not isinstance(kind, type):
        return []
    config = kind if issubclass(kind, Config) else getattr(kind, "config_class", None)
    if config is None or config is Config:
        return []
    lines = ["", ".. list-table:: Settings", "   :header-rows: 1", "   :widths: 20 15 25 40", ""]
    rows = [("setting", "default", "values", "meaning")]
    rows += [
        (f"``{s.name}``", f"``{s.default}``", s.values, s.description) for s in settings_of(config)
    ]
    for row in rows:
        # The escaped space keeps a cell such as "N." from being read as a numbered list.
        lines += [f"   {'* - ' if i == 0 else '  - '}\\ {cell}" for i, cell in enumerate(row)]
    return [*lines, ""]


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Change the lines of a docstring in place; see `autodoc-process-docstring`."""
    lines[:] = with_headings(lines)
    if what == "module":
        lines[:] = with_literal_blocks(lines)
    else:
        lines[:] = [LONE_STAR.sub(r"\\*", line) for line in lines]
    if what == "class":
        lines += settings_table(obj)


def signature(
    app: Any, what: str, name: str, obj: Any, options: Any, arguments: str, returns: str
) -> tuple[str, None] | None:
    """Shorten the signature of a configuration: a table lists its fields."""
    return ("(**settings)", None) if isinstance(obj, type) and issubclass(obj, Config) else None


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
