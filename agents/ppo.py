"""PPO (Stable-Baselines3) with a categorical choice among candidates for each position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from gymnasium.spaces import MultiDiscrete
from torch import Tensor

from agents.policy import Policy
from agents.site import Site
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
        world: see `Policy`.
        config: the settings.
        seed: of weights and exploration.

    Raises:
        InputError: Stable-Baselines3 is not installed.
    """

    config_class: ClassVar[type[Config]] = PPOConfig
    config: PPOConfig

    def __init__(self, world: World | Site, config: PPOConfig | None = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        config = self.config
        try:
            from stable_baselines3.common.policies import ActorCriticPolicy
        except ImportError as error:
            raise InputError("ppo needs Stable-Baselines3: pip install 'recsim-env[rl]'") from error
        place = cast(World, self.site)  # a site has all that an encoder and a table read
        n_candidates = min(config.candidates, self.n_items)
        self.candidates = popular_table(place, n_candidates).contiguous()
        self.encoder = FlatObservation(place)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = ActorCriticPolicy(
                self.encoder.space,
                MultiDiscrete([n_candidates] * self.n_positions),
                lambda _: config.learning_rate,
                net_arch=[config.hidden_size] * 2,
            )

    def train(self, world: World, steps: int, seed: int) -> int:
        from stable_baselines3 import PPO
        from stable_baselines3.common.logger import Logger

        from recsim_env.adapters.sb3 import SB3VecEnv

        config = self.config
        actions = SlateActions(world, Candidates(world, self.candidates))
        env = SB3VecEnv(RecSimVectorEnv(world, actions, self.encoder, autoreset_mode="SameStep"))
        env.seed(seed)
        model = PPO(
            "MlpPolicy",
            env,
            seed=self.seed,
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
        model.set_logger(Logger(None, []))  # the default logger creates a temporary folder
        model.policy.load_state_dict(self.network.state_dict())
        model.learn(steps)
        self.network.load_state_dict(model.policy.state_dict())
        self.count_steps(model.num_timesteps)
        return model.num_timesteps

    @torch.inference_mode()
    def act(self, observation: dict[str, Tensor]) -> Tensor:
        flat = self.encoder.encode(observation).cpu().numpy()
        choice, _ = self.network.predict(flat, deterministic=True)
        position = torch.arange(self.n_positions, device=self.device)
        return self.candidates[position, torch.from_numpy(choice).to(self.device)]
