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

    Args:
        policy: its name.
        reward: mean reward of a session.
        behind: reward of the best policy minus this one's, with the same users; None for the best.
        ctr: share of shown items clicked.
        length: slates of a session.
        diversity: mean of 1 − cosine over the pairs of items of a slate; None without features.
        novelty: mean of −log2 of the shown items' share of the training log's impressions.
        coverage: share of the catalogue shown by one seed.
        gini: of the impressions of all items with one seed: 0 = all equal, 1 = all of one item.
        parity: of exposure among popularity deciles, by
            `benchmarks.studies.trials.exposure_parity`; None without clicks of the training log.
        returns: return visits of a user; None where users do not come back.
        sessions: of all seeds.
        seeds: repetitions.
        training_steps: user-slate steps of training.
        train_seconds: of one seed.
        decision_ms: time of a decision for one user, all users being decided at once.

    Intervals are by bootstrap over seeds and users; those of coverage, gini and parity by
    Student's t over seeds, None with one seed.
    """

    policy: str
    reward: float
    reward_low: float
    reward_high: float
    behind: float | None
    behind_low: float | None
    behind_high: float | None
    ctr: float
    ctr_low: float
    ctr_high: float
    length: float
    length_low: float
    length_high: float
    diversity: float | None
    diversity_low: float | None
    diversity_high: float | None
    novelty: float | None
    novelty_low: float | None
    novelty_high: float | None
    coverage: float
    coverage_low: float | None
    coverage_high: float | None
    gini: float
    gini_low: float | None
    gini_high: float | None
    parity: float | None
    parity_low: float | None
    parity_high: float | None
    returns: float | None
    returns_low: float | None
    returns_high: float | None
    sessions: int
    seeds: int
    training_steps: int
    train_seconds: float
    decision_ms: float


@dataclass(frozen=True)
class Difference:
    """Mean reward of `policy` minus that of `other` with the same users, and its 95 % interval."""

    policy: str
    other: str
    difference: float
    low: float
    high: float


_REWARDS = {
    "policy": text("policy"),
    "reward / session": with_interval("reward", 2),
    "behind the best": with_interval("behind", 2),
    "CTR %": with_interval("ctr", 2, scale=100),
    "slates / session": with_interval("length", 1),
    "returns / user": number("returns", 2, missing="–"),
}
_ITEMS = {
    "policy": text("policy"),
    "diversity": number("diversity", 2, missing="–"),
    "novelty": number("novelty", 1, missing="–"),
    "coverage %": number("coverage", 1, scale=100),
    "Gini": number("gini", 2),
    "parity": number("parity", 2, missing="–"),
    "trained on": lambda row: (
        number("training_steps")(row) + " steps" if row["training_steps"] else "–"
    ),
    "train s": number("train_seconds", 1),
    "µs / decision": number("decision_ms", 1, scale=1000),
}


def show(rows: list[Row], title: str) -> None:
    """Print the leaderboard as two tables: rewards; items, training and time."""
    caption = f"{rows[0].sessions} sessions each; brackets: 95 % intervals"
    show_table(title, list(_REWARDS), fill(_REWARDS, map(asdict, rows)), caption)
    show_table("what they show and cost", list(_ITEMS), fill(_ITEMS, map(asdict, rows)))


def write(
    rows: list[Row], differences: list[Difference], out: Path, facts: dict[str, Any]
) -> list[Path]:
    """Write leaderboard.csv, .json, .png, differences.csv and a TensorBoard run to `out`.

    Args:
        rows: the lines.
        differences: between pairs of policies.
        out: folder.
        facts: how the table was produced: environment, responder, synthetic or not, command.

    Returns:
        The files.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"leaderboard.{end}" for end in ("csv", "json", "png")]
    records, pairs = ([asdict(each) for each in table] for table in (rows, differences))
    pd.DataFrame(records).to_csv(files[0], index=False)
    write_json(files[1], {**facts, "rows": records, "differences": pairs})
    kind = "synthetic users" if facts.get("synthetic") else "users learned from a real log"
    plot_bars(
        files[2],
        f"{facts.get('environment', '')} – {kind}",
        [row.policy for row in rows],
        [row.reward for row in rows],
        "mean reward of a session (95 % interval)",
        intervals=[(row.reward_low, row.reward_high) for row in rows],
    )
    if pairs:
        files.append(out / "differences.csv")
        pd.DataFrame(pairs).to_csv(files[-1], index=False)
    with SummaryWriter(str(out / "tensorboard")) as board:
        for row in rows:
            for metric in _METRICS:
                if (value := getattr(row, metric)) is not None:
                    board.add_scalar(f"{metric}/{row.policy}", value, 0)
    return [*files, out / "tensorboard"]


_METRICS = (
    "reward", "ctr", "length", "returns", "diversity", "novelty", "coverage", "gini", "parity"
)  # fmt: skip
