"""Leaderboard: policies with the same simulated users, with 95 % intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from agents.finding import Entry, PolicySource, find_policies, find_policy
from agents.registry import known_policies
from benchmarks.harness import names_in
from benchmarks.reports.curves import Point, write_curves
from benchmarks.reports.leaderboard import Difference, Row, write
from benchmarks.studies.curves import budgets, learners, summarise_curves
from benchmarks.studies.standings import summarise
from benchmarks.studies.stored import (
    Case,
    file_of,
    folder_of_trials,
    load_stored,
    run_missing,
)
from benchmarks.studies.trials import NewWorld, Trial, run_trial
from benchmarks.workers import Workers
from recsim_env.make import find_responder, make_world, open_responder
from recsim_env.scenarios import find_scenario
from recsim_env.world import World
from responders import InputError, SessionLog
from responders.device import pick_device
from responders.errors import check_whole
from responders.files import new_folder
from responders.progress import progress_bar


@dataclass(frozen=True)
class Plan:
    """The trials of a leaderboard.

    Args:
        cases: what to run, by the file of its result.
        facts: environment, responder, synthetic or not.
    """

    cases: dict[Path, Case]
    facts: dict[str, Any]

    def trials(self) -> list[Trial]:
        """Return the results of those that have run."""
        return [load_stored(path, Trial) for path in self.cases if path.exists()]


@dataclass(frozen=True)
class Leaderboard:
    """The result of `run`: the rows, best first, and how they were produced.

    Args:
        rows: one for each policy.
        differences: between the rewards of each pair of policies, user by user.
        title: the environment and the kind of users.
        facts: environment, responder, synthetic or not.
        files: the files written; empty without `out`.
        curves: the learning curves, if they were asked for.
    """

    rows: list[Row]
    differences: list[Difference]
    title: str
    facts: dict[str, Any]
    files: list[Path]
    curves: list[Point]


def run(
    environment: str,
    policies: str | Sequence[PolicySource] = "all",
    *,
    responder: str | Path | None = None,
    training_responder: str | Path | None = None,
    users: int = 500,
    seeds: int = 3,
    training_steps: int = 100_000,
    log: str | Path | None = None,
    curve: bool = False,
    workers: Workers = Workers(),  # noqa: B008
    device: torch.device | str = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: bool = True,
) -> Leaderboard:
    """Run policies in an environment, as `recsim bench` does.

    Args:
        environment: its id, such as RecSim-v0.
        policies: registered names, `FILE.py:Class`, `package.module:Class` and folders of saved
            policies, as a list or comma-separated; in a list, also classes and policies. Folders
            and policies run as they are, without training. all = all registered policies that can
            run there.
        responder: folder of a trained responder or of a synthetic log (its true users); by default
            the environment's own.
        training_responder: the same, for the users with whom policies learn; by default those with
            whom they are judged.
        users: number of users per seed.
        seeds: number of repetitions, including training.
        training_steps: user-slate steps that a learning policy may train for.
        log: folder of a log, from which policies that learn from logs learn instead.
        curve: also train each policy that learns for 2/3, 4/9, … of the steps, nine times, which
            takes twice as long again. Each time it starts anew, as schedules depend on the budget.
        workers: what runs the policies; of several, each policy and seed has its own process.
        device: auto, cpu or cuda.
        out: folder for tables, plot and TensorBoard run; it appears when all is done. Until then,
            finished trials are kept in `.NAME.trials` beside it, where the same call continues.
        overwrite: replace `out` if it exists.
        command: the command line, for the files.
        progress: show a progress bar.

    Raises:
        InputError: a policy is unknown, cannot be imported or does not support the environment, two
            have one name, or `out` exists or is not writable.
    """
    check_sizes(users, seeds)
    with nullcontext() if out is None else new_folder(Path(out), overwrite) as building:
        place = find_responder(find_scenario(environment, responder=responder))
        worlds = Worlds(environment, place, training_responder, device)
        entries = find_entries(policies, worlds.training(1))
        with folder_of_trials(out) as folder:
            options: dict[str, Any] = {
                "users": users, "seeds": seeds, "log": log, "here": workers.here
            }  # fmt: skip
            chosen = plan(worlds, entries, folder, training_steps=training_steps, **options)
            run_missing(chosen.cases, workers, progress)
            trials, points = chosen.trials(), []
            if curve:
                learn = learners(entries, trials, log is not None)
                fewer = {
                    steps: plan(worlds, learn, folder, training_steps=steps, **options)
                    for steps in budgets(training_steps)
                }
                cases = {path: case for each in fewer.values() for path, case in each.cases.items()}
                run_missing(cases, workers, progress)
                points = summarise_curves(
                    trials, {n: each.trials() for n, each in fewer.items()}, [e.name for e in learn]
                )
        rows, differences = summarise(trials)
        facts = chosen.facts | {"command": command}
        files = [] if building is None else write(rows, differences, building, facts)
        if building is not None and points:
            files += write_curves(points, building, f"{environment}: learning curves")
    kind = "SYNTHETIC users" if facts["synthetic"] else "users learned from a real log"
    title = f"{environment}: {kind}, {facts['responder']}"
    paths = [Path(str(out)) / file.name for file in files]
    return Leaderboard(rows, differences, title, facts, paths, points)


def check_sizes(users: int, seeds: int) -> None:
    """Raise `InputError` unless all are whole numbers of at least 1."""
    for name, value in (("users", users), ("seeds", seeds)):
        check_whole(name, value, 1)


class Worlds:
    """Where policies learn and where they are judged.

    Args:
        environment: its id.
        responder: of the judging users, for `open_responder`.
        training_responder: of those with whom policies learn; None = the same.
        device: auto, cpu or cuda.

    Raises:
        InputError: a responder cannot be opened, or the two have different catalogues.
    """

    def __init__(
        self,
        environment: str,
        responder: Any,
        training_responder: Any = None,
        device: torch.device | str = "auto",
    ) -> None:
        self.environment, self.device = environment, pick_device(device)
        self.sources = [responder, responder if training_responder is None else training_responder]
        self.judge = self.teacher = open_responder(responder)
        if training_responder is not None:
            self.teacher = open_responder(training_responder)
        judged, learned = (each.card["catalogue"] for each in (self.judge, self.teacher))
        if judged != learned:
            raise InputError(
                f"policies would learn with another catalogue ({learned['items']} items) than they "
                f"are judged with ({judged['items']} items): give responders of one log"
            )

    def training(self, users: int) -> World:
        """Return the world in which policies learn."""
        return _new_world(self.environment, self.device, self.teacher, users)

    def functions(self, in_this_process: bool) -> tuple[NewWorld, NewWorld]:
        """Return what makes the judging and the training world."""
        opened: list[Any] = [self.judge, self.teacher] if in_this_process else self.sources
        judge, teacher = (
            partial(_new_world, self.environment, self.device, source) for source in opened
        )
        return judge, teacher


def plan(
    worlds: Worlds,
    entries: Sequence[Entry],
    folder: Path,
    *,
    users: int,
    seeds: int,
    training_steps: int,
    log: str | Path | None = None,
    here: bool = True,
) -> Plan:
    """Return the trials of `entries`, whose results are files in `folder`; see `run`.

    `here` says that this process runs them, with the responders that are open already.
    """
    facts = {
        "environment": worlds.environment,
        "responder": worlds.judge.card["responder"]["name"],
        "training_responder": worlds.teacher.card["responder"]["name"],
        "synthetic": worlds.judge.synthetic,
        "users": users,
        "training_steps": training_steps,
        "log": None if log is None else SessionLog.load(log).fingerprint(),
    }
    key = json.dumps([facts, str(worlds.device), worlds.judge.card, worlds.teacher.card])
    judge, teacher = worlds.functions(here)
    cases: dict[Path, Case] = {
        folder / file_of(entry, seed, key): (
            entry.given, judge, users, seed, training_steps,
            None if log is None else Path(log), teacher,
        )
        for entry in entries
        for seed in range(seeds)
    }  # fmt: skip
    return Plan(cases, facts)


def _new_world(environment: str, device: torch.device, responder: Any, num_users: int) -> World:
    return make_world(environment, num_users=num_users, responder=responder, device=device)


def find_entries(policies: str | Sequence[PolicySource], world: World) -> list[Entry]:
    """Return the policies that can run in `world`; see `run`.

    Raises:
        InputError: no policy is given, or one of them cannot run.
    """
    if isinstance(policies, str) and policies == "all":
        return [find_policy(name) for name in known_policies() if _runs(name, world)]
    given: Sequence[PolicySource] = names_in(policies) if isinstance(policies, str) else policies
    if not given:
        raise InputError(f"no policy given; known: {', '.join(known_policies())}")
    entries = find_policies(given)
    for entry in entries:
        entry.make(world, 0)
    return entries


def _runs(name: str, world: World) -> bool:
    try:
        find_policy(name).make(world, 0)
    except InputError:
        return False
    return True


def leaderboard(
    new_world: NewWorld,
    policies: str | Sequence[PolicySource],
    *,
    users: int = 500,
    seeds: int = 3,
    training_steps: int = 100_000,
    log: SessionLog | None = None,
    progress: bool = True,
) -> list[Row]:
    """Run each policy with the same users; return a row for each, best mean reward first.

    Args:
        new_world: returns a world with the given number of users.
        policies: see `run`.
        users: number of users per seed.
        seeds: number of repetitions, including training.
        training_steps: user-slate steps that a learning policy may train for, with other users.
        log: from which policies that learn from logs learn instead.
        progress: show a progress bar.

    Raises:
        InputError: users or seeds below 1, or a policy does not support the world.
    """
    check_sizes(users, seeds)
    entries = find_entries(policies, new_world(1))
    cases = [(entry, seed) for entry in entries for seed in range(seeds)]
    trials = [
        run_trial(entry, new_world, users, seed, training_steps, log)
        for entry, seed in progress_bar(cases, desc="leaderboard", disable=not progress)
    ]
    return summarise(trials)[0]
