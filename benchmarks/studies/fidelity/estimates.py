"""Part 3 of a report for logs with propensities: the value of another policy, in several ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.studies.fidelity.cases import Case
from responders import EMPTY, InputError, SessionLog
from responders.evaluation.bootstrap import user_weights
from responders.evaluation.off_policy import cascade_dr, dr, ips, pseudo_inverse, snips
from responders.evaluation.sessions import too_small
from responders.log.batch import Part, make_batch, plan_batches
from responders.log.counts import count
from responders.models.base import Responder
from responders.models.state import State, take_rows

RESPONDER = "the responder"
"""The name of the estimate that is the responder's own prediction."""

_SESSIONS, _DRAWS, _RESAMPLES = 20_000, 16, 500
_PRIOR = 1.0


@dataclass(frozen=True)
class Target:
    """A policy that chooses each position's item on its own, whoever the user is.

    Args:
        name: in the report.
        chance: [S, N] of each item at each position.
        value: its real clicks per slate, if a log of it is given.
        low: of its 95 % interval over users.
        high: of its 95 % interval over users.
    """

    name: str
    chance: np.ndarray
    value: float | None = None
    low: float | None = None
    high: float | None = None


def targets_of(log: SessionLog, other: SessionLog | None) -> list[Target]:
    """Return the policies to evaluate: the one of the log `other`, and the uniform one.

    That of `other` is taken to show each item as often as there, whoever the user is.
    """
    n, s = len(log.catalogue), log.n_positions
    uniform = Target("uniform", np.full((s, n), 1 / n))
    if other is None:
        return [uniform]
    shown = count(other, np.arange(other.n_sessions))[0].T[:s].astype(float)
    chance = (shown + _PRIOR / n) / (shown + _PRIOR / n).sum(1, keepdims=True)
    clicks = other.response.sum(1).astype(float)
    name = str(other.card.get("name", "the other log"))
    value, low, high = mean_by_user(clicks, user_of_slates(other, np.arange(other.n_sessions)))
    return [Target(name, chance, value, low, high), uniform]


def check_target(log: SessionLog, other: SessionLog | None) -> None:
    """Raise `InputError` unless the value of the policy of `other` can be estimated from `log`."""
    if other is None:
        return
    if log.propensity is None:
        raise InputError("the log has no propensities, from which --target is estimated")
    if other.catalogue.fingerprint() != log.catalogue.fingerprint():
        raise InputError(
            "the log of --target has another catalogue: convert it with --catalogue LOG"
        )
    if other.n_positions != log.n_positions:
        raise InputError(
            f"the log of --target has {other.n_positions} positions, not {log.n_positions}"
        )


