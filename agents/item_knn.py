"""Items that are clicked in the same sessions as those in the history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from agents.from_log import LogPolicy, session_clicks
from agents.site import Site
from recsim_env.world import World
from responders import SessionLog
from responders.config import Config, setting
from responders.log import ragged


@dataclass(frozen=True)
class ItemKNNConfig(Config):
    """Settings of `ItemKNNPolicy`."""

    neighbours: int = setting(50, "Most similar items kept for each item.", ge=1)
    shrinkage: float = setting(100.0, "Added to the denominator of the cosine.", ge=0)


class ItemKNNPolicy(LogPolicy):
    """Item-based nearest neighbours (Sarwar et al., WWW 2001; Deshpande and Karypis, TOIS 2004).

    The similarity of two items is the cosine of their columns in the matrix of sessions × items:
    clicks in common / (√(clicks of one × clicks of the other) + shrinkage). An item's affinity is
    the sum of its similarities with the items that the user has clicked, over the neighbours kept.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of the log of random slates.
    """

    config_class: ClassVar[type[Config]] = ItemKNNConfig
    config: ItemKNNConfig

    def __init__(
        self, world: World | Site, config: ItemKNNConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(world, config, seed)
        shape = (self.n_items, min(self.config.neighbours, self.n_items))
        self.neighbour = torch.zeros(shape, dtype=torch.int64, device=self.device)
        self.similarity = torch.zeros(shape, device=self.device)

    def fit_log(self, log: SessionLog) -> None:
        clicks = session_clicks(log)
        common = sparse.coo_matrix(clicks.T @ clicks)
        count = common.diagonal()
        norm = np.sqrt(count[common.row] * count[common.col])
        cosine = common.data / (norm + self.config.shrinkage)
        order = np.lexsort((-cosine, common.row))
        order = order[common.row[order] != common.col[order]]
        row = common.row[order]
        rank = ragged.place(np.bincount(row, minlength=self.n_items))
        kept = rank < self.neighbour.shape[1]
        row, rank, order = row[kept], rank[kept], order[kept]
        neighbour, similarity = np.zeros(self.neighbour.shape), np.zeros(self.neighbour.shape)
        neighbour[row, rank], similarity[row, rank] = common.col[order], cosine[order]
        self.neighbour = torch.from_numpy(neighbour.astype(np.int64)).to(self.device)
        self.similarity = self.tensor(similarity)

    def affinity(self, observation: dict[str, Tensor]) -> Tensor:
        item, click = observation["item"].clamp(min=0), observation["click"].float()
        similarity = self.similarity[item] * click.unsqueeze(2)
        score = similarity.new_zeros(len(item), self.n_items)
        return score.scatter_add(1, self.neighbour[item].flatten(1), similarity.flatten(1))
