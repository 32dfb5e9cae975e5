"""The most popular items for every user."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agents.policy import Policy
from agents.site import Site
from recsim_env.world import World
from responders import InputError
from responders.config import Config


class PopularPolicy(Policy):
    """Shows every user the items with the most clicks in the responder's training log."""

    def __init__(self, world: World | Site, config: Config | None = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        clicked = self.catalogue.attributes.get("clicked")
        if clicked is None:
            raise InputError("the catalogue has no column `clicked`: popularity is unknown")
        self.synthetic = isinstance(world, World) and world.initial_sessions.synthetic
        self.clicked = torch.from_numpy(np.asarray(clicked, dtype=np.float32)).to(self.device)

    def score(self, observation: dict[str, Tensor]) -> Tensor:
        return self.clicked
