"""The settings of a policy with the highest reward, found with Optuna (Akiba et al., KDD 2019)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

from agents.finding import find_policy
from benchmarks.reports import leaderboard
from benchmarks.studies.leaderboard import Leaderboard, Worlds, check_sizes
from benchmarks.studies.standings import summarise
from benchmarks.studies.stored import load_stored, run_missing
from benchmarks.studies.trials import NewWorld, Trial, run_trial
from benchmarks.workers import Workers
from recsim_env.make import find_responder
from recsim_env.scenarios import find_scenario
from responders import InputError, SessionLog
from responders.config import Config, make_config
from responders.errors import check_whole, near_matches
from responders.files import lock, read_json, write_json

DEFAULT = "default settings"
_FACTOR = 4.0
_EDGE = 1e-3  # distance from a limit that is not permitted itself


@dataclass(frozen=True)
class TuningSetup:
    """What a trial needs beside its number or its settings; see `tune`."""

    out: Path
    key: str
    new_world: NewWorld
    policy: str
    search: Mapping[str, Any]
    fixed: Mapping[str, Any]
    users: int
    steps: int
    log: Path | None

    def file(self, name: object) -> Path:
        """Return the file of a trial, which no other study has."""
        return self.out / "trials" / f"{self.key}-{name}.json"


def tune(
    environment: str,
    policy: str,
    trials: int = 20,
    *,
    out: str | Path,
    search: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    responder: str | Path | None = None,
    log: str | Path | None = None,
    users: int = 500,
    training_steps: int = 100_000,
    seeds: int = 3,
    workers: Workers = Workers(),  # noqa: B008
    device: str = "auto",
    command: str = "",
    progress: bool = True,
) -> Leaderboard:
    """Search for the settings of a policy with which it earns the most, as `recsim tune` does.

    Optuna's tree-structured Parzen estimator suggests the settings of each trial, in which the
    policy learns with seed 0 and is measured. Then the best settings are compared with the default
    ones with other seeds and users, as the best of many trials looks better than it is.

    Args:
        environment: its id, such as RecSim-v0.
        policy: name of a policy; see `agents.finding.find_policy`.
        trials: how many; finished ones in `out` count.
        out: folder of the study, where the same call continues, also with more trials.
        search: the settings to search, with their range as LOW:HIGH, or "" for that of `ranges`; by
            default all that have one.
        settings: that stay as given, in all trials.
        responder: see `benchmarks.studies.leaderboard.run`, as for `log` and `training_steps`.
        users: with whom each trial is measured.
        seeds: of the comparison.
        workers: what runs the trials, which share the study in `out`.
        device: auto, cpu or cuda.
        command: the command line, for the files.
        progress: show progress bars.

    Returns:
        The comparison; its facts hold the best `settings`.

    Raises:
        InputError: Optuna is not installed, an unknown name or setting, a range that is none, or
            no trial succeeded.
    """
    if find_spec("optuna") is None:
        raise InputError("Optuna is not installed: pip install 'recsim-env[tune]'")
    check_sizes(users, seeds)
    check_whole("trials", trials, 1)
    fixed, config_class = dict(settings or {}), _config_class(policy)
    make_config(config_class, fixed, policy)
    place = find_responder(find_scenario(environment, responder=responder))
    worlds = Worlds(environment, place, None, device)
    space = _chosen(ranges(config_class), search or {}, fixed, policy)
    facts: dict[str, Any] = {
        "environment": environment, "policy": policy, "users": users, "fixed": fixed,
        "search": space, "training_steps": training_steps, "synthetic": worlds.judge.synthetic,
        "responder": worlds.judge.card["responder"]["name"],
        "log": None if log is None else SessionLog.load(log).fingerprint(),
    }  # fmt: skip
    key = sha256(json.dumps([facts, worlds.judge.card]).encode()).hexdigest()[:16]
    setup = TuningSetup(
        Path(out).absolute(), key, worlds.functions(workers.here)[0], policy, space, fixed, users,
        training_steps, None if log is None else Path(log).absolute(),
    )  # fmt: skip
    with lock(setup.out):
        (setup.out / "trials").mkdir(parents=True, exist_ok=True)
        found = _search(setup, trials, workers, progress)
        best: dict[str, Any] = max(found, key=lambda trial: trial.get("reward", -np.inf))
        if "reward" not in best:
            raise InputError(f"no trial of {policy} succeeded: {best['error']}")
        rows, differences = summarise(_compare(setup, best, seeds, workers, progress))
        facts |= {"settings": fixed | best["settings"], "command": command}
        files = [*leaderboard.write(rows, differences, setup.out, facts), setup.out / "trials.csv"]
        pd.json_normalize(found).to_csv(files[-1], index=False)
    return Leaderboard(rows, differences, f"{policy} in {environment}", facts, files, [])


def _search(
    setup: TuningSetup, trials: int, workers: Workers, progress: bool
) -> list[dict[str, Any]]:
    """Return what each trial found: its number and settings, and the reward or the error."""
    paths = [setup.file(number) for number in range(trials)]
    suggested = {path: (setup, number) for number, path in enumerate(paths)}
    run_missing(suggested, workers, progress, run_suggested, label="tune")
    return [{"trial": n, **read_json(path, "trial")} for n, path in enumerate(paths)]


def _compare(
    setup: TuningSetup, best: Mapping[str, Any], seeds: int, workers: Workers, progress: bool
) -> list[Trial]:
    """Return trials of the default settings and of the best ones."""
    compared: dict[Path, Any] = {
        setup.file(f"{name}-{seed}"): (setup, name, settings, seed)
        for name, settings in ((DEFAULT, {}), (f"trial {best['trial']}", best["settings"]))
        for seed in range(1, seeds + 1)
    }
    run_missing(compared, workers, progress, run_compared, label="compare")
    return [load_stored(path, Trial) for path in compared]


def run_suggested(path: Path, setup: TuningSetup, number: int) -> None:
    """Run a trial with the settings that Optuna suggests, and write it to the file `path`."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(
            JournalFileBackend(str(setup.out / "study.journal"))
        ),
        sampler=optuna.samplers.TPESampler(seed=number, constant_liar=True),
        study_name=setup.key,
        direction="maximize",
        load_if_exists=True,
    )
    if number == 0:  # the defaults, which the best can then not be worse than
        config = _config(setup, {})
        study.enqueue_trial({name: getattr(config, name) for name in setup.search})
    trial = study.ask()
    for name, values in setup.search.items():
        if isinstance(values, list):
            trial.suggest_categorical(name, values)
        elif all(isinstance(value, int) for value in values):
            trial.suggest_int(name, *values, log=values[0] > 0)
        else:
            trial.suggest_float(name, *values, log=values[0] > 0)
    found: dict[str, Any] = {"settings": trial.params}
    try:
        found["reward"] = float(np.mean(_run(setup, "", trial.params, 0).reward))
        study.tell(trial, found["reward"])
    except InputError as error:  # settings that do not go together
        found["error"] = str(error)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    write_json(path, found)


