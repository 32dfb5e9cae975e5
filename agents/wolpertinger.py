"""Wolpertinger: an actor in the space of items, whose neighbours its critic ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agents.stable_baselines import EntropyPolicy, ReplayConfig
from agents.user_features import UserFeatures
from recsim_env.actions import ProtoActions
from recsim_env.world import World
from responders.config import Config, setting


@dataclass(frozen=True)
class WolpertingerConfig(ReplayConfig):
    """Settings of `WolpertingerPolicy`; others have the defaults of `stable_baselines3.SAC`."""

    components: int = setting(8, "Principal components of the item features.", ge=1, le=256)
    neighbours: int = setting(50, "k, items near the actor's that the critic ranks.", ge=1)


class WolpertingerPolicy(EntropyPolicy):
    """An actor that names a point in item space, and a critic that ranks the items near it.

    After Dulac-Arnold et al. (2015, arXiv:1512.07679), with SAC for the actor and the critic. In
    training, the S items nearest to the actor's point are shown, so the critic learns what the
    surroundings of a point are worth. Otherwise the S best of the k nearest items are shown, by the
    critic's values of their own places.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights and exploration.

    Raises:
        InputError: Stable-Baselines3 is not installed.
    """

    config_class: ClassVar[type[Config]] = WolpertingerConfig
    config: WolpertingerConfig
    _actions: ProtoActions

    def actions(self, world: World) -> ProtoActions:
        return ProtoActions(
            world, vectors=UserFeatures(self.site).items[:, : self.config.components]
        )

    @torch.inference_mode()
    def act(self, observation: dict[str, Tensor]) -> Tensor:
        flat = self.flat(observation)
        point, _ = self.network.predict(flat.numpy(), deterministic=True)
        k = min(max(self.config.neighbours, self.n_positions), self.n_items)
        near = self._actions.neighbours(torch.from_numpy(point).to(self.device), k)
        place = self._actions.vectors[near].cpu()  # [B, k, d]
        states = flat.repeat_interleave(k, 0)
        values = self.network.critic(states, place.flatten(0, 1))
        value = torch.stack(values).amin(0).view(len(flat), k).to(self.device)
        return self.rules.choose(self.among_all(value, near))