def estimate(
    case: Case, log: SessionLog, target: Target, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Return the clicks per slate of `target`, estimated from a log with propensities.

    Args:
        case: the responder, the model of the estimators that need one.
        log: with propensities; at most 20,000 sessions are read.
        target: the policy.
        device: of the responder.

    Returns:
        `target`, `real` (and its interval) if it is known, `effective` (the share of the slates
        that the weights leave), and `estimates`, rows with `name`, `value`, `low` and `high`:
        the responder's own prediction (the mean over the log's histories), IPS, SNIPS, DR and, for
        slates with several items, the pseudo-inverse and cascade DR.
    """
    assert log.propensity is not None
    sessions = np.arange(log.n_sessions)[:: max(log.n_sessions // _SESSIONS, 1)]
    rows, user = log.rows(sessions), user_of_slates(log, sessions)
    slate, click = log.slate[rows], log.response[rows].astype(float)
    filled = slate != EMPTY
    chance = target.chance[np.arange(log.n_positions), slate]
    weight = np.where(filled, chance / np.where(filled, log.propensity[rows], 1), 1.0)
    facts = {
        "target": target.name, "real": target.value, "real_low": target.low,
        "real_high": target.high, "effective": _effective(weight[filled]),
    }  # fmt: skip
    why = too_small(len(np.unique(user)), int(click.sum()))
    if why is not None:
        return facts | {"too_small": why}
    logged, expected = _model(case.checkpoint.responder.to(device), log, sessions, target, device)
    logged, expected = logged * filled, expected * filled
    found = {
        RESPONDER: expected.sum(1),
        "IPS": ips(click, weight),
        "SNIPS": snips(click, weight, filled),
        "DR": dr(click, weight, logged, expected),
    }
    if (filled.sum(1) > 1).any():
        found["pseudo-inverse"] = pseudo_inverse(click, weight, filled)
        found["cascade DR"] = cascade_dr(click, weight, logged, expected)
    estimates = []
    for name, values in found.items():
        value, low, high = mean_by_user(values, user)
        estimates.append({"name": name, "value": value, "low": low, "high": high})
    return facts | {"estimates": estimates}


def user_of_slates(log: SessionLog, sessions: np.ndarray) -> np.ndarray:
    """Return the user of each slate of `sessions`, in order."""
    return np.repeat(log.user[sessions], log.session_length[sessions])


def _effective(weight: np.ndarray) -> float:
    """Return the effective sample size, as a share of the sample."""
    return float(weight.sum() ** 2 / max((weight**2).sum() * len(weight), 1e-12))


def mean_by_user(values: np.ndarray, user: np.ndarray) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval by bootstrap over users."""
    users, index = np.unique(user, return_inverse=True)
    total, n = np.bincount(index, values), np.bincount(index)
    samples = [(w @ total) / (w @ n) for w in user_weights(len(users), _RESAMPLES)]
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


@torch.inference_mode()
def _model(
    responder: Responder,
    log: SessionLog,
    sessions: np.ndarray,
    target: Target,
    device: torch.device | str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the responder's click probabilities [T, S] of logged items, and of the target's.

    The history and the other items of the slate are those of the log; for each position, items are
    drawn from the target policy.
    """
    cumulative = torch.from_numpy(target.chance.cumsum(1)).contiguous().to(device)
    generator = torch.Generator(device).manual_seed(0)
    shape = (log.n_slates, log.n_positions)
    logged, expected = np.zeros(shape), np.zeros(shape)
    part = Part.of(log, sessions)
    for rows in plan_batches(part, 128):
        group = part.take(rows)
        batch = make_batch(log, group).to(device)
        state = responder.start(batch.user)
        for r in range(batch.slate.shape[1]):
            slate, click = batch.slate[:, r], batch.click[:, r]
            exists = (r < batch.length).cpu().numpy()
            row = (log.session_start[group.sessions] + r)[exists]
            p = responder.logits(state, slate, click).sigmoid()
            logged[row] = p.cpu().numpy()[exists]
            mean = _expected(responder, state, slate, click, cumulative, generator)
            expected[row] = mean.cpu().numpy()[exists]
            state = responder.observe(state, slate, click)
    rows = log.rows(sessions)
    return logged[rows], expected[rows]


def _expected(
    responder: Responder,
    state: State,
    slate: Tensor,
    click: Tensor,
    cumulative: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return the mean click probability [B, S] over items drawn at each filled position."""
    b, s = slate.shape
    repeated = torch.arange(b, device=slate.device).repeat_interleave(_DRAWS)
    many, own, clicks = take_rows(state, repeated), slate[repeated], click[repeated]
    result = torch.zeros(b, s, device=slate.device)
    for position in (slate >= 0).any(0).nonzero().squeeze(1).tolist():
        uniform = torch.rand(b * _DRAWS, generator=generator, device=slate.device).double()
        item = torch.searchsorted(cumulative[position], uniform)
        changed = own.clone()
        changed[:, position] = item.clamp(max=cumulative.shape[1] - 1)
        p = responder.logits(many, changed, clicks)[:, position].sigmoid()
        result[:, position] = p.view(b, _DRAWS).mean(1)
    return result
