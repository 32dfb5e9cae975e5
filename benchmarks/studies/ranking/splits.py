"""Splits of a log that ask for a user's next clicks: after one moment, or each user's last ones.

Targets and validation as in "Time to Split" (Gusak et al., RecSys 2025, arXiv:2507.16289). The
clicks of one slate are one event: targets together, and none is in the history of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from responders import InputError, SessionLog
from responders.errors import check_finite
from responders.log import ragged

SplitName = Literal["global", "leave_one_out"]
Targets = Literal["first", "last", "random", "successive", "all"]
"""Which events after the moment are targets: one of each user, each of them given those before it,
or all of them as one set."""
Validation = Literal["time", "users", "none"]
"""Held out of training beside the test: the events just before it, or a share of the users."""


@dataclass(frozen=True)
class SplitOptions:
    """How a log is split.

    Args:
        targets: of the global split.
        validation: see `Validation`.
        test: share of the clicks after the moment of the global split.
        held_out: share of the clicks, or of the users, that is for validation.
        seed: of random targets and held-out users.
    """

    targets: Targets = "last"
    validation: Validation = "time"
    test: float = 0.1
    held_out: float = 0.1
    seed: int = 0

    def check(self) -> None:
        """Raise `InputError` for an unknown name, or shares that leave nothing to learn from."""
        for what, value, kind in (
            ("targets", self.targets, Targets),
            ("validation", self.validation, Validation),
        ):
            if value not in get_args(kind):
                raise InputError(f"{what} {value!r} is unknown: {', '.join(get_args(kind))}")
        shares = [check_finite("a share of the split", s) for s in (self.test, self.held_out)]
        if min(shares) <= 0 or sum(shares) >= 1:
            raise InputError(
                f"shares for test and validation must be positive with a sum below 1, not {shares}"
            )


@dataclass(frozen=True)
class Cases:
    """C questions: which items follow a history.

    Args:
        item: [n] int64, clicked items of all users, one user after another in the order of time.
        user: [C] int64, users of the log.
        time: [C] int64, of the first target.
        began: [C] int64; the history is item[began:at].
        at: [C] int64; the targets are item[at:until].
        until: [C] int64.
        cold: users left out because they have no history.
    """

    item: np.ndarray
    user: np.ndarray
    time: np.ndarray
    began: np.ndarray
    at: np.ndarray
    until: np.ndarray
    cold: int = 0

    def __len__(self) -> int:
        return len(self.user)

    def history(self, case: int) -> np.ndarray:
        """Return the items clicked before the targets, oldest first."""
        return self.item[self.began[case] : self.at[case]]

    def targets(self, case: int) -> np.ndarray:
        """Return the different items that were clicked, ascending."""
        return np.unique(self.item[self.at[case] : self.until[case]])


@dataclass(frozen=True)
class Split:
    """What is learned from, and the questions.

    Args:
        training: the log to learn from.
        validation: empty without validation.
        test: the questions.
        moment: of the global split, seconds; None = leave-one-out.
    """

    training: SessionLog
    validation: Cases
    test: Cases
    moment: int | None


@dataclass(frozen=True)
class Events:
    """Slates with clicks, by user and time.

    Args:
        user: [E] int64, ascending.
        time: [E] int64, ascending for each user.
        start: [E + 1] int64; event e is item[start[e]:start[e + 1]].
        item: [n] int64.
    """

    user: np.ndarray
    time: np.ndarray
    start: np.ndarray
    item: np.ndarray

    @staticmethod
    def of(log: SessionLog, owner: np.ndarray | None = None) -> Events:
        """Return the events of a log; `owner` [sessions] says whose they are, by default users."""
        row, position = np.nonzero(log.response)
        session = ragged.owner(log.session_length)[row]
        user = (log.user if owner is None else owner)[session].astype(np.int64)
        order = np.lexsort((log.time[row], user))
        user, time = user[order], log.time[row][order]
        is_new = np.ones(len(user), bool)
        is_new[1:] = (np.diff(user) != 0) | (np.diff(time) != 0)
        start = np.append(np.flatnonzero(is_new), len(user))
        item = log.slate[row, position][order].astype(np.int64)
        return Events(user[is_new], time[is_new], start, item)

    @property
    def first(self) -> np.ndarray:
        """[E] int64, the first event of the same user."""
        return np.searchsorted(self.user, self.user)

    @property
    def after(self) -> np.ndarray:
        """[E] int64, the event after the last one of the same user."""
        return np.searchsorted(self.user, self.user, side="right")

    def cases(self, event: np.ndarray, together: bool = False) -> Cases:
        """Return the questions for `event` [C], or for it and all later ones `together`."""
        began = self.start[self.first[event]]
        until = self.start[self.after[event] if together else event + 1]
        known = self.start[event] > began
        kept = event[known]
        return Cases(
            item=self.item,
            user=self.user[kept],
            time=self.time[kept],
            began=began[known],
            at=self.start[kept],
            until=until[known],
            cold=len(np.setdiff1d(self.user[event], self.user[kept])),
        )

    def ask(self, mask: np.ndarray, targets: Targets, rng: np.random.Generator) -> Cases:
        """Return the questions for those events in `mask` [E] that `targets` names."""
        event = np.flatnonzero(mask)
        if targets == "successive":
            return self.cases(event)
        _, first, count = np.unique(self.user[event], return_index=True, return_counts=True)
        offset = {
            "first": np.zeros_like(count),
            "all": np.zeros_like(count),
            "last": count - 1,
            "random": (rng.random(len(count)) * count).astype(np.int64),
        }[targets]
        return self.cases(event[first + offset], together=targets == "all")


def make_split(log: SessionLog, name: SplitName, options: SplitOptions) -> Split:
    """Return the split of a log into what policies learn from, validation and test.

    * `global`: they learn from slates before one moment, and the targets are after it. Their
      histories hold all earlier clicks of the user, also those after the moment.
    * `leave_one_out`: the target is the last event of each user, whenever that was, and policies
      learn from all slates of the user before it (and before the validation's target).

    Raises:
        InputError: a bad option, or a part is empty.
    """
    options.check()
    if name not in get_args(SplitName):
        raise InputError(f"split {name!r} is unknown: {', '.join(get_args(SplitName))}")
    events = Events.of(log)
    rng = np.random.default_rng([options.seed, 11])
    share = options.held_out if options.validation == "users" else 0.0
    held_out = rng.random(len(log.users)) < share
    make = _global if name == "global" else _leave_one_out
    cutoff, validation, test, moment = make(log, events, held_out, options, rng)
    for part, cases in (("test", test), ("validation", validation)):
        if not len(cases) and (part == "test" or options.validation != "none"):
            raise InputError(
                f"split {name}: no user of the log has a click before the {part} and one in it: "
                "choose other shares, --validation none, or convert a longer log"
            )
    cutoff[held_out] = -1
    return Split(_before(log, cutoff, name), validation, test, moment)


_Parts = tuple[np.ndarray, Cases, Cases, int | None]


def _global(
    log: SessionLog,
    events: Events,
    held_out: np.ndarray,
    options: SplitOptions,
    rng: np.random.Generator,
) -> _Parts:
    """Return until when each user is learned from, the questions, and the moment."""
    if "has no times" in str(log.card.get("time", "")):
        raise InputError("the log has no times to split at a moment: use --splits leave_one_out")
    clicks = np.repeat(events.time, np.diff(events.start))
    shares = [1 - options.test - options.held_out, 1 - options.test]
    earlier, moment = (int(t) for t in np.quantile(clicks, shares, method="higher"))
    test = events.ask(events.time >= moment, options.targets, rng)
    before, by_time = events.time < moment, options.validation == "time"
    if by_time:
        asked = before & (events.time >= earlier)
    else:
        asked = before & held_out[events.user] & (np.arange(len(events.user)) > events.first)
    if options.targets == "all":  # together, but not with what is after the moment
        events, asked = _cut(events, before), asked[before]
    cutoff = np.full(len(log.users), earlier if by_time else moment)
    return cutoff, events.ask(asked, options.targets, rng), test, moment


def _cut(events: Events, mask: np.ndarray) -> Events:
    """Return the events in `mask` [E]."""
    length = np.diff(events.start)
    return Events(
        events.user[mask],
        events.time[mask],
        ragged.offsets(length[mask]),
        events.item[np.repeat(mask, length)],
    )


def _leave_one_out(
    log: SessionLog,
    events: Events,
    held_out: np.ndarray,
    options: SplitOptions,
    rng: np.random.Generator,
) -> _Parts:
    """Return the same; there is no moment."""
    number, after = np.arange(len(events.user)), events.after
    n_events, is_last = after - events.first, number == after - 1
    is_test = is_last & (n_events >= 2) & ~held_out[events.user]
    if options.validation == "time":
        is_validation = (number == after - 2) & (n_events >= 3)
    else:
        is_validation = is_last & held_out[events.user]
    cutoff = np.full(len(log.users), np.iinfo(np.int64).max)
    for mask in (is_test, is_validation):  # the validation's target is the earlier one
        cutoff[events.user[mask]] = events.time[mask]
    validation, test = (events.cases(np.flatnonzero(mask)) for mask in (is_validation, is_test))
    return cutoff, validation, test, None


def _before(log: SessionLog, cutoff: np.ndarray, name: str) -> SessionLog:
    """Return the slates of each user before `cutoff` [users]."""
    session = ragged.owner(log.session_length)
    kept = log.time < cutoff[log.user[session]]
    count = np.bincount(session[kept], minlength=log.n_sessions)
    sessions = np.flatnonzero(count)
    training = log.select(sessions, first_slates=count[sessions])
    if not training.response.any():
        raise InputError(
            f"split {name}: there is no click to learn from before the test: choose smaller shares"
        )
    return training


def leaks(split: Split) -> dict[str, float]:
    """Return how much of what policies learn from is later than the targets.

    Returns:
        `test_users`, `cases`, `cold_users` (left out, without a history); `leaking_users`, the
        share of test users with a target that is earlier than some slate of the training log; and
        `later_slates`, the share of those slates that are later than a target, in the mean over
        targets.
    """
    test, time = split.test, np.sort(split.training.time)
    later = len(time) - np.searchsorted(time, test.time, side="right")
    return {
        "test_users": len(np.unique(test.user)),
        "cases": len(test),
        "cold_users": test.cold,
        "leaking_users": len(np.unique(test.user[later > 0])) / len(np.unique(test.user)),
        "later_slates": float(later.mean() / len(time)),
    }
