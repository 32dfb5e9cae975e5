"""The suite: a leaderboard in the world of each skill, and scores from 0 (random) to 1 (reference).

After bsuite (Osband et al., 2020).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.finding import Entry, PolicySource, find_policies, find_policy
from agents.registry import known_policies
from benchmarks.harness import names_in
from benchmarks.reports import leaderboard, suite
from benchmarks.reports.suite import SkillScore
from benchmarks.studies.leaderboard import Plan, Worlds, check_sizes, plan
from benchmarks.studies.standings import summarise
from benchmarks.studies.stored import folder_of_trials, run_missing
from benchmarks.studies.trials import Trial, run_stored
from benchmarks.workers import Workers
from recsim_env.make import ASSETS
from recsim_env.registry import ENVIRONMENTS
from recsim_env.skills import SKILLS, Skill
from responders import InputError
from responders.evaluation.bootstrap import interval, run_and_user_weights
from responders.files import new_folder, read_json, write_json

_RESAMPLES = 1000


@dataclass(frozen=True)
class Suite:
    """The result of `run`: the scores, skill by skill, and the files written."""

    scores: list[SkillScore]
    files: list[Path]


def run(
    policies: str | Sequence[PolicySource] = "all",
    *,
    users: int = 500,
    seeds: int = 3,
    training_steps: int = 100_000,
    workers: Workers = Workers(),  # noqa: B008
    device: torch.device | str = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: bool = True,
) -> Suite:
    """Run policies in the world of each skill, as `recsim bench suite` does.

    Random slates and the reference of each skill run as well. A policy that cannot run in one
    world has no score there; a line on stderr says why, before any work where it can be known.

    Args:
        policies: see `benchmarks.studies.leaderboard.run`, which also describes the others.
        users: number of users per seed.
        seeds: number of repetitions, including training.
        training_steps: user-slate steps that a learning policy may train for.
        workers: what runs the policies.
        device: auto, cpu or cuda.
        out: folder for suite.csv, .json and .png and a leaderboard of each skill; it appears when
            all is done. Until then, finished trials are kept in `.NAME.trials` beside it.
        overwrite: replace `out` if it exists.
        command: the command line, for the files.
        progress: show a progress bar.

    Raises:
        InputError: a policy is unknown or can run in no world, or `out` exists or is not writable.
    """
    check_sizes(users, seeds)
    with nullcontext() if out is None else new_folder(Path(out), overwrite) as building:
        entries = _entries(policies)
        is_all = isinstance(policies, str) and policies == "all"
        worlds = {name: _worlds(name, skill, device) for name, skill in SKILLS.items()}
        able, notes = _able(entries, worlds, drop=is_all)
        with folder_of_trials(out) as folder:
            plans = {
                name: plan(
                    worlds[name], able[name], folder, users=users, seeds=seeds,
                    training_steps=training_steps, here=workers.here,
                )
                for name in SKILLS
            }  # fmt: skip
            _run(plans, workers, progress)
            trials = {name: _finished(name, plans[name], notes) for name in SKILLS}
            scores = [
                score
                for name, skill in SKILLS.items()
                for score in score_trials(name, skill.reference, trials[name], notes, list(entries))
            ]
        facts = {"users": users, "training_steps": training_steps, "command": command}
        files = [] if building is None else _write(building, scores, plans, trials, facts)
    return Suite(scores, [Path(str(out)) / file.relative_to(str(building)) for file in files])


def _entries(policies: str | Sequence[PolicySource]) -> dict[str, Entry]:
    """Return the policies by name: those given, then `random` and the references."""
    if isinstance(policies, str) and policies == "all":
        given = [find_policy(name) for name in known_policies() if _is_installed(name)]
    else:
        given = find_policies(names_in(policies) if isinstance(policies, str) else policies)
    if not given:
        raise InputError(f"no policy given; known: {', '.join(known_policies())}")
    entries = {entry.name: entry for entry in given}
    needed = ["random", *(skill.reference for skill in SKILLS.values())]
    missing = [name for name in dict.fromkeys(needed) if name not in entries]
    return entries | {entry.name: entry for entry in find_policies(missing)}


def _is_installed(name: str) -> bool:
    try:
        find_policy(name)
    except InputError:
        return False
    return True


def _worlds(name: str, skill: Skill, device: torch.device | str) -> Worlds:
    environment = next(env for env, scenario in ENVIRONMENTS.items() if scenario == name)
    return Worlds(
        environment, skill.truth, None if skill.learned is None else ASSETS / skill.learned, device
    )


def _able(
    entries: dict[str, Entry], worlds: dict[str, Worlds], drop: bool
) -> tuple[dict[str, list[Entry]], dict[tuple[str, str], str]]:
    """Return the policies that can run in each world, and why others cannot, by skill and policy.

    Args:
        entries: the policies by name.
        worlds: by skill.
        drop: remove policies that can run in no world from `entries`.

    Raises:
        InputError: a policy can run in no world, and is not to be dropped.
    """
    able: dict[str, list[Entry]] = {name: [] for name in worlds}
    notes: dict[tuple[str, str], str] = {}
    for name, each in worlds.items():
        world = each.training(1)
        for policy, entry in entries.items():
            try:
                entry.make(world, 0)
                able[name].append(entry)
            except Exception as error:  # whatever a policy raises
                notes[name, policy] = _reason(error)
    for policy in list(entries):
        reasons = [notes[name, policy] for name in worlds if (name, policy) in notes]
        if len(reasons) < len(worlds):
            continue
        if not drop:
            raise InputError(f"policy {policy} can run in no world of the suite: {reasons[0]}")
        del entries[policy]
        notes = {place: reason for place, reason in notes.items() if place[1] != policy}
    for (name, policy), reason in notes.items():
        print(
            f"note: {policy} does not run in {worlds[name].environment}: {reason}", file=sys.stderr
        )
    return able, notes


def _run(plans: dict[str, Plan], workers: Workers, progress: bool) -> None:
    cases = {path: case for each in plans.values() for path, case in each.cases.items()}
    for path in cases:
        _failure(path).unlink(missing_ok=True)  # try again what failed before
    run_missing(cases, workers, progress, run_or_note)


def run_or_note(path: Path, *case: Any) -> None:
    """Run a trial; if it fails, write why beside the file that it would have, and go on."""
    try:
        run_stored(path, *case)
    except Exception as error:  # whatever a policy raises
        write_json(_failure(path), {"error": _reason(error)})


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def _failure(path: Path) -> Path:
    return path.with_suffix(".failed")


def _finished(name: str, chosen: Plan, notes: dict[tuple[str, str], str]) -> list[Trial]:
    """Return the trials of the policies that did not fail; add to `notes` why others did."""
    for path in chosen.cases:
        if not path.exists():
            policy = path.name.rsplit("-", 2)[0]
            notes[name, policy] = reason = read_json(_failure(path), "trial")["error"]
            print(f"note: {policy} failed in {name}: {reason}", file=sys.stderr)
    return [trial for trial in chosen.trials() if (name, trial.policy) not in notes]


def score_trials(
    skill: str,
    reference: str,
    trials: Sequence[Trial],
    notes: dict[tuple[str, str], str],
    policies: Sequence[str],
) -> list[SkillScore]:
    """Return the score of each of `policies` in the world of a skill.

    Args:
        skill: its name.
        reference: the policy whose score is 1.
        trials: of the skill, among them those of `random` and of the reference.
        notes: why a policy has no trials, by skill and policy.
        policies: names.

    Raises:
        InputError: `random` or the reference has no trials.
    """
    rewards: dict[str, np.ndarray] = {}
    for trial in trials:
        rewards[trial.policy] = np.append(rewards.get(trial.policy, []), trial.reward)
    for name in ("random", reference):
        if name not in rewards:
            raise InputError(
                f"{name} failed in {skill}, so there are no scores: {notes[skill, name]}"
            )
    users = [len(trial.reward) for trial in trials if trial.policy == "random"]
    drawn = np.stack(list(run_and_user_weights(users, _RESAMPLES)))
    drawn = drawn / drawn.sum(1, keepdims=True)
    low, high = rewards["random"], rewards[reference]
    rows = []
    for name in policies:
        if name not in rewards:
            rows.append(SkillScore(skill, name, note=notes[skill, name]))
            continue
        gain, span = rewards[name] - low, high - low
        score = np.clip(gain.mean() / span.mean(), 0, 1)
        scores = np.clip((drawn @ gain) / (drawn @ span), 0, 1)
        mean, means = rewards[name].mean(), drawn @ rewards[name]
        numbers: dict[str, Any] = interval("score", score, scores)
        numbers |= interval("reward", mean, means)
        rows.append(SkillScore(skill, name, **numbers))
    return rows


def _write(
    out: Path,
    scores: list[SkillScore],
    plans: dict[str, Plan],
    trials: dict[str, list[Trial]],
    facts: dict[str, Any],
) -> list[Path]:
    for name, chosen in plans.items():
        rows, differences = summarise(trials[name])
        leaderboard.write(rows, differences, out / name, chosen.facts | facts)
    return suite.write(scores, out, facts)
