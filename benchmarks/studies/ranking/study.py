"""Offline ranking of policies on a log, as `recsim rank` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import numpy as np
from scipy.stats import kendalltau

from agents.finding import Entry, PolicySource, find_policies
from benchmarks.harness import names_in
from benchmarks.reports import rank as report
from benchmarks.studies.ranking.splits import SplitName, SplitOptions, leaks
from benchmarks.studies.ranking.trials import (
    RankingSetup,
    RankingTrial,
    Seen,
    load_split,
    make_policy,
    run_ranking_trial,
)
from benchmarks.studies.stored import file_of, folder_of_trials, load_stored, run_missing
from benchmarks.workers import Workers
from responders import InputError, SessionLog
from responders.errors import check_whole
from responders.evaluation.bootstrap import crossed_interval
from responders.files import new_folder


@dataclass(frozen=True)
class Ranking:
    """The result of `rank`.

    Args:
        rows: one for each split and policy: `split`, `policy`, `users`, `seeds`, `train_seconds`,
            every metric with its 95 % interval (`_low`, `_high`), and how much it is above that of
            the first policy with the same users (`_above`, `_above_low`, `_above_high`).
        leaks: one for each split, from `splits.leaks`.
        facts: how it was made.
        files: the files written; empty without `out`.
    """

    rows: list[dict[str, Any]]
    leaks: list[dict[str, Any]]
    facts: dict[str, Any]
    files: list[Path]


def rank(
    log: str | Path,
    policies: str | Sequence[PolicySource],
    *,
    splits: str | Sequence[SplitName] = "global,leave_one_out",
    options: SplitOptions = SplitOptions(),  # noqa: B008
    cutoffs: Sequence[int] = (5, 10, 20),
    seen: Seen = "keep",
    settings: Mapping[str, Any] | None = None,
    seeds: int = 1,
    workers: Workers = Workers(),  # noqa: B008
    device: str = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: bool = True,
) -> Ranking:
    """Rank what users of a log clicked next among all items, with each policy and split.

    Args:
        log: folder of the log.
        policies: registered names, `FILE.py:Class`, `package.module:Class` and folders of saved
            policies, as a list or comma-separated. They must learn from logs, or not learn; saved
            ones are taken as they are, whatever they learned from.
        splits: see `make_split`.
        options: of the splits.
        cutoffs: the values of k; the main table shows 10 if it is among them, else the first.
        seen: see `Seen`.
        settings: changed for policies that have them.
        seeds: repetitions, with the same users.
        workers: what runs the trials.
        device: auto, cpu or cuda.
        out: folder of the tables and the plot; it appears when all is done. Until then, finished
            trials are kept in `.NAME.trials` beside it, where the same call continues.
        overwrite: replace `out` if it exists.
        command: the command line, for the files.
        progress: show a progress bar.

    Raises:
        InputError: an unknown name or option, a policy cannot rank or learn from the log, a split
            leaves a part empty, scores are not finite, or `out` exists.
    """
    check_whole("seeds", seeds, 1)
    if seen not in get_args(Seen):
        raise InputError(f"seen {seen!r} is unknown: keep or filter")
    ks = tuple(sorted({check_whole("a cut-off", k, 1) for k in cutoffs}))
    if not ks:
        raise InputError("no cut-off given: for example 10")
    setup = RankingSetup(Path(log), options, ks, seen, dict(settings or {}), device)
    with nullcontext() if out is None else new_folder(Path(out), overwrite) as building:
        entries = _entries(policies, setup)
        names = names_in(splits)
        load_split.cache_clear()  # the folder may hold another log than in an earlier call
        parts = {name: load_split(setup.log, name, options) for name in names}
        loaded = SessionLog.load(setup.log)
        when = sha256(loaded.time.tobytes()).hexdigest()  # which the fingerprint leaves out
        key = repr((loaded.fingerprint(), when, asdict(setup) | {"log": None}))
        with folder_of_trials(out) as folder:
            cases = {
                folder / file_of(entry, seed, f"{key} {name}"): (entry.given, setup, name, seed)
                for name in names
                for entry in entries
                for seed in range(seeds)
            }
            run_missing(cases, workers, progress, run_ranking_trial, label="rank")
            trials = [load_stored(path, RankingTrial) for path in cases]
            rows = [row for name in names for row in _rows([t for t in trials if t.split == name])]
            leaking = [{"split": name, **leaks(part)} for name, part in parts.items()]
            facts = _facts(setup, rows, names) | {"command": command}
            files = [] if building is None else report.write(rows, leaking, facts, building)
    return Ranking(rows, leaking, facts, [Path(str(out)) / file.name for file in files])


def _entries(policies: str | Sequence[PolicySource], setup: RankingSetup) -> list[Entry]:
    """Return the policies, all of which can be made for the log and rank."""
    given = names_in(policies) if isinstance(policies, str) else policies
    entries = find_policies(given)
    if not entries:
        raise InputError("no policy given: for example popular,item_knn,sasrec")
    known = {
        field.name
        for entry in entries
        if isinstance(entry.source, type)
        for field in fields(entry.source.config_class)
    }
    for name in setup.settings:
        if name not in known:
            raise InputError(f"no policy has a setting {name!r}; there are {', '.join(known)}")
    log = SessionLog.load(setup.log)
    for entry in entries:
        make_policy(entry, log, setup, 0)
    return entries


def _rows(trials: Sequence[RankingTrial]) -> list[dict[str, Any]]:
    """Return a row for each policy of one split, in the order in which they were given."""
    policies: dict[str, list[RankingTrial]] = {}
    for trial in trials:
        policies.setdefault(trial.policy, []).append(trial)
    rows, first = [], dict[str, np.ndarray]()
    for policy, own in policies.items():
        row: dict[str, Any] = {
            "split": own[0].split,
            "policy": policy,
            "users": len(next(iter(own[0].test.values()))),
            "seeds": len(own),
            "train_seconds": float(np.mean([t.train_seconds for t in own])),
            "synthetic": own[0].synthetic,
        }
        for name in own[0].test:
            values = np.array([t.test[name] for t in own])  # [seeds, users]
            row |= crossed_interval(name, values)
            base = first.setdefault(name, values)
            if base is not values:
                row |= crossed_interval(f"{name}_above", values - base)
            if own[0].validation:
                validation = np.concatenate([t.validation[name] for t in own])
                row[f"validation_{name}"] = float(validation.mean())
        row |= {k: float(np.mean([t.coverage[k] for t in own])) for k in own[0].coverage}
        rows.append(row)
    return rows


def _facts(
    setup: RankingSetup, rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, Any]:
    """Return how the table was made, and how well the order of policies agrees between parts."""
    log = SessionLog.load(setup.log)
    main = f"ndcg@{10 if 10 in setup.cutoffs else setup.cutoffs[0]}"
    orders = {name: [row[main] for row in rows if row["split"] == name] for name in names}
    agreement = {
        f"{name}: validation": _agreement(
            orders[name], [row.get(f"validation_{main}") for row in rows if row["split"] == name]
        )
        for name in names
    }
    if len(names) == 2:
        agreement[" and ".join(names)] = _agreement(orders[names[0]], orders[names[1]])
    return {
        "log": str(log.card.get("name")),
        "synthetic": log.synthetic,
        "items": len(log.catalogue),
        "main": main,
        "cutoffs": list(setup.cutoffs),
        "seen": setup.seen,
        "settings": dict(setup.settings),
        **asdict(setup.options),
        "agreement": {k: v for k, v in agreement.items() if v is not None},
    }


def _agreement(one: Sequence[float], other: Sequence[float | None]) -> float | None:
    """Return Kendall's τ of two orders of the policies; None for fewer than three policies."""
    if len(one) < 3 or None in other:
        return None
    tau = kendalltau(one, np.array(other, float)).statistic
    return None if np.isnan(tau) else float(tau)
