"""The base class of policies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from agents.answering import recommend
from agents.rollout import rollout
from agents.saving import save_policy
from agents.site import Site
from agents.transition import Transition
from recsim_env.world import World
from responders import InputError
from responders.behaviour.slate_rules import SlateRules
from responders.config import Config
from responders.errors import check_seed, check_whole


class Policy:
    """Chooses slates for B users at a time.

    A subclass implements `score`, or `act` if it does more than show the items with the best
    scores; `learn` to learn from each step; or `train` to learn in another way. `save` writes the
    attributes that are tensors or modules, except those whose names start with an underscore, which
    only serve a running episode.

    Args:
        world: a world, whose users' hidden state is not used, or a `Site`.
        config: an instance of `config_class`.
        seed: of everything random in the policy.

    Attributes:
        site: where the policy recommends: catalogue, rules, form of slates, device.
        steps: user-slate steps that it has learned from.
        synthetic: whether any of them were of simulated users.
    """

    config_class: ClassVar[type[Config]] = Config
    """The frozen dataclass of the policy's settings."""

    def __init__(self, world: World | Site, config: Config | None = None, seed: int = 0) -> None:
        self.config, self.seed = config or self.config_class(), check_seed(seed)
        self.site = Site.of(world)
        self.catalogue, self.rules, self.device = world.catalogue, world.rules, world.device
        self.n_items, self.n_positions = world.n_items, world.n_positions
        self.steps, self.synthetic = 0, False

    def train(self, world: World, steps: int, seed: int) -> int:
        """Learn by acting in `world`: by default, run rollouts in which `learn` is called.

        Args:
            world: reset with `seed`.
            steps: user-slate steps to train for, rounded up to whole rollouts.
            seed: of the users.

        Returns:
            The user-slate steps used; 0 for a policy that does not learn.
        """
        done = 0
        while done < steps and type(self).learn is not Policy.learn:
            done += rollout(world, self, seed + done, learn=True).log.n_slates
        self.count_steps(done)
        return done

    def count_steps(self, steps: int, synthetic: bool = True) -> None:
        """Record that the policy learned from `steps` more slates."""
        self.steps += steps
        self.synthetic |= synthetic and steps > 0

    def reset(self) -> None:
        """Forget the users, who all start new episodes."""

    def act(self, observation: dict[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """Return slates [B, S] int64 of catalogue indices for a batched `HistoryObservation`.

        A policy that knows them returns a tuple of slates and propensities [B, S] float32: the
        chance with which it puts the item at that position.
        """
        return self.rules.choose(self.score(observation)).expand(len(observation["item"]), -1)

    def score(self, observation: dict[str, Tensor]) -> Tensor:
        """Return how good each item is for each user, [B, N] or [N], without exploration."""
        raise NotImplementedError(f"{type(self).__name__} implements neither score nor act")

    def among_all(self, value: Tensor, item: Tensor) -> Tensor:
        """Return scores [B, N]: `value` [B, C] for the items `item` [C] or [B, C], less for others.

        They are on the policy's device.
        """
        score = (value.amin(1, keepdim=True) - 1).repeat(1, self.n_items)
        return score.scatter(1, item.expand_as(value), value).to(self.device)

    @property
    def has_scores(self) -> bool:
        """Whether the policy scores items, so that it can rank any number of them."""
        return type(self).score is not Policy.score

    def learn(self, transition: Transition) -> None:
        """Learn from one step of B users."""

    def recommend(
        self,
        histories: Sequence[Sequence[Any]],
        k: int | None = None,
        users: np.ndarray | None = None,
    ) -> list[list[Any]]:
        """Return ranked items for real users.

        Items that are not in the catalogue are ignored, with a warning that counts them. The most
        recent 1,000 items of a history are read. Items of the history may be recommended again.

        Args:
            histories: of each user, the raw ids of the items clicked so far, most recent last.
            k: items for each user; by default S. More than S takes a policy with scores.
            users: [B, F] features of the users; None = the mean of the users it was made for.

        Returns:
            The raw ids of up to `k` items for each user, best first.

        Raises:
            InputError: no item is in the catalogue, `users` has the wrong shape, or `k` is too
                large.
        """
        k = self.n_positions if k is None else min(check_whole("k", k, 1), self.n_items)
        if k > self.n_positions and not self.has_scores:
            raise InputError(
                f"{type(self).__name__} chooses slates of {self.n_positions} items and has no "
                f"scores to rank more: give a k of at most {self.n_positions}"
            )
        return recommend(self.site, partial(self._rank, k=k), histories, users)

    @torch.no_grad()
    def _rank(self, observation: dict[str, Tensor], k: int) -> Tensor:
        """Return the best items [B, k] for users who start with `observation`."""
        self.reset()
        if not self.has_scores:
            chosen = self.act(observation)
            return (chosen[0] if isinstance(chosen, tuple) else chosen)[:, :k]
        score, rules = self.score(observation), self.rules
        if k > self.n_positions:
            rules = SlateRules.of(self.catalogue, k).to(self.device)
        return rules.choose(score).expand(len(observation["item"]), -1)[:, :k]

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the policy to the folder `path` as safetensors and JSON; see `load_policy`.

        Raises:
            InputError: `path` exists and `overwrite` is False.
        """
        return save_policy(self, Path(path), overwrite)
