"""The items that a responder expects to be clicked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from agents.candidate_items import CandidateItems
from agents.policy import Policy
from agents.saving import name_of
from agents.site import Site
from agents.tracking import StateTracker
from recsim_env.world import World
from responders import InputError
from responders.config import Config, setting
from responders.models.state import State, take_rows

_AT_A_TIME = 20_000  # pairs of users and items


@dataclass(frozen=True)
class GreedyConfig(Config):
    """Settings of `GreedyPolicy`."""

    candidates: int = setting(
        250,
        "Items that are scored: the most clicked ones, if the catalogue has click counts.",
        ge=1,
    )


class GreedyPolicy(Policy):
    """Shows the items that the world's own responder would click most, each alone in a slate.

    It exploits what the responder gets wrong more than a policy that has to learn, so its value in
    the learned world, against its value in the true one, shows how far the responder can be
    trusted under optimisation. In its own world it is an upper reference, not a fair competitor.

    Args:
        world: its responder is the model.
        config: the settings.
        seed: not used.

    Raises:
        InputError: there is no world.
    """

    config_class: ClassVar[type[Config]] = GreedyConfig
    config: GreedyConfig

    def __init__(
        self, world: World | Site, config: GreedyConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(world, config, seed)
        if isinstance(world, Site):
            raise InputError(f"{name_of(type(self))} needs a world: its responder is the model")
        self._responder = world.responder
        self._tracker = StateTracker(world.responder, self.n_positions)
        self._candidates = CandidateItems.most_clicked(self.site, self.config.candidates)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Raise `InputError`: the policy is its world's responder and has learned nothing."""
        raise InputError(f"{name_of(type(self))} cannot be saved: make it from its world")

    def reset(self) -> None:
        self._tracker.reset()

    @torch.inference_mode()
    def act(self, observation: dict[str, Tensor]) -> Tensor:
        return torch.cat([self._slates(state, b) for state, b in self._parts(observation)])

    def _parts(self, observation: dict[str, Tensor]) -> Iterator[tuple[State, int]]:
        """Follow the users, and yield the states of a few of them at a time, with their number."""
        state = self._tracker.state(observation)
        users = torch.arange(len(observation["item"]), device=self.device)
        for rows in users.split(max(1, _AT_A_TIME // len(self._candidates))):
            yield take_rows(state, rows), len(rows)

    def _slates(self, state: State, b: int) -> Tensor:
        """Return the slates [B, S] for the B users of `state`."""
        return self.rules.choose(self._alone(state, b))

    @torch.inference_mode()
    def log_odds(self, observation: dict[str, Tensor]) -> Tensor:
        """Return the log-odds [B, N] of a click on each item alone; see `act` for `observation`.

        They are -inf for items that are no candidates.
        """
        return torch.cat([self._alone(state, b) for state, b in self._parts(observation)])

    def _alone(self, state: State, b: int) -> Tensor:
        """Return the log-odds [B, N] of each item alone, -inf of those that are no candidates."""
        score = self._scores(state, b)
        every = score.new_full((b, self.n_items), -torch.inf)
        return every.index_copy(1, self._candidates.item, score)

    def _scores(self, state: State, b: int) -> Tensor:
        """Return the log-odds [B, n] of each candidate alone, for the B users of `state`."""
        n = len(self._candidates)
        repeated = tree_map(lambda value: value.repeat_interleave(n, 0), state)
        slate = self._candidates.item.repeat(b).unsqueeze(1)
        return self._responder.logits(repeated, slate).view(b, n)
