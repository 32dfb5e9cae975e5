"""End-to-end speed: an environment of one user, and training with PPO."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium
import numpy as np
import torch
import typer

from agents.slate_ppo import SlatePPOConfig, SlatePPOPolicy
from benchmarks.harness import run_script, time_calls
from benchmarks.reports.tables import console, show_table
from recsim_env.make import make_world
from recsim_env.world import World

_USERS = 1024
_CHUNK = 16 * _USERS  # steps of one rollout of all users

_SLATES = {"candidates": 50}
_PASSES = {"n_epochs": 4, "batch_size": 4 * _USERS}
STABLE_BASELINES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "slates of 10 among 50 candidates, 4 passes": (_SLATES, _PASSES),
    "the same, 1 pass": (_SLATES, _PASSES | {"n_epochs": 1}),
    "the same, defaults (10 passes, minibatches of 64)": (_SLATES, {}),
    "scores of 50 candidates, 4 passes": ({"action": "scores", **_SLATES}, _PASSES),
    "proto-item, 4 passes": ({"action": "proto"}, _PASSES),
}
"""Arguments of the environment and of PPO, whose networks are two layers of 64."""

_LIKE = {"candidates": 50, "hidden_size": 64}
SLATE_PPO: dict[str, dict[str, Any]] = {
    "50 candidates, two layers of 64, 4 passes": _LIKE,
    "the same, without effects of items above": _LIKE | {"reads_above": False},
    "the same, 1 pass": _LIKE | {"reads_above": False, "n_epochs": 1},
    "defaults (250 candidates, two layers of 128, 4 passes)": {},
}
"""The settings with which `slate_ppo` is timed; minibatches are a quarter of a rollout."""


@dataclass
class Learner:
    """Something that learns from `_CHUNK` steps of `world` with each call of `learn`.

    Args:
        learn: called again and again.
        world: whose steps are timed.
        updates: an object and the name of its method that learns from a rollout.
    """

    learn: Callable[[], object]
    world: World
    updates: tuple[object, str]


def learn_ppo(options: dict[str, Any], settings: dict[str, Any]) -> Learner:
    """Return PPO of Stable-Baselines3 in `RecSim-ContentWise-v0` with rollouts of 16 steps."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.logger import Logger

    from recsim_env.adapters.sb3 import SB3VecEnv
    from recsim_env.make import make_vector_env

    vector = make_vector_env(
        _USERS, "contentwise", observe="flat", autoreset_mode="SameStep", **options
    )
    net = {"net_arch": [64, 64]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of small minibatches
        model = PPO(
            "MlpPolicy", SB3VecEnv(vector), n_steps=_CHUNK // _USERS, policy_kwargs=net,
            device="cpu", seed=0, **settings,
        )  # fmt: skip
    model.set_logger(Logger(None, []))
    return Learner(lambda: model.learn(_CHUNK), vector.world, (model, "train"))


def learn_slate_ppo(settings: dict[str, Any]) -> Learner:
    """Return `slate_ppo`, with as many users and rollouts as long."""
    world = make_world("contentwise", num_users=_USERS)
    policy = SlatePPOPolicy(world, SlatePPOConfig(**settings))
    return Learner(lambda: policy.train(world, _CHUNK, seed=0), world, (policy, "_update"))


class Clock:
    """Adds up the CPU time of calls of methods, in seconds, as `spent`."""

    def __init__(self, *methods: tuple[object, str]) -> None:
        self.spent = 0.0
        for owner, name in methods:
            setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            began = time.process_time()
            result = method(*args, **options)
            self.spent += time.process_time() - began
            return result

        return call


def learning_times(learners: Sequence[Learner], seconds: float) -> np.ndarray:
    """Return CPU time per step, [rounds, learners, 3], after a round that is not counted.

    The last axis is of the world's steps and resets, of the updates, and of all. The learners take
    turns, for `seconds` and for three rounds at least.
    """
    clocks = [
        (Clock((each.world, "step"), (each.world, "reset")), Clock(each.updates))
        for each in learners
    ]
    rounds: list[list[tuple[float, ...]]] = []
    end = time.process_time() + seconds
    while len(rounds) < 4 or time.process_time() < end:
        times = []
        for learner, pair in zip(learners, clocks, strict=True):
            began, before = time.process_time(), [clock.spent for clock in pair]
            learner.learn()
            parts = [clock.spent - spent for clock, spent in zip(pair, before, strict=True)]
            times.append((*parts, time.process_time() - began))
        rounds.append(times)
    return np.array(rounds[1:]) / _CHUNK


def measure_one_user(seconds: float) -> tuple[float, float]:
    """Return steps per second of the bare responder and of `gym.make`, both with one user."""
    env = gymnasium.make("recsim_env:RecSim-ContentWise-v0")
    world = env.unwrapped.vector.world  # type: ignore[attr-defined]
    slate = np.arange(world.n_positions)
    shown, uniform = torch.from_numpy(slate[None]), torch.rand(1, len(slate))
    env.reset(seed=0)

    @torch.no_grad()
    def respond() -> None:
        world.responder.respond(world.episodes.memory, shown, uniform)

    def step() -> None:
        *_, terminated, truncated, _ = env.step(slate)
        if terminated or truncated:
            env.reset()

    times = time_calls([respond, step], seconds=seconds, warmup=10)
    bare, whole = (1 / float(np.median(taken)) for taken in times)
    return bare, whole


def show_end_to_end(seconds: float) -> None:
    """Measure each for about `seconds` and print the rates."""
    bare, whole = measure_one_user(seconds)
    console().print(
        f"one user through gym.make: {whole:,.0f} steps/s, {whole / bare:.0%} of the bare "
        f"responder's {bare:,.0f}"
    )
    learners = {f"Stable-Baselines3: {k}": learn_ppo(*v) for k, v in STABLE_BASELINES.items()}
    learners |= {f"slate_ppo: {k}": learn_slate_ppo(v) for k, v in SLATE_PPO.items()}
    show_learning(learners, seconds * len(learners))


def show_learning(learners: dict[str, Learner], seconds: float) -> None:
    """Print the rates of learners, which take turns, and ratios to the first."""
    times = learning_times(list(learners.values()), seconds)
    show_table(
        f"PPO end to end, {_USERS:,} users",
        ["PPO", "users µs", "choosing µs", "updates µs", "steps/s", "ratio to the first"],
        [
            _row(name, times[:, i], times[:, 0, 2] / times[:, i, 2])
            for i, name in enumerate(learners)
        ],
        "CPU time per step, median of the rounds; least and greatest in parentheses; choosing "
        "= observations, networks, drawing: all but the other two",
    )


def _row(name: str, times: np.ndarray, ratio: np.ndarray) -> list[str]:
    """Return the cells of a learner with `times` [rounds, 3] and ratios [rounds]."""
    users, updates, whole = np.median(times, axis=0)
    parts = [f"{1e6 * part:.0f}" for part in (users, whole - users - updates, updates)]
    spread = f"{np.median(ratio):.2f} ({ratio.min():.2f}–{ratio.max():.2f})"
    return [name, *parts, f"{1 / whole:,.0f}", spread]


def main(
    seconds: Annotated[float, typer.Option(min=0.1, help="Of CPU time, for each row.")] = 20.0,
) -> None:
    """Measure an environment of one user, and learning with PPO."""
    show_end_to_end(seconds)


if __name__ == "__main__":
    run_script(main)
