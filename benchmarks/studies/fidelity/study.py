"""The fidelity report: how far simulated users can be trusted.

Each part of each responder is a file in `OUT/parts`, so that the same call continues after an
interruption.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.registry import POLICIES
from benchmarks.harness import check_out
from benchmarks.reports import fidelity as report
from benchmarks.studies.fidelity import counterfactual as cf
from benchmarks.studies.fidelity import prediction
from benchmarks.studies.fidelity.cases import Case, Data
from benchmarks.studies.fidelity.estimates import check_target
from benchmarks.studies.fidelity.parts import PARTS, Options, ReportInputs, measure
from benchmarks.studies.fidelity.verdict import Thresholds, coverage, headline, verdict
from benchmarks.workers import Workers
from recsim_env.loading import Source
from responders import InputError, SessionLog
from responders.config import make_config
from responders.device import pick_device
from responders.errors import check_whole
from responders.files import holds_files, lock, read_json, write_json
from responders.registry import load
from responders.training.checkpoint import CARD

ROWS, DETAILS, REPORT = "fidelity.json", "details.json", "report.html"

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
    workers: Workers = Workers(),  # noqa: B008
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
        workers: what measures the parts.
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
    options = Options(sessions, users, exploit, train_steps, seed, pick_device(device))
    single = isinstance(responders, str) or not isinstance(responders, Sequence)
    sources: Sequence[Source] = [responders] if single else responders  # type: ignore[assignment, list-item]
    inputs = ReportInputs(tuple(sources), log, target, split, options)
    cases, data = inputs.cases, inputs.data
    check_target(data.log, inputs.other)
    _check_exploit(exploit, cases[0], data)
    with _folder(out) as folder:
        measured = measure(inputs, folder, workers, progress)
        details = _details(cases, data, measured, limits, options, command)
        rows = [_row(facts) for facts in details["responders"]]
        if out is None:
            return Fidelity(rows, details, [])
        write_json(folder / ROWS, rows)
        write_json(folder / DETAILS, details)
        report.write(folder / REPORT, rows, details)
    for case, row, facts in zip(cases, rows, details["responders"], strict=True):
        _note_in_card(case, data.log, row, facts)
    return Fidelity(rows, details, [Path(out) / name for name in (REPORT, ROWS, DETAILS)])


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


def _details(
    cases: Sequence[Case],
    data: Data,
    measured: Mapping[tuple[str, str], Any],
    limits: Thresholds,
    options: Options,
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
            k: v for k, v in vars(options).items() if k != "device"
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
    folder = case.folder
    if folder is None or not all(os.access(p, os.W_OK) for p in (folder, folder.resolve().parent)):
        return
    with lock(folder, wait=True):
        card = read_json(folder / CARD, "responder")
        noted = {"log": log.fingerprint(), **row, "headline": facts["headline"]}
        noted["verdict"] = [sentence["text"] for sentence in facts["verdict"]]
        write_json(folder / CARD, card | {"fidelity": noted})
