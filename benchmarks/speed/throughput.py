"""How fast the environments are: user-slate steps per second, and what the wrappers cost.

    python -m benchmarks.speed.throughput            a table, a CSV and a plot in runs/throughput
    python -m benchmarks.speed.throughput --quick    one row: S = 10, N = 1,000, SessionGRU 64, B = 1,024
    python -m benchmarks.speed.throughput --python sardine=ENV/bin/python …
                                               other simulators in the same run, see simulators.md

Three layers are timed on the same slates: the responder's `respond` alone, the World (random
streams, leaving, history, reward, new users for those who left) and the Gymnasium vector face
(NumPy, autoreset, infos, observations). Rounds of the three alternate and medians are reported, so
that a drift of the machine's speed hits all alike. Weights are random: the speed is the same.
"""

from __future__ import annotations

import multiprocessing
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
import pandas as pd
import torch
import typer

from benchmarks.peers.simulators import DISTRIBUTIONS, PEERS, measure_all
from benchmarks.reports.tables import console, show_table
from benchmarks.speed.memory import forget_peak, memory, peak_memory
from recsim_env.vector import RecSimVectorEnv
from recsim_env.world import World, blank_duplicates
from responders import Catalogue, SessionLog, Users
from responders.behaviour.leaving import Hazard
from responders.models.base import LogShape, Response
from responders.models.build import RESPONDERS, default_options
from responders.progress import progress_bar

TARGET = 90_000
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
    """User-slate steps per second of each layer, peak memory, and the share outside the responder.

    `outside` is the share of a step of the environment in which the responder's `respond` was not
    running, clocked inside the step. `peak_mb` is what making the world and stepping it added to
    the process's memory at its peak (on a GPU: to the device's).
    """

    respond: float
    world: float
    environment: float
    outside: float
    peak_mb: float


