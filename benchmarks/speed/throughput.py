"""Speed of the environments: user-slate steps per second, and the cost of each layer.

    python -m benchmarks.speed.throughput            tables and plots in runs/throughput
    python -m benchmarks.speed.throughput --quick    one row: SessionGRU 64, B 1,024, S 10, N 1,000
    python -m benchmarks.speed.throughput --python sardine=ENV/bin/python …
                                                     also other simulators, see docs/simulators.md

Three layers are timed on the same slates: the responder's `respond` alone, the World (random
streams, leaving, history, reward, new users for those who left) and the Gymnasium vector
environment (NumPy, autoreset, infos, observations). They are timed in turn and medians are
reported, so that a change in the machine's speed affects all equally. Weights are random, which
does not change the speed.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer

from benchmarks.harness import (
    PeakMemory,
    describe,
    publish,
    run_script,
    synchronize,
    time_calls,
)
from benchmarks.peers.registry import PEERS
from benchmarks.peers.simulators import Pythons, measure_all, parse_pythons, publish_simulators
from benchmarks.reports.plots import Panel, plot_lines
from benchmarks.reports.tables import console, number, text
from benchmarks.speed.end_to_end import show_end_to_end
from benchmarks.workers import run_cases
from recsim_env.vector import RecSimVectorEnv
from recsim_env.world import World, blank_duplicates
from responders import Catalogue, SessionLog, Users
from responders.behaviour.leaving import Hazard
from responders.compiling import FEW_USERS, can_compile
from responders.models.base import LogShape, Response
from responders.models.registry import RESPONDERS
from responders.registry import load

TARGET = 90_000
"""Target of user-slate steps per second for the reference row on 2 cores."""


@dataclass(frozen=True)
class Setting:
    """One row: a responder, B users, S positions and N items."""

    responder: str = "session_gru"
    users: int = 1024
    positions: int = 10
    items: int = 1000


@dataclass(frozen=True)
class Speed:
    """User-slate steps per second of each layer, time outside the responder, and peak memory.

    `outside` is the share of the time of an environment step outside the responder's `respond`.
    `peak_mb` is the peak memory, of the process or the GPU, of creating and stepping the world.
    """

    respond: float
    world: float
    environment: float
    outside: float
    peak_mb: float


def settings(device: str = "cpu") -> list[Setting]:
    """Return the rows: the reference, then settings that differ from it in one field."""
    gpu_users = () if device == "cpu" else (65_536,)
    return [
        Setting(),
        *(Setting(users=b) for b in (1, 16, 256, 8192, *gpu_users)),
        *(Setting(positions=s) for s in (5, 20)),
        *(Setting(items=n) for n in (100, 10_000, 1_000_000)),
        *(
            Setting(responder=name)
            for name in ("pbm", "mf", "slate_gru", "hierarchical_gru", "transformer_gru", "scot")
        ),
    ]


def make_world(setting: Setting, device: str) -> World:
    """Return a world of a randomly initialised responder and 100 users with 8 features."""
    rng = np.random.default_rng(0)
    slate = rng.integers(0, setting.items, (100, setting.positions))
    initial_sessions = SessionLog(
        slate=slate,
        response=np.zeros_like(slate),
        session_start=np.arange(101),
        user=np.arange(100),
        time=np.arange(100),
        catalogue=Catalogue(np.arange(setting.items)),
        users=Users(np.arange(100), rng.normal(size=(100, 8))),
    )
    kind = load(RESPONDERS, setting.responder, "responder")
    shape = LogShape(setting.items, setting.positions, 8)
    responder = kind(shape, kind.config_class())
    hazard = Hazard(tuple(0.05 + 0.01 * np.arange(20)))
    return World(responder, initial_sessions, hazard, num_users=setting.users, device=device)


def measure(setting: Setting, seconds: float, device: str) -> Speed:
    """Time the three layers in turn for about `seconds` in total."""
    peak = PeakMemory(device)
    world = make_world(setting, device)
    env = RecSimVectorEnv(world)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = [rng.integers(0, setting.items, (setting.users, setting.positions)) for _ in range(8)]
    slates = [torch.from_numpy(a).to(device) for a in actions]
    shown = [
        blank_duplicates(slate)[0] for slate in slates
    ]  # as the World passes slates to the responder
    uniform = torch.rand(slates[0].shape, device=device)
    repeats = max(1, int(2048 / setting.users))  # a single step of few users is too short to time

    @torch.inference_mode()
    def respond() -> None:
        for i in range(repeats):
            world.responder.respond(world.episodes.memory, shown[i % 8], uniform)

    def step_world() -> None:
        for i in range(repeats):
            outcome = world.step(slates[i % 8])
            world.reset(outcome.left | outcome.truncated)

    def step_env() -> None:
        for i in range(repeats):
            env.step(actions[i % 8])

    times = time_calls([respond, step_world, step_env], seconds=seconds, rounds=5, device=device)
    respond_rate, world_rate, env_rate = (
        setting.users * repeats / float(np.median(taken)) for taken in times
    )
    peak_mb = peak.mb
    return Speed(respond_rate, world_rate, env_rate, outside_share(env, actions, device), peak_mb)


def outside_share(env: RecSimVectorEnv, actions: list[np.ndarray], device: str) -> float:
    """Return the median share of a step's time outside the responder's `respond`."""
    responder, inside = env.world.responder, [0.0]
    respond = responder.respond

    def timed(*args: Any, **options: Any) -> Response:
        began = time.perf_counter()
        answer = respond(*args, **options)
        synchronize(device)
        inside[0] = time.perf_counter() - began
        return answer

    responder.respond = timed  # type: ignore[method-assign]
    shares = []
    for i in range(300 if env.num_envs <= 1024 else 50):
        began = time.perf_counter()
        env.step(actions[i % len(actions)])
        shares.append(1 - inside[0] / (time.perf_counter() - began))
    del responder.respond
    return float(np.median(shares))


_COLUMNS = {
    "responder": text("responder"),
    "users": number("users"),
    "S": number("positions"),
    "N": number("items"),
    "respond": number("respond"),
    "World": number("world"),
    "environment": number("environment"),
    "outside respond": number("outside", scale=100, unit="%"),
    "peak MB": number("peak_mb"),
}


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Only the reference row.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="Per row.")] = 6.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    python: Pythons = None,
    out: Annotated[Path, typer.Option(help="Folder for tables and plots.")] = Path(
        "runs/throughput"
    ),
) -> None:
    """Measure user-slate steps per second of the responder, the World and the environment."""
    pythons = parse_pythons(python)
    cases = {row: (row, seconds, device) for row in settings(device)[: 1 if quick else None]}
    speeds = dict(run_cases(measure, cases, label="throughput"))
    rows = [asdict(setting) | asdict(speeds[setting]) for setting in cases]
    title = f"user-slate steps per second, {describe(device)}"
    publish("throughput", title, _COLUMNS, rows, out=None if quick else out, plot=_plot)
    form = "in compiled loops" if can_compile() else "in PyTorch (numba is not installed)"
    console().print(f"up to {FEW_USERS} users step {form}: the rows of 1 and 16 users")
    reference = rows[0]
    console().print(
        f"reference row: {reference['environment']:,.0f} steps/s, "
        f"{reference['environment'] / TARGET:.1f} × the target of {TARGET:,}; "
        f"{reference['outside']:.0%} of the time is spent outside the responder"
    )
    if quick:
        return
    show_end_to_end(seconds)
    if pythons:
        wanted = {PEERS[name].distribution for name in pythons}
        names = [name for name, peer in PEERS.items() if peer.distribution in wanted]
        publish_simulators(_own_rows(rows) + measure_all(pythons, seconds, names), out)


def _own_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return our rows of the table of simulators, with the sizes of the others."""
    reference = Setting()
    return [
        {
            "simulator": "recsim-env",
            "version": version("recsim-env"),
            "setting": f"{row['responder']}, {row['users']:,} at once, slate 10 of 1,000, {layer}",
            "steps_per_second": row[key],
            "reason": None,
        }
        for row in rows
        for layer, key in (("Gymnasium", "environment"), ("tensors", "world"))
        if (row["positions"], row["items"]) == (reference.positions, reference.items)
        and row["users"] in (1, reference.users)
        and row["responder"] in ("session_gru", "mf", "pbm")
    ]


def _plot(table: pd.DataFrame, path: Path) -> None:
    reference, panels = asdict(Setting()), []
    for name in ("users", "positions", "items"):
        others = [key for key in reference if key != name]
        rows = table[(table[others] == pd.Series(reference)[others]).all(axis=1)].sort_values(name)
        layers = ("respond", "world", "environment")
        lines = {layer: (list(rows[name]), list(rows[layer])) for layer in layers}
        panels.append(Panel(name, "user-slate steps per second", lines))
    title = "SessionGRU 64; the other sizes as in the reference: B 1,024, S 10, N 1,000"
    plot_lines(path, title, panels, columns=3, share_y=True)


if __name__ == "__main__":
    run_script(main)
