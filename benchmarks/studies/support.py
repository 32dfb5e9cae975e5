"""What tells where a learned responder errs: the support of slates, or a disagreeing ensemble.

    python -m benchmarks.studies.support LOG --responders session_gru,slate_transformer

trains responders on a synthetic log, as `benchmarks.studies.optimism` does, runs policies in each
learned world, and compares its click probabilities with the true ones for the same histories. It
prints Spearman's rank correlation of the error with the repetition of the slate (low support) and
with the standard deviation of the responders' probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from scipy.stats import spearmanr
from torch import Tensor

from agents.registry import known_policies
from agents.rollout import chosen
from benchmarks.cli.options import Names, Settings, SyntheticLogPath, TrainingsOut, WorldUsers
from benchmarks.harness import check_out, names_in, publish, run_script
from benchmarks.reports.tables import number, text
from benchmarks.studies.optimism import check_names, learned_users, true_users
from recsim_env.observations import HistoryObservation
from recsim_env.world import World, blank_duplicates
from responders import InputError, SessionLog
from responders.behaviour.support import repetition, unit_vectors
from responders.config import parse_settings
from responders.models.base import Responder
from responders.models.state import State
from responders.registry import load
from responders.training.checkpoint import Checkpoint

POLICIES = "random,popular,greedy"
"""The policies whose slates are compared by default."""


@torch.no_grad()
def measure(
    checkpoint: Checkpoint, others: Sequence[Responder], policy: str, users: int, seed: int
) -> dict[str, np.ndarray]:
    """Return `error`, `repetition` and `disagreement` [n] of the slates of a policy.

    Args:
        checkpoint: a responder trained on a synthetic log; its users answer.
        others: responders whose deviation is the disagreement.
        policy: a name; it does not learn.
        users: B.
        seed: of users and policy.
    """
    starts = checkpoint.initial_sessions
    world = World(checkpoint.responder, starts, checkpoint.hazard, num_users=users)
    acting = load(known_policies(), policy, "policy")(world, seed=seed)
    observe, vectors = HistoryObservation(world), unit_vectors(world.catalogue)
    world.reset(seed=seed)
    acting.reset()
    judges = [true_users(starts), *others]
    states = [judge.start(world.features[world.episodes.user]) for judge in judges]
    active = torch.ones(users, dtype=torch.bool)
    found: dict[str, list[Tensor]] = {"error": [], "repetition": [], "disagreement": []}
    while bool(active.any()):
        slate, _ = blank_duplicates(chosen(world, acting, observe(world))[0])
        truth, *answers = [
            _mean_chance(judge, state, slate) for judge, state in zip(judges, states, strict=True)
        ]
        learned = _mean_chance(checkpoint.responder, world.episodes.memory, slate)
        found["error"].append((learned - truth)[active])
        found["repetition"].append(repetition(slate, world.episodes.slates.long(), vectors)[active])
        found["disagreement"].append(torch.stack(answers).std(0)[active])
        outcome = world.step(slate)
        states = [
            judge.observe(state, outcome.slate, outcome.click.float())
            for judge, state in zip(judges, states, strict=True)
        ]
        active &= ~(outcome.left | outcome.truncated)
    return {name: torch.cat(values).numpy() for name, values in found.items()}


def _mean_chance(responder: Responder, state: State, slate: Tensor) -> Tensor:
    """Return the mean click probability [B] of the items of each slate."""
    return responder.marginal(state, slate).sum(1) / (slate >= 0).sum(1).clamp(min=1)


def support(
    log: SessionLog,
    responders: str | Sequence[str],
    out: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    policies: str | Sequence[str] = POLICIES,
    users: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train responders on a synthetic log and return a row for each with each policy.

    Args:
        log: of a known-truth world.
        responders: two or more names; their deviation is the disagreement.
        out: folder of the trainings; finished ones are used again.
        settings: of the responders.
        policies: names of policies that do not learn.
        users: B.
        seed: of trainings, users and policies.
        progress: show progress bars.

    Returns:
        Rows with `responder`, `policy` (`all` = the slates of all of them), the number of `slates`,
        the mean `error`, and Spearman's correlations of the error and of its absolute value with
        repetition and disagreement: `repetition`, `repetition_abs`, `disagreement`,
        `disagreement_abs`.

    Raises:
        InputError: the log is not synthetic, an unknown name, or fewer than two responders.
    """
    names = names_in(responders)
    if len(names) < 2:
        raise InputError("give two or more responders: one alone cannot disagree")
    check_names(log, names, policies, settings or {})
    checkpoints = {
        name: learned_users(log, name, out, settings or {}, seed, progress) for name in names
    }
    judges = [checkpoint.responder for checkpoint in checkpoints.values()]
    rows = []
    for name, checkpoint in checkpoints.items():
        found = {
            policy: measure(checkpoint, judges, policy, users, seed)
            for policy in names_in(policies)
        }
        found["all"] = {
            key: np.concatenate([each[key] for each in found.values()])
            for key in ("error", "repetition", "disagreement")
        }
        rows += [{"responder": name, "policy": p, **_correlations(f)} for p, f in found.items()]
    return rows


def _correlations(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    error = found["error"]
    row = {"slates": len(error), "error": float(error.mean())}
    for name in ("repetition", "disagreement"):
        row[name] = float(spearmanr(found[name], error).statistic)
        row[f"{name}_abs"] = float(spearmanr(found[name], np.abs(error)).statistic)
    return row


def main(
    log: SyntheticLogPath,
    responders: Annotated[str, typer.Option(help="Two or more names, comma-separated.")] = (
        "session_gru,slate_transformer"
    ),
    policies: Names = POLICIES,
    settings: Settings = None,
    users: WorldUsers = 100,
    out: TrainingsOut = Path("runs/support"),
) -> None:
    """Correlate the error of learned responders with support and with disagreement."""
    check_out(out)
    rows = support(
        SessionLog.load(log), responders, out,
        settings=parse_settings(settings), policies=policies, users=users,
    )  # fmt: skip
    columns = {
        "responder": text("responder"),
        "policy": text("policy"),
        "slates": number("slates"),
        "mean error": number("error", 4),
        "repetition, error": number("repetition", 2),
        "repetition, |error|": number("repetition_abs", 2),
        "disagreement, error": number("disagreement", 2),
        "disagreement, |error|": number("disagreement_abs", 2),
    }
    caption = (
        f"rank correlations over the slates of {users:,} synthetic users; error = mean click "
        "probability of a slate, learned less true"
    )
    publish(
        "support", f"Where learned users err: {log.name}", columns, rows, caption=caption, out=out
    )


if __name__ == "__main__":
    run_script(main)
