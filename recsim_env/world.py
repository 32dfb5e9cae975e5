"""World: the batched core of every environment.

Tensors go in and out on one device, without Gymnasium, and a step does not synchronise with the
device.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recsim_env.episodes import Episodes
from recsim_env.outcome import Answer, Outcome
from recsim_env.population import Population
from recsim_env.rewards import RewardContext, RewardSpec, make_reward
from recsim_env.streams import UserStreams
from responders import EMPTY, InputError, SessionLog
from responders.behaviour.leaving import Hazard, add_log_odds, leave_chance
from responders.behaviour.returns import Returns, draw_return
from responders.behaviour.slate_rules import SlateRules
from responders.behaviour.support import WINDOW, Support, repetition, unit_vectors
from responders.compiling import are_few
from responders.device import in_float32, pick_device
from responders.errors import check_whole
from responders.models.base import Responder, Response
from responders.models.ensemble import Ensemble
from responders.models.state import State, may_count

if TYPE_CHECKING:
    from recsim_env.compiled import Leaving

_is_forked = False


def _after_fork() -> None:
    global _is_forked
    _is_forked = True


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


class World:
    """B simulated users of a trained responder.

    Each user starts with the initial session of a logged user; the responder draws the clicks and
    the hazard decides when users leave. Slates are [B, S] int64 catalogue indices, -1 = empty.
    Repeated items in a slate are left empty. A slate that breaks a rule of the catalogue
    (`SlateRules`; with layers, also one with repeated items) has reward 0.

    Args:
        responder: a trained responder.
        initial_sessions: log of the users to simulate, with their features and first slates.
        hazard: when users leave; None = never.
        num_users: B.
        horizon: slates after which an episode is truncated.
        history: slates in observations.
        reward: see `recsim_env.rewards.make_reward`.
        warm_start: logged slates and clicks that each user has seen before the episode starts.
        shift: which users are drawn more often, see `recsim_env.population.shift_weights`.
        returns: when users who leave come back, as new visits in the same episode; the
            responder's state is then reset, the history is not. None = they do not come back.
        one_member: with an `Ensemble`, let a random member answer in each episode instead of the
            mean of all.
        support: measures how common slates are in the log, for outcomes; None = not measured.
        seed: of the users' random streams.
        first_user: number of the first stream; user i of a world is the same as the only user of a
            world with first_user = i (up to rounding).
        device: of all tensors.

    Attributes:
        episodes: the state of all users, `Episodes`.
        first_user: as given; `reset(seed=…)` reads it, so it can be set before.
        n_members: members of an ensemble; 0 without one.
        n_objectives: M, rewards per step; None for a scalar reward.

    Raises:
        InputError: an argument is out of range or does not fit the responder.
    """

    @in_float32
    def __init__(
        self,
        responder: Responder,
        initial_sessions: SessionLog,
        hazard: Hazard | None = None,
        *,
        num_users: int = 1,
        horizon: int = 100,
        history: int = 10,
        reward: RewardSpec = "clicks",
        warm_start: int = 0,
        shift: Mapping[str, float] | None = None,
        returns: Returns | None = None,
        one_member: bool = False,
        support: Support | None = None,
        seed: int = 0,
        first_user: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if _is_forked:  # the threads of the parent's OpenMP are gone: waiting for them would hang
            torch.set_num_threads(1)
        for name, value in (("num_users", num_users), ("horizon", horizon), ("history", history)):
            check_whole(name, value, 1)
        check_whole("first_user", first_user, 0)
        if not isinstance(one_member, bool):
            raise InputError(f"one_member is True or False, not {one_member!r}")
        if one_member and not isinstance(responder, Ensemble):
            raise InputError("one_member needs an ensemble: give several responders")
        if support is not None and history < WINDOW:
            raise InputError(f"support looks at {WINDOW} slates: history must not be {history}")
        _check_memory(num_users, history, responder.shape.n_positions)
        self.device = pick_device(device)
        self.responder = _on_device(responder, self.device)
        self.initial_sessions, self.catalogue = initial_sessions, initial_sessions.catalogue
        self.num_users, self.horizon, self.history = num_users, horizon, history
        self.n_items, self.n_positions = len(self.catalogue), responder.shape.n_positions
        self.rules = SlateRules.of(self.catalogue, self.n_positions).to(self.device)
        self._above = positions_above(self.n_positions, self.device)
        self.hazard, self.returns, self.support = hazard, returns, support
        if support is not None:
            self._vectors = unit_vectors(self.catalogue).to(self.device)
        self._rule = hazard or Hazard((0.0,))
        self._leaving = self._rule.tables(self.device)
        self._compiled_leaving: Leaving | None = None
        self._returns = None if returns is None else returns.tables(self.device)
        self.n_members = len(responder.members) if isinstance(responder, Ensemble) else 0
        window = None if returns is None else returns.window
        context = RewardContext(
            self.catalogue, self._marginal, self.device, window, self.n_members > 0,
            support is not None,
        )  # fmt: skip
        self.reward, self.n_objectives = make_reward(reward, context)
        # What most worlds do not have is the same in every outcome.
        self._zero = torch.zeros(num_users, device=self.device)
        self._false = torch.zeros(num_users, dtype=torch.bool, device=self.device)
        self._one = torch.ones(num_users, device=self.device)
        self._no_disagreement = torch.zeros(num_users, self.n_positions, device=self.device)
        self._one_member, self.first_user = one_member, first_user
        self.population = Population(
            self.responder, initial_sessions, warm_start, history, shift, self.device
        )
        self.streams = UserStreams(num_users, seed, first_user, self.device)
        self.episodes: Episodes
        self.reset()

    @property
    def features(self) -> Tensor:
        """Features [U, F] of the users of the population."""
        return self.population.features

    @in_float32
    @torch.no_grad()
    def reset(
        self,
        mask: Tensor | None = None,
        seed: int | Sequence[int] | None = None,
        user: Tensor | None = None,
    ) -> None:
        """Start new episodes: each user of the world draws a user of the population.

        Args:
            mask: [B] bool, the users to reset; None = all.
            seed: seed the streams first, all or one by one (B seeds); requires mask None.
            user: [B] int64, rows of the population to start with instead of those drawn.

        Raises:
            InputError: a seed together with a mask, or an invalid seed.
        """
        if seed is not None:
            if mask is not None:
                raise InputError("a seed resets all users: call reset without a mask")
            self.streams = UserStreams(self.num_users, seed, self.first_user, self.device)
        uniform = self.streams.uniform(2 if self._one_member else 1, mask)
        user = self.population.draw(uniform[:, 0]) if user is None else user
        member = (uniform[:, 1] * self.n_members).long() if self._one_member else None
        if mask is None:
            self.episodes = self.population.begin(user, member)
        elif may_count(mask):
            rows = mask.nonzero().squeeze(1)
            member = None if member is None else member[rows]
            self.episodes = self.episodes.copied(rows, self.population.begin(user[rows], member))
        else:
            self.episodes = self.episodes.where(mask, self.population.begin(user, member))

    @in_float32
    @torch.no_grad()
    def step(self, slate: Tensor, mask: Tensor | None = None) -> Outcome:
        """Show each user a slate.

        Args:
            slate: [B, S] int64 on the world's device, indices in [-1, N). Not checked here,
                to avoid synchronising; the Gymnasium environments and `check` do.
            mask: [B] bool, the users who are shown a slate; the state of the others does not change
                and their outcome is zero. None = all.

        Returns:
            The outcome; users whose episode ended are not reset.
        """
        slate, duplicates = blank_duplicates(slate, self._above)
        s = self.n_positions
        # One draw per step: S numbers for clicks, one for leaving and, with returns, two more.
        uniform = self.streams.uniform(s + (1 if self._returns is None else 3), mask)
        response = self._respond(slate, uniform[:, :s])
        now, leave, left = self._answered(slate, response, uniform)
        returned, gap, disagreement = self._false, self._zero, response.disagreement
        if self._returns is not None:
            returns, gap = draw_return(self._returns, now.visit_clicks, uniform[:, s + 1 :])
            returned, left = left & returns, left & ~returns
            gap = gap * returned
            now = now.new_visit(returned, gap, self.population.begin(now.user, now.member))
        answer = Answer(
            slate=slate, click=response.click, probability=response.probability,
            leave_chance=leave, returned=returned, gap=gap,
            disagreement=self._no_disagreement if disagreement is None else disagreement,
            support=self._support_of(slate),
        )  # fmt: skip
        invalid = self._invalid(slate, duplicates)
        outcome = Outcome(
            **vars(answer),
            reward=self._valid_reward(answer, invalid),
            left=left,
            truncated=(now.step >= self.horizon) & ~left,
            invalid=invalid,
            duplicates=duplicates,
        )
        if mask is None:
            self.episodes = now
            return outcome
        self.episodes = self.episodes.where(mask, now)
        return outcome.only(mask)

    def _respond(self, slate: Tensor, uniform: Tensor) -> Response:
        return self.responder.respond(self.episodes.memory, slate, uniform, *self._members)

    def _marginal(self, slate: Tensor) -> Tensor:
        """Return click probabilities [B, S] given the histories before the current step."""
        return self.responder.marginal(self.episodes.memory, slate, *self._members)

    def _answered(
        self, slate: Tensor, response: Response, uniform: Tensor
    ) -> tuple[Episodes, Tensor, Tensor]:
        """Return the episodes after an answer, the chance [B] to leave, and who leaves [B] bool.

        Args:
            slate: [B, S].
            response: of the users.
            uniform: [B, n]; number S of each user decides whether they leave.
        """
        if are_few(slate) and self.responder.leave_log_odds(response.state) is None:
            from recsim_env.compiled import Leaving, answer  # imports numba

            if self._compiled_leaving is None:
                self._compiled_leaving = Leaving.of(self._rule)
            return answer(self.episodes, slate, response, uniform, self._compiled_leaving)
        now = self.episodes.answered(slate, response.click, response.state)
        n_clicks = now.visit_clicks - self.episodes.visit_clicks
        leave = self.leave_chance(
            now.streak, now.visit_step, n_clicks, now.visit_clicks, now.memory
        )
        return now, leave, uniform[:, self.n_positions] < leave

    def _support_of(self, slate: Tensor) -> Tensor:
        """Return the support [B] of slates; 1 if it is not measured."""
        if self.support is None:
            return self._one
        before = self.episodes.slates[:, -WINDOW:].long()
        return self.support.share(repetition(slate, before, self._vectors))

    @property
    def _members(self) -> tuple[Tensor, ...]:
        """The last argument of an ensemble's methods: the member of each user, if one answers."""
        member = self.episodes.member
        return () if member is None else (member,)

    def leave_chance(
        self, streak: Tensor, step: Tensor, last_clicks: Tensor, clicks: Tensor, memory: State
    ) -> Tensor:
        """Return the chance [B] to leave after a slate; all but `memory` are [B] int64.

        Args:
            streak: slates of the visit in a row without a click.
            step: slates of the visit.
            last_clicks: clicks on the last slate.
            clicks: clicks of the visit.
            memory: the responder's state.
        """
        chance = leave_chance(self._leaving, streak, step, last_clicks, clicks)
        chance = add_log_odds(chance, self.responder.leave_log_odds(memory))
        if self._rule.min_slates > 1:
            chance = chance * (step >= self._rule.min_slates)
        if self._rule.max_slates is not None:
            chance = torch.where(step >= self._rule.max_slates, 1.0, chance)
        return chance

    def _invalid(self, slate: Tensor, duplicates: Tensor) -> Tensor:
        """Return [B] bool, the slates that break a rule of the catalogue."""
        if not self.rules.exist:
            return torch.zeros_like(duplicates, dtype=torch.bool)
        invalid = self.rules.broken(slate)
        return invalid if self.rules.allowed is None else invalid | (duplicates > 0)

    def _valid_reward(self, answer: Answer, invalid: Tensor) -> Tensor:
        reward = self.reward(answer)
        if not self.rules.exist:
            return reward
        return torch.where(invalid if reward.ndim == 1 else invalid.unsqueeze(1), 0.0, reward)

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


