"""World: simulated users answering slates, thousands at once.

The batched core of every environment: tensors in and out on one device, no Gymnasium, no NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsim_env.rewards import Reward, make_reward
from recsim_env.streams import UserStreams, check_seed
from responders import EMPTY, InputError, SessionLog
from responders.base import Responder, State, put_rows
from responders.leaving import Hazard
from responders.slate_rules import SlateRules

_EPISODE_DRAWS = 1


@dataclass(frozen=True)
class Outcome:
    """What happened to B users in one step.

    Args:
        slate: [B, S] int64, what was shown; later copies of an item are -1.
        click: [B, S] bool.
        probability: [B, S] float32, from which the clicks were drawn; 0 at empty positions.
        reward: [B] float32.
        left: [B] bool, the user left (terminated).
        truncated: [B] bool, the horizon was reached by a user who had not left.
        invalid: [B] bool, the slate broke a rule of the catalogue; its reward is 0.
        duplicates: [B] int64, copies of an item that were left empty.
    """

    slate: Tensor
    click: Tensor
    probability: Tensor
    reward: Tensor
    left: Tensor
    truncated: Tensor
    invalid: Tensor
    duplicates: Tensor


class World:
    """B simulated users of a trained responder.

    Each user starts from the context of a logged user, answers slates by the responder and leaves
    by the hazard. Slates are [B, S] int64 catalogue indices, -1 = empty. One rule for duplicates:
    an item is shown once, its later copies in a slate are left empty. A slate that breaks a rule
    of the catalogue (`SlateRules`; there a duplicate does) earns 0.

    Args:
        responder: in eval mode.
        contexts: log of the users that may come: their features, and their first slates, of which
            `warm_start` are seen before the episode starts.
        hazard: when users leave; None = never.
        num_users: B.
        horizon: slates after which an episode is truncated.
        history: slates that observations remember.
        reward: see `make_reward`.
        warm_start: logged slates and clicks that each user has behind them at the start.
        seed: of the users' random streams.
        first_user: number of the first stream; user i of a world is the same as the only user of
            a world with first_user = i (up to the rounding of batched arithmetic).
        device: where everything lies.

    Attributes:
        state: the responder's state of the B users.
        context: [B] int64, which user of `contexts` each is.
        history_slate: [B, H, S] int64, what was shown, oldest first, -1 = nothing.
        history_click: [B, H, S] bool.
        step_number: [B] int64 slates answered in the episode.
        streak: [B] int64 slates in a row without a click.
    """

    def __init__(
        self,
        responder: Responder,
        contexts: SessionLog,
        hazard: Hazard | None = None,
        *,
        num_users: int = 1,
        horizon: int = 100,
        history: int = 10,
        reward: str | Reward = "clicks",
        warm_start: int = 0,
        seed: int = 0,
        first_user: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, value in (("num_users", num_users), ("horizon", horizon), ("history", history)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        self.device = torch.device(device)
        self.responder = responder.to(self.device).eval()
        self.contexts, self.catalogue = contexts, contexts.catalogue
        self.num_users, self.horizon, self.history = num_users, horizon, history
        self.n_items, self.n_positions = len(self.catalogue), responder.shape.n_positions
        self.rules = SlateRules.of(self.catalogue, self.n_positions).to(self.device)
        self.reward = make_reward(reward, self.catalogue, self.device)
        self.hazard = hazard
        by_streak = (0.0,) if hazard is None else hazard.by_streak
        self._hazard = torch.tensor(by_streak, dtype=torch.float32, device=self.device)
        self._first_user = first_user
        self.streams = UserStreams(num_users, seed, first_user, self.device)
        self._warm(warm_start)
        self.reset()

    @torch.inference_mode()
    def _warm(self, slates: int) -> None:
        """Compute the state and history in which each of the U context users starts."""
        log, device = self.contexts, self.device
        longest = int(log.session_length.max())
        if not 0 <= slates <= longest:
            raise InputError(f"warm_start is {slates}; the contexts hold 0 to {longest} slates")
        features = torch.from_numpy(log.users.features[log.user].copy()).to(device)
        shape = (log.n_sessions, self.history, self.n_positions)
        self.features = features
        self._start_slate = torch.full(shape, EMPTY, dtype=torch.int64, device=device)
        self._start_click = torch.zeros(shape, dtype=torch.bool, device=device)
        state = self.responder.start(features)
        start = torch.from_numpy(log.session_start[:-1].copy())
        length = torch.from_numpy(log.session_length)
        for r in range(slates):
            rows = (start + r).clamp(max=log.n_slates - 1).numpy()
            there = (r < length).unsqueeze(1).to(device)
            slate = torch.from_numpy(log.slate[rows].astype("int64")).to(device)
            slate = torch.where(there, slate, EMPTY)
            click = torch.from_numpy(log.response[rows].astype(bool)).to(device) & there
            width = self.n_positions - slate.shape[1]
            slate = torch.nn.functional.pad(slate, (0, width), value=EMPTY)
            click = torch.nn.functional.pad(click, (0, width))
            state = self.responder.observe(state, slate, click)
            self._start_slate = torch.cat([self._start_slate[:, 1:], slate[:, None]], 1)
            self._start_click = torch.cat([self._start_click[:, 1:], click[:, None]], 1)
        self._start_state: State = state

    @torch.inference_mode()
    def reset(self, mask: Tensor | None = None, seed: int | None = None) -> None:
        """Start new episodes: each user draws a context from its own stream.

        Args:
            mask: [B] bool, the users to reset; None = all.
            seed: seed the streams anew first; goes with mask None.
        """
        if seed is not None:
            if mask is not None:
                raise InputError("a seed resets all users: call reset without a mask")
            self.streams = UserStreams(
                self.num_users, check_seed(seed), self._first_user, self.device
            )
        drawn = self.streams.uniform(_EPISODE_DRAWS, mask)[:, 0] * self.contexts.n_sessions
        context = drawn.long().clamp(max=self.contexts.n_sessions - 1)
        state = {name: table[context] for name, table in self._start_state.items()}
        slate, click = self._start_slate[context], self._start_click[context]
        if mask is None:
            self.context, self.state = context, state
            self.history_slate, self.history_click = slate, click
            self.step_number, self.streak = torch.zeros_like(context), torch.zeros_like(context)
            return
        whole = mask.view(-1, 1, 1)
        self.context = torch.where(mask, context, self.context)
        self.state = put_rows(self.state, mask, state)
        self.history_slate = torch.where(whole, slate, self.history_slate)
        self.history_click = torch.where(whole, click, self.history_click)
        self.step_number = self.step_number.masked_fill(mask, 0)
        self.streak = self.streak.masked_fill(mask, 0)

    @torch.inference_mode()
    def step(self, slate: Tensor, mask: Tensor | None = None) -> Outcome:
        """Show each user a slate and move on.

        Args:
            slate: [B, S] int64 on the world's device, indices in [-1, N). Not checked here; the
                Gymnasium faces and `check` do.
            mask: [B] bool, the users who are shown theirs; the others stay as they are and their
                outcome is empty. None = all.

        Returns:
            the outcome; users who ended are not reset.
        """
        slate, duplicates = blank_duplicates(slate)
        uniform = self.streams.uniform(self.n_positions + 1, mask)
        answer = self.responder.respond(self.state, slate, uniform=uniform[:, :-1])
        click, probability = answer.click, answer.probability
        invalid = self.rules.broken(slate)
        if self.rules.allowed is not None:
            invalid = invalid | (duplicates > 0)
        reward = torch.where(invalid, 0.0, self.reward(slate, click, probability))
        step_number = self.step_number + 1
        streak = torch.where(click.any(1), 0, self.streak + 1)
        left = uniform[:, -1] < self._hazard[streak.clamp(max=len(self._hazard) - 1)]
        if self.hazard is not None:
            left = left & (step_number >= self.hazard.min_slates)
        truncated = (step_number >= self.horizon) & ~left
        outcome = Outcome(slate, click, probability, reward, left, truncated, invalid, duplicates)
        history_slate = torch.cat([self.history_slate[:, 1:], slate.unsqueeze(1)], 1)
        history_click = torch.cat([self.history_click[:, 1:], click.unsqueeze(1)], 1)
        if mask is None:
            self.state = answer.state
            self.history_slate, self.history_click = history_slate, history_click
            self.step_number, self.streak = step_number, streak
            return outcome
        whole = mask.view(-1, 1, 1)
        self.state = put_rows(self.state, mask, answer.state)
        self.history_slate = torch.where(whole, history_slate, self.history_slate)
        self.history_click = torch.where(whole, history_click, self.history_click)
        self.step_number = torch.where(mask, step_number, self.step_number)
        self.streak = torch.where(mask, streak, self.streak)
        return Outcome(*(_where(mask, value) for value in vars(outcome).values()))

    def check(self, slate: Tensor) -> None:
        """Raise `InputError` unless `slate` is [B, S] int64 with indices in [-1, N)."""
        if slate.dtype != torch.int64:
            raise InputError(f"slate has dtype {slate.dtype}, not torch.int64 catalogue indices")
        if slate.shape != (self.num_users, self.n_positions):
            raise InputError(
                f"slate has shape {tuple(slate.shape)}; this world takes "
                f"{self.num_users} users × {self.n_positions} positions"
            )
        self.responder.check_slate(slate)


def _where(mask: Tensor, value: Tensor) -> Tensor:
    """Return `value` [B, …] with zeros outside `mask` [B]."""
    return torch.where(mask.view(-1, *[1] * (value.ndim - 1)), value, torch.zeros_like(value))


def blank_duplicates(slate: Tensor) -> tuple[Tensor, Tensor]:
    """Return slates [B, S] with later copies of an item set to -1, and the copies [B] int64."""
    n = slate.shape[1]
    above = torch.ones(n, n, dtype=torch.bool, device=slate.device).tril(-1)
    same = (slate.unsqueeze(2) == slate.unsqueeze(1)) & above
    copy = same.any(2) & (slate >= 0)
    return torch.where(copy, EMPTY, slate), copy.sum(1)
