"""The tables, the files and the plot of `recsim rank`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.reports.plots import plot_bars
from benchmarks.reports.tables import Cell, fill, number, show_table, text, with_interval
from responders.files import write_json

_LEAKS = {
    "split": text("split"),
    "test users": number("test_users"),
    "targets": number("cases"),
    "left out: no history": number("cold_users"),
    "users who leak %": number("leaking_users", 1, scale=100),
    "slates later than the target %": number("later_slates", 1, scale=100),
}


def show(
    rows: Sequence[Mapping[str, Any]],
    leaks: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    """Print a table of metrics for each split, and what each split leaks."""
    columns = _columns(facts)
    for split in dict.fromkeys(row["split"] for row in rows):
        own = [row for row in rows if row["split"] == split]
        title = f"{facts['log']}, {split} ({_kind(facts)}, {facts['items']:,} items)"
        show_table(title, list(columns), fill(columns, own), caption(split, own[0], facts))
    show_table(
        "what policies learned from that is later than a target",
        list(_LEAKS),
        fill(_LEAKS, leaks),
        _agreements(facts) or None,
    )


def _kind(facts: Mapping[str, Any]) -> str:
    return "SYNTHETIC users" if facts["synthetic"] else "real users"


def _columns(facts: Mapping[str, Any]) -> dict[str, Cell]:
    main = facts["main"]
    k = main.split("@")[1]
    columns: dict[str, Cell] = {
        "policy": text("policy"),
        f"NDCG@{k}": with_interval(main, 4),
        "above the first": lambda row: (
            with_interval(f"{main}_above", 4)(row) if f"{main}_above" in row else "–"
        ),
    }
    if facts["validation"] != "none":
        columns["validation"] = number(f"validation_{main}", 4)
    columns |= {
        f"{title}@{k}": number(f"{name}@{k}", 4)
        for title, name in (("hit", "hit"), ("MRR", "mrr"), ("MAP", "map"), ("recall", "recall"))
    }
    columns["coverage %"] = number(f"coverage@{k}", 1, scale=100)
    columns["novelty"] = number(f"novelty@{k}", 1)
    columns["train s"] = number("train_seconds", 1)
    return columns


def caption(split: str, row: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Return what the figures of a split are, in one sentence."""
    asked = "last event" if split == "leave_one_out" else f"{facts['targets']} after the moment"
    seen = "ranked as well" if facts["seen"] == "keep" else "never recommended"
    return (
        f"{row['users']:,} users, {row['seeds']} seeds; target: {asked}; all items ranked, those "
        f"of the history are {seen}; validation by {facts['validation']}; 95 % intervals over "
        "users and seeds"
    )


def _agreements(facts: Mapping[str, Any]) -> str:
    found = [f"{name} {tau:+.2f}" for name, tau in facts["agreement"].items()]
    return (
        "Kendall's τ of the order of policies with the test: " + "; ".join(found) if found else ""
    )


def write(
    rows: Sequence[dict[str, Any]],
    leaks: Sequence[dict[str, Any]],
    facts: dict[str, Any],
    out: Path,
) -> list[Path]:
    """Write rank.csv, rank.json, rank.png and leaks.csv to the folder `out`; return the files."""
    files = [out / name for name in ("rank.csv", "leaks.csv", "rank.json", "rank.png")]
    pd.DataFrame(rows).to_csv(files[0], index=False)
    pd.DataFrame(leaks).to_csv(files[1], index=False)
    write_json(files[2], {**facts, "rows": rows, "leaks": leaks})
    main = facts["main"]
    plot_bars(
        files[3],
        f"{facts['log']} – {_kind(facts).lower()}",
        [f"{row['split']}: {row['policy']}" for row in rows],
        [row[main] for row in rows],
        f"{main.replace('ndcg', 'NDCG')}, all items ranked (95 % interval)",
        intervals=[(row[f"{main}_low"], row[f"{main}_high"]) for row in rows],
    )
    return files