def _check_memory(num_users: int, history: int, n_positions: int) -> None:
    """Raise `InputError` if the histories alone would not fit into this machine's memory."""
    # The history has 5 bytes a position; a step makes about two copies of it.
    needed = num_users * history * n_positions * 5 * 3
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return
    if needed > memory:
        raise InputError(
            f"{num_users:,} users with a history of {history} slates need at least "
            f"{needed / 2**30:,.0f} GiB, this machine has {memory / 2**30:,.0f} GiB: simulate "
            "fewer users at a time"
        )


def _on_device(responder: Responder, device: torch.device) -> Responder:
    """Return the responder on `device`, prepared for stepping; the caller's is not moved."""
    current = next(iter(responder.state_dict().values()), torch.empty(0)).device
    if current.type != device.type:
        responder = copy.deepcopy(responder).to(device)
    responder = responder.eval()
    responder.prepare()
    return responder


def blank_duplicates(slate: Tensor, above: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return slates [B, S] with repeated items set to -1, and the number of them [B] int64.

    Args:
        slate: [B, S] int64.
        above: `positions_above(S)` on the same device, to save computing it.
    """
    if are_few(slate):
        from recsim_env.compiled import blank  # imports numba

        return blank(slate)
    if above is None:
        above = positions_above(slate.shape[1], slate.device)
    # With users in the last dimension, the comparisons run over long contiguous rows.
    item = slate.t().to(torch.int32, memory_format=torch.contiguous_format)
    same = (item.unsqueeze(1) == item).view(torch.uint8).bitwise_and_(above)
    copies = (slate >= 0) & same.amax(0).view(torch.bool).t()
    return torch.where(copies, EMPTY, slate), copies.sum(1)


def positions_above(n_positions: int, device: torch.device | str = "cpu") -> Tensor:
    """Return [S, S, 1] uint8, 1 where the first position is above the second."""
    return torch.ones(n_positions, n_positions, dtype=torch.uint8, device=device).triu(1)[..., None]