def run_compared(
    path: Path, setup: TuningSetup, name: str, settings: dict[str, Any], seed: int
) -> None:
    """Run a trial with `settings` and write it to the file `path`."""
    write_json(path, _run(setup, name, settings, seed).model_dump())


def _config(setup: TuningSetup, settings: Mapping[str, Any]) -> Config:
    return make_config(_config_class(setup.policy), {**setup.fixed, **settings}, setup.policy)


def _config_class(policy: str) -> type[Config]:
    kind = find_policy(policy).source
    if not isinstance(kind, type):
        raise InputError(f"{policy} is trained already: give the name of a policy that learns")
    return kind.config_class


def _run(setup: TuningSetup, name: str, settings: Mapping[str, Any], seed: int) -> Trial:
    log = None if setup.log is None else SessionLog.load(setup.log)
    entry = replace(find_policy(setup.policy), name=name, config=_config(setup, settings))
    return run_trial(entry, setup.new_world, setup.users, seed, setup.steps, log)


def ranges(kind: type[Config]) -> dict[str, Any]:
    """Return what each setting of a configuration may be: a list of choices or (low, high).

    Choices are searched whole, as are numbers with both limits at most 1 apart; other numbers,
    from a quarter of their default to four times it, within their limits, on a logarithmic scale.
    Texts and numbers whose default is 0, which often turns something off, are left out.
    """
    found: dict[str, Any] = {}
    for f in fields(kind):
        hint, limits = get_type_hints(kind)[f.name], f.metadata.get("limits", {})
        default: Any = f.default
        low = limits.get("ge", limits.get("gt", -np.inf) + _EDGE)
        high = limits.get("le", limits.get("lt", np.inf) - _EDGE)
        if hint is bool or get_origin(hint) is Literal:
            found[f.name] = [False, True] if hint is bool else list(get_args(hint))
        elif hint is float and high - low <= 1:
            found[f.name] = (float(low), float(high))
        elif hint in (int, float) and default > 0:
            low = max(limits.get("ge", limits.get("gt", 0)), default / _FACTOR, hint is int)
            found[f.name] = (hint(low), hint(min(high, default * _FACTOR)))
    return found


def _chosen(
    known: dict[str, Any], search: Mapping[str, str], fixed: Mapping[str, Any], policy: str
) -> dict[str, Any]:
    """Return the settings to search and what each may be."""
    found = {name: known.get(name) for name in search or known if name not in fixed}
    if not found:
        raise InputError(f"{policy} has nothing to search: choose a policy with settings")
    for name, values in found.items():
        if values is None:
            raise InputError(f"{policy} has no range of {name!r}; {near_matches(name, known)}")
        low, colon, high = search.get(name, "").partition(":")
        if colon:
            number = int if isinstance(values[-1], int) else float
            try:
                found[name] = (number(low), number(high))
            except ValueError:
                raise InputError(f"the range of {name} is LOW:HIGH, not {low}:{high}") from None
    return found
