"""Training of a responder on a log: split, build, train, evaluate, save."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from responders.behaviour.leaving import fit_hazard
from responders.behaviour.returns import fit_returns
from responders.behaviour.support import fit_support
from responders.config import Config, make_config
from responders.device import in_float32, pick_device
from responders.errors import InputError, check_seed, near_matches
from responders.evaluation.metrics import best_threshold, evaluate
from responders.evaluation.predict import predict
from responders.files import lock, write_json
from responders.log.batch import Part
from responders.log.session_log import SessionLog
from responders.log.split import CONTEXT, FRACTIONS, make_split, sample_users, visible_log
from responders.models.base import Responder
from responders.models.build import build_responder, responder_class
from responders.training.checkpoint import Checkpoint, load_responder, save_checkpoint
from responders.training.config import TrainConfig
from responders.training.folder import REFIT, RUN, already_finished, remove
from responders.training.initial_sessions import (
    REFITTED,
    make_initial_sessions,
    unseen_sessions,
)
from responders.training.processes import Processes, processes
from responders.training.trainer import STATE, Trainer

_MEASURED, _LEAVING = 50_000, 200_000
"""Sessions at most on which a responder is tested and leaving is learned, to bound memory."""


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


@in_float32
def fit(
    log: SessionLog,
    name: str,
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    split: str = "user",
    fractions: tuple[float, float, float] = FRACTIONS,
    refit: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool = True,
    command: str = "",
) -> Checkpoint:
    """Train the responder `name` on `log`, evaluate it on held-out users and save it in `out`.

    Processes that `torchrun` starts train together, each on its share of every batch.

    Args:
        log: the log.
        name: a key of `responders.RESPONDERS`.
        out: folder for the checkpoint, its card and the TensorBoard run.
        settings: of the responder and of `TrainConfig`, by field name.
        seed: fixes the split by user and the training.
        split: "user" = each user trains, validates or tests; "time" = the first slates train, the
            next ones validate, the last ones test; see `responders.log.split`.
        fractions: of the users or slates that train, validate and test; they add up to 1.
        refit: save a responder that is then trained on the whole log, from the same seed, for the
            epochs and with the learning rates that validation chose. The metrics are those of the
            first one: nothing is left to test the second on.
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
    seed = check_seed(seed)
    torch_device, out = pick_device(device), Path(out)
    run = {
        "responder": name,
        "options": asdict(config),
        "training": asdict(training),
        "seed": seed,
        "split": split,
        "fractions": list(fractions),
        "refit": refit,
        "log": log.fingerprint(),
    }
    parts = make_split(log, split, seed, fractions)  # before `overwrite` removes anything
    with processes() as joined:
        learn = partial(
            _learn, log, name, (config, training), out,
            seed=seed, device=torch_device, progress=progress, processes=joined,
        )  # fmt: skip
        if not joined.first:
            _follow(log, joined, learn, parts, refit)
            return load_responder(out, log.catalogue)
        with lock(out):
            if joined.restarted:
                resume, overwrite = True, False
            try:
                finished = already_finished(out, run, resume, overwrite)
            except InputError as error:
                joined.broadcast(error)
                raise
            joined.broadcast(finished)
            if not finished:
                try:
                    _train(log, out, run, learn, parts, torch_device, progress, command)
                except BaseException:
                    if not (out / STATE).exists():  # there is nothing to resume
                        remove(out)
                    raise
            joined.broadcast(True)
            return load_responder(out, log.catalogue)


def _follow(
    log: SessionLog,
    joined: Processes,
    learn: Callable[..., tuple[Responder, dict[str, Any], dict[str, Any]]],
    parts: dict[str, Part],
    refit: bool,
) -> None:
    """Train with the first process, which writes all files, and wait until it has written them."""
    finished = joined.broadcast(None)
    if isinstance(finished, InputError):
        raise finished
    if not finished:
        facts = learn(parts)[2]
        if refit:
            learn({"train": Part.of(log, np.arange(log.n_sessions))}, facts)
    joined.broadcast(None)


