"""Rules for the items of a slate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from responders.errors import InputError
from responders.log.catalogue import Catalogue


@dataclass(frozen=True)
class SlateRules:
    """Rules of valid slates; an item is never shown twice in one slate.

    Args:
        n_items: N.
        n_positions: S.
        allowed: [S, N] bool, the items allowed at each position; None = all.
        special: [N] bool, items of which a slate may hold at most one; None = no such rule.
    """

    n_items: int
    n_positions: int
    allowed: Tensor | None = None
    special: Tensor | None = None

    @staticmethod
    def of(catalogue: Catalogue, n_positions: int) -> SlateRules:
        """Return the rules given by the catalogue's attributes.

        `layer` (1, 2, …): the S positions are split evenly among the layers, top to bottom, as in
        RL4RS; items of layer 0 (unknown or new) are not allowed at all. `special`: at most one in
        a slate.
        """
        layer, special = catalogue.attributes.get("layer"), catalogue.attributes.get("special")
        allowed = None
        if layer is not None:
            layers = np.unique(layer[layer > 0])
            position_layer = layers[np.arange(n_positions) * len(layers) // n_positions]
            allowed = torch.from_numpy(position_layer[:, None] == layer[None])
        special_items = None if special is None else torch.from_numpy(np.array(special, dtype=bool))
        return SlateRules(len(catalogue), n_positions, allowed, special_items)

    @property
    def exist(self) -> bool:
        """Whether there is any rule but that items are different."""
        return self.allowed is not None or self.special is not None

    def to(self, device: torch.device | str) -> SlateRules:
        """Return the rules on `device`."""
        allowed, special = (
            None if t is None else t.to(device) for t in (self.allowed, self.special)
        )
        return SlateRules(self.n_items, self.n_positions, allowed, special)

    def only(self, item: Tensor) -> SlateRules:
        """Return the rules of slates of the items `item` [C] int64, numbered from 0 to C - 1."""
        allowed = None if self.allowed is None else self.allowed[:, item]
        special = None if self.special is None else self.special[item]
        return SlateRules(len(item), self.n_positions, allowed, special)

    def mask(self, slate: Tensor, position: int) -> Tensor:
        """Return [B, N] bool: the items allowed at `position`, given those above it.

        Args:
            slate: [B, S] int64; the first `position` columns are filled.
            position: from 0 to S - 1.
        """
        above = slate[:, :position]
        valid = torch.ones(len(slate), self.n_items + 1, dtype=torch.bool, device=slate.device)
        valid.scatter_(1, torch.where(above >= 0, above, self.n_items), False)
        valid = valid[:, :-1]
        if self.allowed is not None:
            valid &= self.allowed[position]
        if self.special is not None and position:
            used = (self.special[above.clamp(min=0)] & (above >= 0)).any(1, keepdim=True)
            valid &= ~(used & self.special)
        return valid

    def best(self, score: Tensor, slate: Tensor, position: int) -> Tensor:
        """Return the item [B] with the highest score [B, N] that `mask` allows; -1 if none is left.

        Items with a score of -inf are not shown.
        """
        highest, item = score.masked_fill(~self.mask(slate, position), -torch.inf).max(1)
        return torch.where(highest > -torch.inf, item, -1)

    def choose(self, score: Tensor) -> Tensor:
        """Return the valid slate [B, S] of the best items by `score` [N] or [B, N], best first.

        Positions are filled from the top; -1 where no item is left.

        Raises:
            InputError: a score is NaN, so that no item is the best.
        """
        score = score.expand(1, -1) if score.ndim == 1 else score
        if score.isnan().any():
            raise InputError("scores of items are NaN: no item is the best")
        if not self.exist:
            slate = score.topk(min(self.n_positions, self.n_items), dim=1).indices
            missing = self.n_positions - slate.shape[1]
            return torch.nn.functional.pad(slate, (0, missing), value=-1)
        slate = torch.full((len(score), self.n_positions), -1, device=score.device)
        score = score.float()
        score = score.clamp(min=torch.finfo(score.dtype).min)  # above items that are not valid
        for position in range(self.n_positions):
            slate[:, position] = self.best(score, slate, position)
        return slate

    def broken(self, slate: Tensor) -> Tensor:
        """Return [B] bool: slates with an item at a wrong position or with two special items."""
        filled, item = slate >= 0, slate.clamp(min=0)
        bad = torch.zeros(len(slate), dtype=torch.bool, device=slate.device)
        if self.allowed is not None:
            position = torch.arange(slate.shape[1], device=slate.device)
            bad |= (filled & ~self.allowed[position, item]).any(1)
        if self.special is not None:
            bad |= (filled & self.special[item]).sum(1) > 1
        return bad
