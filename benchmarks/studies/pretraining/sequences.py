"""Sequential recommenders that learn from simulated sessions, then from a share of a real log."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from agents.finding import find_class, find_policy
from agents.from_log import LogPolicy
from agents.recent_popular import RecentPopularConfig, RecentPopularPolicy
from agents.sequences import sequences_of
from agents.sequential import SequentialPolicy
from agents.site import Site
from benchmarks.harness import names_in
from benchmarks.reports import pretrain as report
from benchmarks.studies.pretraining.behaviour import BEHAVIOURS, simulate
from benchmarks.studies.pretraining.source import SimulatedUsers, open_source
from benchmarks.studies.ranking.metrics import by_user, evaluate
from benchmarks.studies.ranking.splits import Cases, Events
from benchmarks.studies.stored import file_of, folder_of_trials, load_stored, run_missing
from benchmarks.studies.trials import TRAINING_SEED
from benchmarks.workers import Workers
from responders import InputError, SessionLog
from responders.config import make_config
from responders.errors import check_finite, check_whole, near_matches
from responders.evaluation.bootstrap import crossed_interval
from responders.files import new_folder, write_json

NONE, REAL, POPULAR = "no pretraining", "resampled real data", "most clicked"
"""The arms beside the behaviour policies: the second shows whether gains are just more steps, the
third, a list of the items that the share's users clicked most, whether they are just popularity."""


@dataclass(frozen=True)
class SequenceSetup:
    """What a trial needs beside the arm and the seed.

    Args:
        simulator: an environment id or a responder's folder.
        log: folder of the log.
        policy: name of a sequential policy.
        shares: of the training users, percent.
        sessions: of pretraining.
        settings: of the policy.
        device: auto, cpu or cuda.
        shift: traits of users and strengths, see `SimulatedUsers`.
        horizon: most slates of a simulated session.
    """

    simulator: str
    log: Path
    policy: str
    shares: tuple[float, ...]
    sessions: int
    settings: Mapping[str, Any]
    device: str
    shift: tuple[tuple[str, float], ...] = ()
    horizon: int | None = None


class SequenceTrial(BaseModel):
    """What an arm reached with one seed.

    Args:
        arm: a behaviour policy, or what stands beside it.
        seed: of everything random.
        ndcg: of each share as text, NDCG@10 of each test session, in order.
    """

    arm: str
    seed: int
    ndcg: dict[str, list[float]]


@dataclass(frozen=True)
class Pretraining:
    """The result of a study: its rows, how it was made, and the files written."""

    rows: list[dict[str, Any]]
    facts: dict[str, Any]
    files: list[Path]


