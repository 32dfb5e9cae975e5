"""EASE: a linear autoencoder in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from agents.from_log import LogPolicy, clicked_items, session_clicks
from agents.site import Site
from recsim_env.world import World
from responders import InputError, SessionLog
from responders.config import Config, setting

_MOST = 30_000  # items: their N × N weights take 3.6 GB, the inverse twice that


@dataclass(frozen=True)
class EASEConfig(Config):
    """Settings of `EASEPolicy`."""

    regularisation: float = setting(500.0, "λ, added to the diagonal of XᵀX.", gt=0)


class EASEPolicy(LogPolicy):
    """EASE (Steck, WWW 2019, arXiv 1905.03375).

    With X the clicks of sessions × items, the weights B that minimise ‖X − XB‖² + λ‖B‖² with a zero
    diagonal are −P / diag(P) off the diagonal, where P = (XᵀX + λI)⁻¹. An item's affinity is xB for
    the clicks x of the user's history. Takes time in N³ and memory in N².

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of the log of random slates.

    Raises:
        InputError: the catalogue has more than 30,000 items.
    """

    config_class: ClassVar[type[Config]] = EASEConfig
    config: EASEConfig

    def __init__(
        self, world: World | Site, config: EASEConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(world, config, seed)
        if self.n_items > _MOST:
            raise InputError(
                f"ease inverts a matrix of {self.n_items:,} × {self.n_items:,} items; it takes at "
                f"most {_MOST:,}: use item_knn"
            )
        self.weight = torch.zeros(self.n_items, self.n_items, device=self.device)

    def fit_log(self, log: SessionLog) -> None:
        clicks = session_clicks(log)
        gram = (clicks.T @ clicks).toarray()
        gram[np.diag_indices(self.n_items)] += self.config.regularisation
        inverse = np.linalg.inv(gram)
        weight = -inverse / np.diag(inverse)
        np.fill_diagonal(weight, 0)
        self.weight = self.tensor(weight)

    def affinity(self, observation: dict[str, Tensor]) -> Tensor:
        return clicked_items(observation, self.n_items) @ self.weight
