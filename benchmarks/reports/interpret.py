"""The files of an interpretation: tables, and an HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.reports.page import write_page
from benchmarks.reports.svg import INK, Drawing
from benchmarks.reports.tables import Cell, fill, number, show_table, text, with_interval
from responders.files import write_json

_SHOWN = 100  # features in the table of the page

COLUMNS: dict[str, Cell] = {
    "feature": text("feature"),
    "stands for": text("name"),
    "active": number("active", 1, scale=100, unit=" %"),
    "activation": number("activation", 2, missing="–"),
    "items": lambda row: "–" if pd.isna(row.get("items")) else str(row["items"]),
    "lift": number("lift", 1, missing="–"),
    "attribute": lambda row: _with_rho(row, "attribute"),
    "users": lambda row: _with_rho(row, "user_attribute"),
}
CLUSTERS: dict[str, Cell] = {
    "true cluster": text("cluster"),
    "items": number("items"),
    "share of clicks": number("clicks", 1, scale=100, unit=" %"),
    "feature": text("feature"),
    "|ρ|": with_interval("rho", 2),
    "best hidden unit": with_interval("rho_unit", 2),
}


def _with_rho(row: Mapping[str, Any], name: str) -> str:
    return "–" if pd.isna(row.get(name)) else f"{row[name]} ({row[f'{name}_rho']:+.2f})"


def write(
    folder: Path,
    features: pd.DataFrame,
    facts: Mapping[str, Any],
    clusters: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Write the tables, also of true clusters, and the page; return the names of the files."""
    features.to_csv(folder / "features.csv", index=False)
    rows = _by_activity(features)
    content = {**facts, "clusters": list(clusters), "features": rows}
    write_json(folder / "interpretation.json", content)
    figures = [_active(rows), *([_recovered(clusters)] if clusters else [])]
    write_page(
        folder / "report.html",
        "interpret.html",
        d=facts,
        columns=list(COLUMNS),
        rows=[[cell(row) for cell in COLUMNS.values()] for row in rows[:_SHOWN]],
        cluster_columns=list(CLUSTERS),
        clusters=[[cell(row) for cell in CLUSTERS.values()] for row in clusters],
        figures=figures,
        example=rows[0],
    )
    names = ["features.csv", "interpretation.json", "report.html"]
    if clusters:
        table = pd.DataFrame(fill(CLUSTERS, clusters), columns=list(CLUSTERS))
        table.to_csv(folder / "clusters.csv", index=False)
        names.append("clusters.csv")
    return names


def _by_activity(features: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row for each feature, the most active first, with None for what is missing."""
    rows = features.sort_values("active", ascending=False).to_dict("records")
    return [{str(k): None if pd.isna(v) else v for k, v in row.items()} for row in rows]


def _active(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    drawing = Drawing("active", "features, most active first", "share of moments")
    labels = [f"{row['feature']} {row['name']}" for row in rows]
    share = [float(row["active"]) for row in rows]
    drawing.line(0, "active", list(range(1, len(rows) + 1)), share, labels=labels)
    return "How often features are active", drawing.svg()


def _recovered(clusters: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    drawing = Drawing("clusters", "true cluster", "|ρ|")
    for k, name in enumerate(("rho", "rho_unit")):
        x = [row["cluster"] + 0.25 * k for row in clusters]
        for at, row in zip(x, clusters, strict=True):
            drawing.interval(k, at, row[f"{name}_low"], row[f"{name}_high"], across=False)
        labels = [f"cluster {row['cluster']}" for row in clusters]
        values = [row[name] for row in clusters]
        drawing.line(k, ("feature", "hidden unit")[k], x, values, labels=labels, join=False)
    drawing.axes.axhline(0.8, color=INK, linewidth=0.8, linestyle=":")
    drawing.axes.set_ylim(0, 1)
    return "Best feature (first) and best hidden unit (second) of each true cluster", drawing.svg()


def show(features: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    """Print the most active features and how well the states are reconstructed."""
    rows = _by_activity(features)[:15]
    numbers = {
        "explained variance": with_interval("explained", 3),
        "never active": number("never_active", 0, scale=100, unit=" % of the features"),
        "log-loss": with_interval("log_loss", 4),
        "change with reconstructed states": with_interval("log_loss_change", 4),
    }
    if "recovered" in facts:
        numbers["true clusters with |ρ| ≥ .8"] = number("recovered")
        numbers["of them by a single hidden unit"] = number("recovered_unit")
    kind = "synthetic users" if facts["synthetic"] else "real users"
    title = f"{facts['name']} on {facts['log']} ({kind})"
    show_table(title, ["", "value"], [[name, cell(facts)] for name, cell in numbers.items()])
    cells = {name: cell for name, cell in COLUMNS.items() if name != "items"}
    show_table("features", list(cells), [[cell(row) for cell in cells.values()] for row in rows])
