"""From a log to a trained responder on disk: split, build, train, evaluate, save."""

from __future__ import annotations

import platform
from dataclasses import asdict, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from responders.behaviour.leaving import fit_hazard
from responders.behaviour.returns import fit_returns
from responders.device import pick_device
from responders.errors import InputError, near_matches
from responders.evaluation.metrics import best_threshold, evaluate
from responders.evaluation.predict import predict
from responders.files import read_json, write_json
from responders.log.session_log import SessionLog
from responders.log.split import CONTEXT, FRACTIONS, make_split, seen_in
from responders.models.build import build, default_options, responder_class
from responders.training.checkpoint import CARD, Checkpoint, load_checkpoint, save_checkpoint
from responders.training.config import TrainConfig
from responders.training.contexts import make_contexts
from responders.training.trainer import STATE, Trainer

RUN = "run.json"
"""The file of a training folder that says what is being trained."""


def parse_options(name: str, settings: dict[str, Any]) -> tuple[dict[str, Any], TrainConfig]:
    """Split `settings` into the responder's options and a training configuration.

    Args:
        name: of the responder.
        settings: values, as text or already of the right type.

    Raises:
        InputError: an unknown name, or a value of another type than the default's.
    """
    kind = responder_class(name)
    options = default_options(kind)
    defaults = TrainConfig(learning_rate=kind.learning_rate)
    training = asdict(defaults)
    types = get_type_hints(TrainConfig)
    chosen: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for key, value in settings.items():
        if key in options:
            chosen[key] = typed(key, value, type(options[key]))
        elif key in training:
            config[key] = typed(key, value, types[key])
        else:
            known = [*options, *(f.name for f in fields(TrainConfig))]
            raise InputError(f"setting {key!r} is unknown to {name}; {near_matches(key, known)}")
    return chosen, replace(defaults, **config)


def typed(key: str, value: Any, kind: type) -> Any:
    """Return the text or number `value` of setting `key` as `kind`, or raise `InputError`."""
    if isinstance(value, str) and kind is bool:
        if value.lower() not in ("true", "false"):
            raise InputError(f"setting {key} takes true or false, not {value!r}")
        return value.lower() == "true"
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise InputError(f"setting {key} takes a {kind.__name__}, not {value!r}") from None


def fit(
    log: SessionLog,
    name: str,
    out: Path,
    settings: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    by: str = "user",
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
    command: str = "",
) -> Checkpoint:
    """Train the responder `name` on `log`, evaluate it on held-out users and save it in `out`.

    Args:
        log: the log.
        name: a key of `responders.build.RESPONDERS`.
        out: folder of the checkpoint, its card and the TensorBoard run.
        settings: options of the responder and of `TrainConfig`.
        seed: fixes the split by user and the training.
        by: user = 80 % of the users train, 10 % validate, 10 % test; time = the first 80 % of the
            slates train, and so on; see `responders.split`.
        resume: go on with an interrupted training in `out`.
        device: auto, cpu or cuda.
        progress: show progress bars.
        command: for the card.

    Raises:
        InputError: unknown names or values, or `out` holds another training.
        responders.training.Interrupted: stopped by a signal, ready to resume.
    """
    options, config = parse_options(name, settings or {})
    where = pick_device(device)
    out = Path(out)
    run = {
        "responder": name,
        "options": options,
        "training": asdict(config),
        "seed": seed,
        "split": by,
        "log": log.fingerprint(),
    }
    if _already_finished(out, run, resume):
        return load_checkpoint(out, log.catalogue)
    split = make_split(log, by, seed)
    past, trained_on = seen_in(log, split["train"])
    responder, description = build(name, past, trained_on, options, seed)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RUN, run)
    training: dict[str, Any] = {"by": "counting"}
    if responder.trained_by_gradient:
        trainer = Trainer(
            responder, log, split, config, out, seed=seed, device=where, progress=progress
        )
        if resume and (out / STATE).exists():
            trainer.resume()
        responder = trainer.run()
        training = {
            **asdict(config),
            "epochs_run": trainer.state.epoch,
            "best_epoch": trainer.state.best_epoch + 1,
            "seconds": round(trainer.state.seconds, 1),
            "history": trainer.history,
        }

    def answers(part: str) -> Any:
        return predict(responder, log, split[part], device=where, progress=progress)

    threshold = best_threshold(answers("validation"))
    metrics = evaluate(answers("test"), threshold, seed=seed)
    held_out = np.union1d(split["validation"].sessions, split["test"].sessions)
    contexts = make_contexts(log, held_out, (past, trained_on))
    card = {
        "synthetic": log.synthetic,
        "responder": description,
        "parameters": sum(p.numel() for p in responder.parameters()),
        "data": {**log.card, "fingerprint": run["log"], "summary": _counts(log)},
        "split": {"by": by, "seed": seed, "fractions": FRACTIONS, "context": CONTEXT},
        "training": training,
        "threshold": threshold,
        "metrics": {k: v for k, v in metrics.items() if k != "by_position"},
        "seed": seed,
        "device": str(where),
        "command": command,
        "versions": versions(),
    }
    hazard, returns = fit_hazard(past, trained_on), fit_returns(past, trained_on)
    save_checkpoint(out, responder, card, contexts, hazard, returns)
    (out / STATE).unlink(missing_ok=True)
    return load_checkpoint(out, log.catalogue)


def _already_finished(out: Path, run: dict[str, Any], resume: bool) -> bool:
    """Return whether `out` holds this very training, finished; raise if it holds another."""
    if not out.exists() or not any(out.iterdir()):
        return False
    if not resume:
        raise InputError(f"{out} is not empty: use --resume to go on, or choose another --out")
    if not (out / RUN).exists():
        raise InputError(f"there is no training to resume in {out}: it has no {RUN}")
    before = read_json(out / RUN, "training")
    for key, value in run.items():
        if before.get(key) != value:
            raise InputError(
                f"{out} holds a training with {key} = {before.get(key)!r}, not {value!r}: resume "
                "with the same log and settings, or choose another --out"
            )
    return (out / CARD).exists()


def _counts(log: SessionLog) -> dict[str, Any]:
    summary = log.summary()
    names = ("sessions", "slates", "impressions", "clicks", "click_rate", "users", "items")
    return {name: summary[name] for name in names}


def versions() -> dict[str, str]:
    """Return the versions of what made a result."""
    found = {"python": platform.python_version()}
    for package in ("recsim-env", "torch", "numpy", "gymnasium"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
