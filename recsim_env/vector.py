"""Gymnasium vector environments of a World: B users are B sub-environments, stepped in a batch."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from recsim_env.actions import ActionCheck, Actions, SlateActions
from recsim_env.observations import Encoder, HistoryObservation, bounds
from recsim_env.outcome import Outcome
from recsim_env.rendering import render_ansi, render_rgb
from recsim_env.world import World
from responders import InputError
from responders.device import in_float32
from responders.errors import check_seed, near_matches

Flags = NDArray[np.bool_]
StepReturn = tuple[Any, NDArray[np.float64], Flags, Flags, dict[str, Any]]
Transition = tuple[NDArray[np.float64], Flags, Flags, dict[str, Any], Flags]


class WorldVectorEnv(VectorEnv):
    """Base of the vector environments of a World: seeding, autoreset, infos and rendering.

    Args:
        world: of B users.
        encoder: computes the observations.
        action_space: of one user.
        observation_space: of one user.
        autoreset_mode: when a user is reset after the end of an episode: in the next step, which
            ignores the action (NEXT_STEP, Gymnasium's default); at once, with the last observation
            in `info["final_obs"]` (SAME_STEP); or only by `reset(options={"reset_mask": …})`
            (DISABLED).
        render_mode: None, "ansi" or "rgb_array".
    """

    def __init__(
        self,
        world: World,
        encoder: Encoder,
        action_space: spaces.Space,
        observation_space: spaces.Space,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        modes = {mode.value: mode for mode in AutoresetMode}
        if not isinstance(autoreset_mode, AutoresetMode) and autoreset_mode not in modes:
            near = near_matches(str(autoreset_mode), modes)
            raise InputError(f"autoreset_mode {autoreset_mode!r} is unknown; {near}")
        self.autoreset_mode = AutoresetMode(autoreset_mode)  # an attribute that TorchRL reads
        self.metadata = {
            "render_modes": ["ansi", "rgb_array"],
            "render_fps": 2,
            "autoreset_mode": self.autoreset_mode,
        }
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InputError(f"render_mode {render_mode!r} is unknown: ansi, rgb_array or None")
        self.render_mode = render_mode
        self.world, self.encoder = world, encoder
        self.num_envs = world.num_users
        self._check = ActionCheck(action_space, self.num_envs)
        self.single_action_space = action_space
        self.single_observation_space = observation_space
        self.action_space = batch_space(action_space, self.num_envs)
        self.observation_space = batch_space(observation_space, self.num_envs)
        if world.n_objectives is not None:
            self.reward_space = spaces.Box(-np.inf, np.inf, (world.n_objectives,), np.float64)
        self._ended = np.ones(self.num_envs, dtype=bool)  # until the first reset
        self._fresh = True
        self._last: Outcome | None = None

    @property
    def has_ensemble(self) -> bool:
        """Whether the responder is an ensemble, so that infos have `disagreement`."""
        return self.world.n_members > 0

    @property
    def has_support(self) -> bool:
        """Whether infos carry `support`: how common slates are in the log."""
        return self.world.support is not None

    def _begin(self, mask: Tensor | None) -> None:
        """Reset the subclass's own state of the users of `mask` [B] bool (None = all)."""

    def _advance(self, actions: np.ndarray) -> tuple[Outcome | None, np.ndarray]:
        """Apply valid actions; return the outcome and which users were shown a slate [B] bool.

        The outcome is None if no user was.
        """
        raise NotImplementedError

    def observe(self) -> Any:
        """Return the batched observation as NumPy arrays."""
        return to_numpy(self.encoder(self.world))

    def state_info(self) -> dict[str, np.ndarray]:
        """Return the infos that do not depend on an outcome."""
        episodes = self.world.episodes
        info = {"user_index": episodes.user.cpu().numpy().copy()}
        if episodes.member is not None:
            info["member"] = episodes.member.cpu().numpy().copy()
        return info

    @in_float32
    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: a whole number; the same seed gives the same episodes. Or a list of B: user i then
                has the episodes of `gym.make` with seed[i]; None = a random one.
            options: `reset_mask` [B] bool: only reset these users. `user`: rows of the population
                (`info["user_index"]`) to start with, [B] or one for all; by default they are drawn.

        Raises:
            InputError: an unknown option, or the seed or an option has a wrong type or value.
        """
        streams: int | list[int] | None
        if isinstance(seed, (list, tuple, np.ndarray)):
            streams = [secrets.randbits(48) if s is None else check_seed(s) for s in seed]
        else:
            streams = seed = None if seed is None else check_seed(seed)
            super().reset(seed=seed)
        mask, user = self._reset_options(options or {})
        if mask is None:
            if self._fresh and streams is None:
                streams = secrets.randbits(48)
            self.world.reset(seed=streams, user=user)
            self._begin(None)
            self._ended = np.zeros(self.num_envs, dtype=bool)
            self._fresh, self._last = False, None
        else:
            if self._fresh:
                raise InputError("the first reset must be of all users: leave out reset_mask")
            if streams is not None:
                raise InputError("a seed resets all users: leave out seed or reset_mask")
            self._restart(mask, user)
        return self.observe(), with_masks(self.state_info())

    def _reset_options(self, options: dict[str, Any]) -> tuple[np.ndarray | None, Tensor | None]:
        """Return the mask [B] bool and the users [B] int64 of `reset(options=…)`, checked."""
        for name in options:
            if name not in ("reset_mask", "user"):
                near = near_matches(str(name), ("reset_mask", "user"))
                raise InputError(f"reset has no option {name!r}; {near}")
        mask, user = options.get("reset_mask"), options.get("user")
        if mask is not None:
            mask = np.asarray(mask)
            if mask.dtype != bool or mask.shape != (self.num_envs,):
                raise InputError(f"reset_mask must be {self.num_envs} booleans, not {mask!r}")
            if not mask.any():
                raise InputError("reset_mask names no user to reset: every entry is False")
        if user is None:
            return mask, None
        rows, last = np.asarray(user), self.world.population.initial_sessions.n_sessions - 1
        fits = rows.dtype.kind in "iu" and rows.shape in ((), (self.num_envs,))
        if not fits or rows.min() < 0 or rows.max() > last:
            raise InputError(f"user must be rows of the population, 0 to {last}, not {user!r}")
        rows = np.broadcast_to(rows, (self.num_envs,)).astype(np.int64)
        return mask, torch.from_numpy(rows).to(self.world.device)

    def _restart(self, mask: np.ndarray, user: Tensor | None = None) -> None:
        users = torch.from_numpy(mask).to(self.world.device)
        self.world.reset(users, user=user)
        self._begin(users)
        self._ended = self._ended & ~mask

    @in_float32
    def step(self, actions: Any) -> StepReturn:
        """Step all users.

        Raises:
            InputError: the actions have a wrong shape, dtype or range, or the episode of a user has
                ended and autoreset is disabled. The state does not change.
        """
        to_reset = self._ended
        reward, terminated, truncated, infos, shown = self.transition(actions)
        if to_reset.any():  # NEXT_STEP: for users whose episode had ended, this step is the reset
            self._restart(to_reset)
            indices = np.flatnonzero(to_reset)
            for value in (shown, reward, terminated, truncated, *infos.values()):
                value[indices] = 0
        ended = self._ended
        extra: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and ended.any():
            extra = final_info(self.observe(), infos | self.state_info(), ended)
            self._restart(ended)
        info = with_masks(infos, shown) | with_masks(self.state_info()) | extra
        return self.observe(), reward, terminated, truncated, info

    def transition(self, actions: Any) -> Transition:
        """Apply actions without autoreset, observation or masks; the arguments are those of `step`.

        Returns:
            Rewards [B] or [B, M], terminated [B], truncated [B], the infos of the outcome, and
            which users were shown a slate [B] bool.
        """
        array = self._check(actions)
        if self._fresh:
            raise InputError("step before reset: call reset first")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._ended.any():
            raise InputError(
                f"user {int(np.argmax(self._ended))} has ended its episode: call reset before step"
            )
        outcome, shown = self._advance(array)
        infos: dict[str, np.ndarray] = {}
        if outcome is None:
            objectives = self.world.n_objectives
            reward = np.zeros(self.num_envs if objectives is None else (self.num_envs, objectives))
            terminated, truncated = (np.zeros(self.num_envs, dtype=bool) for _ in range(2))
        else:
            self._last = outcome
            reward = outcome.reward.cpu().numpy().astype(np.float64)
            terminated, truncated = outcome.left.cpu().numpy(), outcome.truncated.cpu().numpy()
            infos = outcome_info(self.world, outcome)
        self._ended = terminated | truncated
        return reward, terminated, truncated, infos, shown

    def render(self) -> Any:
        """Return a frame for each user: the last slate and the history."""
        if self.render_mode is None:
            return None
        draw = render_ansi if self.render_mode == "ansi" else render_rgb
        began = (self.world.episodes.step > 0).tolist()  # a new episode has no slate yet
        return tuple(
            draw(self.world, self._last if began[user] else None, user)
            for user in range(self.num_envs)
        )


class RecSimVectorEnv(WorldVectorEnv):
    """B simulated users; an action is a slate.

    ## Action space
    `MultiDiscrete([N] * S)`: a catalogue index for each of S positions. With other `Actions`: one
    of C candidates for each position, one of A slates, scores of candidates, or a proto-item.

    ## Observation space
    `HistoryObservation` (a Dict), `FlatObservation` or `StateObservation` (a Box). If candidates
    change at every step, also `candidate` [C] int64 and `candidate_features` [C · K]; in a Box,
    only the features, at its end.

    ## Reward
    The number of clicks, or another reward of `make_reward`; for several rewards a vector, with
    `reward_space`, as in MO-Gymnasium.

    ## Episode end
    Terminated when the user leaves for good, truncated at the horizon. Repeated items in a slate
    are left empty (`info["duplicates"]` counts them); a slate that breaks a rule of the catalogue
    has reward 0 (`info["invalid"]`).

    ## Info
    `slate`, `response` (the clicks), `probability` [B, S], `invalid`, `duplicates`, `user_index`
    (row of the population) [B]; `returned`, `return_gap` [B] if users come back; `disagreement`
    [B, S] of an ensemble; `member` [B] with `one_member`; `support` [B] with `support=True`.

    Args:
        world: of B users.
        actions: how actions become slates; by default, `SlateActions`.
        encoder: computes the observations; by default, `HistoryObservation`.
        autoreset_mode: see `WorldVectorEnv`.
        render_mode: see `WorldVectorEnv`.
    """

    def __init__(
        self,
        world: World,
        actions: Actions | None = None,
        encoder: Encoder | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        self.actions = actions or SlateActions(world)
        encoder = encoder or HistoryObservation(world)
        space = encoder.space
        if self.actions.candidates.retrieved is not None:
            self._item_features = torch.from_numpy(world.catalogue.features.copy())
            self._item_features = self._item_features.to(world.device)
            space = self._with_candidates(space, self.actions.candidates.n)
        super().__init__(world, encoder, self.actions.space, space, autoreset_mode, render_mode)

    def _with_candidates(self, space: spaces.Space, n_candidates: int) -> spaces.Space:
        """Return `space` with the candidates and their features, if there are any."""
        table = self._item_features
        low, high = (np.tile(side, n_candidates) for side in bounds(table))
        if isinstance(space, spaces.Dict):
            shape = (n_candidates,)
            item = spaces.Box(0, len(table) - 1, shape, np.int64)
            added: dict[str, spaces.Space] = {"candidate": item}
            if table.shape[1]:
                added["candidate_features"] = spaces.Box(low, high, dtype=np.float32)
            return spaces.Dict({**space.spaces, **added})
        assert isinstance(space, spaces.Box)
        if not table.shape[1]:
            raise InputError(
                "a flat observation shows candidates that change by their item features, "
                "and the catalogue has none: use observe='history'"
            )
        return spaces.Box(np.r_[space.low, low], np.r_[space.high, high], dtype=np.float32)

    def _begin(self, mask: Tensor | None) -> None:
        self.actions.candidates.refresh(mask)

    def _advance(self, actions: np.ndarray) -> tuple[Outcome | None, np.ndarray]:
        slate = self.actions.slate(torch.from_numpy(actions).to(self.world.device))
        outcome = self.world.step(slate)
        self.actions.candidates.refresh()
        return outcome, np.ones(self.num_envs, dtype=bool)

    def observe(self) -> Any:
        observation, retrieved = self.encoder(self.world), self.actions.candidates.retrieved
        if retrieved is not None:
            features = self._item_features[retrieved].flatten(1)
            if isinstance(observation, dict):
                observation = observation | {"candidate": retrieved.clone()}
                if features.shape[1]:
                    observation["candidate_features"] = features
            else:
                observation = torch.cat([observation, features], 1)
        return to_numpy(observation)

    def action_masks(self) -> np.ndarray:
        """Return the valid choices [B, n] bool, as for sb3-contrib's MaskablePPO.

        n is the sum of `nvec` of a MultiDiscrete space, or the size of a Discrete one.

        Raises:
            InputError: the actions are continuous.
        """
        space = self.single_action_space
        if isinstance(space, spaces.MultiDiscrete):
            n = int(space.nvec.sum())
        elif isinstance(space, spaces.Discrete):
            n = int(space.n)
        else:
            raise InputError("continuous actions have no mask")
        mask = self.actions.mask()
        valid = np.ones(n, dtype=bool) if mask is None else mask.cpu().numpy()
        return np.broadcast_to(valid, (self.num_envs, n)).copy()


def outcome_info(world: World, outcome: Outcome) -> dict[str, np.ndarray]:
    """Return the infos of a step; see `RecSimVectorEnv`."""
    info = {
        "slate": outcome.slate,
        "response": outcome.click,
        "probability": outcome.probability,
        "invalid": outcome.invalid,
        "duplicates": outcome.duplicates,
    }
    if world.returns is not None:
        info |= {"returned": outcome.returned, "return_gap": outcome.gap}
    if world.n_members:
        info["disagreement"] = outcome.disagreement
    if world.support is not None:
        info["support"] = outcome.support
    return {name: value.cpu().numpy() for name, value in info.items()}


def to_numpy(observation: Any) -> Any:
    """Return the tensors of an observation as NumPy arrays, which share memory on the CPU."""
    if isinstance(observation, dict):
        return {name: to_numpy(value) for name, value in observation.items()}
    return observation.cpu().numpy()


def zero_rows(value: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return a copy of `value` [B, …] with zeros in `rows` [B] bool."""
    return np.where(rows.reshape(-1, *[1] * (value.ndim - 1)), np.zeros((), value.dtype), value)


def with_masks(infos: dict[str, Any], mask: np.ndarray | None = None) -> dict[str, Any]:
    """Return infos with Gymnasium's `_name` masks [B]: which users have each entry."""
    if mask is None:
        mask = np.ones(len(next(iter(infos.values()))), dtype=bool)
    return infos | {f"_{name}": mask for name in infos}


def final_info(observation: Any, infos: dict[str, np.ndarray], ended: np.ndarray) -> dict[str, Any]:
    """Return `final_obs` and `final_info` of the users who ended, in Gymnasium's format."""
    last = np.full(len(ended), None, dtype=object)
    for i in np.flatnonzero(ended):
        last[i] = (
            {name: value[i] for name, value in observation.items()}
            if isinstance(observation, dict)
            else observation[i]
        )
    final = with_masks({k: zero_rows(v, ~ended) for k, v in infos.items()}, ended)
    return {"final_obs": last, "_final_obs": ended, "final_info": final, "_final_info": ended}
