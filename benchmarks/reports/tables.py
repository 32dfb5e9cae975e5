"""Tables on the terminal: of logs, of metrics, and in general."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from responders import SessionLog
from responders.evaluation.metrics import METRICS
from responders.known_truth.world import truth_of


def console() -> Console:
    """Return the console; wide enough for our tables where the output is not a terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=140)


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


def kind_of(log: SessionLog) -> str:
    """Return what the users of a log are."""
    return "synthetic users" if log.synthetic else "real users"


def print_log(log: SessionLog, path: Path) -> None:
    """Print counts, click rates by position and step, users, time span and licence."""
    facts = log.summary()
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
        bias = ", ".join(f"{x:.3f}" for x in truth.examination.tolist())
        rows.append(("true examination", bias))
    show_table(str(path), ["", "value"], rows)
    by = [facts["click_rate_by_position"], facts["click_rate_by_step"]]
    width = max(map(len, by))
    show_table(
        "click rate",
        ["", *(str(i + 1) for i in range(min(width, 20)))],
        [
            [name, *(f"{x:.3f}" for x in rates[:20])]
            for name, rates in zip(("by position", "by slate of session"), by, strict=True)
        ],
        "the tenth slate stands for all later ones",
    )


def print_metrics(
    metrics: dict[str, Any], title: str, by_position: list[dict[str, Any]] | None
) -> None:
    """Print what `evaluate` measured, overall and by position."""

    def number(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.4f}"

    rows = []
    apart = [f"unconditional_{name}" for name in METRICS]
    for name in [*METRICS, *(name for name in apart if name in metrics)]:
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
        bayes = metrics.get(f"bayes_{name}")
        rows.append([name, number(metrics[name]), interval, "" if bayes is None else number(bayes)])
    best = "Bayes optimum (estimate)" if metrics.get("bayes_estimated") else "Bayes optimum"
    columns = ["metric", "measured", "95 % interval", best]
    if "bayes_auc" not in metrics:
        columns, rows = columns[:3], [row[:3] for row in rows]
    caption = f"{metrics['n_positions']:,} positions of {metrics['n_sessions']:,} sessions"
    show_table(title, columns, rows, caption)
    if by_position:
        keys = ("n", "click_rate", "predicted_rate", "auc", "log_loss", "ece")
        show_table(
            "by position",
            ["position", *keys],
            [
                [
                    str(row["position"] + 1),
                    f"{row['n']:,}",
                    *(number(row[key]) for key in keys[1:]),
                ]
                for row in by_position[:20]
            ],
        )
