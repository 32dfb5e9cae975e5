"""The fidelity report: how far simulated users can be trusted.

Each part of each responder is a file in `OUT/parts`, so that the same call continues after an
interruption.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.registry import POLICIES
from benchmarks.harness import check_out
from benchmarks.reports import fidelity as report
from benchmarks.studies.fidelity import counterfactual as cf
from benchmarks.studies.fidelity import prediction
from benchmarks.studies.fidelity.cases import Case, Data, find_cases, held_out
from benchmarks.studies.fidelity.estimates import check_target, estimate, targets_of
from benchmarks.studies.fidelity.generation import generate
from benchmarks.studies.fidelity.policies import NewPolicy, policies_for
from benchmarks.studies.fidelity.verdict import Thresholds, coverage, headline, verdict
from recsim_env.loading import Source
from responders import InputError, SessionLog
from responders.config import make_config
from responders.device import pick_device
from responders.errors import check_whole
from responders.files import holds_files, lock, read_json, write_json
from responders.progress import progress_bar
from responders.registry import load
from responders.training.checkpoint import CARD, Checkpoint

PARTS, ROWS, DETAILS, REPORT = "parts", "fidelity.json", "details.json", "report.html"
_VERSION = 1  # of the parts: a change makes all of them again

Row = dict[str, str | float | None]


@dataclass(frozen=True)
class Fidelity:
    """The result of `fidelity`.

    Args:
        rows: the numbers of `fidelity.json`, one row a responder.
        details: everything else that was measured, and the verdicts.
        files: the files written; empty without `out`.
    """

    rows: list[Row]
    details: dict[str, Any]
    files: list[Path]


@dataclass(frozen=True)
class _Options:
    sessions: int
    users: int
    exploit: str
    train_steps: int
    seed: int
    device: torch.device
    progress: bool


def fidelity(
    responders: Source | Sequence[Source],
    log: str | Path | SessionLog,
    out: str | Path | None = None,
    *,
    target: str | Path | SessionLog | None = None,
    split: str = "test",
    sessions: int = 5000,
    users: int = 500,
    exploit: str = "greedy",
    train_steps: int = 100_000,
    seed: int = 0,
    thresholds: Mapping[str, Any] | None = None,
    device: str = "auto",
    command: str = "",
    progress: bool = True,
) -> Fidelity:
    """Measure how far simulated users can be trusted, as `recsim fidelity` does.

    Args:
        responders: folders of trained responders or of synthetic logs (their true users), or
            checkpoints.
        log: the log to compare with, or its folder.
        out: folder of the report; finished parts in it are kept. None = nothing is written.
        target: a log of another policy, whose real value is predicted from `log`, which must have
            propensities.
        split: test = the sessions that all responders trained on this log hold out; all = every
            session, whoever was trained on it.
        sessions: at most this many are simulated for the comparison of sessions.
        users: simulated with each policy.
        exploit: the policy that is optimised against each responder: greedy, or the name of a
            policy that learns, such as ppo.
        train_steps: user-slate steps that such a policy learns for.
        seed: fixes everything random.
        thresholds: changes to `Thresholds`, by field name.
        device: auto, cpu or cuda.
        command: the command line, for the files.
        progress: show a progress bar.

    Raises:
        InputError: a responder does not fit the log or holds out nothing, an unknown name, a value
            out of range, or `out` holds other files.
    """
    limits = make_config(Thresholds, thresholds or {}, "a fidelity report")
    for name, value, least in (("sessions", sessions, 1), ("users", users, 2), ("seed", seed, 0)):
        check_whole(name, value, least)
    options = _Options(sessions, users, exploit, train_steps, seed, pick_device(device), progress)
    log = _loaded(log)
    other = None if target is None else _loaded(target)
    check_target(log, other)
    sources = [responders] if isinstance(responders, (str, Path, Checkpoint)) else responders
    cases = find_cases(sources, log)
    data = held_out(cases, log, split)
    _check_exploit(exploit, cases[0], data)
    with _folder(out) as folder:
        measured = _measure(cases, data, other, options, folder)
        details = _details(cases, data, measured, limits, options, command)
        rows = [_row(facts) for facts in details["responders"]]
        if out is None:
            return Fidelity(rows, details, [])
        write_json(folder / ROWS, rows)
        write_json(folder / DETAILS, details)
        report.write(folder / REPORT, rows, details)
    for case, row, facts in zip(cases, rows, details["responders"], strict=True):
        _note_in_card(case, log, row, facts)
    return Fidelity(rows, details, [Path(out) / name for name in (REPORT, ROWS, DETAILS)])


def _loaded(log: str | Path | SessionLog) -> SessionLog:
    return SessionLog.load(log) if isinstance(log, (str, Path)) else log


def _check_exploit(name: str, case: Case, data: Data) -> None:
    """Raise `InputError` unless the policy `name` can be made."""
    kind = load(POLICIES, name, "policy")
    kind(cf.world_of(case, data, 1, "cpu"), seed=0)


@contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    """Yield the locked folder of the report, a temporary one without `out`."""
    if out is None:
        with tempfile.TemporaryDirectory() as temporary:
            (Path(temporary) / PARTS).mkdir()
            yield Path(temporary)
        return
    out = Path(out).expanduser()
    check_out(out)
    with lock(out):
        if holds_files(out) and not (out / PARTS).is_dir():
            raise InputError(
                f"{out} is not empty and holds no fidelity report: choose another --out"
            )
        (out / PARTS).mkdir(parents=True, exist_ok=True)
        yield out


def _measure(
    cases: Sequence[Case],
    data: Data,
    other: SessionLog | None,
    options: _Options,
    folder: Path,
) -> dict[tuple[str, str], Any]:
    """Return the content of every part by responder (or "") and name of the part."""
    policies = cache(partial(policies_for, data, options.users, cf.HORIZON))  # made when needed
    targets = [] if data.log.propensity is None else targets_of(data.log, other)
    units: dict[tuple[str, str], Callable[[], Any]] = {
        ("", "baselines"): partial(_baselines, data, options)
    }
    if data.truth is not None:
        units["", "truth"] = partial(_values, None, data, policies, options)
    for case in cases:
        parts: dict[str, Callable[[], Any]] = {
            "prediction": partial(_prediction, case, data, options),
            "generation": partial(
                generate, case, data,
                sessions=options.sessions, seed=options.seed, device=options.device,
            ),
            "values": partial(_values, case, data, policies, options),
            "exploit": partial(_exploit, case, data, options),
            "estimates": partial(_estimates, case, data, targets, options),
        }  # fmt: skip
        if data.truth is None:
            del parts["values"]
        if not targets:
            del parts["estimates"]
        units |= {(case.name, name): part for name, part in parts.items()}
    key, digests = _key(data, other, options), {case.name: case.digest for case in cases}
    paths = {
        unit: folder / PARTS / f"{_file_name(unit)}-{_hash(key, digests.get(unit[0], ''))}.json"
        for unit in units
    }
    missing = [unit for unit in units if not paths[unit].exists()]
    with progress_bar(
        total=len(units), initial=len(units) - len(missing), desc="fidelity",
        disable=not options.progress,
    ) as bar:  # fmt: skip
        for unit in missing:
            bar.set_postfix_str(" ".join(filter(None, unit)), refresh=True)
            write_json(paths[unit], {"content": units[unit]()})
            bar.update()
    return {unit: read_json(path, "part of a report")["content"] for unit, path in paths.items()}


def _key(data: Data, other: SessionLog | None, options: _Options) -> str:
    part = data.part
    chosen = sha256(b"".join(a.tobytes() for a in (part.sessions, part.first, part.end)))
    facts = {k: v for k, v in vars(options).items() if k not in ("device", "progress")}
    logs = [log.fingerprint() for log in (data.log, other) if log is not None]
    return f"{_VERSION} {logs} {chosen.hexdigest()} {facts}"


def _hash(*words: str) -> str:
    return sha256("\n".join(words).encode()).hexdigest()[:12]


def _file_name(unit: tuple[str, str]) -> str:
    return "-".join(filter(None, unit)).replace("/", "-").replace(os.sep, "-")


def _baselines(data: Data, options: _Options) -> dict[str, Any]:
    found = {
        name: prediction.measure(prediction.baseline_predictions(name, data), data, segments=False)
        for name in prediction.BASELINES
    }
    if data.truth is not None:
        truth = data.truth.to(options.device)
        best = prediction.predictions_of(truth, data, options.device)
        found[prediction.BAYES] = prediction.measure(best, data, segments=False)
    return found


def _prediction(case: Case, data: Data, options: _Options) -> dict[str, Any]:
    responder = case.checkpoint.responder.to(options.device)
    predictions = prediction.predictions_of(responder, data, options.device)
    return prediction.measure(predictions, data, case.checkpoint.card.get("threshold"))


def _values(
    case: Case | None,
    data: Data,
    policies: Callable[[], Mapping[str, NewPolicy]],
    options: _Options,
) -> dict[str, list[float]]:
    """Return the clicks of each user by policy, in truth or with the users of `case`."""
    if case is None:
        world = cf.true_world(data, options.users, options.device)
    else:
        world = cf.world_of(case, data, options.users, options.device)
    return {name: cf.value(world, new, options.seed) for name, new in policies().items()}


def _exploit(case: Case, data: Data, options: _Options) -> dict[str, Any]:
    world = cf.world_of(case, data, options.users, options.device)
    true = None
    if data.truth is not None:
        true = cf.true_world(data, options.users, options.device)
    return cf.exploit(world, true, data, options.exploit, options.train_steps, options.seed)


def _estimates(
    case: Case, data: Data, targets: Sequence[Any], options: _Options
) -> list[dict[str, Any]]:
    return [estimate(case, data.log, target, options.device) for target in targets]


def _details(
    cases: Sequence[Case],
    data: Data,
    measured: Mapping[tuple[str, str], Any],
    limits: Thresholds,
    options: _Options,
    command: str,
) -> dict[str, Any]:
    """Return everything that was measured, with the verdicts."""
    baselines, covered = measured["", "baselines"], coverage(data)
    found = []
    for case in cases:
        facts: dict[str, Any] = {
            "responder": case.name,
            "kind": case.kind,
            "trained_on_this_log": case.trained_here,
            "coverage": covered,
        } | {part: measured[case.name, part] for name, part in measured if name == case.name}
        if "log_loss" in facts["prediction"]:
            against = prediction.against_baselines(facts["prediction"], baselines)
            facts["prediction"]["baseline"] = against
        exploited = facts["exploit"]
        if data.truth is not None:
            facts["counterfactual"] = cf.summarise(
                facts.pop("values"), measured["", "truth"], exploited
            )
        for world in ("learned", "true"):  # the single users are in the parts
            exploited[world] = (
                None if exploited[world] is None else float(np.mean(exploited[world]))
            )
        sentences = verdict(facts, limits)
        facts["verdict"] = [sentence._asdict() for sentence in sentences]
        facts["headline"] = headline(sentences)
        found.append(facts)
    for each in (*baselines.values(), *(facts["prediction"] for facts in found)):
        each.pop("loss_by_user", None)
    log, part = data.log, data.part
    return {
        "log": {
            "name": str(log.card.get("name", "a log")),
            "synthetic": log.synthetic,
            "known_truth": data.truth is not None,
            "sessions": log.n_sessions,
            "users": len(log.users),
            "items": len(log.catalogue),
            "positions": log.n_positions,
        },
        "held_out": {
            "sessions": len(part),
            "users": len(np.unique(log.user[part.sessions])),
            "later": data.later,
            "all": not len(data.rest),
        },
        "options": {
            k: v for k, v in vars(options).items() if k not in ("device", "progress")
        },
        "thresholds": vars(limits),
        "command": command,
        "baselines": baselines,
        "responders": found,
    }  # fmt: skip


def _row(facts: Mapping[str, Any]) -> Row:
    """Return the row of `fidelity.json`; None where the log cannot tell."""
    predicted, generated = facts["prediction"], facts["generation"]
    test, length = generated["c2st"], generated["statistics"]["session_length"]
    known = facts.get("counterfactual", {})
    names = ("kendall_tau", "tau_low", "tau_high", "value_error", "exploitability",
             "exploitability_low", "exploitability_high")  # fmt: skip
    return {
        "responder": facts["responder"],
        **{name: predicted.get(name) for name in ("auc", "log_loss", "ece")},
        "c2st_auc": test.get("auc"),
        "c2st_low": test.get("low"),
        "c2st_high": test.get("high"),
        "length_distance": length.get("distance"),
        "length_floor": length.get("floor"),
        **{name: known.get(name) for name in names},
    }


def _note_in_card(case: Case, log: SessionLog, row: Row, facts: Mapping[str, Any]) -> None:
    """Write the numbers and the verdict into the card of a trained responder, if it is writable."""
    if case.folder is None or not os.access(case.folder, os.W_OK):
        return
    with lock(case.folder):
        card = read_json(case.folder / CARD, "responder")
        noted = {"log": log.fingerprint(), **row, "headline": facts["headline"]}
        noted["verdict"] = [sentence["text"] for sentence in facts["verdict"]]
        write_json(case.folder / CARD, card | {"fidelity": noted})
