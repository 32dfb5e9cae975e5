"""Training of a responder on a log: split, build, train, evaluate, save."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from responders.behaviour.leaving import fit_hazard
from responders.behaviour.returns import fit_returns
from responders.config import Config, make_config
from responders.device import pick_device
from responders.errors import InputError, near_matches
from responders.evaluation.metrics import best_threshold, evaluate
from responders.evaluation.predict import predict
from responders.files import holds_files, lock, read_json, write_json
from responders.log.batch import Part
from responders.log.session_log import SessionLog
from responders.log.split import CONTEXT, FRACTIONS, make_split, visible_log
from responders.models.base import Responder
from responders.models.build import build_responder, responder_class
from responders.training.checkpoint import (
    CARD,
    INITIAL,
    WEIGHTS,
    Checkpoint,
    load_responder,
    save_checkpoint,
)
from responders.training.config import TrainConfig
from responders.training.initial_sessions import make_initial_sessions, unseen_sessions
from responders.training.trainer import STATE, Trainer

RUN = "run.json"
"""The file in a training folder that describes the training."""


def configure(name: str, settings: Mapping[str, Any]) -> tuple[Config, TrainConfig]:
    """Return the configuration of the responder `name` and that of its training.

    Args:
        name: a key of `responders.RESPONDERS`.
        settings: fields of both, as text or with the right type.

    Raises:
        InputError: an unknown name, or a value that is invalid for its field.
    """
    kind = responder_class(name)
    responder_keys, training_keys = (
        [f.name for f in fields(c)] for c in (kind.config_class, TrainConfig)
    )
    for key in settings:
        if key not in (*responder_keys, *training_keys):
            near = near_matches(key, [*responder_keys, *training_keys])
            raise InputError(f"setting {key!r} is unknown to {name}; {near}")
    chosen = {k: v for k, v in settings.items() if k in responder_keys}
    values = {"learning_rate": kind.learning_rate, **settings}
    return (
        make_config(kind.config_class, chosen, name),
        make_config(
            TrainConfig, {k: v for k, v in values.items() if k in training_keys}, "training"
        ),
    )


def fit(
    log: SessionLog,
    name: str,
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    split: str = "user",
    fractions: tuple[float, float, float] = FRACTIONS,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool = True,
    command: str = "",
) -> Checkpoint:
    """Train the responder `name` on `log`, evaluate it on held-out users and save it in `out`.

    Args:
        log: the log.
        name: a key of `responders.RESPONDERS`.
        out: folder for the checkpoint, its card and the TensorBoard run.
        settings: of the responder and of `TrainConfig`, by field name.
        seed: fixes the split by user and the training.
        split: "user" = each user trains, validates or tests; "time" = the first slates train, the
            next ones validate, the last ones test; see `responders.log.split`.
        fractions: of the users or slates that train, validate and test; they add up to 1.
        resume: continue an interrupted training in `out`.
        overwrite: replace a training in `out`.
        device: auto, cpu or cuda.
        progress: show progress bars.
        command: recorded in the card.

    Raises:
        InputError: unknown names or values, or `out` holds another training.
        responders.training.trainer.Interrupted: stopped by a signal, ready to resume.
    """
    config, training = configure(name, settings or {})
    torch_device, out = pick_device(device), Path(out)
    run = {
        "responder": name,
        "options": asdict(config),
        "training": asdict(training),
        "seed": seed,
        "split": split,
        "fractions": list(fractions),
        "log": log.fingerprint(),
    }
    with lock(out):
        if not _already_finished(out, run, resume, overwrite):
            try:
                _train(log, name, out, run, (config, training), torch_device, progress, command)
            except BaseException:
                if not (out / STATE).exists():  # there is nothing to resume
                    remove(out)
                raise
        return load_responder(out, log.catalogue)


def _train(
    log: SessionLog,
    name: str,
    out: Path,
    run: dict[str, Any],
    configs: tuple[Config, TrainConfig],
    torch_device: torch.device,
    progress: bool,
    command: str,
) -> None:
    """Train, evaluate and save what `run` describes in the locked folder `out`."""
    (config, training), seed, split, fractions = (
        configs, run["seed"], run["split"], tuple(run["fractions"])
    )  # fmt: skip
    parts = make_split(log, split, seed, fractions)
    training_log, sessions = visible_log(log, parts["train"])
    responder, description = build_responder(name, training_log, sessions, config, seed)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RUN, run)
    facts: dict[str, Any] = {"by": "counting"}
    if responder.trained_by_gradient:
        trainer = Trainer(
            responder, log, parts, training, out, seed=seed, device=torch_device, progress=progress
        )
        if (out / STATE).exists():
            trainer.resume()
        responder = trainer.run()
        facts = trainer.facts()
    threshold, metrics = _measure(responder, log, parts, torch_device, seed, progress)
    card = {
        "synthetic": log.synthetic,
        "responder": description,
        "parameters": sum(p.numel() for p in responder.parameters()),
        "data": {**log.card, "fingerprint": run["log"], "summary": _counts(log)},
        "split": {"by": split, "seed": seed, "fractions": fractions, "context": CONTEXT},
        "training": facts,
        "threshold": threshold,
        "metrics": metrics,
        "seed": seed,
        "device": str(torch_device),
        "command": command,
        "versions": versions(),
    }
    sessions_to_start, card["initial_users"] = unseen_sessions(log, parts)
    save_checkpoint(
        out,
        responder,
        card,
        make_initial_sessions(log, sessions_to_start, (training_log, sessions)),
        fit_hazard(training_log, sessions),
        fit_returns(training_log, sessions),
    )
    (out / STATE).unlink(missing_ok=True)


def _measure(
    responder: Responder,
    log: SessionLog,
    parts: dict[str, Part],
    device: Any,
    seed: int,
    progress: bool,
) -> tuple[float, dict[str, Any]]:
    """Return the threshold fitted on the validation part and the metrics on the test part."""
    validation, test = (
        predict(responder, log, parts[name], device=device, progress=progress)
        for name in ("validation", "test")
    )
    threshold = best_threshold(validation)
    metrics = evaluate(test, threshold, seed=seed)
    return threshold, {k: v for k, v in metrics.items() if k != "by_position"}


def _already_finished(out: Path, run: dict[str, Any], resume: bool, overwrite: bool) -> bool:
    """Return whether `out` holds this training, finished; raise if it holds anything else to keep.

    What a training left that failed before its first save is removed.
    """
    if not holds_files(out):
        return False
    if not (out / RUN).exists():
        raise InputError(f"{out} is not empty and holds no training ({RUN}): choose another --out")
    kept = CARD if (out / CARD).exists() else STATE
    if overwrite or not (out / kept).exists():
        remove(out)
        return False
    if not resume:
        what = "a finished training: use "
        if kept == STATE:
            what = "an unfinished training: use --resume to continue, "
        raise InputError(f"{out} holds {what}--overwrite to replace it, or choose another --out")
    previous = read_json(out / RUN, "training")
    for key, value in run.items():
        if previous.get(key) != value:
            raise InputError(
                f"{out / RUN} has {key} = {previous.get(key)!r}, not {value!r}: resume "
                "with the same log and settings, use --overwrite, or choose another --out"
            )
    return kept == CARD


def remove(out: Path) -> None:
    """Remove the files of a training from `out`, and the folder if nothing else is in it."""
    for name in (CARD, RUN, STATE, WEIGHTS):
        (out / name).unlink(missing_ok=True)
        (out / f".{name}.tmp").unlink(missing_ok=True)
    for name in (INITIAL, "tensorboard"):
        shutil.rmtree(out / name, ignore_errors=True)
        shutil.rmtree(out / f".{name}.tmp", ignore_errors=True)
    with suppress(OSError):  # missing, or something else is in it
        out.rmdir()


def _counts(log: SessionLog) -> dict[str, Any]:
    summary = log.summary()
    names = ("sessions", "slates", "impressions", "clicks", "click_rate", "users", "items")
    return {name: summary[name] for name in names}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    installed = {"python": platform.python_version()}
    for package in ("recsim-env", "torch", "numpy", "gymnasium"):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "not installed"
    return installed
