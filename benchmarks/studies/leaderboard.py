"""Leaderboard: policies with the same simulated users, with 95 % intervals."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from agents.finding import Entry, Source, find_policies, find_policy, fingerprint
from agents.registry import known_policies
from benchmarks.harness import names_in, run_cases
from benchmarks.reports.leaderboard import Difference, Row, write
from benchmarks.studies.standings import summarise
from benchmarks.studies.trials import NewWorld, load_trial, run_stored, run_trial
from recsim_env.make import find_responder, make_world, open_responder
from recsim_env.scenarios import find_scenario
from recsim_env.world import World
from responders import InputError, SessionLog
from responders.device import pick_device
from responders.errors import check_whole
from responders.files import new_folder
from responders.progress import progress_bar
from responders.training.checkpoint import CARD


@dataclass(frozen=True)
class Leaderboard:
    """The result of `run`: the rows, best first, and how they were produced.

    Args:
        rows: one for each policy.
        differences: between the rewards of each pair of policies, user by user.
        title: the environment and the kind of users.
        facts: environment, responder, synthetic or not.
        files: the files written; empty without `out`.
    """

    rows: list[Row]
    differences: list[Difference]
    title: str
    facts: dict[str, Any]
    files: list[Path]


def run(
    environment: str,
    policies: str | Sequence[Source] = "all",
    *,
    responder: str | Path | None = None,
    users: int = 500,
    seeds: int = 3,
    training_steps: int = 100_000,
    log: str | Path | None = None,
    jobs: int = 1,
    threads: int | None = None,
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
        users: number of users per seed.
        seeds: number of repetitions, including training.
        training_steps: user-slate steps that a learning policy may train for.
        log: folder of a log, from which policies that learn from logs learn instead.
        jobs: number of processes; with several, each policy and seed has one of its own.
        threads: CPU threads of PyTorch per process; by default the cores are divided among jobs.
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
    for name, value in (("users", users), ("seeds", seeds), ("jobs", jobs)):
        check_whole(name, value, 1)
    with nullcontext() if out is None else new_folder(Path(out), overwrite) as building:
        place = Path(responder or find_responder(find_scenario(environment))).expanduser()
        checkpoint = open_responder(place)
        new_world = partial(_new_world, environment, pick_device(device))
        entries = find_entries(policies, new_world(checkpoint, 1))
        facts = {
            "environment": environment,
            "responder": checkpoint.card["responder"]["name"],
            "synthetic": checkpoint.synthetic,
            "users": users,
            "training_steps": training_steps,
            "log": None if log is None else SessionLog.load(log).fingerprint(),
        }
        key = json.dumps([facts, str(device), fingerprint(place / CARD)])
        in_this_process = jobs == 1
        threads = threads or (None if in_this_process else max((os.cpu_count() or 1) // jobs, 1))
        worlds = partial(new_world, checkpoint if in_this_process else place)
        with _folder_of_trials(out) as folder:
            cases = {
                folder / _file(entry, seed, key): (
                    entry.given, worlds, users, seed, training_steps,
                    None if log is None else Path(log), threads,
                )
                for entry in entries
                for seed in range(seeds)
            }  # fmt: skip
            _run_missing(cases, jobs, progress)
            trials = [load_trial(path) for path in cases]
        rows, differences = summarise(trials)
        facts["command"] = command
        files = [] if building is None else write(rows, differences, building, facts)
    kind = "SYNTHETIC users" if facts["synthetic"] else "users learned from a real log"
    title = f"{environment}: {kind}, {facts['responder']}"
    paths = [Path(str(out)) / file.name for file in files]
    return Leaderboard(rows, differences, title, facts, paths)


def _new_world(environment: str, device: torch.device, responder: Any, num_users: int) -> World:
    return make_world(environment, num_users=num_users, responder=responder, device=device)


def find_entries(policies: str | Sequence[Source], world: World) -> list[Entry]:
    """Return the policies that can run in `world`; see `run`.

    Raises:
        InputError: no policy is given, or one of them cannot run.
    """
    if isinstance(policies, str) and policies == "all":
        return [find_policy(name) for name in known_policies() if _runs(name, world)]
    given: Sequence[Source] = names_in(policies) if isinstance(policies, str) else policies
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
    policies: str | Sequence[Source],
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
    check_whole("users", users, 1)
    check_whole("seeds", seeds, 1)
    entries = find_entries(policies, new_world(1))
    cases = [(entry, seed) for entry in entries for seed in range(seeds)]
    trials = [
        run_trial(entry, new_world, users, seed, training_steps, log)
        for entry, seed in progress_bar(cases, desc="leaderboard", disable=not progress)
    ]
    return summarise(trials)[0]


@contextmanager
def _folder_of_trials(out: str | Path | None) -> Iterator[Path]:
    """Yield the folder of the finished trials, which is removed when all of them are done."""
    if out is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    real = Path(out).resolve()
    folder = real.parent / f".{real.name}.trials"
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):  # it is not empty
            folder.rmdir()
        raise
    shutil.rmtree(folder)


def _file(entry: Entry, seed: int, key: str) -> str:
    """Return the name of a trial's file, which no other trial has."""
    digest = sha256(f"{key} {entry.fingerprint}".encode()).hexdigest()[:16]
    return f"{entry.name}-{seed}-{digest}.json"


def _run_missing(cases: dict[Path, tuple[Any, ...]], jobs: int, progress: bool) -> None:
    """Run the trials that have no file yet."""
    missing = {path: (path, *values) for path, values in cases.items() if not path.exists()}
    done = len(cases) - len(missing)
    if jobs > 1:
        for source, *_ in cases.values():
            _check_picklable(source)
        for _ in run_cases(
            run_stored, missing, jobs=jobs, label="leaderboard", done=done, progress=progress
        ):
            pass
        return
    with progress_bar(
        total=len(cases), initial=done, desc="leaderboard", disable=not progress
    ) as bar:
        for path, values in missing.items():
            bar.set_postfix_str(path.name.rsplit("-", 1)[0], refresh=False)
            run_stored(*values)
            bar.update()


def _check_picklable(source: Source) -> None:
    try:
        pickle.dumps(source)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InputError(
            f"{source} cannot be sent to other processes ({error}): use jobs=1, or give "
            "FILE.py:Class or the folder of a saved policy"
        ) from error
