"""The parts of a fidelity report, each a file that is kept, so that a report can be continued."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from benchmarks.studies.fidelity import counterfactual as cf
from benchmarks.studies.fidelity import prediction
from benchmarks.studies.fidelity.cases import Case, Data, find_cases, held_out
from benchmarks.studies.fidelity.estimates import estimate, targets_of
from benchmarks.studies.fidelity.generation import generate
from benchmarks.studies.fidelity.policies import NewPolicy, policies_for
from benchmarks.studies.runs import BAYES
from benchmarks.studies.stored import run_missing
from benchmarks.workers import Workers
from recsim_env.loading import Source
from recsim_env.world import World
from responders import SessionLog
from responders.device import pick_device
from responders.evaluation.predict import predict
from responders.files import read_json, write_json

PARTS = "parts"
"""The folder of the parts in that of a report."""

_VERSION = 2  # a change makes all parts again


@dataclass(frozen=True)
class Options:
    """How a report is made; see `fidelity`."""

    sessions: int
    users: int
    exploit: str
    train_steps: int
    seed: int
    device: torch.device


@dataclass(frozen=True)
class ReportInputs:
    """What a report is about, opened when needed; another process opens it again.

    Args:
        sources: the responders.
        log: the log, or its folder.
        target: another policy's log, or its folder.
        split: test or all.
        options: of the report.
    """

    sources: tuple[Source, ...]
    log: str | Path | SessionLog
    target: str | Path | SessionLog | None
    split: str
    options: Options

    def __reduce__(self) -> tuple[type[ReportInputs], tuple[Any, ...]]:
        return ReportInputs, (self.sources, self.log, self.target, self.split, self.options)

    @cached_property
    def cases(self) -> list[Case]:
        """The responders."""
        return find_cases(self.sources, self._opened_log)

    @cached_property
    def data(self) -> Data:
        """The log, and the sessions that all responders hold out."""
        return held_out(self.cases, self._opened_log, self.split)

    @cached_property
    def _opened_log(self) -> SessionLog:
        return _loaded(self.log)

    @cached_property
    def other(self) -> SessionLog | None:
        """The log of another policy."""
        return None if self.target is None else _loaded(self.target)

    @cached_property
    def policies(self) -> dict[str, NewPolicy]:
        """The policies whose values are compared."""
        return policies_for(
            self.data, self.options.users, cf.HORIZON, pick_device(self.options.device)
        )


def _loaded(log: str | Path | SessionLog) -> SessionLog:
    return SessionLog.load(log) if isinstance(log, (str, Path)) else log


def measure(
    inputs: ReportInputs, folder: Path, workers: Workers, progress: bool
) -> dict[tuple[str, str], Any]:
    """Return the content of every part by responder (or "") and name of the part."""
    data, by_responder = inputs.data, ["prediction", "generation", "exploit"]
    units = [("", "baselines")]
    if data.truth is not None:
        units.append(("", "truth"))
        by_responder.insert(2, "values")
    if data.log.propensity is not None:
        by_responder.append("estimates")
    units += [(case.name, part) for case in inputs.cases for part in by_responder]
    key, digests = _key(inputs), {case.name: case.digest for case in inputs.cases}
    paths = {
        unit: folder / PARTS / f"{_file_name(unit)}-{_hash(key, digests.get(unit[0], ''))}.json"
        for unit in units
    }
    cases = {path: (inputs, *unit) for unit, path in paths.items()}
    run_missing(cases, workers, progress, run_part, label="fidelity")
    return {unit: read_json(path, "part of a report")["content"] for unit, path in paths.items()}


def run_part(path: Path, inputs: ReportInputs, responder: str, part: str) -> None:
    """Measure a part of one responder, or of none if its name is "", and write it to `path`."""
    case = [case for case in inputs.cases if case.name == responder]
    write_json(path, {"content": MEASURES[part](inputs, *case)})


def _key(inputs: ReportInputs) -> str:
    part = inputs.data.part
    chosen = sha256(b"".join(a.tobytes() for a in (part.sessions, part.first, part.end)))
    facts = {k: v for k, v in vars(inputs.options).items() if k != "device"}
    logs = [log.fingerprint() for log in (inputs.data.log, inputs.other) if log is not None]
    return f"{_VERSION} {logs} {chosen.hexdigest()} {facts}"


def _hash(*words: str) -> str:
    return sha256("\n".join(words).encode()).hexdigest()[:12]


def _file_name(unit: tuple[str, str]) -> str:
    return "-".join(filter(None, unit)).replace("/", "-").replace(os.sep, "-")


def _baselines(inputs: ReportInputs) -> dict[str, Any]:
    data, device = inputs.data, inputs.options.device
    found = {
        name: prediction.measure(prediction.baseline_predictions(name, data), data, segments=False)
        for name in prediction.BASELINES
    }
    if data.truth is not None:
        best = predict(data.truth.to(device), data.log, data.part, device=device)
        found[BAYES] = prediction.measure(best, data, segments=False)
    return found


def _truth(inputs: ReportInputs) -> dict[str, list[float]]:
    return _clicks(inputs, cf.true_world(inputs.data, inputs.options.users, inputs.options.device))


def _prediction(inputs: ReportInputs, case: Case) -> dict[str, Any]:
    data, device = inputs.data, inputs.options.device
    responder = case.checkpoint.responder.to(device)
    predictions = predict(responder, data.log, data.part, device=device)
    return prediction.measure(predictions, data, case.checkpoint.card.get("threshold"))


def _generation(inputs: ReportInputs, case: Case) -> dict[str, Any]:
    options = inputs.options
    return generate(
        case, inputs.data, sessions=options.sessions, seed=options.seed, device=options.device
    )


def _values(inputs: ReportInputs, case: Case) -> dict[str, list[float]]:
    return _clicks(
        inputs, cf.world_of(case, inputs.data, inputs.options.users, inputs.options.device)
    )


def _clicks(inputs: ReportInputs, world: World) -> dict[str, list[float]]:
    """Return the clicks of each user by policy."""
    return {
        name: cf.value(world, new, inputs.options.seed) for name, new in inputs.policies.items()
    }


def _exploit(inputs: ReportInputs, case: Case) -> dict[str, Any]:
    data, options, true = inputs.data, inputs.options, None
    world = cf.world_of(case, data, options.users, options.device)
    if data.truth is not None:
        true = cf.true_world(data, options.users, options.device)
    return cf.exploit(world, true, data, options.exploit, options.train_steps, options.seed)


def _estimates(inputs: ReportInputs, case: Case) -> list[dict[str, Any]]:
    log = inputs.data.log
    targets = targets_of(log, inputs.other)
    return [estimate(case, log, target, inputs.options.device) for target in targets]


MEASURES: dict[str, Callable[..., Any]] = {
    "baselines": _baselines,
    "truth": _truth,
    "prediction": _prediction,
    "generation": _generation,
    "values": _values,
    "exploit": _exploit,
    "estimates": _estimates,
}
