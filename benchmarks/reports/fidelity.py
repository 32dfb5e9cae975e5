"""The HTML page of a fidelity report: one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reports.page import write_page
from benchmarks.reports.svg import INK, Drawing
from benchmarks.reports.tables import Cell, interval, number, text

_LEAST, _TICKS = 0.05, (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)  # distance / floor

Found = Sequence[Mapping[str, Any]]
"""The details of each responder."""


def _between(name: str, ends: str, digits: int) -> Cell:
    """Return a cell that shows the number `name` and `<ends>_low` to `<ends>_high`."""

    def cell(row: Mapping[str, Any]) -> str:
        value = number(name, digits, missing="–")(row)
        return value if row[name] is None else f"{value} ({interval(ends, digits)(row)})"

    return cell


COLUMNS = {
    "responder": text("responder"),
    "AUC": number("auc", 3, missing="–"),
    "log-loss": number("log_loss", 4, missing="–"),
    "ECE": number("ece", 4, missing="–"),
    "C2ST AUC": _between("c2st_auc", "c2st", 3),
    "session length": number("length_distance", 1, scale=100, unit=" %", missing="–"),
    "its floor": number("length_floor", 1, scale=100, unit=" %", missing="–"),
    "Kendall's τ": _between("kendall_tau", "tau", 2),
    "error of value": number("value_error", 0, scale=100, unit=" %", missing="–"),
    "exploitability": _between("exploitability", "exploitability", 2),
}
"""The cells of the table that the page begins with."""


def write(path: Path, rows: Sequence[Mapping[str, Any]], details: Mapping[str, Any]) -> None:
    """Write the page of a report to `path`."""
    found = details["responders"]
    write_page(
        path,
        "fidelity.html",
        d=details,
        columns=list(COLUMNS),
        rows=[[cell(row) for cell in COLUMNS.values()] for row in rows],
        figures=_figures(found, details["baselines"]),
        gallery=[
            {"name": each["responder"], "sessions": each["generation"]["gallery"]}
            for each in found
            if each["generation"]["gallery"]
        ],
    )


def _figures(found: Found, baselines: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return titles and SVG of the figures of each part of the page."""
    return {
        "prediction": [*_reliability(found), *_segments(found)],
        "generation": [*_distances(found), *_statistics(found)],
        "counterfactual": _policies(found),
        "estimates": _estimates(found),
    }


def _reliability(found: Found) -> list[tuple[str, str]]:
    drawing = Drawing("reliability", "predicted probability", "share clicked")
    top = 0.0
    for k, each in enumerate(found):
        curve = each["prediction"].get("reliability")
        if curve is not None:
            drawing.line(k, each["responder"], curve["predicted"], curve["clicked"])
            top = max(top, *curve["predicted"], *curve["clicked"])
    if not top:
        return []
    drawing.axes.plot([0, top], [0, top], color=INK, linewidth=0.8, linestyle=":")
    return [("Reliability: calibrated users lie on the dotted line", drawing.svg())]


def _segments(found: Found) -> list[tuple[str, str]]:
    """Draw predicted and logged click rates, and the AUC, by segment."""
    if not any("segments" in each["prediction"] for each in found):
        return []
    figures = []
    divisions = next(e["prediction"]["segments"] for e in found if "segments" in e["prediction"])
    for name, first in divisions.items():
        labels = [row["label"] for row in first]
        if sum("auc" in row for row in first) < 2:
            continue
        for what, title in (("predicted_rate", "click rate"), ("auc", "AUC")):
            drawing = Drawing(f"{name} {what}", name.split(" (")[0], title)
            x = list(range(len(labels)))
            if what == "predicted_rate":
                logged = [row.get("click_rate") for row in first]
                drawing.line(None, "logged", x, logged, labels=labels)
            for k, each in enumerate(found):
                rows = each["prediction"].get("segments", {}).get(name, [])
                if rows:
                    values = [row.get(what) for row in rows]
                    drawing.line(k, each["responder"], x, values, labels=labels)
            _label(drawing, labels)
            figures.append((f"{title} by {name}", drawing.svg()))
    return figures


