"""From a log to policies and back: what the log says that they are worth, and what they are.

    python -m benchmarks.studies.offline LOG --policies behaviour_cloning,cql,bcq,offline_dqn

lets a behaviour policy show slates to simulated users, trains policies on the log that it leaves,
and prints the clicks per slate of each, estimated from a second log of the same behaviour policy by
self-normalised inverse propensity scores, beside those of the policy itself with the users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from agents.finding import Entry, find_policies
from agents.from_log import LogPolicy, observe_log
from agents.policy import Policy
from agents.rollout import rollout
from benchmarks.cli.options import DEVICE, Repetitions, Settings, TableOut
from benchmarks.harness import check_out, names_in, publish, run_script
from benchmarks.reports.tables import number, text, with_interval
from benchmarks.studies.fidelity.estimates import mean_by_user, user_of_slates
from benchmarks.studies.pretraining.behaviour import Behaviour, BehaviourName, simulate
from benchmarks.studies.pretraining.source import open_source
from recsim_env.world import World
from responders import EMPTY, InputError, SessionLog
from responders.config import known_settings, parse_settings
from responders.errors import check_whole, near_matches
from responders.evaluation.bootstrap import crossed_interval, interval, run_and_user_weights
from responders.evaluation.off_policy import snips
from responders.progress import progress_bar

POLICIES = "popular,sasrec,behaviour_cloning,reinforce,offline_dqn,cql,bcq"
"""The policies compared by default."""

_BEHAVIOURS = ("random", "popular", "mixed")  # those with propensities
_ROWS = 4096  # slates chosen at a time
_ESTIMATION, _EVALUATION = 1_000_000, 2_000_000  # seeds of users whom no policy has learned from


@dataclass(frozen=True)
class _Run:
    """What a policy with one seed did.

    Args:
        estimate: [T], of each slate of the log for the estimates.
        same: share of that log's positions with the policy's item.
        clicks: [users], in a session.
        length: [users], slates of the session.
    """

    estimate: np.ndarray
    same: float
    clicks: np.ndarray
    length: np.ndarray


@torch.no_grad()
def estimated_clicks(policy: Policy, log: SessionLog) -> tuple[np.ndarray, float]:
    """Return the contribution [T] of each logged slate to the policy's estimated clicks per slate.

    The policy chooses a slate for each history of the log; positions at which the log shows the
    same item count by the inverse of their propensity.

    Args:
        policy: reads nothing but observations, and shows one slate for each.
        log: with propensities.

    Returns:
        Contributions [T] float64, and the share of the log's positions that have the same item.

    Raises:
        InputError: the log has no propensities.
    """
    if log.propensity is None:
        raise InputError("the log has no propensities: a value cannot be estimated from it")
    policy.reset()
    chosen = []
    for first in range(0, log.n_slates, _ROWS):
        rows = np.arange(first, min(first + _ROWS, log.n_slates))
        slate = policy.act(observe_log(log, rows, policy.site))
        chosen.append((slate[0] if isinstance(slate, tuple) else slate).cpu().numpy())
    filled = log.slate != EMPTY
    same = filled & (np.concatenate(chosen) == log.slate)
    weight = np.where(same, 1 / np.where(same, log.propensity, 1), 0.0)
    return snips(log.response.astype(float), weight, filled), float(same.sum() / filled.sum())


def offline(
    log: str | Path,
    policies: str | Sequence[str] = POLICIES,
    *,
    simulator: str | Path | None = None,
    behaviour: BehaviourName = "popular",
    sessions: int = 2000,
    users: int = 500,
    seeds: int = 3,
    settings: Mapping[str, Any] | None = None,
    device: str = DEVICE,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train policies on a behaviour policy's log; return what it says of them, and their value.

    Args:
        log: folder of a log, whose clicks the behaviour policy knows.
        policies: policies that learn from logs or do not learn, as names; see `find_policies`.
        simulator: whose users answer, see `open_source`; None = the true users of a synthetic log.
        behaviour: `random`, `popular` or `mixed`, see `BehaviourName`.
        sessions: of the log that policies learn from, and of the one for the estimates.
        users: of the policies themselves.
        seeds: of everything.
        settings: changed for policies that have them.
        device: auto, cpu or cuda.
        progress: show a progress bar.

    Returns:
        Rows with `policy`, `estimate`, `slate` (clicks per slate in truth) and `session` (clicks),
        with 95 % intervals `_low` and `_high`, and `same`, the share of the positions of the log
        at which it shows what the policy would. The first row is the behaviour policy's.

    Raises:
        InputError: an unknown name or setting, a policy that learns by acting, or a number out of
            range.
    """
    for name, value in (("sessions", sessions), ("users", users), ("seeds", seeds)):
        check_whole(name, value, 1)
    if behaviour not in _BEHAVIOURS:
        raise InputError(f"behaviour {behaviour!r}: {near_matches(behaviour, _BEHAVIOURS)}")
    source, entries = open_source(simulator or log, log, device), find_policies(names_in(policies))
    world = source.world(users)
    _new_policies(entries, world, settings or {}, 0)
    found: dict[str, list[_Run]] = {}
    tested = simulate(source.world, source.training, behaviour, sessions, _ESTIMATION)
    with progress_bar(
        total=seeds * (len(entries) + 1), desc="offline", disable=not progress
    ) as bar:
        for seed in range(seeds):
            learned = simulate(source.world, source.training, behaviour, sessions, seed)
            own = (Behaviour(world, source.training, behaviour, seed), f"{behaviour} (the log's)")
            for policy, name in (own, *_new_policies(entries, world, settings or {}, seed)):
                if isinstance(policy, LogPolicy):
                    policy.fit(learned)
                found.setdefault(name, []).append(_run(policy, tested, world, seed))
                bar.update()
    return [_row(name, runs, tested) for name, runs in found.items()]


