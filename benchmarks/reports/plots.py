"""Plots shared by several benchmarks, written as PNG files without a display."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Line = tuple[Sequence[float], Sequence[float]]
"""The x and y coordinates of a line."""

Score = tuple[float, float, float]
"""A score, and the lower and the upper end of its interval."""


@dataclass(frozen=True)
class Panel:
    """One set of axes: its labels and its lines by name."""

    x: str
    y: str
    lines: Mapping[str, Line]


def plot_lines(
    path: Path,
    title: str,
    panels: Sequence[Panel],
    columns: int,
    *,
    share_y: bool = False,
    dashed: Container[str] = (),
) -> None:
    """Draw panels with logarithmic axes and one legend.

    Args:
        path: the PNG file.
        title: of the whole figure.
        panels: filled in row by row.
        columns: number of columns in the grid of panels.
        share_y: whether all panels have the same y axis.
        dashed: names of dashed lines.
    """
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.8 * columns, 3.8 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=share_y, squeeze=False).flat
    for axes, panel in zip(grid, panels, strict=True):
        for name, (x, y) in panel.lines.items():
            axes.plot(x, y, "--" if name in dashed else "-", marker="o", label=name)
        axes.set(xscale="log", yscale="log", xlabel=panel.x)
        if not (share_y and axes.get_subplotspec().colspan.start):
            axes.set_ylabel(panel.y)
        ticks = sorted({tick for x, _ in panel.lines.values() for tick in x})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def plot_scores(
    path: Path, title: str, groups: Sequence[str], scores: Mapping[str, Sequence[Score | None]]
) -> None:
    """Draw scores from 0 to 1 as bars with intervals: a row for each series, a column for a group.

    Args:
        path: the PNG file.
        title: above the figure.
        groups: names of the columns.
        scores: of each series, one for each group; None = there is none.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.3 * len(groups) + 1.8, 0.3 * len(scores) + 1.5))
    figure.set_layout_engine("constrained")
    columns = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    row_y = np.arange(len(scores))
    for k, (axes, group) in enumerate(zip(columns, groups, strict=True)):
        for y, values in zip(row_y, scores.values(), strict=True):
            found = values[k]
            if found is None:
                axes.text(0.02, y, "–", va="center", color="0.5")
                continue
            value, low, high = found
            axes.barh(y, value, height=0.7, color="#4c78a8")
            error = [[value - low], [high - value]]
            axes.errorbar(value, y, xerr=error, color="0.2", linewidth=1, capsize=2)
            axes.text(1.14, y, f"{value:.2f}", va="center", fontsize=8)
        axes.axvline(1, color="0.6", linewidth=0.8, linestyle="--")
        axes.set(xlim=(0, 1.55), xticks=[0, 1], title=group)
        axes.tick_params("y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
    columns[0].set_yticks(row_y, list(scores))
    columns[0].set_ylim(len(scores) - 0.4, -0.6)
    figure.suptitle(title)
    figure.supxlabel("score: 0 = random, 1 = reference (95 % interval)", fontsize=10)
    figure.savefig(path, dpi=120)


def plot_bars(
    path: Path,
    title: str,
    names: Sequence[str],
    values: Sequence[float],
    label: str,
    *,
    intervals: Sequence[tuple[float, float]] | None = None,
    highlight: Container[str] = (),
    log: bool = False,
) -> None:
    """Draw horizontal bars from top to bottom.

    Args:
        path: the PNG file.
        title: above the axes.
        names: one for each bar.
        values: lengths of the bars.
        label: of the value axis.
        intervals: lower and upper end of each bar's error bar.
        highlight: names of the bars in a second colour.
        log: logarithmic axis, with the value written at the end of each bar.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.45 * len(names) + 1.4), layout="constrained")
    axes = figure.subplots()
    bar_y, length = np.arange(len(names))[::-1], np.asarray(values, dtype=float)
    extra: dict[str, Any] = {}
    if intervals is not None:
        low, high = np.array(intervals).T
        extra = {"xerr": [length - low, high - length], "capsize": 4}
    colours = ["#d9480f" if name in highlight else "#4c78a8" for name in names]
    axes.barh(bar_y, length, color=colours, **extra)
    axes.set_yticks(bar_y, names, fontsize=8)
    axes.set_xlabel(label)
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    if log:
        axes.set_xscale("log")
        axes.set_xlim(right=float(length.max()) * 4)
        for y, value in zip(bar_y, length, strict=True):
            axes.text(value * 1.05, y, f"{value:,.0f}", va="center", fontsize=8)
    figure.savefig(path, dpi=120)


def plot_curves(
    path: Path,
    title: str,
    curves: Mapping[str, Sequence[tuple[float, float, float, float]]],
    x: str,
    y: str,
) -> None:
    """Draw curves with error bars; the values of x are evenly spaced.

    Args:
        path: the PNG file.
        title: above the axes.
        curves: points (x, y, lower end, upper end) by name.
        x: label.
        y: label.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    ticks = sorted({point[0] for points in curves.values() for point in points})
    offsets = np.linspace(-0.12, 0.12, len(curves))
    for (name, points), offset in zip(curves.items(), offsets, strict=True):
        at, value, low, high = np.array(points).T
        place = np.searchsorted(ticks, at) + offset
        error = [value - low, high - value]
        axes.errorbar(place, value, yerr=error, marker="o", capsize=3, label=name)
    axes.set_xticks(range(len(ticks)), [f"{tick:,g}" for tick in ticks])
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
