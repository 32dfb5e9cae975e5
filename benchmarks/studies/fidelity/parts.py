"""The parts of a fidelity report, each a file that is kept, so that a report can be continued."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from benchmarks.studies.fidelity import counterfactual as cf
from benchmarks.studies.fidelity import prediction
from benchmarks.studies.fidelity.cases import Case, Data
from benchmarks.studies.fidelity.estimates import estimate, targets_of
from benchmarks.studies.fidelity.generation import generate
from benchmarks.studies.fidelity.policies import NewPolicy, policies_for
from responders import SessionLog
from responders.files import read_json, write_json
from responders.progress import progress_bar

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
    progress: bool


def measure(
    cases: Sequence[Case],
    data: Data,
    other: SessionLog | None,
    options: Options,
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


def _key(data: Data, other: SessionLog | None, options: Options) -> str:
    part = data.part
    chosen = sha256(b"".join(a.tobytes() for a in (part.sessions, part.first, part.end)))
    facts = {k: v for k, v in vars(options).items() if k not in ("device", "progress")}
    logs = [log.fingerprint() for log in (data.log, other) if log is not None]
    return f"{_VERSION} {logs} {chosen.hexdigest()} {facts}"


def _hash(*words: str) -> str:
    return sha256("\n".join(words).encode()).hexdigest()[:12]


def _file_name(unit: tuple[str, str]) -> str:
    return "-".join(filter(None, unit)).replace("/", "-").replace(os.sep, "-")


def _baselines(data: Data, options: Options) -> dict[str, Any]:
    found = {
        name: prediction.measure(prediction.baseline_predictions(name, data), data, segments=False)
        for name in prediction.BASELINES
    }
    if data.truth is not None:
        truth = data.truth.to(options.device)
        best = prediction.predictions_of(truth, data, options.device)
        found[prediction.BAYES] = prediction.measure(best, data, segments=False)
    return found


def _prediction(case: Case, data: Data, options: Options) -> dict[str, Any]:
    responder = case.checkpoint.responder.to(options.device)
    predictions = prediction.predictions_of(responder, data, options.device)
    return prediction.measure(predictions, data, case.checkpoint.card.get("threshold"))


def _values(
    case: Case | None,
    data: Data,
    policies: Callable[[], Mapping[str, NewPolicy]],
    options: Options,
) -> dict[str, list[float]]:
    """Return the clicks of each user by policy, in truth or with the users of `case`."""
    if case is None:
        world = cf.true_world(data, options.users, options.device)
    else:
        world = cf.world_of(case, data, options.users, options.device)
    return {name: cf.value(world, new, options.seed) for name, new in policies().items()}


def _exploit(case: Case, data: Data, options: Options) -> dict[str, Any]:
    world = cf.world_of(case, data, options.users, options.device)
    true = None
    if data.truth is not None:
        true = cf.true_world(data, options.users, options.device)
    return cf.exploit(world, true, data, options.exploit, options.train_steps, options.seed)


def _estimates(
    case: Case, data: Data, targets: Sequence[Any], options: Options
) -> list[dict[str, Any]]:
    return [estimate(case, data.log, target, options.device) for target in targets]
