"""The trials of an offline ranking: train one policy on a split and rank the targets."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from agents.finding import Entry, PolicySource, find_policy
from agents.from_log import LogPolicy
from agents.loading import load_policy
from agents.policy import Policy
from agents.site import Site
from benchmarks.studies.ranking.metrics import by_user, evaluate
from benchmarks.studies.ranking.splits import Split, SplitName, SplitOptions, make_split
from responders import InputError, SessionLog
from responders.config import known_settings
from responders.device import pick_device
from responders.files import write_json
from responders.log.counts import count

Seen = Literal["keep", "filter"]
"""Whether items of a history are ranked, or never recommended again."""


@dataclass(frozen=True)
class RankingSetup:
    """What a trial needs beside the policy.

    Args:
        log: folder of the log.
        options: of the splits.
        cutoffs: the values of k.
        seen: see `Seen`.
        settings: changed for policies that have them.
        device: where policies learn and score.
    """

    log: Path
    options: SplitOptions
    cutoffs: tuple[int, ...]
    seen: Seen
    settings: Mapping[str, Any]
    device: str


class RankingTrial(BaseModel):
    """What a policy with one seed reached on one split.

    Args:
        policy: its name.
        split: its name.
        seed: of the policy.
        test: of each metric, the mean over the questions of each test user, in the order of users.
        validation: likewise; empty without validation.
        coverage: share of the catalogue among the first k of any question.
        train_seconds: time of making and training.
        synthetic: whether the policy learned from simulated users.
    """

    policy: str
    split: str
    seed: int
    test: dict[str, list[float]]
    validation: dict[str, list[float]]
    coverage: dict[str, float]
    train_seconds: float
    synthetic: bool


@lru_cache(maxsize=4)
def load_split(log: Path, name: SplitName, options: SplitOptions) -> Split:
    """Return the split of the log in a folder."""
    return make_split(SessionLog.load(log), name, options)


def make_policy(entry: Entry, log: SessionLog, setup: RankingSetup, seed: int) -> Policy:
    """Return the policy for a log, untrained unless it was given as trained.

    Raises:
        InputError: it has no scores, learns by acting only, or is of another catalogue.
    """
    site = Site.of_log(log, pick_device(setup.device))
    if isinstance(entry.source, type):
        kind = entry.source
        own = known_settings(kind.config_class, setup.settings)
        if entry.learns_by_acting:
            raise InputError(
                f"policy {entry.name} learns by acting, not from a log: give the folder of a "
                "trained one"
            )
        try:
            policy = kind(site, kind.config_class(**own), seed)
        except (AttributeError, TypeError) as error:
            raise InputError(f"policy {entry.name} needs a world, a log is not enough") from error
    else:
        policy = entry.source if isinstance(entry.source, Policy) else load_policy(entry.source)
        if policy.catalogue.ids.tolist() != log.catalogue.ids.tolist():
            raise InputError(f"policy {entry.name} has another catalogue than the log {setup.log}")
    if not policy.has_scores:
        raise InputError(f"policy {entry.name} chooses slates and has no scores to rank items by")
    return policy


def run_ranking_trial(
    path: Path, source: PolicySource, setup: RankingSetup, name: SplitName, seed: int
) -> None:
    """Train and evaluate a policy on a split, and write the trial to the file `path`."""
    entry, split = find_policy(source), load_split(setup.log, name, setup.options)
    began = time.perf_counter()
    policy = make_policy(entry, split.training, setup, seed)
    if not entry.is_trained and isinstance(policy, LogPolicy):
        policy.fit(split.training)
    seconds = time.perf_counter() - began
    learned = split.training
    clicked = count(learned, np.arange(learned.n_sessions))[1].sum(1)
    found: dict[str, dict[str, list[float]]] = {"test": {}, "validation": {}}
    coverage: dict[str, float] = {}
    for part in ("validation", "test"):
        cases = getattr(split, part)
        if len(cases):
            values, coverage = evaluate(
                policy, cases, setup.cutoffs, keep_seen=setup.seen == "keep", clicked=clicked
            )
            found[part] = {k: v.tolist() for k, v in by_user(cases.user, values).items()}
    trial = RankingTrial(
        policy=entry.name,
        split=name,
        seed=seed,
        coverage=coverage,
        train_seconds=seconds,
        synthetic=policy.synthetic,
        **found,
    )
    write_json(path, trial.model_dump())
