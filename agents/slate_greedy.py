"""The slate that a responder expects to be clicked, filled from the top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from agents.greedy import GreedyConfig, GreedyPolicy
from responders.config import Config, setting
from responders.models.state import State


@dataclass(frozen=True)
class SlateGreedyConfig(GreedyConfig):
    """Settings of `SlateGreedyPolicy`."""

    tried: int = setting(
        20, "Items that are tried at each position, the best ones when alone in a slate.", ge=1
    )


class SlateGreedyPolicy(GreedyPolicy):
    """Fills a slate from the top with the items that the world's responder would click most.

    Unlike `GreedyPolicy`, which scores each item alone, it scores an item at a position given the
    items above, whose clicks are expected ones: it does not fill a slate with items that compete.

    Args:
        world: its responder is the model.
        config: the settings.
        seed: not used.

    Raises:
        InputError: there is no world.
    """

    config_class: ClassVar[type[Config]] = SlateGreedyConfig
    config: SlateGreedyConfig

    def _slates(self, state: State, b: int) -> Tensor:
        m = min(self.config.tried, len(self._candidates))
        alone = self._alone(state, b)
        repeated = tree_map(lambda value: value.repeat_interleave(m, 0), state)
        slate = torch.full((b, self.n_positions), -1, device=self.device)
        for s in range(self.n_positions):
            score, item = alone.masked_fill(~self.rules.mask(slate, s), -torch.inf).topk(m)
            if s:
                trial = slate[:, : s + 1].repeat_interleave(m, 0)
                trial[:, s] = item.flatten()
                given_above = self._responder.logits(repeated, trial)[:, s].view(b, m)
                score = torch.where(score > -torch.inf, given_above, score)
            best, index = score.max(1, keepdim=True)
            slate[:, s] = torch.where(best > -torch.inf, item.gather(1, index), -1).squeeze(1)
        return slate
