"""Thompson sampling with one linear model of users and items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from agents.linear_features import impressions, item_components, user_state
from agents.policy import Policy
from agents.site import Site
from agents.transition import Transition
from recsim_env.world import World
from responders.config import Config, setting


@dataclass(frozen=True)
class LinTSConfig(Config):
    """Settings of `LinTSPolicy`."""

    exploration: float = setting(0.2, "v, standard deviations of the sampled parameters.", ge=0)
    regularisation: float = setting(1.0, "λ, initial diagonal of the matrix.", gt=0)
    components: int = setting(8, "Principal components of the item features.", ge=1, le=256)


class LinTSPolicy(Policy):
    """Linear Thompson sampling (Agrawal and Goyal, ICML 2013) with one shared model.

    The context of an item for a user is the outer product of the user's state (a constant, the
    features, the mean of the items clicked in the history) and the item's features with a constant.
    With B = λI + Σ xxᵀ over impressions and f = Σ x over clicks, every user gets parameters from
    N(B⁻¹f, v²B⁻¹) at each step, and sees the items with the highest products. What is learned from
    an item holds for similar ones, also for items that were never shown.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of the sampled parameters.
    """

    config_class: ClassVar[type[Config]] = LinTSConfig
    config: LinTSConfig

    def __init__(
        self, world: World | Site, config: LinTSConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(world, config, seed)
        self.exploration = self.config.exploration
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.items = item_components(self.site, self.config.components)
        size = (1 + self.site.features.shape[1] + self.items.shape[1]) * (1 + self.items.shape[1])
        self.gram = self.config.regularisation * torch.eye(size, device=self.device)
        self.root = self.config.regularisation**0.5 * torch.eye(size, device=self.device)
        self.target = torch.zeros(size, device=self.device)
        self.mean = torch.zeros(size, device=self.device)

    @property
    def _vectors(self) -> Tensor:
        return F.pad(self.items, (1, 0), value=1.0)

    def _products(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Return the scores [B, N] of users' states [B, d] for parameters [B or 1, size]."""
        matrix = parameters.view(len(parameters), x.shape[1], -1)
        return (x.unsqueeze(1) @ matrix).squeeze(1) @ self._vectors.t()

    def act(self, observation: dict[str, Tensor]) -> Tensor:
        x = user_state(self.site, self.items, observation)
        return self.rules.choose(self._products(x, self.sample(len(x))))

    def sample(self, n: int) -> Tensor:
        """Return n draws of the parameters from their posterior, [n, size]."""
        shape = (len(self.mean), n)
        noise = torch.randn(shape, generator=self.generator, device=self.device)
        # With the Cholesky factor L of B, L⁻ᵀ noise has the covariance B⁻¹.
        deviation = torch.linalg.solve_triangular(self.root.t(), noise, upper=True).t()
        return self.mean + self.exploration * deviation

    def score(self, observation: dict[str, Tensor]) -> Tensor:
        x = user_state(self.site, self.items, observation)
        return self._products(x, self.mean.unsqueeze(0))

    def learn(self, transition: Transition) -> None:
        state = user_state(self.site, self.items, transition.observation)
        item, click, x = impressions(transition, state)
        context = (x.unsqueeze(2) * self._vectors[item].unsqueeze(1)).flatten(1)
        self.gram += context.t() @ context
        self.target += context.t() @ click
        self.root = torch.linalg.cholesky(self.gram)
        self.mean = torch.cholesky_solve(self.target.unsqueeze(1), self.root).squeeze(1)
