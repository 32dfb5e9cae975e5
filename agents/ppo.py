"""PPO (Stable-Baselines3) with a categorical choice among candidates for each position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from agents.policy import Policy
from recsim_env.actions import SlateActions
from recsim_env.candidates import Candidates, popular_table
from recsim_env.observations import FlatObservation
from recsim_env.vector import RecSimVectorEnv
from recsim_env.world import World
from responders import InputError
from responders.config import Config, setting


@dataclass(frozen=True)
class PPOConfig(Config):
    """Settings of `PPOPolicy`; others have the defaults of `stable_baselines3.PPO`."""

    candidates: int = setting(50, "Most clicked items to choose from at each position.", ge=1)
    hidden_size: int = setting(64, "Units of both layers.", ge=1, le=8192)
    n_steps: int = setting(16, "Steps of a user between updates.", ge=1)
    minibatches: int = setting(4, "Minibatches of an update.", ge=1)
    n_epochs: int = setting(4, "Passes over the steps in an update.", ge=1)
    learning_rate: float = setting(0.001, "Of Adam.", gt=0)
    gamma: float = setting(0.9, "Discount.", ge=0, le=1)
    gae_lambda: float = setting(0.9, "Of the advantage estimate.", ge=0, le=1)
    entropy: float = setting(0.001, "Weight of the entropy bonus.", ge=0)


class PPOPolicy(Policy):
    """PPO (Schulman et al., 2017) on the flat observation.

    Args:
        world: see `Policy`; `train` needs worlds with the same number of users.
        config: the settings.
        seed: of weights and exploration.

    Raises:
        InputError: Stable-Baselines3 is not installed.
    """

    config_class: ClassVar[type[Config]] = PPOConfig

    def __init__(self, world: World, config: PPOConfig | None = None, seed: int = 0) -> None:
        config = config or PPOConfig()
        super().__init__(world, config, seed)
        try:
            from stable_baselines3 import PPO
            from stable_baselines3.common.logger import Logger
        except ImportError as error:
            raise InputError("ppo needs Stable-Baselines3: pip install 'recsim-env[rl]'") from error
        self._n_candidates = min(config.candidates, world.n_items)
        env = self._env(world)
        self.model = PPO(
            "MlpPolicy",
            env,
            seed=seed,
            device="cpu",
            n_steps=config.n_steps,
            batch_size=max(config.n_steps * world.num_users // config.minibatches, 2),
            n_epochs=config.n_epochs,
            learning_rate=config.learning_rate,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            ent_coef=config.entropy,
            policy_kwargs={"net_arch": [config.hidden_size] * 2},
        )
        self.model.set_logger(Logger(None, []))  # the default logger creates a temporary folder

    def _env(self, world: World) -> Any:
        from recsim_env.adapters.sb3 import SB3VecEnv

        candidates = Candidates(world, popular_table(world, self._n_candidates))
        self.actions, self.encoder = SlateActions(world, candidates), FlatObservation(world)
        return SB3VecEnv(
            RecSimVectorEnv(world, self.actions, self.encoder, autoreset_mode="SameStep")
        )

    def train(self, world: World, steps: int, seed: int) -> int:
        if world.num_users != self.model.n_envs:
            raise InputError(
                f"ppo was made for {self.model.n_envs} users, the world has {world.num_users}"
            )
        env = self._env(world)
        env.seed(seed)
        self.model.set_env(env)
        self.model.learn(steps)
        return self.model.num_timesteps

    @torch.inference_mode()
    def act(self, observation: dict[str, Tensor]) -> Tensor:
        flat = self.encoder.encode(observation).cpu().numpy()
        action, _ = self.model.predict(flat, deterministic=True)
        return self.actions.slate(torch.from_numpy(action).to(self.device))
