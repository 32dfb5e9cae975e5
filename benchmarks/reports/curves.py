"""The files of learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class Point:
    """A policy that was trained for some steps: mean reward of a session, and 95 % intervals.

    Args:
        policy: its name.
        training_steps: user-slate steps that it used.
        reward: mean over the sessions of all seeds.
        regret: reward of the oracle minus this one's, with the same users; None without an oracle
            on the leaderboard.
    """

    policy: str
    training_steps: int
    reward: float
    reward_low: float
    reward_high: float
    regret: float | None = None
    regret_low: float | None = None
    regret_high: float | None = None


def write_curves(points: Sequence[Point], out: Path, title: str) -> list[Path]:
    """Write curves.csv, curves.png and a TensorBoard run of the points to `out`."""
    from matplotlib.figure import Figure

    table = pd.DataFrame([asdict(point) for point in points])
    files = [out / "curves.csv", out / "curves.png"]
    table.to_csv(files[0], index=False)
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    with SummaryWriter(str(out / "tensorboard" / "curves")) as board:
        for name, rows in table.groupby("policy", sort=False):
            axes.plot(rows.training_steps, rows.reward, marker="o", label=name)
            axes.fill_between(rows.training_steps, rows.reward_low, rows.reward_high, alpha=0.15)
            for row in rows.itertuples():
                board.add_scalar(f"curve/{name}", row.reward, row.training_steps)
    axes.set(xscale="log", xlabel="user-slate steps of training", title=title)
    axes.set_ylabel("mean reward of a session (95 % interval)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(files[1], dpi=120)
    return files
