"""The table, the files and the plot of `recsim pretrain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.reports.plots import plot_curves
from benchmarks.reports.tables import Cell, fill, number, show_table, text, with_interval
from responders.files import write_json


def _above(digits: int) -> Cell:
    shown = with_interval("above", digits)
    return lambda row: shown(row) if "above" in row else "–"


_SEQUENCES: dict[str, Cell] = {
    "pretraining": text("arm"),
    "real users %": lambda row: f"{row['share']:g}",
    "real users": number("users"),
    "NDCG@10": with_interval("ndcg", 4),
    "above no pretraining": _above(4),
    "gain %": number("gain", 0, scale=100, missing="–"),
}
_REINFORCEMENT: dict[str, Cell] = {
    "policy": text("arm"),
    "true interactions": number("interactions"),
    "reward / session": with_interval("reward", 2),
    "above popular": _above(2),
}


def show(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Print the table."""
    columns = _SEQUENCES if facts["kind"] == "sequences" else _REINFORCEMENT
    show_table(title(facts), list(columns), fill(columns, rows), caption(facts))


def title(facts: Mapping[str, Any]) -> str:
    """Return what was pretrained where, and who judges it."""
    users = "SYNTHETIC users" if facts["synthetic"] else "real users"
    return f"{facts['policy']} pretrained with {facts['responder']}, {facts['log']} ({users})"


def caption(facts: Mapping[str, Any]) -> str:
    """Return the sizes and, for policies that act, the interactions needed."""
    intervals = f"{facts['seeds']} seeds; 95 % intervals over seeds and"
    if facts["kind"] == "sequences":
        return (
            f"{facts['sessions']:,} sessions of pretraining; {facts['test_clicks']:,} clicks of "
            f"{facts['test_sessions']:,} test sessions, ranked among all items; {intervals} test "
            "sessions"
        )
    needed = ", ".join(
        f"{arm} {'not reached' if n is None else f'{n:,}'}" for arm, n in facts["needed"].items()
    )
    return (
        f"{facts['steps']:,} steps of pretraining; {facts['users']:,} true users judge; "
        f"{intervals} users. True interactions to reach popular's reward: {needed}"
    )


def write(rows: Sequence[dict[str, Any]], facts: dict[str, Any], out: Path) -> list[Path]:
    """Write pretrain.csv, .json and .png to the folder `out` and return the files."""
    files = [out / f"pretrain.{end}" for end in ("csv", "json", "png")]
    pd.DataFrame(rows).to_csv(files[0], index=False)
    write_json(files[1], {**facts, "rows": rows})
    x, y = ("share", "ndcg") if facts["kind"] == "sequences" else ("interactions", "reward")
    curves: dict[str, list[tuple[float, float, float, float]]] = {}
    for row in rows:
        point = row[x], row[y], row[f"{y}_low"], row[f"{y}_high"]
        curves.setdefault(row["arm"], []).append(point)
    labels = {
        "share": "% of the real users to learn from", "ndcg": "NDCG@10 of the next click",
        "interactions": "interactions with true users", "reward": "reward of a session",
    }  # fmt: skip
    plot_curves(files[2], title(facts), curves, labels[x], labels[y])
    return files