def _train(
    log: SessionLog,
    out: Path,
    run: dict[str, Any],
    learn: Callable[..., tuple[Responder, dict[str, Any], dict[str, Any]]],
    parts: dict[str, Part],
    torch_device: torch.device,
    progress: bool,
    command: str,
) -> None:
    """Train, evaluate and save what `run` describes in the locked folder `out`."""
    seed, everything = run["seed"], np.arange(log.n_sessions)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RUN, run)
    responder, description, facts = learn(parts)
    threshold, metrics = _measure(responder, log, parts, torch_device, seed, progress)
    seen = visible_log(log, parts["train"])
    to_start, initial_users = unseen_sessions(log, parts)
    refitted = None
    if run["refit"]:
        responder, description, again = learn({"train": Part.of(log, everything)}, facts)
        seen, to_start, initial_users = (log, everything), everything, REFITTED
        refitted = {
            "from_training_part": ["metrics", "threshold", "training"],
            "from_all_users": ["weights", "hazard", "returns", "support", "initial_sessions"],
            "training": again,
        }
    sample = seen[0], sample_users(*seen, _LEAVING)
    card = {
        "synthetic": log.synthetic,
        "responder": description,
        "parameters": sum(p.numel() for p in responder.parameters()),
        "data": {**log.card, "fingerprint": run["log"], "summary": _counts(log)},
        "split": {
            "by": run["split"], "seed": seed, "fractions": run["fractions"], "context": CONTEXT
        },
        "training": facts,
        "refit": refitted,
        "threshold": threshold,
        "metrics": metrics,
        "initial_users": initial_users,
        "seed": seed,
        "device": str(torch_device),
        "command": command,
        "versions": versions(),
    }  # fmt: skip
    save_checkpoint(
        out,
        responder,
        card,
        make_initial_sessions(log, to_start, seen),
        fit_hazard(*sample),
        fit_returns(*sample),
        fit_support(*seen),
    )
    (out / STATE).unlink(missing_ok=True)
    (out / REFIT / STATE).unlink(missing_ok=True)


def _learn(
    log: SessionLog,
    name: str,
    configs: tuple[Config, TrainConfig],
    out: Path,
    parts: dict[str, Part],
    chosen: dict[str, Any] | None = None,
    *,
    seed: int,
    device: torch.device,
    progress: bool,
    processes: Processes,
) -> tuple[Responder, dict[str, Any], dict[str, Any]]:
    """Return a responder trained on `parts`, its description, and facts about its training.

    Args:
        log: the log.
        name: of the responder.
        configs: of the responder and of its training.
        out: the training's folder.
        parts: `train` and, unless `chosen` is given, `validation`.
        chosen: the facts of a training whose batch size and best epochs are repeated.
        seed: of the weights and the training.
        device: where to train.
        progress: show progress bars.
        processes: those that train together.
    """
    config, training = configs
    responder, description = build_responder(name, *visible_log(log, parts["train"]), config, seed)
    if not responder.trained_by_gradient:
        return responder, description, {"by": "counting"}
    rates = None
    if chosen is not None:
        rates = [row["learning_rate"] for row in chosen["history"][: chosen["best_epoch"]]]
        training, out = replace(training, batch_size=chosen["batch_size"]), out / REFIT
    trainer = Trainer(
        responder, log, parts, training, out,
        seed=seed, device=device, progress=progress, rates=rates, processes=processes,
    )  # fmt: skip
    if (out / STATE).exists():
        trainer.resume()
    return trainer.run(), description, trainer.facts()


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
        predict(responder, log, parts[name].sample(_MEASURED), device=device, progress=progress)
        for name in ("validation", "test")
    )
    threshold = best_threshold(validation)
    metrics = evaluate(test, threshold, seed=seed)
    return threshold, {k: v for k, v in metrics.items() if k != "by_position"}


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
