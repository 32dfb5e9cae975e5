"""GeMS: SAC in the latent space of a variational autoencoder of slates (Deffayet et al., 2023)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from agents.candidate_items import CandidateItems
from agents.site import Site
from agents.stable_baselines import EntropyPolicy, ReplayConfig
from agents.user_features import UserFeatures
from recsim_env.actions import Actions
from recsim_env.candidates import Candidates
from recsim_env.world import World
from responders import SessionLog
from responders.config import Config, setting
from responders.device import seeded

_REACH = 2.0  # standard deviations of the prior that actions of -1 and 1 stand for


@dataclass(frozen=True)
class GeMSConfig(ReplayConfig):
    """Settings of `GeMSPolicy`; others have the defaults of `stable_baselines3.SAC`."""

    candidates: int = setting(
        1000,
        "Items to choose from: the most clicked ones, if the catalogue has click counts.",
        ge=1,
    )
    latent: int = setting(16, "Numbers that stand for a slate.", ge=1, le=1024)
    size: int = setting(32, "Numbers in the vectors of items.", ge=1, le=8192)
    divergence: float = setting(0.5, "Weight β of the divergence from the prior.", ge=0)
    clicks: float = setting(0.5, "Weight of the clicks in what is reconstructed.", ge=0)
    epochs: int = setting(50, "Passes over the logged slates.", ge=1)


class SlateVAE(nn.Module):
    """A variational autoencoder of slates and the clicks on them.

    Args:
        features: of items.
        candidates: [C] int64, the items of slates.
        n_positions: S.
        config: the settings.
    """

    def __init__(
        self, features: UserFeatures, candidates: Tensor, n_positions: int, config: GeMSConfig
    ) -> None:
        super().__init__()
        self.register_buffer("item_features", features.items[candidates], persistent=False)
        self.item_features: Tensor
        s, hidden = n_positions, 4 * config.hidden_size
        self.mix = nn.Linear(features.items.shape[1], config.size, bias=False)
        self.vector = nn.Parameter(0.1 * torch.randn(len(candidates), config.size))
        self.bias = nn.Parameter(torch.zeros(len(candidates)))
        self.encoder = nn.Sequential(
            nn.Linear(s * (config.size + 1), hidden),
            nn.Tanh(),
            nn.Linear(hidden, 2 * config.latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.latent, hidden), nn.Tanh(), nn.Linear(hidden, s * (config.size + 1))
        )
        self.n_positions = s

    def encode(self, column: Tensor, click: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance [B, d] for slates [B, S] of candidates, -1 = none."""
        vectors = F.pad(self.mix(self.item_features) + self.vector, (0, 0, 1, 0))[column + 1]
        slate = torch.cat([vectors, click.unsqueeze(2)], 2)
        mean, log_variance = self.encoder(slate.flatten(1)).chunk(2, 1)
        return mean, log_variance

    def decode(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores of items at each position [B, S, C] and log-odds of clicks [B, S]."""
        out = self.decoder(latent).unflatten(1, (self.n_positions, -1))
        vectors = self.mix(self.item_features) + self.vector
        return out[..., :-1] @ vectors.t() + self.bias, out[..., -1]

    def loss(self, column: Tensor, click: Tensor, config: GeMSConfig) -> Tensor:
        """Return the negative evidence bound, with weights, of slates and clicks [B, S]."""
        mean, log_variance = self.encode(column, click)
        latent = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        score, log_odds = self.decode(latent)
        shown = column >= 0
        surprise = F.cross_entropy(
            score.flatten(0, 1), column.flatten(), ignore_index=-1, reduction="none"
        )
        answer = F.binary_cross_entropy_with_logits(log_odds, click, reduction="none")
        error = ((config.clicks * answer + surprise.view_as(answer)) * shown).sum(1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return (error + config.divergence * divergence).mean()


class LatentActions(Actions):
    """The action is a point in a latent space, which `decode` turns into a slate.

    Args:
        world: of the users.
        size: d.
        decode: returns slates [B, S] for points [B, d].
    """

    def __init__(self, world: World, size: int, decode: Callable[[Tensor], Tensor]) -> None:
        super().__init__(world, Candidates(world), spaces.Box(-1.0, 1.0, (size,), np.float32))
        self._decode = decode

    def slate(self, action: Tensor) -> Tensor:
        return self._decode(action)


class GeMSPolicy(EntropyPolicy):
    """SAC on the latent points of a slate autoencoder (Deffayet et al., WSDM 2023).

    A variational autoencoder learns from logged slates and clicks; then its decoder stays as it is,
    and SAC learns which of its points to choose. So whole slates that go together are one action of
    few numbers. `train` takes the slates that the world's users have in the log, `learn_slates`
    those of another log. The state is the flat observation, where the paper has a GRU. See
    arXiv:2301.08632.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights and exploration.

    Attributes:
        vae: the autoencoder.
        is_fitted: [] bool, whether it has learned.

    Raises:
        InputError: Stable-Baselines3 is not installed.
    """

    config_class: ClassVar[type[Config]] = GeMSConfig
    config: GeMSConfig

    def __init__(
        self, world: World | Site, config: GeMSConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(world, config, seed)
        few = max(self.config.candidates, self.n_positions)
        n = self.n_items if self.rules.exist else few
        self._candidates = CandidateItems.most_clicked(self.site, n)
        items = self._candidates.item
        with seeded(seed):
            self.vae = SlateVAE(UserFeatures(self.site), items, self.n_positions, self.config)
        self.vae.to(self.device)
        self.is_fitted = torch.tensor(False)

    def actions(self, world: World) -> LatentActions:
        return LatentActions(world, self.config.latent, self.decode)

    @torch.no_grad()
    def decode(self, action: Tensor) -> Tensor:
        """Return the slates [B, S] of actions [B, d]: the best valid item of each position."""
        scores, _ = self.vae.decode(_REACH * action.to(self.device))
        slate = torch.full(scores.shape[:2], -1, device=self.device)
        for position, score in enumerate(scores.unbind(1)):
            slate[:, position] = self._candidates.rules.best(score, slate, position)
        return self._candidates.items(slate)

    def learn_slates(self, log: SessionLog) -> None:
        """Fit the autoencoder to the slates of a log of the same catalogue."""
        slate = self._candidates.columns(log.slate)
        click = torch.from_numpy(log.response > 0).float().to(self.device)
        optimiser = torch.optim.Adam(self.vae.parameters(), 0.001)
        with seeded(self.seed):
            for _ in range(self.config.epochs):
                for rows in torch.randperm(len(slate)).to(self.device).split(256):
                    loss = self.vae.loss(slate[rows], click[rows], self.config)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
        self.is_fitted = torch.tensor(True)

    def train(self, world: World, steps: int, seed: int) -> int:
        if not self.is_fitted:
            self.learn_slates(world.initial_sessions)
        return super().train(world, steps, seed)

    @torch.inference_mode()
    def act(self, observation: dict[str, Tensor]) -> Tensor:
        action, _ = self.network.predict(self.flat(observation).numpy(), deterministic=True)
        return self.decode(torch.from_numpy(action))