def _label(drawing: Drawing, labels: Sequence[str]) -> None:
    """Write `labels` below the axes, as many as there is room for."""
    short = [label.replace(" third", "").replace(" quarter", "") for label in labels]
    step = max(1, -(-sum(len(label) + 1 for label in short) // 52))
    at = range(0, len(labels), step)
    drawing.axes.set_xticks(list(at), [short[i] for i in at])


def _distances(found: Found) -> list[tuple[str, str]]:
    names = list(found[0]["generation"]["statistics"])
    drawing = Drawing("distances", "distance / floor", "", 0.32 * len(names) + 0.8)
    titles, ratios = [], [1.0]
    for i, name in enumerate(names):
        all_facts = [e["generation"]["statistics"].get(name, {}) for e in found]
        titles.append(name.replace("_", " "))
        for k, facts in enumerate(all_facts):
            if "distance" in facts:
                ratio = max(facts["distance"] / max(facts["floor"], 1e-9), _LEAST)
                drawing.line(k, found[k]["responder"], [ratio], [-i], labels=[name], join=False)
                ratios.append(ratio)
    drawing.axes.set_yticks([-i for i in range(len(names))], titles)
    drawing.axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    drawing.axes.set_xscale("log")
    drawing.axes.set_xlim(min(ratios) / 1.5, max(ratios) * 1.5)
    ticks = [x for x in _TICKS if min(ratios) / 1.5 <= x <= max(ratios) * 1.5]
    drawing.axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    drawing.axes.minorticks_off()
    return [("Distances, in units of that between two halves of the log", drawing.svg())]


def _statistics(found: Found) -> list[tuple[str, str]]:
    figures = []
    for name, facts in found[0]["generation"]["statistics"].items():
        if "distance" not in facts:
            continue
        x = list(range(len(facts["labels"])))
        drawing = Drawing(name, "", "share" if facts["kind"] != "rates" else "rate")
        drawing.axes.fill_between(
            x, facts["real_low"], facts["real_high"], color=INK, alpha=0.15, linewidth=0
        )
        drawing.line(None, "logged", x, facts["real"], labels=facts["labels"])
        for k, each in enumerate(found):
            own = each["generation"]["statistics"].get(name, {})
            if "distance" in own:
                values = own["simulated"]
                drawing.line(k, each["responder"], x, values, labels=facts["labels"])
        _label(drawing, facts["labels"])
        figures.append((facts["title"].capitalize(), drawing.svg()))
    return figures


def _policies(found: Found) -> list[tuple[str, str]]:
    if "counterfactual" not in found[0]:
        return []
    drawing = Drawing("policies", "clicks a session in truth", "clicks a session, simulated", 3.4)
    top = 0.0
    for k, each in enumerate(found):
        known = each["counterfactual"]
        points = [(r["policy"], r["true"], r["learned"]) for r in known["policies"]]
        exploited = known["exploited"]
        points.append(("optimised against it", exploited["true"], exploited["learned"]))
        for policy, true, learned in points:
            drawing.line(k, each["responder"], [true], [learned], labels=[policy], join=False)
            top = max(top, true, learned)
    drawing.axes.plot([0, top], [0, top], color=INK, linewidth=0.8, linestyle=":")
    return [("Values of policies: on the dotted line both are equal", drawing.svg())]


def _estimates(found: Found) -> list[tuple[str, str]]:
    figures = []
    for t, target in enumerate(found[0].get("estimates", [])):
        if "estimates" not in target:
            continue
        names = [row["name"] for row in target["estimates"]]
        drawing = Drawing(f"estimates {t}", "clicks a slate", "", 0.4 * len(names) + 1.0)
        for k, each in enumerate(found):
            for i, row in enumerate(each["estimates"][t]["estimates"]):
                y = -i - 0.5 * k / max(len(found), 1)
                drawing.interval(k, y, row["low"], row["high"], across=True)
                label = f"{row['name']} {row['value']:.5f}"
                drawing.line(k, f"{each['responder']}, {label}", [row["value"]], [y], join=False)
        if target["real"] is not None:
            drawing.axes.axvline(target["real"], color=INK, linewidth=1)
            drawing.axes.axvspan(
                target["real_low"], target["real_high"], color=INK, alpha=0.12, linewidth=0
            )
        drawing.axes.set_yticks([-i for i in range(len(names))], names)
        figures.append((f"Value of the policy {target['target']}", drawing.svg()))
    return figures
