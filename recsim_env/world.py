"""World: simulated users answering slates, thousands at once.

The batched core of every environment: tensors in and out on one device, no Gymnasium, and no
waiting for the device in a step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from recsim_env.outcome import Outcome
from recsim_env.population import Population
from recsim_env.rewards import Choice, make_reward
from recsim_env.streams import UserStreams, check_seed
from responders import EMPTY, InputError, SessionLog
from responders.behaviour.leaving import Hazard, leave_chance
from responders.behaviour.returns import Returns, draw_return
from responders.behaviour.slate_rules import SlateRules
from responders.device import pick_device
from responders.errors import check_whole
from responders.models.base import Responder
from responders.models.ensemble import MEMBER, Ensemble
from responders.models.state import State, put_at, put_rows

__all__ = ["Outcome", "World", "blank_duplicates"]


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
        shift: which users come more often, see `recsim_env.population.shift_weights`.
        returns: whether users who leave come back, as new visits of the same episode; the
            responder then starts anew, the history stays. None = they do not.
        one_member: with an `Ensemble`, let one member, drawn for the episode, answer each user
            instead of their mean.
        seed: of the users' random streams.
        first_user: number of the first stream; user i of a world is the same as the only user of
            a world with first_user = i (up to the rounding of batched arithmetic).
        device: where everything lies.

    Attributes:
        n_members: of an ensemble; 0 without one.
        n_objectives: M, rewards of a step; None where it is one number.
        state: the responder's state of the B users.
        context: [B] int64, which user of `contexts` each is.
        member: [B] int64, the member that answers each user; None unless `one_member`.
        step_number: [B] int64 slates answered in the episode.
        visit: [B] int64 number of the visit, from 0.
        visit_step: [B] int64 slates answered in the visit.
        visit_clicks: [B] int64 clicks in the visit.
        streak: [B] int64 slates of the visit in a row without a click.
        gap: [B] float32 seconds between the visit before and this one; 0 in the first.
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
        reward: Choice = "clicks",
        warm_start: int = 0,
        shift: Mapping[str, float] | None = None,
        returns: Returns | None = None,
        one_member: bool = False,
        seed: int = 0,
        first_user: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, value in (("num_users", num_users), ("horizon", horizon), ("history", history)):
            check_whole(name, value, 1)
        check_whole("first_user", first_user, 0)
        if not isinstance(one_member, bool):
            raise InputError(f"one_member is True or False, not {one_member!r}")
        if one_member and not isinstance(responder, Ensemble):
            raise InputError("one_member needs an ensemble: give several responders")
        self.device = pick_device(device)
        self.context: Tensor
        self.step_number: Tensor
        self.visit: Tensor
        self.visit_step: Tensor
        self.visit_clicks: Tensor
        self.streak: Tensor
        self.gap: Tensor
        self._slates: Tensor  # [B, H, S] int32, the history
        self._clicks: Tensor  # [B, H, S] bool
        self._counts_rows = self.device.type == "cpu"  # on a GPU to count them would be to wait
        home = next(iter(responder.state_dict().values()), torch.empty(0)).device
        if home.type != self.device.type:  # the given one stays where it is
            responder = copy.deepcopy(responder).to(self.device)
        self.responder = responder.eval()
        self.contexts, self.catalogue = contexts, contexts.catalogue
        self.num_users, self.horizon, self.history = num_users, horizon, history
        self.n_items, self.n_positions = len(self.catalogue), responder.shape.n_positions
        self.rules = SlateRules.of(self.catalogue, self.n_positions).to(self.device)
        self._earlier = earlier_positions(self.n_positions, self.device)
        self._has_rules = self.rules.allowed is not None or self.rules.special is not None
        self.hazard, self.returns = hazard, returns
        self._hazard = (hazard or Hazard((0.0,))).tables(self.device)
        self._min_slates = 0 if hazard is None else hazard.min_slates
        self._returns = None if returns is None else returns.tables(self.device)
        self.n_members = len(responder.members) if isinstance(responder, Ensemble) else 0
        window = None if returns is None else returns.window
        self.reward, self.n_objectives = make_reward(
            reward, self.catalogue, self.device, window, self.n_members > 0
        )
        self._one_member = one_member
        self._first_user = first_user
        self.population = Population(
            self.responder, contexts, warm_start, history, shift, self.device
        )
        self.streams = UserStreams(num_users, seed, first_user, self.device)
        self.reset()

    @property
    def features(self) -> Tensor:
        """Features [U, F] of the users of `contexts`."""
        return self.population.features

    @property
    def history_slate(self) -> Tensor:
        """What was shown, [B, H, S] int64, oldest first, -1 = nothing; a copy."""
        return self._slates.long()

    @property
    def history_click(self) -> Tensor:
        """What was clicked of it, [B, H, S] bool; a copy."""
        return self._clicks.clone()

    @torch.no_grad()
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
        rows, n_draws = None, 2 if self._one_member else 1
        if mask is not None and self._counts_rows:
            rows = np.flatnonzero(mask.numpy())
            drawn = self.streams.uniform_of(rows, n_draws)
        else:
            drawn = self.streams.uniform(n_draws, mask)
        context = self.population.draw(drawn[:, 0])
        state = {n: t.index_select(0, context) for n, t in self.population.state.items()}
        if self._one_member:
            state[MEMBER] = (drawn[:, 1] * self.n_members).long()
        counters = ["step_number", "visit_step", "visit_clicks", "streak"]
        if self.returns is not None or mask is None:
            counters += ["visit", "gap"]
        if rows is not None:
            self._start_rows(rows, context, counters, state)
            return
        zero = torch.zeros_like(context)
        start = {
            "context": context,
            "_slates": self.population.slate[context],
            "_clicks": self.population.click[context],
            **{name: zero.float() if name == "gap" else zero for name in counters},
        }
        self._set(start, state, mask)

    def _start_rows(
        self, rows: np.ndarray, context: Tensor, counters: list[str], state: State
    ) -> None:
        """Start the users `rows` [n] int64 on the CPU, by NumPy: few rows take it a third as long.

        Args:
            rows: their indices.
            context: [n] int64.
            counters: attributes to set to 0.
            state: of n users.
        """
        who = context.numpy()
        for name, table in (("_slates", self.population.slate), ("_clicks", self.population.click)):
            vars(self)[name].numpy()[rows] = table.numpy()[who]  # only ever seen in copies
        now = {name: vars(self)[name].numpy().copy() for name in ("context", *counters)}
        for name, value in now.items():
            value[rows] = who if name == "context" else 0
        state = put_at(self.state, torch.from_numpy(rows), state)
        self._set({name: torch.from_numpy(value) for name, value in now.items()}, state, None)

    def _set(self, values: dict[str, Tensor], state: State, mask: Tensor | None) -> None:
        """Set attributes and state of the users of `mask` [B] bool (None = all)."""
        if mask is None:
            vars(self).update(values)
            self.state = state
        else:
            for name, value in values.items():
                where = mask.view(-1, *[1] * (value.ndim - 1))
                vars(self)[name] = torch.where(where, value, vars(self)[name])
            self.state = put_rows(self.state, mask, state)
        self.member = self.state[MEMBER] if self._one_member else None

    @torch.no_grad()
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
        slate, duplicates = blank_duplicates(slate, self._earlier)
        s = self.n_positions
        uniform = self.streams.uniform(s + (1 if self._returns is None else 3), mask)
        answer = self.responder.respond(self.state, slate, uniform=uniform[:, :s])
        click, state = answer.click, answer.state
        n_clicks, steps = click.sum(1), self.step_number + 1
        now = {
            "_slates": torch.cat([self._slates[:, 1:], slate.int().unsqueeze(1)], 1),
            "_clicks": torch.cat([self._clicks[:, 1:], click.unsqueeze(1)], 1),
            "step_number": steps,
            "visit_step": steps if self._returns is None else self.visit_step + 1,
            "visit_clicks": self.visit_clicks + n_clicks,
            "streak": (self.streak + 1) * (n_clicks == 0),
        }
        chance = leave_chance(
            self._hazard, now["streak"], now["visit_step"], n_clicks, now["visit_clicks"]
        )
        if self._min_slates > 1:
            chance = chance * (now["visit_step"] >= self._min_slates)
        left = uniform[:, s] < chance
        if self._returns is None:
            returned, gap = torch.zeros_like(left), torch.zeros_like(chance)
        else:
            comes, gap = draw_return(self._returns, now["visit_clicks"], uniform[:, s + 1 :])
            returned, left = left & comes, left & ~comes
            gap = gap * returned
            state = self._new_visit(now, state, returned, gap)
        invalid = self.rules.broken(slate) if self._has_rules else torch.zeros_like(left)
        if self.rules.allowed is not None:
            invalid = invalid | (duplicates > 0)
        truncated = (now["step_number"] >= self.horizon) & ~left
        apart = answer.disagreement
        outcome = Outcome(
            slate, click, answer.probability, chance, left, truncated, invalid, duplicates,
            chance, returned, gap, torch.zeros_like(answer.probability) if apart is None else apart,
        )  # fmt: skip
        reward = self.reward(outcome)
        if self._has_rules:
            earns = ~invalid if reward.ndim == 1 else ~invalid.unsqueeze(1)
            reward = torch.where(earns, reward, 0.0)
        outcome.reward = reward
        self._set(now, state, mask)
        return outcome if mask is None else outcome.only(mask)

    def _new_visit(
        self, now: dict[str, Tensor], state: State, returned: Tensor, gap: Tensor
    ) -> State:
        """Open a visit for those who `returned` [B] bool: change `now`, return the state."""
        for name in ("visit_step", "visit_clicks", "streak"):
            now[name] = now[name] * ~returned
        now["visit"] = self.visit + returned
        now["gap"] = torch.where(returned, gap, self.gap)
        fresh = {name: table[self.context] for name, table in self.population.state.items()}
        if self._one_member:
            fresh[MEMBER] = state[MEMBER]
        return put_rows(state, returned, fresh)

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


def blank_duplicates(slate: Tensor, earlier: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return slates [B, S] with later copies of an item set to -1, and the copies [B] int64.

    Args:
        slate: [B, S] int64.
        earlier: `earlier_positions(S)` on its device, where it is at hand.
    """
    if earlier is None:
        earlier = earlier_positions(slate.shape[1], slate.device)
    # Users last: long runs, which is what makes this fast.
    item = slate.t().to(torch.int32, memory_format=torch.contiguous_format)
    same = (item.unsqueeze(1) == item).view(torch.uint8).bitwise_and_(earlier)
    copy = (slate >= 0) & same.amax(0).view(torch.bool).t()
    return torch.where(copy, EMPTY, slate), copy.sum(1)


def earlier_positions(n_positions: int, device: torch.device | str = "cpu") -> Tensor:
    """Return [S, S, 1] uint8, 1 where the first position is above the second."""
    return torch.ones(n_positions, n_positions, dtype=torch.uint8, device=device).triu(1)[..., None]
