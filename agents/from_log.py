"""The base class of policies that learn from a log of sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from agents.policy import Policy
from agents.rollout import joined, rollout
from agents.site import Site
from agents.uniform import RandomPolicy
from recsim_env.world import World
from responders import InputError, SessionLog
from responders.config import Config
from responders.log import ragged
from responders.log.history import history

_TIE = 1e-3  # weight of popularity, which decides between items that are otherwise equal


class LogPolicy(Policy):
    """Learns from logged sessions rather than from each step.

    A subclass implements `fit_log` and `affinity`. Between items of (nearly) the same affinity, as
    for users without a click, popularity decides. In a world, it learns from a log of random
    slates, which shows every item equally often.
    """

    def __init__(self, world: World | Site, config: Config | None = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        self.popularity = torch.zeros(self.n_items, device=self.device)

    def fit(self, log: SessionLog) -> None:
        """Learn from all sessions of `log`, anew if the policy has learned before.

        Raises:
            InputError: the log has another catalogue than the policy, or no click.
        """
        self.count_clicks(log)
        self.fit_log(log)
        self.steps, self.synthetic = 0, False
        self.count_steps(log.n_slates, log.synthetic)

    def count_clicks(self, log: SessionLog) -> None:
        """Take over the popularity of items in `log`; raises as `fit`."""
        if log.catalogue.ids.tolist() != self.catalogue.ids.tolist():
            raise InputError(
                f"the log has another catalogue ({len(log.catalogue)} items) than the policy "
                f"({self.n_items} items): convert it with `--catalogue`"
            )
        if not log.response.any():
            raise InputError("the log has no click to learn from")
        clicked = np.bincount(log.slate[log.response > 0], minlength=self.n_items)
        self.popularity = self.tensor(clicked / clicked.max())

    def fit_log(self, log: SessionLog) -> None:
        """Learn from all sessions of a log with the policy's catalogue and at least one click."""
        raise NotImplementedError

    def affinity(self, observation: dict[str, Tensor]) -> Tensor:
        """Return how well each item fits to what each user has clicked, [B, N]."""
        raise NotImplementedError

    def score(self, observation: dict[str, Tensor]) -> Tensor:
        return self.affinity(observation) + _TIE * self.popularity

    def train(self, world: World, steps: int, seed: int) -> int:
        """Learn from sessions of random slates, until `steps` slates have been shown."""
        logs: list[SessionLog] = []
        random = RandomPolicy(world, seed=self.seed)
        while (done := sum(log.n_slates for log in logs)) < max(steps, 1):
            logs.append(rollout(world, random, seed + done).log)
        self.fit(joined(logs))
        return done

    def tensor(self, values: np.ndarray) -> Tensor:
        """Return `values` as float32 on the policy's device."""
        return torch.from_numpy(np.array(values, np.float32)).to(self.device)


def session_clicks(log: SessionLog) -> sparse.csr_matrix:
    """Return the clicks of a log as a matrix [sessions, N] of 0 and 1, float64."""
    row, position = np.nonzero(log.response)
    session = ragged.owner(log.session_length)[row]
    cells = (np.ones(len(row)), (session, log.slate[row, position]))
    clicks = sparse.csr_matrix(cells, shape=(log.n_sessions, len(log.catalogue)))
    clicks.data[:] = 1  # an item that was clicked twice counts once
    return clicks


def clicked_items(observation: dict[str, Tensor], n_items: int) -> Tensor:
    """Return 1 for the items that users have clicked in their histories, [B, N] float32."""
    click = observation["click"].float()
    clicked = click.new_zeros(len(click), n_items)
    return clicked.scatter_add(1, observation["item"].clamp(min=0), click).clamp(max=1)


def observe_log(log: SessionLog, rows: np.ndarray, site: Site) -> dict[str, Tensor]:
    """Return batched `HistoryObservation`s [n, …] of the users before the slates `rows` [n]."""
    session = np.searchsorted(log.session_start, rows, side="right") - 1
    step = rows - log.session_start[session]
    slates, clicks = history(log, session, step, site.history)
    values = {
        "item": slates.astype(np.int64).reshape(len(rows), -1),
        "click": clicks.astype(np.int8).reshape(len(rows), -1),
        "step": step[:, None].astype(np.int64),
    }
    if site.features.shape[1]:
        values["user"] = log.users.features[log.user[session]].astype(np.float32)
    return tree_map(lambda value: torch.from_numpy(value).to(site.device), values)


def check_form(log: SessionLog, site: Site) -> None:
    """Raise `InputError` unless slates and users of the log have the form of the site's."""
    for what, logged, own in (
        ("positions", log.n_positions, site.n_positions),
        ("user features", log.users.features.shape[1], site.features.shape[1]),
    ):
        if logged != own:
            raise InputError(f"the log has {logged} {what}, the policy was made for {own}")


def shuffled(rows: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield `rows` [n] in random order, `size` at a time."""
    order = rng.permutation(rows)
    for first in range(0, len(order), size):
        yield order[first : first + size]


def minimise(
    loss: Callable[[np.ndarray], Tensor], net: nn.Module, rows: np.ndarray, config: Any, seed: int
) -> None:
    """Minimise the loss of minibatches of `rows` [n] with Adam, whose rate falls to a tenth.

    The settings are `epochs`, `batch_size` and `learning_rate`; `seed` is of the order of rows.
    """
    optimiser = torch.optim.Adam(net.parameters(), config.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, config.epochs)
    rng = np.random.default_rng(seed)
    for _ in range(config.epochs):
        for part in shuffled(rows, config.batch_size, rng):
            value = loss(part)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        schedule.step()
