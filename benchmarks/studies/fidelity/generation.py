"""Part 2 of a report: whether simulated sessions look like logged ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.studies.fidelity.cases import Case, Data
from benchmarks.studies.fidelity.replay import reruns_policy, simulate, without_copies
from responders import EMPTY, SessionLog
from responders.behaviour.returns import draw_return
from responders.evaluation.sessions import (
    ENOUGH_USERS,
    Sums,
    compare_sums,
    gaps,
    popularity_tenths,
    return_sums,
    session_sums,
)
from responders.evaluation.two_samples import c2st, mmd, sequence_features, session_features

SEVERAL_SLATES = ("ctr_by_slate", "session_length", "repeat_clicks", "after_click")
"""The statistics that say nothing of sessions of one slate."""

_ENOUGH_SESSIONS, _MANY_SESSIONS = 100, 2000
_EXAMPLES, _SLATES, _POSITIONS = 8, 8, 20  # of the gallery


def generate(
    case: Case,
    data: Data,
    *,
    sessions: int = 5000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Compare held-out sessions with those of simulated users under the same policy.

    Args:
        case: the responder.
        data: the log and its held-out sessions.
        sessions: at most this many are simulated.
        seed: of the choice of sessions, and of the users.
        device: where to simulate.

    Returns:
        `policy` (again or replayed), `n_sessions`, `statistics` by name, see `compare_sums`, `c2st`
        and `mmd` (with `too_small` instead of numbers if there are few sessions), `sequence`, the
        same classifier on the clicks of each slate (with 2,000 sessions or more), and `gallery`, a
        few real and simulated sessions.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(data.whole)[:sessions])
    real = without_copies(data.log.select(chosen))
    other = simulate(case.checkpoint, data.log, chosen, seed=seed, device=device)
    user = data.log.user[chosen]
    facts: dict[str, Any] = {
        "policy": "again" if reruns_policy(data.log) else "replayed",
        "n_sessions": len(chosen),
        "statistics": _statistics(case, data, chosen, real, other, seed),
    }
    n, users = len(chosen), len(np.unique(user))
    if n < _ENOUGH_SESSIONS or users < ENOUGH_USERS:
        why = (
            f"too small to say: {n} sessions of {users} users, at least {_ENOUGH_SESSIONS} of "
            f"{ENOUGH_USERS} are needed"
        )
        return facts | {"c2st": {"too_small": why}, "mmd": {"too_small": why}, "gallery": []}
    names, (a, b) = session_features((real, other))
    facts["c2st"], chance_real, chance_other = c2st(names, a, b, user, seed)
    facts["mmd"] = mmd(a, b, seed)
    if n >= _MANY_SESSIONS:
        in_order, (a, b) = sequence_features((real, other))
        facts["sequence"] = c2st(in_order, a, b, user, seed)[0]
    tenth = popularity_tenths(data.shown)
    facts["gallery"] = [
        *_examples(real, chance_real, tenth, rng.permutation(len(chosen))[:_EXAMPLES], False),
        *_examples(other, chance_other, tenth, rng.permutation(len(chosen))[:_EXAMPLES], True),
    ]
    return facts


def _statistics(
    case: Case,
    data: Data,
    sessions: np.ndarray,
    real: SessionLog,
    other: SessionLog,
    seed: int,
) -> dict[str, dict[str, Any]]:
    tenth, longest = popularity_tenths(data.shown), int(data.log.session_length.max())
    sums = [session_sums(log, tenth, longest) for log in (real, other)]
    pairs: dict[str, tuple[Sums, Sums]] = {k: (sums[0][k], sums[1][k]) for k in sums[0]}
    pairs |= _returns(case, data, sessions, other, seed)
    found = {k: compare_sums(*pair, data.log.user[sessions], seed) for k, pair in pairs.items()}
    for name in SEVERAL_SLATES if longest == 1 else ():
        kept = {key: found[name][key] for key in ("title", "kind", "labels")}
        found[name] = kept | {"too_small": "cannot say: every session of the log has one slate"}
    return found


def _returns(
    case: Case, data: Data, sessions: np.ndarray, other: SessionLog, seed: int
) -> dict[str, tuple[Sums, Sums]]:
    """Return the statistics of coming back; none for a responder that did not learn it."""
    returns = case.checkpoint.returns
    if returns is None:
        return {}
    gap, followed = gaps(data.log, sessions)
    observed = followed >= returns.window
    clicks = np.add.reduceat(other.response.sum(1), other.session_start[:-1])
    uniform = torch.rand(len(sessions), 2, generator=torch.Generator().manual_seed(seed))
    back, seconds = draw_return(
        returns.tables(), torch.from_numpy(clicks.astype(np.int64)), uniform
    )
    simulated = np.where(back.numpy(), seconds.numpy(), np.inf)
    a, b = (return_sums(each, observed, returns.window) for each in (gap, simulated))
    return {name: (a[name], b[name]) for name in a}


def _examples(
    log: SessionLog, chance: np.ndarray, tenth: np.ndarray, sessions: np.ndarray, simulated: bool
) -> list[dict[str, Any]]:
    """Return sessions for the gallery: the tenth of popularity of each item, and its click."""
    examples = []
    for e in sessions:
        rows = slice(
            log.session_start[e], min(log.session_start[e + 1], log.session_start[e] + _SLATES)
        )
        slate, click = log.slate[rows, :_POSITIONS], log.response[rows, :_POSITIONS]
        cells = np.where(slate == EMPTY, -1, tenth[slate] + 10 * click)
        examples.append(
            {
                "simulated": simulated,
                "chance": round(float(chance[e]), 3),
                "length": int(log.session_length[e]),
                "slates": cells.tolist(),
            }
        )
    return examples
