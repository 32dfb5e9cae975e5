"""Users as vectors: of their features, and of the items that they clicked."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.log.session_log import SessionLog


class UserProjection(nn.Module):
    """A linear map of the user's features, standardised by the training users and clipped at ±5.

    Without features (F = 0) the result is zero.

    Args:
        n_features: F.
        size: of the result.
    """

    def __init__(self, n_features: int, size: int) -> None:
        super().__init__()
        self.centre: Tensor
        self.scale: Tensor
        self.size = size
        self.projection = None
        if n_features:
            self.register_buffer("centre", torch.zeros(n_features))
            self.register_buffer("scale", torch.ones(n_features))
            self.projection = nn.Linear(n_features, size, bias=False)

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Take mean and deviation from the users of the training sessions."""
        if self.projection is not None:
            features = log.users.features[np.unique(log.user[sessions])]
            self.centre.copy_(torch.from_numpy(features.mean(0)))
            self.scale.copy_(torch.from_numpy(features.std(0)).clamp(min=1e-6))

    def forward(self, user: Tensor) -> Tensor:
        """Return [B, size] for features [B, F]."""
        if self.projection is None:
            return user.new_zeros(len(user), self.size)
        return self.projection(((user - self.centre) / self.scale).clamp(-5, 5))


class ClickedItems(nn.Module):
    """A user as the mean of the vectors of the items clicked in earlier slates, plus features.

    The mean is zero before the first click (arXiv 2409.20055); user features are added through a
    linear map.

    Args:
        n_features: F.
        size: d of the item vectors.
    """

    def __init__(self, n_features: int, size: int) -> None:
        super().__init__()
        self.features = UserProjection(n_features, size)

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Learn the scale of the user features."""
        self.features.initialise(log, sessions)

    def start(self, user: Tensor) -> dict[str, Tensor]:
        """Return the state of new users with features [B, F]."""
        features = self.features(user)
        return {
            "features": features,
            "clicked": torch.zeros_like(features),
            "clicks": user.new_zeros(len(user), 1),
        }

    def vector(self, state: dict[str, Tensor]) -> Tensor:
        """Return the users' vectors [B, d]."""
        return state["features"] + state["clicked"] / state["clicks"].clamp(min=1)

    def observe(self, state: dict[str, Tensor], item: Tensor, click: Tensor) -> dict[str, Tensor]:
        """Return the state after clicks [B, S] on items with vectors `item` [B, S, d]."""
        click = click.to(item.dtype)
        return {
            "features": state["features"],
            "clicked": state["clicked"] + torch.einsum("bs,bsd->bd", click, item),
            "clicks": state["clicks"] + click.sum(1, keepdim=True),
        }

    def forward(self, user: Tensor, item: Tensor, click: Tensor) -> Tensor:
        """Return the users' vectors [B, R, d] before each of R slates.

        Args:
            user: [B, F] features.
            item: [B, R, S, d] vectors of the items shown.
            click: [B, R, S] float.
        """
        clicked = torch.einsum("brs,brsd->brd", click, item)
        total = F.pad(clicked.cumsum(1), (0, 0, 1, 0))[:, :-1]
        count = F.pad(click.sum(-1).cumsum(1), (1, 0))[:, :-1, None]
        return self.features(user)[:, None] + total / count.clamp(min=1)
