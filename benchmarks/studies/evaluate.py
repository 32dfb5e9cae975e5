"""Evaluation of a trained responder on a log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from responders import InputError, SessionLog
from responders.device import pick_device
from responders.evaluation.report import DRAWS, make_report
from responders.files import write_json
from responders.log.batch import Part
from responders.log.split import CONTEXT, make_split
from responders.models.base import Responder
from responders.training.checkpoint import Checkpoint, load_responder


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate_responder`.

    Args:
        responder: name of the responder.
        metrics: see `Report`.
        same_log: whether the log is the one that the responder was trained on. If it is not, the
            test split may contain users that the responder was trained on.
        refitted: whether the responder was trained on all users of its log.
    """

    responder: str
    metrics: dict[str, Any]
    same_log: bool
    refitted: bool

    def flat(self) -> dict[str, Any]:
        """Return the metrics with flat keys; those of position s are `<metric>_at_<s>`, from 1."""
        flat = {key: value for key, value in self.metrics.items() if key != "by_position"}
        for row in self.metrics["by_position"]:
            position = row["position"] + 1
            flat |= {f"{key}_at_{position}": row[key] for key in row if key != "position"}
        return flat

    def save(self, path: str | Path) -> None:
        """Write `flat()` to `path` as JSON."""
        write_json(Path(path), self.flat())


def evaluate_responder(
    path: str | Path,
    log: SessionLog,
    *,
    split: str = "test",
    context: float = CONTEXT,
    draws: int = DRAWS,
    device: torch.device | str = "auto",
    progress: bool = False,
) -> Evaluation:
    """Evaluate the trained responder in the folder `path` on `log`, as `recsim evaluate` does.

    Args:
        path: folder of the checkpoint.
        log: the log; its catalogue may extend the responder's.
        split: test = the part held out in training, all = every session.
        context: share of each session's slates that is only history; not used for the test split of
            a responder trained on a split by time.
        draws: answers per slate for unconditional metrics; 0 = none.
        device: auto, cpu or cuda.
        progress: show progress bars.

    Raises:
        InputError: `path` is not a checkpoint, the log does not fit it, `split` is unknown, or it
            is test and the responder was refitted, so that nothing is held out.
    """
    if split not in ("test", "all"):
        raise InputError(f"split {split!r} is unknown: test or all")
    checkpoint = load_responder(Path(path), log.catalogue)
    if checkpoint.refitted and split == "test":
        raise InputError(
            f"{path} was refitted on all users of its log, so none are left to test it on: its "
            f"card.json has the metrics from before; use --split all for every session of a log"
        )
    check_shape(checkpoint.responder, log, Path(path))
    torch_device = pick_device(device)
    report = make_report(
        checkpoint.responder.to(torch_device),
        log,
        _part(checkpoint, log, split, context),
        checkpoint.card["threshold"],
        draws=draws,
        device=torch_device,
        progress=progress,
    )
    same_log = checkpoint.card["data"]["fingerprint"] == log.fingerprint()
    name = checkpoint.card["responder"]["name"]
    return Evaluation(name, report.metrics, same_log, checkpoint.refitted)


def check_shape(responder: Responder, log: SessionLog, path: Path) -> None:
    """Raise `InputError` unless the responder at `path` can answer the slates of `log`."""
    shape, features = responder.shape, log.users.features.shape[1]
    if log.n_positions > shape.n_positions:
        raise InputError(
            f"the log has slates of {log.n_positions} positions; {path} was trained on "
            f"{shape.n_positions}"
        )
    if features != shape.n_user_features:
        raise InputError(
            f"the log has {features} user features; {path} was trained on {shape.n_user_features}"
        )


def _part(checkpoint: Checkpoint, log: SessionLog, split: str, context: float) -> Part:
    if split == "all":
        return Part.of(log, np.arange(log.n_sessions), context)
    trained = checkpoint.card["split"]
    part = make_split(log, trained["by"], trained["seed"], trained["fractions"])["test"]
    return Part.of(log, part.sessions, context) if trained["by"] == "user" else part