def pretrain(
    simulator: str | Path,
    log: str | Path,
    policy: str = "sasrec",
    *,
    behaviours: str | Sequence[str] = "random,popular,mixed",
    shares: Sequence[float] = (0, 1, 5, 20, 100),
    sessions: int = 20_000,
    seeds: int = 3,
    shift: Mapping[str, float] | None = None,
    horizon: int | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: Workers = Workers(),  # noqa: B008
    device: str = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: bool = True,
) -> Pretraining:
    """Measure what a sequential recommender gains by learning from simulated sessions first.

    A behaviour policy leaves a log of simulated sessions, from which the recommender learns. Then
    it is fine-tuned on sessions of a share of the log's training users, and ranks every click but
    the first of each session of the test users among all items. Beside it, the same without
    pretraining, with pretraining on as many sessions drawn from the same share again, and a list
    of the items that the users of the share clicked most.

    Args:
        simulator: an environment id, or the folder of a responder or of a synthetic log; of
            several, comma-separated, a random one answers each session.
        log: folder of a log with the same catalogue.
        policy: a sequential policy, see `agents.finding.find_policy`.
        behaviours: see `BehaviourName`, as a list or comma-separated.
        shares: percent of the training users, 0 to 100.
        sessions: number of simulated sessions.
        seeds: repetitions: of weights, users of a share, and simulation.
        shift: which users come more often in the simulator, such as {"click_rate": -1}.
        horizon: most slates of a simulated session; None = the environment's.
        settings: of the policy.
        workers: what runs the trials.
        device: auto, cpu or cuda.
        out: folder of table and plot; it appears when all is done. Until then, finished trials are
            kept in `.NAME.trials` beside it, where the same call continues.
        overwrite: replace `out` if it exists.
        command: the command line, for the files.
        progress: show a progress bar.

    Returns:
        Rows with `arm`, `share` (percent), `users` (of that share), `ndcg` with its 95 % interval
        over seeds and test sessions (`_low`, `_high`), and the difference from no pretraining at
        the same share, with the same seeds and sessions: `above` with its interval, and `gain`,
        its ratio to the latter, unless that is 0. Arms without data at a share have no row.

    Raises:
        InputError: an unknown name or value, catalogues differ, a share holds no session with two
            clicks, or `out` exists.
    """
    check_whole("seeds", seeds, 1)
    check_whole("sessions", sessions, 1)
    setup = SequenceSetup(
        str(simulator), Path(log), policy, _percents(shares), sessions, dict(settings or {}),
        device, tuple(sorted((shift or {}).items())), horizon,
    )  # fmt: skip
    with nullcontext() if out is None else new_folder(Path(out), overwrite) as building:
        arms = [NONE, POPULAR, REAL, *_behaviours(behaviours)]
        _cached.cache_clear()  # the folders may hold other things than in an earlier call
        source, cases = _open(setup)
        source.world(1)  # an impossible shift is an error now, not after the first trials
        by = new_policy(setup, source, 0).config.sequence
        for seed in range(seeds):
            for share in filter(None, setup.shares):  # a share without a sequence is an error
                sequences_of(share_of(source.training, share, seed), leave_out=1, by=by)
        entry = find_policy(policy)
        key = f"{source.key} {sessions} {setup.shares} {sorted(setup.settings.items())}"
        with folder_of_trials(out) as folder:
            trials = {
                folder / file_of(entry, seed, f"{key} {arm}"): (setup, arm, seed)
                for seed in range(seeds)
                for arm in arms
            }
            run_missing(trials, workers, progress, run_sequence_trial, label="pretrain")
            done = [load_stored(path, SequenceTrial) for path in trials]
            rows = _rows(done, len(source.training.users))
            facts = {
                "kind": "sequences", "policy": policy, "simulator": str(simulator),
                "responder": source.checkpoint.card["responder"]["name"],
                "log": str(source.training.card.get("name")), "synthetic": source.test.synthetic,
                "sessions": sessions, "seeds": seeds, "test_clicks": len(cases),
                "test_sessions": len(np.unique(cases.user)),
                "shift": dict(setup.shift), "horizon": horizon, "settings": dict(setup.settings),
                "command": command,
            }  # fmt: skip
            files = [] if building is None else report.write(rows, facts, building)
    return Pretraining(rows, facts, [Path(str(out)) / file.name for file in files])


def _percents(shares: Sequence[float]) -> tuple[float, ...]:
    numbers = sorted({check_finite("a share", share) for share in shares})
    if not numbers or numbers[0] < 0 or numbers[-1] > 100:
        raise InputError(f"shares are percent of the users, 0 to 100, not {list(shares)}")
    return tuple(numbers)


def _behaviours(behaviours: str | Sequence[str]) -> list[str]:
    names = names_in(behaviours)
    for name in names:
        if name not in BEHAVIOURS:
            raise InputError(f"behaviour {name!r} is unknown; {near_matches(name, BEHAVIOURS)}")
    return list(dict.fromkeys(names))


@lru_cache(maxsize=1)
def _cached(
    simulator: str,
    log: Path,
    device: str,
    shift: tuple[tuple[str, float], ...],
    horizon: int | None,
) -> tuple[SimulatedUsers, Cases]:
    source = open_source(simulator, log, device, dict(shift), horizon)
    events = Events.of(source.test, np.arange(source.test.n_sessions))
    cases = events.cases(np.arange(len(events.user)))
    if not len(cases):
        raise InputError("no test session of the log has two clicks: there is nothing to test with")
    return source, cases


