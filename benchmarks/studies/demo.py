"""`recsim demo`: everything once, from a log to a leaderboard."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import gymnasium
import numpy as np

from benchmarks.reports.leaderboard import Row, show
from benchmarks.reports.tables import Cell, console, fill, number, show_table, text, with_interval
from benchmarks.studies.leaderboard import run as run_policies
from responders import InputError, SessionLog
from responders.device import pick_device
from responders.evaluation.metrics import evaluate
from responders.evaluation.predict import predict
from responders.known_truth.logs import synthesize
from responders.known_truth.presets import PRESETS
from responders.known_truth.world import make_truth
from responders.log.split import split_users
from responders.training.checkpoint import Checkpoint
from responders.training.fit import fit

ENVIRONMENT = "RecSim-ContentWise-v0"
_SESSIONS = 3_000
_RESPONDERS = {"position_ctr": {}, "pbm": {}, "session_gru": {"epochs": 6, "embedding": "content"}}
_POLICIES = ("random", "popular", "epsilon_greedy", "slateq", "oracle")
_USERS, _SEEDS, _TRAINING_STEPS = 200, 2, 20_000


def run(out: Path | None = None, scale: float = 1.0, device: str = "auto") -> None:
    """Run the demo and write everything to the new folder `out`.

    Args:
        out: by default runs/demo, or runs/demo-2, -3, … if that exists.
        scale: of the log, the number of users and the training; below 1 for a quick look.
        device: auto, cpu or cuda.

    Raises:
        InputError: `out` exists and is not empty, or the device is unknown.
    """
    if out is None:
        names = itertools.chain(["demo"], (f"demo-{i}" for i in itertools.count(2)))
        out = next(Path("runs") / name for name in names if not (Path("runs") / name).exists())
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: choose another --out")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty: remove it or choose another --out")
    picked, began = str(pick_device(device)), time.perf_counter()
    say = console().print
    say("[bold]1. A log of users with known click probabilities[/] (synthetic)")
    log_path = out / "log"
    sessions = int(_SESSIONS * scale)
    log = synthesize(log_path, PRESETS["contentwise"], sessions, name="contentwise", device=picked)
    facts = log.summary()
    say(
        f"   {facts['sessions']:,} sessions, {facts['slates']:,} slates of {log.n_positions}, "
        f"{facts['items']:,} items, {facts['click_rate']:.1%} clicked\n"
    )
    say("[bold]2. Responders are trained on it[/]; the Bayes optimum is the best possible")
    trained = {}
    for name, settings in _RESPONDERS.items():
        trained[name] = fit(
            log, name, out / name, dict(settings), device=picked, command="recsim demo"
        )
    _show_responders(trained, log)
    say("[bold]3. One of them as an environment[/]: gym.make, slates, clicks")
    _show_episode(out / "session_gru", picked)
    say(f"[bold]4. Policies in {ENVIRONMENT}[/] (embedded responder, synthetic users)")
    simulated = _leaderboard(None, out / "leaderboard", "simulated users", scale, picked)
    say("[bold]5. The same policies with the true users[/] of that known-truth world")
    true = _leaderboard(log_path, out / "leaderboard_truth", "true users", scale, picked)
    _compare(simulated, true)
    say(f"done in {time.perf_counter() - began:.0f} s; everything is in [bold]{out}[/]:")
    for path in ("log", *_RESPONDERS, "leaderboard", "leaderboard_truth"):
        say(f"   {out / path}")
    say(
        "next:\n"
        f"   tensorboard --logdir {out}\n"
        f"   recsim evaluate {out / 'session_gru'} {log_path}\n"
        f"   recsim bench RecSim-v0 --responder {out / 'session_gru'} --users 500\n"
        "   recsim data convert --help     (your own log)\n",
        highlight=False,
    )


def _show_responders(trained: dict[str, Checkpoint], log: SessionLog) -> None:
    truth = make_truth(PRESETS["contentwise"])
    best = evaluate(predict(truth, log, split_users(log)["test"]), 0.5)
    metrics = {name: checkpoint.card["metrics"] for name, checkpoint in trained.items()}
    columns: dict[str, Cell] = {
        "responder": text("responder"),
        "log-loss": with_interval("log_loss", 4),
        "AUC": with_interval("auc", 4),
        "ECE": number("ece", 4),
    }
    rows = [{"responder": n, **m} for n, m in {**metrics, "Bayes optimum": best}.items()]
    caption = "brackets: 95 % intervals over users"
    show_table("held-out users", list(columns), fill(columns, rows), caption)


def _show_episode(responder: Path, device: str) -> None:
    env = gymnasium.make("RecSim-v0", responder=str(responder), render_mode="ansi", device=device)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    size = env.action_space.nvec  # type: ignore[attr-defined]
    for _ in range(3):
        env.step(rng.choice(size[0], len(size), replace=False))
    print(env.render(), end="\n\n")
    env.close()


def _leaderboard(
    responder: Path | None, out: Path, title: str, scale: float, device: str
) -> list[Row]:
    leaderboard = run_policies(
        ENVIRONMENT,
        _POLICIES,
        responder=responder,
        users=int(_USERS * scale),
        seeds=_SEEDS,
        training_steps=int(_TRAINING_STEPS * scale),
        device=device,
        out=out,
        command="recsim demo",
    )
    show(leaderboard.rows, f"{ENVIRONMENT}: {title} (synthetic)")
    return leaderboard.rows


def _compare(simulated: list[Row], true: list[Row]) -> None:
    """Print how often policies have the same order with simulated and with true users."""
    simulated_reward = {row.policy: row.reward for row in simulated}
    pairs = [
        (better.policy, worse.policy)
        for better, worse in itertools.permutations(true, 2)
        if better.reward_low > worse.reward_high
    ]
    n_same = sum(simulated_reward[better] > simulated_reward[worse] for better, worse in pairs)
    console().print(
        f"   Of the {len(pairs)} pairs of policies that differ with the true users (intervals do "
        f"not overlap),\n   the simulated users order {n_same} the same way.\n"
    )
