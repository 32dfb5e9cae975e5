"""Whether pessimism keeps a policy from exploiting the errors of learned users.

    python -m benchmarks.studies.pessimism LOG

trains a responder several times on a synthetic log and lets `slateq` learn with the ensemble: for
clicks alone, for clicks less a multiple of the members' disagreement (as `PenaliseDisagreement`
does), and for clicks on slates that the log supports. It compares the clicks in a session that the
ensemble promises the policy with those of the true users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from agents.oracle import OraclePolicy
from agents.popular import PopularPolicy
from agents.rollout import rollout
from agents.slateq import SlateQPolicy
from benchmarks.cli.options import PolicySteps, Settings, SyntheticLogPath, TrainingsOut, WorldUsers
from benchmarks.harness import check_out, publish, run_script
from benchmarks.reports.tables import number, text, with_interval
from benchmarks.studies.optimism import check_names, learned_users, ratios, true_users
from benchmarks.studies.trials import separate_users
from recsim_env.loading import hazard_of
from recsim_env.make import make_world
from recsim_env.rewards import RewardSpec
from recsim_env.world import World
from responders import InputError, SessionLog
from responders.config import parse_settings
from responders.errors import check_whole
from responders.evaluation.bootstrap import interval, run_and_user_weights
from responders.training.checkpoint import Checkpoint

PENALTIES = 1.0, 3.0
_RESAMPLES = 1000


def measure(
    members: Sequence[Checkpoint],
    rewards: Mapping[str, RewardSpec],
    users: int,
    steps: int,
    seed: int,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the clicks in a session of each user, with the ensemble and with the true users.

    Args:
        members: responders trained on one synthetic log.
        rewards: by name; `slateq` learns for each of them.
        users: B; the same initial users in both worlds, others than those of the training.
        steps: of training.
        seed: of users and policies.

    Returns:
        For each reward, `popular` and `oracle`, clicks [B] with both (the oracle's in truth only).
    """
    starts = members[0].initial_sessions
    truth = true_users(starts)
    ensemble: dict[str, Any] = {"responder": list(members), "num_users": users, "support": True}
    learned = make_world("any", **ensemble)
    true = World(truth, starts, hazard_of(truth), num_users=users)
    values = {}
    for name, reward in rewards.items():
        training = make_world("any", reward=reward, **ensemble)
        for world in (learned, true):
            separate_users(training, world)
        policy = SlateQPolicy(training, seed=seed)
        policy.train(training, steps, seed + 1)
        values[name] = rollout(learned, policy, seed).reward, rollout(true, policy, seed).reward
    popular = PopularPolicy(learned)
    values["popular"] = rollout(learned, popular, seed).reward, rollout(true, popular, seed).reward
    values["oracle"] = (rollout(true, OraclePolicy(true), seed).reward,) * 2
    return values


def pessimism(
    log: SessionLog,
    responder: str,
    out: Path,
    *,
    members: int = 3,
    penalties: Sequence[float] = PENALTIES,
    settings: Mapping[str, Any] | None = None,
    users: int = 300,
    seeds: int = 2,
    steps: int = 60_000,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train an ensemble on a synthetic log and policies with it; return a row for each policy.

    Args:
        log: of a known-truth world.
        responder: name.
        out: folder of the trainings; finished ones are used again.
        members: of the ensemble, with seeds of their own.
        penalties: how many times the disagreement is subtracted from the clicks.
        settings: of the responder.
        users: B.
        seeds: of the policies' training.
        steps: of the policies' training.
        progress: show progress bars.

    Returns:
        Rows with `reward`, the clicks in a session `learned` and `true`, their `ratio`, the share
        `of_oracle`, and the true clicks more than those of `popular` with the same users, `gain`;
        95 % intervals of the last three over seeds and users.

    Raises:
        InputError: the log is not synthetic, an unknown name, or a single member.
    """
    if check_whole("members", members, 1) < 2:
        raise InputError("give two or more members: one responder alone cannot disagree")
    check_names(log, responder, (), settings or {})
    ensemble = [
        learned_users(log, responder, out, settings or {}, seed, progress)
        for seed in range(members)
    ]
    rewards: dict[str, RewardSpec] = {"clicks": "clicks"}
    for penalty in penalties:
        rewards[f"clicks - {penalty:g} × disagreement"] = {"clicks": 1.0, "disagreement": -penalty}
    rewards["supported_clicks"] = "supported_clicks"
    runs = [measure(ensemble, rewards, users, steps, seed) for seed in range(seeds)]
    weights = np.stack(list(run_and_user_weights([users] * seeds, _RESAMPLES)))
    rows = []
    for name in (*rewards, "popular"):
        more = np.concatenate([run[name][1] - run["popular"][1] for run in runs])
        gain = interval("gain", more.mean(), weights @ more / weights.sum(1))
        rows.append({"reward": name, **ratios(runs, name), **gain})
    return rows


def main(
    log: SyntheticLogPath,
    responder: Annotated[str, typer.Option(help="Name.")] = "min_gru",
    members: Annotated[int, typer.Option(min=2, help="Trainings in the ensemble.")] = 3,
    settings: Settings = None,
    users: WorldUsers = 300,
    seeds: Annotated[int, typer.Option(min=1, help="Of the policies.")] = 2,
    steps: PolicySteps = 60_000,
    out: TrainingsOut = Path("runs/pessimism"),
) -> None:
    """Compare what policies are promised and get, that learned with and without pessimism."""
    check_out(out)
    rows = pessimism(
        SessionLog.load(log), responder, out,
        members=members, settings=parse_settings(settings), users=users, seeds=seeds,
        steps=steps,
    )  # fmt: skip
    columns = {
        "slateq learned for": text("reward"),
        "learned": number("learned", 1),
        "true": number("true", 1),
        "learned / true": with_interval("ratio", 2),
        "of the oracle's": with_interval("of_oracle", 2),
        "more than popular": with_interval("gain", 1),
    }
    caption = (
        f"clicks in a session of {users:,} synthetic users, {seeds} seeds of slateq, {members} "
        "members; 95 % intervals over users and seeds"
    )
    publish("pessimism", f"Pessimism: {log.name}", columns, rows, caption=caption, out=out)


if __name__ == "__main__":
    run_script(main)
