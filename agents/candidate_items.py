"""The items that a policy chooses from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agents.site import Site
from recsim_env.candidates import most_clicked


class CandidateItems:
    """The items `item` [C] int64 of a site, in columns from 0 to C - 1; `rules` are of columns."""

    def __init__(self, site: Site, item: Tensor) -> None:
        self.item = item.to(site.device)
        self.rules = site.rules.only(self.item)
        self._column = self.item.new_full((site.n_items + 1,), -1)
        self._column[self.item + 1] = torch.arange(len(self.item), device=site.device)

    @staticmethod
    def most_clicked(site: Site, n: int) -> CandidateItems:
        """Return the `n` most clicked items, most clicked first."""
        return CandidateItems(site, most_clicked(site.catalogue)[:n])

    def __len__(self) -> int:
        return len(self.item)

    def columns(self, item: Tensor | np.ndarray) -> Tensor:
        """Return the columns of items of any shape, -1 for empty positions and other items."""
        if isinstance(item, np.ndarray):
            item = torch.from_numpy(item.astype(np.int64))
        return self._column[item.to(self.item.device) + 1]

    def items(self, column: Tensor) -> Tensor:
        """Return the items of columns of any shape; -1 stays -1."""
        return torch.where(column >= 0, self.item[column], -1)
