"""The table, the files and the plot of a leaderboard."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch.utils.tensorboard import SummaryWriter

from benchmarks.reports.plots import plot_bars
from benchmarks.reports.tables import fill, number, show_table, text, with_interval
from responders.files import write_json


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard: means with 95 % intervals.

    `reward` is the mean reward of a session, `ctr` the share of shown items clicked, `length` the
    number of slates of a session, `coverage` the share of the catalogue shown by one seed. The
    first three have bootstrap intervals over users, coverage a Student's t interval over seeds
    (None with one seed).
    """

    policy: str
    reward: float
    reward_low: float
    reward_high: float
    ctr: float
    ctr_low: float
    ctr_high: float
    length: float
    length_low: float
    length_high: float
    coverage: float
    coverage_low: float | None
    coverage_high: float | None
    sessions: int
    seeds: int
    training_steps: int
    seconds: float


_COLUMNS = {
    "policy": text("policy"),
    "reward / session": with_interval("reward", 2),
    "CTR %": with_interval("ctr", 2, scale=100),
    "slates / session": with_interval("length", 1),
    "coverage %": with_interval("coverage", 1, scale=100),
    "trained on": lambda row: (
        number("training_steps")(row) + " steps" if row["training_steps"] else "–"
    ),
}


def show(rows: list[Row], title: str) -> None:
    """Print the leaderboard."""
    caption = f"{rows[0].sessions} sessions each; brackets: 95 % intervals"
    show_table(title, list(_COLUMNS), fill(_COLUMNS, map(asdict, rows)), caption)


def write(rows: list[Row], out: Path, facts: dict[str, Any]) -> list[Path]:
    """Write leaderboard.csv, .json, .png and a TensorBoard run to `out`; return the files.

    Args:
        rows: the lines.
        out: folder.
        facts: how the table was produced: environment, responder, synthetic or not, command.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"leaderboard.{end}" for end in ("csv", "json", "png")]
    records = [asdict(row) for row in rows]
    pd.DataFrame(records).to_csv(files[0], index=False)
    write_json(files[1], {**facts, "rows": records})
    kind = "synthetic users" if facts.get("synthetic") else "users learned from a real log"
    plot_bars(
        files[2],
        f"{facts.get('environment', '')} – {kind}",
        [row.policy for row in rows],
        [row.reward for row in rows],
        "mean reward of a session (95 % interval)",
        intervals=[(row.reward_low, row.reward_high) for row in rows],
    )
    with SummaryWriter(str(out / "tensorboard")) as board:
        for row in rows:
            for metric in ("reward", "ctr", "length", "coverage"):
                board.add_scalar(f"{metric}/{row.policy}", getattr(row, metric), 0)
    return [*files, out / "tensorboard"]