def settings(device: str = "cpu") -> list[Setting]:
    """Return the rows: one thing at a time is changed from the reference, which is first."""
    more = () if device == "cpu" else (65_536,)
    return [
        Setting(),
        *(Setting(users=b) for b in (1, 16, 256, 8192, *more)),
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
    cuda = device != "cpu"
    forget_peak()
    before = torch.cuda.memory_allocated() if cuda else 1024 * memory()
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

    def tensors(i: int) -> None:
        outcome = world.step(slates[i % 8])
        world.reset(outcome.left | outcome.truncated)

    layers: list[Callable[[int], object]] = [respond, tensors, lambda i: env.step(actions[i % 8])]
    times: list[list[float]] = [[], [], []]
    inner = max(1, int(2048 / setting.users))
    ends = time.perf_counter() + seconds
    rounds = 0
    while time.perf_counter() < ends or rounds < 6:
        for layer, taken in zip(layers, times, strict=True):
            began = time.perf_counter()
            for i in range(inner):
                layer(i)
            if cuda:
                torch.cuda.synchronize()
            taken.append((time.perf_counter() - began) / inner)
        rounds += 1
    peak = torch.cuda.max_memory_allocated() if cuda else 1024 * peak_memory()
    bare, alone, whole = (setting.users / float(np.median(taken[1:])) for taken in times)
    outside = outside_share(env, actions, device)
    return Speed(bare, alone, whole, outside, (peak - before) / 2**20)


def outside_share(env: RecSimVectorEnv, actions: list[np.ndarray], device: str) -> float:
    """Return the median share of a step that passes outside the responder's `respond`."""
    responder, inside = env.world.responder, [0.0]
    respond = responder.respond

    def clocked(*args: Any, **options: Any) -> Response:
        began = time.perf_counter()
        answer = respond(*args, **options)
        if device != "cpu":
            torch.cuda.synchronize()
        inside[0] = time.perf_counter() - began
        return answer

    responder.respond = clocked  # type: ignore[method-assign]
    shares = []
    for i in range(300 if env.num_envs <= 1024 else 50):
        began = time.perf_counter()
        env.step(actions[i % len(actions)])
        shares.append(1 - inside[0] / (time.perf_counter() - began))
    del responder.respond
    return float(np.median(shares))


PPO_ACTIONS: dict[str, dict[str, Any]] = {
    "slate of 10 among 50 candidates": {"candidates": 50},
    "scores of 50 candidates": {"action": "scores", "candidates": 50},
    "proto-item": {"action": "proto"},
    "one of 50 arms": {"action": "arm", "candidates": 50},
}
"""Action spaces in which PPO is timed."""


def measure_ppo(options: dict[str, Any], seconds: float) -> float:
    """Return the environment steps per second of Stable-Baselines3's PPO, learning included.

    `RecSim-ContentWise-v0`, 1,024 users, flat observations, two layers of 64; rollouts of 16 steps,
    four epochs of minibatches of 4,096.
    """
    from stable_baselines3 import PPO
    from stable_baselines3.common.logger import Logger

    from recsim_env.adapters.sb3 import SB3VecEnv
    from recsim_env.make import make_vector_env

    users = 1024
    vector = make_vector_env(
        users, "contentwise", observe="flat", autoreset_mode="SameStep", **options
    )
    model = PPO(
        "MlpPolicy", SB3VecEnv(vector), n_steps=16, batch_size=4 * users, n_epochs=4,
        policy_kwargs={"net_arch": [64, 64]}, device="cpu", seed=0,
    )  # fmt: skip
    model.set_logger(Logger(None, []))
    model.learn(16 * users)
    steps, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        model.learn(32 * users)
        steps += 32 * users
    return steps / (time.perf_counter() - began)


def measure_one_user(seconds: float) -> tuple[float, float]:
    """Return steps per second of the bare responder and of `gym.make`, both with one user."""
    env = gymnasium.make("RecSim-ContentWise-v0")
    world = env.unwrapped.vector.world  # type: ignore[attr-defined]
    slate = np.arange(world.n_positions)
    shown, uniform = torch.from_numpy(slate[None]), torch.rand(1, len(slate))
    env.reset(seed=0)

    @torch.no_grad()
    def respond() -> None:
        world.responder.respond(world.state, shown, uniform=uniform)

    def step() -> None:
        *_, terminated, truncated, _ = env.step(slate)
        if terminated or truncated:
            env.reset()

    times: list[list[float]] = [[], []]
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        for run, taken in zip((respond, step), times, strict=True):
            began = time.perf_counter()
            run()
            taken.append(time.perf_counter() - began)
    bare, whole = (1 / float(np.median(taken[10:])) for taken in times)
    return bare, whole


def _show_users(seconds: float) -> None:
    bare, whole = measure_one_user(seconds)
    console().print(
        f"one user through gym.make: {whole:,.0f} steps/s, {whole / bare:.0%} of the bare "
        f"responder's {bare:,.0f}"
    )
    rows = [[name, measure_ppo(o, seconds)] for name, o in PPO_ACTIONS.items()]
    show_table(
        "Stable-Baselines3's PPO end to end, 1,024 users",
        ["action", "steps/s, learning included"],
        [[str(name), f"{rate:,.0f}"] for name, rate in rows],
    )


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Only the reference row.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="Per row.")] = 6.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    python: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="The interpreter that has another simulator."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for tables and plots.")] = Path(
        "runs/throughput"
    ),
) -> None:
    """Measure user-slate steps per second of the responder, the World and the environment."""
    rows, context = [], multiprocessing.get_context("spawn")
    peers = dict(_named(text) for text in python or [])
    for setting in progress_bar(settings(device)[: 1 if quick else None], unit="row"):
        with ProcessPoolExecutor(1, context) as pool:  # its own process: its own peak of memory
            speed = pool.submit(measure, setting, seconds, device).result()
        rows.append({**asdict(setting), **asdict(speed)})
    table = pd.DataFrame(rows)
    where = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    if device != "cpu":
        where = torch.cuda.get_device_name()
    show_table(
        f"user-slate steps per second ({where}, torch {torch.__version__})",
        [
            "responder", "users", "S", "N", "respond", "World", "environment", "outside respond",
            "peak MB",
        ],
        [
            [
                row["responder"],
                *(f"{row[name]:,}" for name in ("users", "positions", "items")),
                *(f"{row[name]:,.0f}" for name in ("respond", "world", "environment")),
                f"{row['outside']:.0%}",
                f"{row['peak_mb']:,.0f}",
            ]
            for row in rows
        ],
    )  # fmt: skip
    reference = float(table.environment[0])
    console().print(
        f"reference row: {reference:,.0f} steps/s, {reference / TARGET:.1f} × the target of "
        f"{TARGET:,}; {table.outside[0]:.0%} of the time is spent outside the responder"
    )
    if quick:
        return
    _show_users(seconds)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "throughput.csv", index=False)
    _plot(table, out / "throughput.png")
    console().print(f"wrote {out / 'throughput.csv'} and {out / 'throughput.png'}")
    if peers:
        _others(peers, seconds, table, out)


