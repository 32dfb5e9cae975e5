"""Reinforcement learning with Stable-Baselines3: PPO on a candidate action space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agents.policy import Policy
from recsim_env.actions import CandidateActions, popular_candidates
from recsim_env.observations import FlatObservation
from recsim_env.vector import RecSimVectorEnv
from recsim_env.world import World
from responders import InputError


class PPOPolicy(Policy):
    """PPO (Schulman et al., 2017) on the flat observation; one categorical choice per position.

    The world passed in is trained in; afterwards the policy acts in any world of that catalogue.

    Args:
        world: see `Policy`; its users are reset.
        candidates: C most clicked items to choose from at each position.
        seed: of weights and exploration.
        settings: further keyword arguments of `stable_baselines3.PPO`.

    Raises:
        InputError: Stable-Baselines3 is not installed.
    """

    def __init__(self, world: World, candidates: int = 50, seed: int = 0, **settings: Any) -> None:
        super().__init__(world)
        try:
            from stable_baselines3 import PPO
            from stable_baselines3.common.logger import Logger

            from recsim_env.adapters.sb3 import SB3VecEnv
        except ImportError as error:
            raise InputError("ppo needs Stable-Baselines3: pip install 'recsim-env[rl]'") from error
        table = popular_candidates(world, min(candidates, world.n_items))
        self.actions = CandidateActions(table)
        self.encoder = FlatObservation(world)
        vector = RecSimVectorEnv(world, self.actions, self.encoder, autoreset_mode="SameStep")
        defaults: dict[str, Any] = {
            "n_steps": 16,
            "batch_size": 4 * world.num_users,
            "n_epochs": 4,
            "learning_rate": 1e-3,
            "gamma": 0.9,
            "gae_lambda": 0.9,
            "ent_coef": 0.001,
            "policy_kwargs": {"net_arch": [64, 64]},
        }
        self.model = PPO(
            "MlpPolicy", SB3VecEnv(vector), seed=seed, device="cpu", **defaults | settings
        )
        self.model.set_logger(Logger(None, []))  # else it makes a folder in the temporary one

    def train(self, steps: int) -> None:
        """Train for `steps` user-slate steps, rounded up to whole rollouts."""
        self.model.learn(steps)

    @torch.inference_mode()
    def act(self, observation: dict[str, Tensor]) -> Tensor:
        """Return slates; see `Policy.act`."""
        flat = self.encoder.encode(observation).cpu().numpy()
        action, _ = self.model.predict(flat, deterministic=True)
        return self.actions.slate(torch.from_numpy(action).to(self.device))
