"""Export of a logged `SessionLog` for offline reinforcement learning: a session is an episode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from numpy.typing import ArrayLike
from torch import Tensor

from recsim_env.adapters.export import Episode, single_spec, write_minari
from recsim_env.observations import Encoder, FlatObservation, HistoryObservation
from recsim_env.vector import WorldVectorEnv, to_numpy
from recsim_env.world import World
from responders import EMPTY, InputError, SessionLog
from responders.behaviour.leaving import departures
from responders.errors import near_matches
from responders.log import ragged
from responders.log.history import history
from responders.models.base import LogShape
from responders.models.counting import ItemCTR
from responders.training.checkpoint import check_catalogue

_ENCODERS: dict[str, type[HistoryObservation | FlatObservation]] = {
    "history": HistoryObservation,
    "flat": FlatObservation,
}
_ROWS = 1 << 14  # observations made at a time, to bound memory


@dataclass(frozen=True)
class _View:
    """How a log is observed.

    Args:
        world: with the log's sessions as its users; it makes observations and answers nothing.
        encoder: of the observations.
    """

    world: World
    encoder: Encoder

    def __call__(self, session: np.ndarray, step: np.ndarray, log: SessionLog) -> Any:
        """Return the observations [n, …] of `session` [n] after `step` [n] slates."""
        world, device = self.world, self.world.device
        slates, clicks = history(log, session, step, world.history)

        def tensor(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(device)

        world.episodes = replace(
            world.episodes,
            user=tensor(session),
            step=tensor(step),
            slates=tensor(slates),
            clicks=tensor(clicks),
        )
        return to_numpy(self.encoder(world))


def log_episodes(
    log: SessionLog,
    *,
    observe: str | WorldVectorEnv = "history",
    history: int = 10,
    reward: ArrayLike | None = None,
    silence: float | None = None,
) -> list[Episode]:
    """Return the sessions of a log as episodes.

    An action is a slate [S] int64, -1 = empty; if every slate of the log shows one item, it is that
    item. An episode is terminated if the user left, by the rules of `fit_hazard`; it is truncated
    if the log, or the horizon of `observe`, cut it. Infos are `propensity` of the shown items, if
    the log has it, and `position` of the item where slates of one item have several positions.

    Args:
        log: the log.
        observe: `history` or `flat`; or the environment that a policy trained on the episodes is
            for, whose observations are then made, with its history, horizon and scales.
        history: H, slates in observations; an environment has its own.
        reward: [T] numbers, one for each slate of the log; None = clicks.
        silence: seconds without a slate that count as leaving; see `fit_hazard`.

    Raises:
        InputError: an unknown observation, the environment does not fit the log, or `reward` is not
            one finite number for each slate.
    """
    return _episodes(log, _view(log, observe, history), reward, silence)


def log_to_minari(
    log: SessionLog,
    dataset_id: str,
    *,
    observe: str | WorldVectorEnv = "history",
    history: int = 10,
    reward: ArrayLike | None = None,
    silence: float | None = None,
    **options: Any,
) -> Any:
    """Write the sessions of a log as a Minari dataset and return it.

    If `observe` is an environment with the same actions, `dataset.recover_environment()` makes it.

    Args:
        log: the log.
        dataset_id: such as "mine/logged-v0".
        observe: see `log_episodes`.
        history: see `log_episodes`.
        reward: see `log_episodes`.
        silence: see `log_episodes`.
        options: of `minari.create_dataset_from_buffers`: description, author, …

    Raises:
        InputError: as `log_episodes` does, or Minari is not installed.
    """
    view = _view(log, observe, history)
    episodes, actions = _episodes(log, view, reward, silence), action_space(log)
    if not isinstance(observe, str) and observe.single_action_space == actions:
        options["env"] = single_spec(observe)
    return write_minari(episodes, dataset_id, view.encoder.space, actions, **options)


def action_space(log: SessionLog) -> Space:
    """Return the space of the actions that `log_episodes` makes of `log`."""
    n, lowest = len(log.catalogue), int(log.slate.min())
    if _single_items(log):
        return spaces.Discrete(n)
    size = np.full(log.n_positions, n - min(lowest, 0))
    return spaces.MultiDiscrete(size, start=np.full(log.n_positions, min(lowest, 0)))


def _episodes(
    log: SessionLog, view: _View, reward: ArrayLike | None, silence: float | None
) -> list[Episode]:
    length = np.minimum(log.session_length, view.world.horizon)
    left = departures(log, np.arange(log.n_sessions), silence) & (length == log.session_length)
    action, info = _actions(log)
    rewards = _rewards(log, reward)
    episodes = []
    for session, observation in _observations(log, view, length):
        rows = slice(log.session_start[session], log.session_start[session] + length[session])
        episodes.append(
            Episode(
                observation,
                action[rows].astype(np.int64),
                rewards[rows],
                bool(left[session]),
                {name: _after_reset(values[rows]) for name, values in info.items()},
            )
        )
    return episodes


def _view(log: SessionLog, observe: str | WorldVectorEnv, history: int) -> _View:
    responder, longest = ItemCTR(LogShape.of(log)), int(log.session_length.max())
    if isinstance(observe, str):
        if observe not in _ENCODERS:
            near = near_matches(observe, _ENCODERS)
            raise InputError(f"a log cannot be observed as {observe!r}; {near}")
        world = World(responder, log, history=history, horizon=longest)
        return _View(world, _ENCODERS[observe](world))
    envs = observe.unwrapped
    _check_fits(envs, log)
    own = envs.world
    world = World(responder, log, history=own.history, horizon=own.horizon, device=own.device)
    return _View(world, envs.encoder)


def _check_fits(envs: WorldVectorEnv, log: SessionLog) -> None:
    """Raise `InputError` unless the observations of `envs` can be made of `log`."""
    world, encoder = envs.world, envs.encoder
    if not isinstance(encoder, (HistoryObservation, FlatObservation)) or (
        envs.single_observation_space != encoder.space or world.returns is not None
    ):
        raise InputError(
            "a log shows slates and clicks alone: make the environment with observe='history' or "
            "'flat', and without pages, candidates that change, or returns"
        )
    own = world.catalogue
    card = {"catalogue": {"items": len(own), "fingerprint": own.fingerprint()}}
    check_catalogue(card, log.catalogue, "the environment's responder")
    for what, of_log, of_env in (
        ("items", len(log.catalogue), world.n_items),
        ("positions", log.n_positions, world.n_positions),
        ("user features", log.users.features.shape[1], world.features.shape[1]),
    ):
        if of_log != of_env:
            raise InputError(f"the log has {of_log} {what}, the environment has {of_env}")


def _observations(log: SessionLog, view: _View, length: np.ndarray) -> Iterator[tuple[int, Any]]:
    """Yield each session and its observations [T + 1, …], where T is its `length`."""
    part = ragged.offsets(length + 1)[:-1] // _ROWS
    for sessions in np.split(np.arange(log.n_sessions), np.flatnonzero(np.diff(part)) + 1):
        size = length[sessions] + 1
        made = view(np.repeat(sessions, size), ragged.place(size), log)
        for session, first, n in zip(sessions, ragged.offsets(size), size, strict=False):
            rows = slice(first, first + n)
            if isinstance(made, dict):
                yield session, {name: values[rows] for name, values in made.items()}
            else:
                yield session, made[rows]


def _single_items(log: SessionLog) -> bool:
    return bool(((log.slate != EMPTY).sum(1) == 1).all())


def _actions(log: SessionLog) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the action of each slate, [T, S] or [T], and its infos."""
    info = {} if log.propensity is None else {"propensity": log.propensity}
    if not _single_items(log):
        return log.slate, info
    position = (log.slate != EMPTY).argmax(1)
    row = np.arange(log.n_slates)
    info = {name: values[row, position] for name, values in info.items()}
    if log.n_positions > 1:
        info["position"] = position
    return log.slate[row, position], info


def _rewards(log: SessionLog, reward: ArrayLike | None) -> np.ndarray:
    """Return the reward [T] float64 of each slate."""
    if reward is None:
        return log.response.sum(1).astype(np.float64)
    rewards = np.asarray(reward, dtype=np.float64)
    if rewards.shape != (log.n_slates,) or not np.isfinite(rewards).all():
        raise InputError(
            f"reward has shape {rewards.shape}; give one finite number for each of the log's "
            f"{log.n_slates} slates"
        )
    return rewards


def _after_reset(values: np.ndarray) -> np.ndarray:
    """Return values [T, …] after a row of zeros, as the info of a reset has none."""
    return np.concatenate([np.zeros_like(values[:1]), values])
