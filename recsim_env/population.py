"""The logged users with which episodes start, and how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recsim_env.episodes import Episodes
from responders import EMPTY, InputError, SessionLog
from responders.errors import check_finite, near_matches
from responders.models.base import Responder
from responders.models.state import State, take_rows


class Population:
    """U logged users, and the state in which each one starts an episode.

    Args:
        responder: on `device`, in eval mode.
        initial_sessions: log of the users, with their features and first slates.
        warm_start: logged slates and clicks that each user has seen before the start.
        history: H, slates in observations.
        shift: which users are drawn more often, see `shift_weights`.
        device: of all tensors.

    Attributes:
        features: [U, F] float32.
        memory: the responder's state of the U users at the start.
        slates: [U, H, S] int32, the slates they have seen at the start, -1 = nothing.
        clicks: [U, H, S] bool, their clicks.

    Raises:
        InputError: `warm_start` or `shift` does not fit the initial sessions.
    """

    def __init__(
        self,
        responder: Responder,
        initial_sessions: SessionLog,
        warm_start: int,
        history: int,
        shift: Mapping[str, float] | None,
        device: torch.device,
    ) -> None:
        self.initial_sessions = initial_sessions
        longest = int(initial_sessions.session_length.max())
        if initial_sessions.n_positions > responder.shape.n_positions:
            raise InputError(
                f"the population has slates of {initial_sessions.n_positions} positions, but "
                f"the responder answers {responder.shape.n_positions}"
            )
        if isinstance(warm_start, float) or warm_start not in range(longest + 1):
            raise InputError(
                f"warm_start is {warm_start}; the initial sessions hold 0 to {longest} slates"
            )
        self.features = torch.from_numpy(
            initial_sessions.users.features[initial_sessions.user].copy()
        ).to(device)
        length = initial_sessions.session_length
        # A user who left during the warm start has no episode. Sessions are stored up to `longest`
        # slates, so those of that length may have continued.
        still_there = (length > warm_start) | (length == longest)
        self._weight = shift_weights(initial_sessions, shift or {}) * still_there
        self._device = device
        self._cumulative: Tensor | None = None
        if shift or not still_there.all():
            self._cumulative = self._cumulative_shares(self._weight)
        self._warm_up(responder, warm_start, history, device)

    @torch.no_grad()
    def _warm_up(
        self, responder: Responder, slates: int, history: int, device: torch.device
    ) -> None:
        log, n_positions = self.initial_sessions, responder.shape.n_positions
        shape = (log.n_sessions, history, n_positions)
        self.slates = torch.tensor(EMPTY, dtype=torch.int32, device=device).repeat(shape)
        self.clicks = torch.tensor(False, device=device).repeat(shape)
        memory = responder.start(self.features)
        zero = torch.zeros(log.n_sessions, dtype=torch.int64, device=device)
        self.steps, self.n_clicks, self.streak = zero, zero, zero
        start = torch.from_numpy(log.session_start[:-1].copy())
        length = torch.from_numpy(log.session_length)
        for r in range(slates):
            slate_index = (start + r).clamp(max=log.n_slates - 1).numpy()
            has_slate = (r < length).unsqueeze(1).to(device)
            slate = torch.from_numpy(log.slate[slate_index].astype("int64")).to(device)
            slate = torch.where(has_slate, slate, EMPTY)
            click = torch.from_numpy(log.response[slate_index].astype(bool)).to(device) & has_slate
            missing = n_positions - slate.shape[1]
            slate = torch.nn.functional.pad(slate, (0, missing), value=EMPTY)
            click = torch.nn.functional.pad(click, (0, missing))
            memory = responder.observe(memory, slate, click)
            clicks = click.sum(1)
            self.steps = self.steps + has_slate.squeeze(1)
            self.n_clicks = self.n_clicks + clicks
            self.streak = (self.streak + has_slate.squeeze(1)) * (clicks == 0)
            self.slates = torch.cat([self.slates[:, 1:], slate[:, None].int()], 1)
            self.clicks = torch.cat([self.clicks[:, 1:], click[:, None]], 1)
        self.memory: State = memory

    def begin(self, user: Tensor, member: Tensor | None = None) -> Episodes:
        """Return new episodes of the users `user` [B]; the warm start counts as part of the visit.

        Args:
            user: rows of the population.
            member: [B] int64, the member of an ensemble that answers each user.
        """
        zero = torch.zeros_like(user)
        return Episodes(
            user=user,
            step=zero,
            visit=zero,
            visit_step=self.steps[user],
            visit_clicks=self.n_clicks[user],
            streak=self.streak[user],
            gap=zero.float(),
            slates=self.slates.index_select(0, user),
            clicks=self.clicks.index_select(0, user),
            memory=take_rows(self.memory, user),
            member=member,
        )

    def keep_only(self, kept: np.ndarray) -> bool:
        """Draw only the users of `kept` [U] bool from now on, unless there are none to draw.

        Returns:
            Whether there are some.
        """
        weight = self._weight * kept
        if not weight.any():
            return False
        self._weight, self._cumulative = weight, self._cumulative_shares(weight)
        return True

    def _cumulative_shares(self, weight: np.ndarray) -> Tensor:
        cumulative = torch.from_numpy(weight).to(self._device).cumsum(0)
        return (cumulative / cumulative[-1]).float()

    def draw(self, uniform: Tensor) -> Tensor:
        """Return users [B] int64 for random numbers [B] in [0, 1)."""
        last = self.initial_sessions.n_sessions - 1
        if self._cumulative is None:
            return (uniform * self.initial_sessions.n_sessions).long().clamp(max=last)
        return torch.searchsorted(self._cumulative, uniform.contiguous(), right=True).clamp(
            max=last
        )


def shift_weights(initial_sessions: SessionLog, shift: Mapping[str, float]) -> np.ndarray:
    """Return weights [U] ∝ exp(Σ strength · z), with z the standardised traits of each user.

    For distribution shift: with {"click_rate": -1.0}, users whose click rate in their logged slates
    is one standard deviation below the mean are drawn e times as often as average users.

    Args:
        initial_sessions: the logged users.
        shift: strengths by trait: `click_rate`, or a name of `users.feature_names`.

    Raises:
        InputError: an unknown trait, or a strength that is not a finite number.
    """
    if not isinstance(shift, Mapping):
        raise InputError(f'shift must name traits, such as {{"click_rate": -1.0}}, not {shift!r}')
    shown = np.maximum((initial_sessions.slate >= 0).sum(1), 1)
    begin = initial_sessions.session_start[:-1]
    rate = (
        np.add.reduceat(initial_sessions.response.sum(1) / shown, begin)
        / initial_sessions.session_length
    )
    features = initial_sessions.users.features[initial_sessions.user]
    names = initial_sessions.users.feature_names
    traits = dict(zip(names, features.T, strict=True)) | {"click_rate": rate}
    tilt = np.zeros(initial_sessions.n_sessions)
    for name, strength in shift.items():
        if name not in traits:
            raise InputError(f"shift by {name!r} is unknown; {near_matches(str(name), traits)}")
        trait = traits[name].astype(float)
        tilt += (
            check_finite(f"shift by {name}", strength)
            * (trait - trait.mean())
            / max(trait.std(), 1e-9)
        )
    return np.exp(tilt - tilt.max())


def cold(initial_sessions: SessionLog) -> SessionLog:
    """Return the log with the features of every user replaced by the mean."""
    features = initial_sessions.users.features
    mean = np.repeat(features[initial_sessions.user].mean(0, keepdims=True), len(features), 0)
    return replace(initial_sessions, users=replace(initial_sessions.users, features=mean))