def _named(text: str) -> tuple[str, str]:
    name, sign, path = text.partition("=")
    if not sign or name not in PEERS:
        raise typer.BadParameter(f"{text!r} is not NAME=PATH with NAME of {', '.join(PEERS)}")
    return name, path


def _others(peers: dict[str, str], seconds: float, table: pd.DataFrame, out: Path) -> None:
    """Measure other simulators, each in its own environment, and show them beside ours."""
    wanted = {DISTRIBUTIONS[name] for name in peers}
    found = [row for row in measure_all(peers, seconds) if DISTRIBUTIONS[row["peer"]] in wanted]
    same = asdict(Setting())
    shape = ["positions", "items"]
    ours = table[
        (table[shape] == pd.Series(same)[shape]).all(axis=1)
        & table.users.isin((1, same["users"]))
        & table.responder.isin(("session_gru", "mf", "pbm"))
    ]
    rows = [
        {
            "simulator": "recsim-env",
            "version": version("recsim-env"),
            "setting": f"{row['responder']}, {row['users']:,} at once, slate 10 of 1,000, {face}",
            "steps_per_second": row[layer],
            "reason": None,
        }
        for row in ours.to_dict("records")
        for face, layer in (("Gymnasium", "environment"), ("tensors", "world"))
    ]
    rows += [{**row, "simulator": row["peer"]} for row in found]
    rows.sort(key=lambda row: -(row["steps_per_second"] or 0))
    frame = pd.DataFrame(rows)[["simulator", "version", "setting", "steps_per_second"]]
    frame.to_csv(out / "simulators.csv", index=False)
    show_table(
        "user-slate steps per second of simulators, this machine, this run",
        ["simulator", "version", "setting, or why not", "steps/s"],
        [
            [
                row["simulator"],
                row["version"] or "–",
                row["setting"] if row["reason"] is None else row["reason"],
                "–" if row["steps_per_second"] is None else f"{row['steps_per_second']:,.0f}",
            ]
            for row in rows
        ],
        "users of the others are formulas, ours are trained networks; see simulators.md",
    )
    _plot_simulators(frame.dropna(subset="steps_per_second"), out / "simulators.png")
    console().print(f"wrote {out / 'simulators.csv'} and {out / 'simulators.png'}")


def _plot_simulators(frame: pd.DataFrame, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.42 * len(frame) + 1), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(frame))[::-1]
    ours = frame.simulator == "recsim-env"
    axes.barh(place, frame.steps_per_second, color=np.where(ours, "#d9480f", "#4c78a8"))
    names = [f"{row.simulator}: {str(row.setting)[:62]}" for row in frame.itertuples()]
    axes.set_yticks(place, names, fontsize=8)
    for y, rate in zip(place, frame.steps_per_second, strict=True):
        axes.text(rate * 1.05, y, f"{rate:,.0f}", va="center", fontsize=8)
    axes.set(xscale="log", xlabel="user-slate steps per second, random policy (log scale)")
    axes.set_xlim(right=float(frame.steps_per_second.max()) * 4)
    figure.savefig(path, dpi=120)


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
        axes.set_xticks(rows[name], [f"{n:,}" for n in rows[name]])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("user-slate steps per second")
    panels[0].legend()
    figure.suptitle("SessionGRU 64; the other sizes as in the reference: B 1,024, S 10, N 1,000")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    typer.run(main)
