"""The slate that a responder expects to be clicked, filled from the top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from agents.greedy import GreedyConfig, GreedyPolicy
from responders.config import Config, setting
from responders.models.state import State, take_rows

_AT_A_TIME = 20_000  # users times slates that are tried for each


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

    @torch.inference_mode()
    def act(self, observation: dict[str, Tensor]) -> Tensor:
        state = self._tracker.state(observation)
        users = torch.arange(len(observation["item"]), device=self.device)
        parts = users.split(max(1, _AT_A_TIME // max(self.config.tried, len(self._candidates))))
        return torch.cat([self._filled(take_rows(state, rows), len(rows)) for rows in parts])

    def _filled(self, state: State, b: int) -> Tensor:
        """Return the slates [B, S] for the B users of `state`."""
        m = min(self.config.tried, len(self._candidates))
        alone = torch.full((b, self.n_items), -torch.inf, device=self.device)
        alone.index_copy_(1, self._candidates, self._scores(state, b))
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
