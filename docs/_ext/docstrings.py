"""Docstrings for Sphinx: Markdown headings, and the settings of a configuration as a table."""

from __future__ import annotations

import re
from typing import Any

HEADING = re.compile(r"^\s*#{2,}\s+(.*)$")


def with_headings(lines: list[str]) -> list[str]:
    """Return docstring lines with Markdown headings as rubrics."""
    found: list[str] = []
    for line in lines:
        heading = HEADING.match(line)
        found += [f".. rubric:: {heading[1]}", ""] if heading else [line]
    return found


def settings_table(kind: type) -> list[str]:
    """Return the table of the settings that `kind.Config` declares, none where it has none."""
    config = getattr(kind, "Config", None)
    try:
        from responders.config import Config, settings_of
    except ImportError:
        return []
    if not (isinstance(config, type) and issubclass(config, Config)) or config is Config:
        return []
    lines = ["", ".. list-table:: Settings", "   :header-rows: 1", "   :widths: 20 15 25 40", ""]
    rows = [("setting", "default", "values", "meaning")]
    rows += [(f"``{s.name}``", f"``{s.default}``", s.values, s.description) for s in settings_of(config)]  # fmt: skip
    for row in rows:
        lines += [f"   {'* - ' if i == 0 else '  - '}{cell}" for i, cell in enumerate(row)]
    return [*lines, ""]


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Change the lines of a docstring in place; see `autodoc-process-docstring`."""
    lines[:] = with_headings(lines)
    if what == "class":
        lines += settings_table(obj)


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
