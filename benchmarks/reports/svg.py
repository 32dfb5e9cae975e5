"""Small interactive figures for HTML pages: SVG by Matplotlib, coloured by the page's style sheet.

Colours are those of the page (`--ink`, `--grid`, `--c0` …), so that one figure serves light and
dark pages. What is drawn for responder k has class `rk`, which the page can hide; points have their
value as a tooltip.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, GRID = "#010101", "#020202"
_COLOURS = 8
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.transparent": True,
}


def colour(k: int) -> str:
    """Return the colour of responder `k`."""
    return f"#0300{k % _COLOURS:02x}"


class Drawing:
    """One figure with one set of axes, as SVG text for a page.

    Args:
        x: label of the x axis.
        y: label of the y axis.
        height: in inches; the width is that of a narrow phone.
        name: unique on the page.
    """

    def __init__(self, name: str, x: str, y: str, height: float = 2.6) -> None:
        self.name = name
        self._groups: list[tuple[int | None, list[str]]] = []
        with rc_context(_STYLE):
            self.figure = Figure(figsize=(3.6, height), layout="constrained")
            self.axes: Axes = self.figure.subplots()
            self.axes.set(xlabel=x, ylabel=y)
            self.axes.xaxis.set_major_locator(MaxNLocator(5))

    def line(
        self,
        k: int | None,
        name: str,
        x: Sequence[float],
        y: Sequence[float | None],
        *,
        labels: Sequence[str] | None = None,
        join: bool = True,
    ) -> None:
        """Draw points, joined by a line, with tooltips.

        Args:
            k: number of the responder; None = logged users, in the colour of the text.
            name: for the tooltips.
            x: of the points.
            y: of the points; None = none.
            labels: what the tooltips call the points.
            join: draw the line.
        """
        values = np.array([np.nan if v is None else v for v in y], dtype=float)
        style = "o" if not join else "o--" if k is None else "o-"
        shade = INK if k is None else colour(k)
        (line,) = self.axes.plot(x, values, style, color=shade, linewidth=1.4, markersize=4)
        named = [""] * len(values) if labels is None else [f"{label}: " for label in labels]
        tips = [
            f"{name}, {label}{value:.4g}"
            for label, value in zip(named, values, strict=True)
            if np.isfinite(value)
        ]
        line.set_gid(self._group(k, tips))

    def interval(self, k: int | None, at: float, low: float, high: float, across: bool) -> None:
        """Draw an interval at `at`, along x if `across`."""
        shade = INK if k is None else colour(k)
        x, y = ([low, high], [at, at]) if across else ([at, at], [low, high])
        (line,) = self.axes.plot(x, y, color=shade, linewidth=1.4, alpha=0.7)
        line.set_gid(self._group(k, []))

    def _group(self, k: int | None, tips: list[str]) -> str:
        """Return the id of a group of the SVG file, by which `svg` finds it."""
        self._groups.append((k, tips))
        return f"drawn{len(self._groups) - 1}-"

    def svg(self) -> str:
        """Return the figure as an `<svg>` element."""
        buffer = io.StringIO()
        # Ids in an SVG file are made from this salt, and one page has many figures.
        with rc_context(_STYLE | {"svg.hashsalt": self.name}):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        first, *groups = re.split(r'<g id="drawn(\d+)-">', text)
        text = first + "".join(map(self._with_titles, groups[::2], groups[1::2]))
        text = re.sub(r'<g id="[^"]*"', "<g", text)
        for found, style in ((INK, "var(--ink)"), (GRID, "var(--grid)")):
            text = text.replace(found, style)
        text = re.sub(r"#0300(\d\d)", lambda match: f"var(--c{int(match[1], 16)})", text)
        # The numbers of a path have six decimals; a hundredth of a pixel is enough.
        return re.sub(r' d="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), text)

    def _with_titles(self, number: str, after: str) -> str:
        """Return a group and what follows it, with tooltips in its markers, which come first."""
        k, tips = self._groups[int(number)]
        titles = iter(tips)

        def titled(match: re.Match[str]) -> str:
            return f"{match[1]}><title>{html.escape(next(titles))}</title></use>"

        after = re.sub(r"(<use [^>]*?)/>", titled, after, count=len(tips)) if tips else after
        return ("<g>" if k is None else f'<g class="r{k}">') + after
