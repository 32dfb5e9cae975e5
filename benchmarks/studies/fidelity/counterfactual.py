"""Part 3 of a report: whether policies are worth in the learned world what they are in truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from agents.greedy import GreedyPolicy
from agents.policy import Policy
from agents.registry import POLICIES
from agents.rollout import Rollout, rollout
from benchmarks.studies.fidelity.cases import Case, Data
from benchmarks.studies.fidelity.policies import NewPolicy
from benchmarks.studies.fidelity.prediction import RARE
from recsim_env.loading import hazard_of
from recsim_env.world import World
from responders import EMPTY
from responders.evaluation.bootstrap import interval, user_weights
from responders.log.counts import count
from responders.registry import load

HORIZON = 100
_RESAMPLES, _TAUS = 1000, 300


def world_of(case: Case, data: Data, users: int, device: torch.device | str) -> World:
    """Return the learned world, whose episodes start with the held-out users of the log."""
    checkpoint = case.checkpoint
    return World(
        checkpoint.responder, data.starts, checkpoint.hazard,
        num_users=users, horizon=HORIZON, device=device,
    )  # fmt: skip


def true_world(data: Data, users: int, device: torch.device | str) -> World:
    """Return the world of the users of a synthetic log."""
    truth = data.truth
    assert truth is not None
    return World(
        truth, data.starts, hazard_of(truth), num_users=users, horizon=HORIZON, device=device
    )


def value(world: World, new: NewPolicy, seed: int) -> list[float]:
    """Return the clicks of a session of each user; the same users in every world."""
    return rollout(world, new(world, seed), seed).reward.tolist()


def exploit(
    world: World, true: World | None, data: Data, how: str, steps: int, seed: int
) -> dict[str, Any]:
    """Run a policy that is optimised against a learned world, there and in truth.

    Args:
        world: the learned world.
        true: the true one; None = it is not known.
        data: the log, for what it shows rarely.
        how: greedy, or another registered policy, trained in the learned world.
        steps: of that training.
        seed: of users and policy.

    Returns:
        `policy`, `learned` and `true`, clicks of each user; `rare`, the share of the policy's
        impressions that go to items which the log shows fewer than `RARE` times, and `rare_in_log`.
    """
    if how == "greedy":
        policy: Policy = GreedyPolicy(world)
    else:
        policy = load(POLICIES, how, "policy")(world, seed=seed)
        policy.train(world, steps, seed + 1)
    run = rollout(world, policy, seed)
    shown = count(data.log, data.known)[0].sum(1)
    return {
        "policy": how,
        "learned": run.reward.tolist(),
        "true": None if true is None else rollout(true, policy, seed).reward.tolist(),
        "rare": _share(run, shown < RARE),
        "rare_in_log": float(shown[shown < RARE].sum() / shown.sum()),
    }


def _share(run: Rollout, items: np.ndarray) -> float:
    slate = run.log.slate
    return float(items[slate[slate != EMPTY]].mean())


def summarise(
    learned: Mapping[str, Iterable[float]],
    true: Mapping[str, Iterable[float]],
    exploited: Mapping[str, Any],
) -> dict[str, Any]:
    """Return how far values and ranking of policies in the learned world are from the truth.

    Args:
        learned: clicks [B] of each user by policy, in the learned world.
        true: likewise in truth.
        exploited: from `exploit`.

    Returns:
        `policies`, rows with `policy`, `learned`, `true` and intervals; `kendall_tau`, `tau_low`,
        `tau_high`; `value_error`, the mean over policies of |learned − true| / true; `regret`, what
        the policy that is best in the learned world loses against the best one, in shares of its
        value; `safe_difference`, the largest relative difference in the learned world of two
        policies whose order in truth is the other one (0 = there are none);
        `exploitability` = (learned − true) / true of the optimised policy, and its paired interval.
    """
    names = list(true)
    a, b = (np.array([list(values[name]) for name in names]) for values in (learned, true))
    weight = np.stack(list(user_weights(a.shape[1], _RESAMPLES))) / a.shape[1]
    drawn_a, drawn_b = a @ weight.T, b @ weight.T  # [policies, resamples]
    mean_a, mean_b = a.mean(1), b.mean(1)
    taus = [_tau(drawn_a[:, k], drawn_b[:, k]) for k in range(_TAUS)]
    tau = interval("tau", _tau(mean_a, mean_b), taus)
    rows = [
        {
            "policy": name,
            **interval("learned", mean_a[i], drawn_a[i]),
            **interval("true", mean_b[i], drawn_b[i]),
        }
        for i, name in enumerate(names)
    ]
    pick, best = int(mean_a.argmax()), int(mean_b.argmax())
    return {
        "policies": rows,
        "kendall_tau": tau["tau"],
        "tau_low": tau["tau_low"],
        "tau_high": tau["tau_high"],
        "value_error": float(np.mean(np.abs(mean_a - mean_b) / np.maximum(mean_b, 1e-9))),
        "pick": names[pick],
        "best": names[best],
        "regret": float(1 - mean_b[pick] / max(mean_b[best], 1e-9)),
        "safe_difference": _safe_difference(mean_a, mean_b),
        **_exploitability(exploited),
    }


def _tau(a: np.ndarray, b: np.ndarray) -> float:
    """Return Kendall's τ-b; 0 if the policies are all equal in the learned world."""
    tau = kendalltau(a, b).statistic
    return 0.0 if np.isnan(tau) else float(tau)


def _safe_difference(learned: np.ndarray, true: np.ndarray) -> float:
    i, j = np.triu_indices(len(learned), 1)
    wrong = (learned[i] - learned[j]) * (true[i] - true[j]) < 0
    relative = np.abs(learned[i] - learned[j]) / np.maximum(
        np.minimum(learned[i], learned[j]), 1e-9
    )
    return float(relative[wrong].max(initial=0.0))


def _exploitability(exploited: Mapping[str, Any]) -> dict[str, Any]:
    a, b = (np.array(exploited[world]) for world in ("learned", "true"))
    samples = [(w @ (a - b)) / max(w @ b, 1e-9) for w in user_weights(len(a), _RESAMPLES)]
    return {
        **interval("exploitability", (a - b).sum() / max(b.sum(), 1e-9), samples),
        "exploited": {"learned": float(a.mean()), "true": float(b.mean())},
    }
