"""HTML pages: one file each, which needs nothing else and follows the light or dark scheme."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from responders.files import new_file


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write a page to `path`, from a template in this folder and the values that it names."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"percent": _percent, "plain": _plain}
    page = environment.get_template(template).render(**values)
    with new_file(path) as building:
        building.write_text(page, encoding="utf-8")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