def _open(setup: SequenceSetup) -> tuple[SimulatedUsers, Cases]:
    """Return the simulator with the log, and what is asked of its test sessions."""
    return _cached(setup.simulator, setup.log, setup.device, setup.shift, setup.horizon)


def new_policy(setup: SequenceSetup, source: SimulatedUsers, seed: int) -> SequentialPolicy:
    """Return the policy with random weights.

    Raises:
        InputError: it is not sequential, or an invalid setting.
    """
    kind = find_class(setup.policy, SequentialPolicy, "is not a sequential one, such as sasrec")
    site = Site(source.training.catalogue, source.training.n_positions, device=source.device)
    return kind(site, make_config(kind.config_class, setup.settings, setup.policy), seed)  # type: ignore[arg-type]


def share_of(log: SessionLog, percent: float, seed: int) -> SessionLog:
    """Return the sessions of that share of the users; smaller shares are part of larger ones."""
    order = np.random.default_rng([seed, 13]).permutation(len(log.users))
    chosen = order[: max(round(len(order) * percent / 100), 1)]
    return log.select(np.isin(log.user, chosen))


def run_sequence_trial(path: Path, setup: SequenceSetup, arm: str, seed: int) -> None:
    """Pretrain, fine-tune with each share, evaluate, and write the trial to the file `path`."""
    source, cases = _open(setup)
    start = new_policy(setup, source, seed)
    if arm in BEHAVIOURS:
        users = TRAINING_SEED + seed
        simulated = simulate(source.world, source.training, arm, setup.sessions, users)  # type: ignore[arg-type]
        start.fit(simulated)
    ndcg = {}
    for share in setup.shares:
        if share == 0 and arm in (REAL, POPULAR):
            continue
        policy = copy.deepcopy(start)
        real = share_of(source.training, share, seed)
        taught = _taught(policy, arm, real, setup, seed) if share else policy
        values, _ = evaluate(taught, cases, [10])
        ndcg[f"{share:g}"] = by_user(cases.user, values)["ndcg@10"].tolist()
    write_json(path, SequenceTrial(arm=arm, seed=seed, ndcg=ndcg).model_dump())


def _taught(
    policy: SequentialPolicy, arm: str, real: SessionLog, setup: SequenceSetup, seed: int
) -> LogPolicy:
    """Return what learned from the sessions of a share."""
    if arm == POPULAR:
        always = RecentPopularConfig(half_life=1e9)  # days: all clicks count the same
        popular = RecentPopularPolicy(policy.site, always)
        popular.fit(real)
        return popular
    if arm == REAL:
        rng = np.random.default_rng([seed, 17])
        policy.fit(real.select(rng.integers(real.n_sessions, size=setup.sessions)))
    (policy.fit if arm == NONE else policy.fine_tune)(real)
    return policy


def _rows(trials: Sequence[SequenceTrial], users: int) -> list[dict[str, Any]]:
    """Return a row for each arm and share; the first arm is the one without pretraining."""
    rows = []
    arms = dict.fromkeys(trial.arm for trial in trials)
    for share in trials[0].ndcg:
        values = {
            arm: np.array([t.ndcg[share] for t in trials if t.arm == arm])
            for arm in arms
            if all(share in t.ndcg for t in trials if t.arm == arm)
        }  # [seeds, sessions]
        for arm, own in values.items():
            row: dict[str, Any] = {"arm": arm, "share": float(share)}
            row["users"] = round(users * float(share) / 100)
            row |= crossed_interval("ndcg", own)
            if arm != NONE:
                row |= crossed_interval("above", own - values[NONE])
                if values[NONE].any():
                    row["gain"] = row["above"] / float(values[NONE].mean())
            rows.append(row)
    return rows
