"""End-to-end speed: an environment of one user, and training with PPO."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
import torch

from agents.slate_ppo import SlatePPOConfig, SlatePPOPolicy
from benchmarks.harness import time_calls
from benchmarks.reports.tables import console, show_table
from recsim_env.make import make_world

PPO_ACTIONS: dict[str, dict[str, Any]] = {
    "slate of 10 among 50 candidates": {"candidates": 50},
    "scores of 50 candidates": {"action": "scores", "candidates": 50},
    "proto-item": {"action": "proto"},
    "one of 50 arms": {"action": "arm", "candidates": 50},
}
"""The action spaces with which PPO is timed."""

SLATE_PPO: dict[str, dict[str, Any]] = {
    "250 candidates (defaults)": {},
    "250 candidates, without effects of items above": {"reads_above": False},
    "50 candidates": {"candidates": 50},
    "50 candidates, without effects of items above": {"candidates": 50, "reads_above": False},
    "50 candidates, without them, one pass": {
        "candidates": 50, "reads_above": False, "n_epochs": 1, "minibatches": 16,
    },
}  # fmt: skip
"""The settings with which `slate_ppo` is timed."""


def measure_ppo(options: dict[str, Any], seconds: float) -> float:
    """Return environment steps per second of CPU time of Stable-Baselines3's PPO, with learning.

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
    steps, began = 0, time.process_time()
    while time.process_time() < began + seconds:
        model.learn(32 * users)
        steps += 32 * users
    return steps / (time.process_time() - began)


def measure_slate_ppo(settings: dict[str, Any], seconds: float) -> float:
    """Return the environment steps per second of `slate_ppo`, likewise with 1,024 users."""
    world = make_world("contentwise", num_users=1024)
    policy = SlatePPOPolicy(world, SlatePPOConfig(**settings))
    per_update = policy.config.n_steps * world.num_users
    policy.train(world, per_update, seed=0)
    steps, began = 0, time.process_time()
    while time.process_time() < began + seconds:
        steps += policy.train(world, 2 * per_update, seed=0)
    return steps / (time.process_time() - began)


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
    rates = {
        f"Stable-Baselines3: {name}": measure_ppo(options, seconds)
        for name, options in PPO_ACTIONS.items()
    }
    rates |= {
        f"slate_ppo: {name}": measure_slate_ppo(settings, seconds)
        for name, settings in SLATE_PPO.items()
    }
    slates = next(iter(rates.values()))
    show_table(
        "PPO end to end, 1,024 users",
        ["action", "steps per second of CPU time, learning included", "ratio to the first"],
        [[name, f"{rate:,.0f}", f"{rate / slates:.2f}"] for name, rate in rates.items()],
    )
