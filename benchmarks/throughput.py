"""How fast the environments are: user-slate steps per second, and what the wrappers cost.

    python -m benchmarks.throughput            a table, a CSV and a plot in runs/throughput
    python -m benchmarks.throughput --quick    one row: S = 10, N = 1,000, SessionGRU 64, B = 1,024

Three layers are timed on the same slates: the responder's `respond` alone, the World (random
streams, leaving, history, reward) and the Gymnasium vector face (NumPy, autoreset, infos). Rounds
of the three alternate and medians are reported, so that a drift of the machine's speed hits all
alike. Weights are random: they do not change the speed.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from benchmarks.report import console, show_table
from recsim_env.vector import RecSimVectorEnv
from recsim_env.world import World, blank_duplicates
from responders import Catalogue, SessionLog, Users
from responders.base import LogShape
from responders.build import RESPONDERS, default_options
from responders.leaving import Hazard
from responders.progress import progress_bar

TARGET = 50_000
"""User-slate steps per second asked of the reference row on 2 cores."""


@dataclass(frozen=True)
class Setting:
    """One row: a responder, B users, S positions and N items."""

    responder: str = "session_gru"
    users: int = 1024
    positions: int = 10
    items: int = 1000


@dataclass(frozen=True)
class Speed:
    """User-slate steps per second of each layer, and the face's share outside the responder."""

    respond: float
    world: float
    environment: float

    @property
    def outside(self) -> float:
        """Share of the environment's time that is not the responder's."""
        return max(1 - self.environment / self.respond, 0.0)


def settings() -> list[Setting]:
    """Return the rows: one thing at a time is changed from the reference, which is first."""
    return [
        Setting(),
        *(Setting(users=b) for b in (1, 16, 256, 8192)),
        *(Setting(positions=s) for s in (5, 20)),
        *(Setting(items=n) for n in (100, 10_000, 1_000_000)),
        *(Setting(responder=name) for name in ("pbm", "mf", "logistic_regression", "slate_gru")),
    ]


def make_world(setting: Setting, device: str) -> World:
    """Return a world of a randomly initialised responder and 100 users with 8 features."""
    rng = np.random.default_rng(0)
    slate = rng.integers(0, setting.items, (100, setting.positions))
    contexts = SessionLog(
        slate=slate,
        response=np.zeros_like(slate),
        session_start=np.arange(101),
        user=np.arange(100),
        time=np.arange(100),
        catalogue=Catalogue(np.arange(setting.items)),
        users=Users(np.arange(100), rng.normal(size=(100, 8))),
    )
    kind = RESPONDERS[setting.responder]
    shape = LogShape(setting.items, setting.positions, 8)
    responder = kind(shape, **default_options(kind))
    hazard = Hazard(tuple(0.05 + 0.01 * np.arange(20)))
    return World(responder, contexts, hazard, num_users=setting.users, device=device)


def measure(setting: Setting, seconds: float, device: str) -> Speed:
    """Time the three layers in alternating rounds for about `seconds` in all."""
    world = make_world(setting, device)
    env = RecSimVectorEnv(world)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = [rng.integers(0, setting.items, (setting.users, setting.positions)) for _ in range(8)]
    slates = [torch.from_numpy(a).to(device) for a in actions]
    shown = [blank_duplicates(slate)[0] for slate in slates]  # what the World shows the responder

    uniform = torch.rand(slates[0].shape, device=device)

    @torch.inference_mode()
    def respond(i: int) -> None:
        world.responder.respond(world.state, shown[i % 8], uniform=uniform)

    layers: list[Callable[[int], object]] = [
        respond,
        lambda i: world.step(slates[i % 8]),
        lambda i: env.step(actions[i % 8]),
    ]
    times: list[list[float]] = [[], [], []]
    inner = max(1, int(2048 / setting.users))
    ends = time.perf_counter() + seconds
    rounds = 0
    while time.perf_counter() < ends or rounds < 6:
        for layer, taken in zip(layers, times, strict=True):
            began = time.perf_counter()
            for i in range(inner):
                layer(i)
            if device != "cpu":
                torch.cuda.synchronize()
            taken.append((time.perf_counter() - began) / inner)
        rounds += 1
    return Speed(*(setting.users / float(np.median(taken[1:])) for taken in times))


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Only the reference row.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="Per row.")] = 6.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path, typer.Option(help="Folder for CSV and plot.")] = Path("runs/throughput"),
) -> None:
    """Measure user-slate steps per second of the responder, the World and the environment."""
    rows = []
    for setting in progress_bar(settings()[: 1 if quick else None], unit="row"):
        speed = measure(setting, seconds, device)
        rows.append({**asdict(setting), **asdict(speed), "outside": speed.outside})
    table = pd.DataFrame(rows)
    where = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    if device != "cpu":
        where = torch.cuda.get_device_name()
    show_table(
        f"user-slate steps per second ({where}, torch {torch.__version__})",
        ["responder", "users", "S", "N", "respond", "World", "environment", "outside respond"],
        [
            [
                row["responder"],
                *(f"{row[name]:,}" for name in ("users", "positions", "items")),
                *(f"{row[name]:,.0f}" for name in ("respond", "world", "environment")),
                f"{row['outside']:.0%}",
            ]
            for row in rows
        ],
    )
    reference = float(table.environment[0])
    console().print(
        f"reference row: {reference:,.0f} steps/s, {reference / TARGET:.1f} × the target of "
        f"{TARGET:,}; {table.outside[0]:.0%} of the time is spent outside the responder"
    )
    if not quick:
        out.mkdir(parents=True, exist_ok=True)
        table.to_csv(out / "throughput.csv", index=False)
        _plot(table, out / "throughput.png")
        console().print(f"wrote {out / 'throughput.csv'} and {out / 'throughput.png'}")


def _plot(table: pd.DataFrame, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    same = asdict(Setting())
    for axes, name in zip(panels, ("users", "positions", "items"), strict=True):
        others = [k for k in same if k != name]
        rows = table[(table[others] == pd.Series(same)[others]).all(axis=1)].sort_values(name)
        for layer in ("respond", "world", "environment"):
            axes.plot(rows[name], rows[layer], marker="o", label=layer)
        axes.set(xscale="log", yscale="log", xlabel=name)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("user-slate steps per second")
    panels[0].legend()
    figure.suptitle("SessionGRU 64; the other sizes as in the reference: B 1,024, S 10, N 1,000")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    typer.run(main)