def _run(policy: Policy, tested: SessionLog, world: World, seed: int) -> _Run:
    if isinstance(policy, Behaviour):  # its own log needs no weights
        estimate, same = tested.response.sum(1).astype(float), 1.0
    else:
        estimate, same = estimated_clicks(policy, tested)
    log = rollout(world, policy, _EVALUATION + seed).log
    clicks = np.add.reduceat(log.response.sum(1).astype(float), log.session_start[:-1])
    return _Run(estimate, same, clicks, log.session_length)


def _new_policies(
    entries: Sequence[Entry], world: World, settings: Mapping[str, Any], seed: int
) -> list[tuple[Policy, str]]:
    """Return the policies with their names; see `offline` for what is raised."""
    made = []
    for entry in entries:
        kind = entry.source
        if not isinstance(kind, type) or entry.learns_by_acting:
            raise InputError(f"policy {entry.name} does not learn from a log here: give a class")
        own = known_settings(kind.config_class, settings)
        made.append((kind(world, kind.config_class(**own), seed), entry.name))
    return made


def _row(name: str, runs: Sequence[_Run], tested: SessionLog) -> dict[str, Any]:
    """Return the row of a policy from its runs, one for each seed."""
    user = user_of_slates(tested, np.arange(tested.n_sessions))
    estimate = mean_by_user(np.mean([run.estimate for run in runs], axis=0), user)
    clicks, length = np.array([r.clicks for r in runs]), np.array([r.length for r in runs])
    weight = np.stack(list(run_and_user_weights([clicks.shape[1]] * len(runs), 1000)))
    samples = (weight @ clicks.ravel()) / (weight @ length.ravel())
    return {
        "policy": name,
        **dict(zip(("estimate", "estimate_low", "estimate_high"), estimate, strict=True)),
        "same": float(np.mean([run.same for run in runs])),
        **interval("slate", clicks.sum() / length.sum(), samples),
        **crossed_interval("session", clicks),
    }


def main(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Folder of a log.")],
    policies: Annotated[
        str, typer.Option(help="Policies that learn from logs; comma-separated.")
    ] = POLICIES,
    simulator: Annotated[
        str | None,
        typer.Option(help="Environment id or responder's folder; by default the true users."),
    ] = None,
    behaviour: Annotated[
        str, typer.Option(help="Whose log it is: random, popular or mixed.")
    ] = "popular",
    sessions: Annotated[int, typer.Option(min=1, help="Of each log.")] = 2000,
    users: Annotated[int, typer.Option(min=1, help="Users of the policies themselves.")] = 500,
    seeds: Repetitions = 3,
    settings: Settings = None,
    out: TableOut = Path("runs/offline"),
) -> None:
    """Compare what a log says of policies that learned from such a log with their value."""
    check_out(out)
    rows = offline(
        log, policies, simulator=simulator, behaviour=behaviour, sessions=sessions,  # type: ignore[arg-type]
        users=users, seeds=seeds, settings=parse_settings(settings),
    )  # fmt: skip
    columns = {
        "policy": text("policy"),
        "clicks / slate, estimated": with_interval("estimate", 3),
        "same item %": number("same", 1, scale=100),
        "clicks / slate": with_interval("slate", 3),
        "clicks / session": with_interval("session", 1),
    }
    caption = (
        f"{sessions:,} sessions to learn from and as many to estimate with (SNIPS, intervals over "
        f"users), {users:,} simulated users, {seeds} seeds; 95 % intervals"
    )
    title = f"Policies from a log of {behaviour} slates, simulated users: {log.name}"
    publish("offline", title, columns, rows, caption=caption, out=out)


if __name__ == "__main__":
    run_script(main)
