"""End-to-end speed: an environment of one user, and training with PPO."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import gymnasium
import numpy as np
import torch
import typer

from agents.slate_ppo import SlatePPOConfig, SlatePPOPolicy
from benchmarks.harness import run_script, time_calls
from benchmarks.reports.tables import console, show_table
from recsim_env.make import make_world

_USERS = 1024
_CHUNK = 16 * _USERS  # steps of one rollout of all users

PPO_ACTIONS: dict[str, dict[str, Any]] = {
    "slate of 10 among 50 candidates": {"candidates": 50},
    "scores of 50 candidates": {"action": "scores", "candidates": 50},
    "proto-item": {"action": "proto"},
    "one of 50 arms": {"action": "arm", "candidates": 50},
}
"""The action spaces with which PPO is timed."""

_SMALL = {"hidden_size": 64, "n_epochs": 2, "minibatches": 8}
SLATE_PPO: dict[str, dict[str, Any]] = {
    "250 candidates (defaults)": {},
    "250 candidates, small": _SMALL,
    "250 candidates, small, without effects of items above": _SMALL | {"reads_above": False},
    "50 candidates, small": _SMALL | {"candidates": 50},
    "50 candidates, small, without effects of items above, one pass": _SMALL | {
        "candidates": 50, "reads_above": False, "n_epochs": 1, "minibatches": 16,
    },
}  # fmt: skip
"""The settings with which `slate_ppo` is timed; small: layers as wide as PPO's, and two passes."""


def learn_ppo(options: dict[str, Any]) -> Callable[[], int]:
    """Return a function by which Stable-Baselines3's PPO learns and which returns its steps.

    `RecSim-ContentWise-v0`, 1,024 users, flat observations, two layers of 64; rollouts of 16 steps,
    four epochs of minibatches of 4,096.
    """
    from stable_baselines3 import PPO
    from stable_baselines3.common.logger import Logger

    from recsim_env.adapters.sb3 import SB3VecEnv
    from recsim_env.make import make_vector_env

    vector = make_vector_env(
        _USERS, "contentwise", observe="flat", autoreset_mode="SameStep", **options
    )
    model = PPO(
        "MlpPolicy", SB3VecEnv(vector), n_steps=16, batch_size=4 * _USERS, n_epochs=4,
        policy_kwargs={"net_arch": [64, 64]}, device="cpu", seed=0,
    )  # fmt: skip
    model.set_logger(Logger(None, []))

    def learn() -> int:
        model.learn(_CHUNK)
        return _CHUNK

    return learn


def learn_slate_ppo(settings: dict[str, Any]) -> Callable[[], int]:
    """Return the same of `slate_ppo`, with as many users and also rollouts of 16 steps."""
    world = make_world("contentwise", num_users=_USERS)
    policy = SlatePPOPolicy(world, SlatePPOConfig(**settings))
    return lambda: policy.train(world, _CHUNK, seed=0)


def learning_rates(learners: Sequence[Callable[[], int]], seconds: float) -> np.ndarray:
    """Return steps per second of CPU time, [rounds, learners], after a round that is not counted.

    The learners take turns, for `seconds` and for three rounds at least.
    """
    rounds: list[list[float]] = []
    end = time.process_time() + seconds
    while len(rounds) < 4 or time.process_time() < end:
        rates = []
        for learn in learners:
            began = time.process_time()
            steps = learn()
            rates.append(steps / (time.process_time() - began))
        rounds.append(rates)
    return np.array(rounds[1:])


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
    learners = {f"Stable-Baselines3: {k}": learn_ppo(v) for k, v in PPO_ACTIONS.items()}
    learners |= {f"slate_ppo: {k}": learn_slate_ppo(v) for k, v in SLATE_PPO.items()}
    show_learning(learners, seconds * len(learners))


def show_learning(learners: dict[str, Callable[[], int]], seconds: float) -> None:
    """Print the rates of learners, which take turns, and ratios to the first."""
    rates = learning_rates(list(learners.values()), seconds)
    ratios = rates / rates[:, :1]
    show_table(
        f"PPO end to end, {_USERS:,} users",
        ["action", "steps per second of CPU time, learning included", "ratio to the first"],
        [
            [name, f"{np.median(rate):,.0f}", f"{np.median(r):.2f} ({r.min():.2f}–{r.max():.2f})"]
            for name, rate, r in zip(learners, rates.T, ratios.T, strict=True)
        ],
        "median of the rounds; least and greatest in parentheses",
    )


def main(
    seconds: Annotated[float, typer.Option(min=0.1, help="Of CPU time, for each row.")] = 20.0,
) -> None:
    """Measure an environment of one user, and learning with PPO."""
    show_end_to_end(seconds)


if __name__ == "__main__":
    run_script(main)
