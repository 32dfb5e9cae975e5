"""Tables on the terminal and as Markdown, in general and for logs and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from responders import SessionLog
from responders.evaluation.metrics import METRICS
from responders.known_truth.world import truth_of

Cell = Callable[[Mapping[str, Any]], str]
"""A function from the values of a row, by name, to the text of a cell."""


def console() -> Console:
    """Return the console; 140 columns wide if the output is not a terminal."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=140)


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None = None
) -> None:
    """Print a table; the first column is text, the others are numbers."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 or name == "value" else "right")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the table in Markdown."""
    lines = (columns, ["---"] * len(columns), *rows)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fill(columns: Mapping[str, Cell], rows: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Return the text of every cell."""
    return [[cell(row) for cell in columns.values()] for row in rows]


def text(name: str) -> Cell:
    """Return a cell that shows the value `name` as it is."""
    return lambda row: str(row[name])


def number(
    name: str, digits: int = 0, *, scale: float = 1, unit: str = "", missing: str = ""
) -> Cell:
    """Return a cell that shows the number `name` times `scale`, or `missing` if there is none."""

    def cell(row: Mapping[str, Any]) -> str:
        value = row.get(name)
        return missing if pd.isna(value) else f"{scale * value:,.{digits}f}{unit}"

    return cell


def with_deviation(name: str, digits: int) -> Cell:
    """Return a cell that shows the number `name` ± `<name>_sd`."""

    def cell(row: Mapping[str, Any]) -> str:
        deviation = number(f"{name}_sd", digits)(row)
        return number(name, digits)(row) + (f" ± {deviation}" if deviation else "")

    return cell


def interval(name: str, digits: int) -> Cell:
    """Return a cell that shows `<name>_low` to `<name>_high`."""

    def cell(row: Mapping[str, Any]) -> str:
        low, high = (number(f"{name}_{end}", digits)(row) for end in ("low", "high"))
        return f"{low} to {high}" if low else ""

    return cell


def with_interval(name: str, digits: int, *, scale: float = 1) -> Cell:
    """Return a cell that shows the number `name` [`<name>_low`, `<name>_high`]."""

    def cell(row: Mapping[str, Any]) -> str:
        value, low, high = (
            number(name + end, digits, scale=scale)(row) for end in ("", "_low", "_high")
        )
        return f"{value} [{low}, {high}]" if low else value

    return cell


def kind_of(log: SessionLog) -> str:
    """Return whether the users of a log are synthetic or real, as text."""
    return "synthetic users" if log.synthetic else "real users"


def print_log(log: SessionLog, path: Path) -> None:
    """Print counts, click rates by position and step, users, time span and licence."""
    facts = log.summary()
    show_table(str(path), ["", "value"], _log_rows(log, facts))
    rates = {
        "by position": facts["click_rate_by_position"],
        "by slate of session": facts["click_rate_by_step"],
    }
    width = min(max(map(len, rates.values())), 20)
    show_table(
        "click rate",
        ["", *(str(i + 1) for i in range(width))],
        [[name, *(f"{x:.3f}" for x in rate[:20])] for name, rate in rates.items()],
        "the tenth slate includes all later ones",
    )


def _log_rows(log: SessionLog, facts: dict[str, Any]) -> list[tuple[str, str]]:
    kind = "SYNTHETIC users" if log.synthetic else "real users"
    length = facts["slates_per_session"]
    rows = [
        ("name", f"{log.card.get('name')} ({kind})"),
        ("source", str(log.card.get("source"))),
        ("licence", str(log.card.get("licence"))),
        ("sessions", f"{facts['sessions']:,} of {facts['users']:,} users"),
        (
            "slates",
            f"{facts['slates']:,}; a session has {length['min']} to {length['max']}, "
            f"mean {length['mean']:.1f}, median {length['median']:g}",
        ),
        ("positions", f"{log.n_positions}; {facts['impressions']:,} items shown"),
        ("items", f"{facts['items']:,}, {facts['items_shown']:,} of them shown"),
        ("features", f"{facts['item_features']} per item, {facts['user_features']} per user"),
        (
            "clicks",
            f"{facts['clicks']:,} = {facts['click_rate']:.2%} of items shown; "
            f"{facts['slates_without_click']:.1%} of slates have none",
        ),
        ("time", f"{facts['first_time']:,} to {facts['last_time']:,} s"),
    ]
    rows += [
        (name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
        for name, value in log.card.get("counts", {}).items()
    ]
    truth = truth_of(log)
    if truth is not None:
        examination = ", ".join(f"{x:.3f}" for x in truth.examination.tolist())
        rows.append(("true examination", examination))
    return rows


def print_metrics(metrics: dict[str, Any], title: str) -> None:
    """Print metrics from `responders.evaluation`, overall and by position."""
    rows = [
        {
            "metric": name,
            "measured": metrics[name],
            "measured_low": metrics.get(f"{name}_low"),
            "measured_high": metrics.get(f"{name}_high"),
            "bayes": metrics.get(f"bayes_{name}"),
        }
        for name in (*METRICS, *(f"unconditional_{name}" for name in METRICS))
        if name in metrics
    ]
    columns = {
        "metric": text("metric"),
        "measured": number("measured", 4, missing="undefined"),
        "95 % interval": interval("measured", 4),
    }
    if "bayes_auc" in metrics:
        best = "Bayes optimum (estimate)" if metrics["bayes_estimated"] else "Bayes optimum"
        columns[best] = number("bayes", 4)
    caption = f"{metrics['n_positions']:,} positions of {metrics['n_sessions']:,} sessions"
    show_table(title, list(columns), fill(columns, rows), caption)
    if "by_position" in metrics:
        _print_positions(metrics["by_position"][:20])


def _print_positions(rows: list[dict[str, Any]]) -> None:
    columns: dict[str, Cell] = {"position": lambda row: str(row["position"] + 1), "n": number("n")}
    for name in ("click_rate", "predicted_rate", "auc", "log_loss", "ece"):
        columns[name] = number(name, 4, missing="undefined")
    show_table("by position", list(columns), fill(columns, rows))
