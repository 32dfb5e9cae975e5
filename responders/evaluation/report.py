"""What a trained responder is worth on a log: the report of `recsim evaluate` and `compare`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from responders.device import pick_device
from responders.errors import InputError
from responders.evaluation.metrics import METRICS, evaluate
from responders.evaluation.predict import Predictions, predict
from responders.files import write_json
from responders.known_truth.world import truth_of
from responders.log.batch import Part
from responders.log.session_log import SessionLog
from responders.log.split import CONTEXT, make_split
from responders.models.base import Responder
from responders.training.checkpoint import Checkpoint, load_checkpoint

DRAWS = 32
"""Answers drawn per slate by default for unconditional metrics."""


@dataclass(frozen=True)
class Report:
    """Metrics of a responder and the predictions that they were computed from.

    Args:
        metrics: those of `responders.evaluation.metrics.evaluate`, conditional on the clicks above
            in the same slate; `unconditional_<metric>` if unconditional predictions were made;
            `bayes_log_loss`, `bayes_auc` and `bayes_estimated` (bool) for a synthetic log.
        conditional: predictions given the clicks above in the same slate.
        unconditional: predictions with those clicks averaged out, of the same positions; None if
            they were not made or would be the same.
    """

    metrics: dict[str, Any]
    conditional: Predictions
    unconditional: Predictions | None = None

    def points(self) -> dict[str, float | None]:
        """Return every metric and `unconditional_<metric>`, without intervals.

        The two are equal for a responder that does not read the clicks above.
        """
        metrics = self.metrics
        return {name: metrics[name] for name in METRICS} | {
            f"unconditional_{name}": metrics.get(f"unconditional_{name}", metrics[name])
            for name in METRICS
        }


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_responder` found.

    Args:
        responder: name of the responder.
        metrics: see `Report`.
        same_log: whether the log is the one that the responder was trained on. If it is not, the
            test split may hold users that the responder was trained on.
    """

    responder: str
    metrics: dict[str, Any]
    same_log: bool

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
        context: share of each session's slates that is only history; of a responder trained on a
            split by time, the test split has none.
        draws: answers per slate for unconditional metrics, 0 = leave them out.
        device: auto, cpu or cuda.
        progress: show progress bars.

    Raises:
        InputError: `path` is not a checkpoint, the log does not fit it, or `split` is unknown.
    """
    if split not in ("test", "all"):
        raise InputError(f"split {split!r} is unknown: test or all")
    checkpoint = load_checkpoint(Path(path), log.catalogue)
    _check_shape(checkpoint.responder, log, Path(path))
    picked = pick_device(device)
    report = make_report(
        checkpoint.responder.to(picked),
        log,
        _part(checkpoint, log, split, context),
        checkpoint.card["threshold"],
        draws=draws,
        device=picked,
        progress=progress,
    )
    same_log = checkpoint.card["data"]["fingerprint"] == log.fingerprint()
    return Evaluation(checkpoint.card["responder"]["name"], report.metrics, same_log)


def _check_shape(responder: Responder, log: SessionLog, path: Path) -> None:
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
    part = make_split(log, trained["by"], trained["seed"])["test"]
    return Part.of(log, part.sessions, context) if trained["by"] == "user" else part


def make_report(
    responder: Responder,
    log: SessionLog,
    part: Part,
    threshold: float,
    *,
    draws: int = DRAWS,
    device: torch.device | str = "cpu",
    resamples: int = 200,
    bayes: bool = True,
    progress: bool = False,
) -> Report:
    """Return the metrics of `responder` on the counted positions of `part`.

    Args:
        responder: on `device`.
        log: the log.
        part: the sessions, and which of their slates count.
        threshold: probability from which on F1 and accuracy call a position clicked.
        draws: answers per slate for unconditional metrics, which are only computed for a responder
            that reads the clicks above; 0 = leave them out.
        device: where the responder is.
        resamples: bootstrap resamples of users for 95 % intervals; 0 = no intervals.
        bayes: for a synthetic log, add the Bayes optimum of the same positions.
        progress: show progress bars.

    Raises:
        InputError: `part` has no position to count.
    """
    answer = partial(predict, log=log, part=part, progress=progress)
    conditional = answer(responder, device=device)
    unconditional = None
    if draws and responder.reads_clicks_above:
        unconditional = answer(responder, device=device, draws=draws)
    report = report_of(conditional, unconditional, threshold, resamples=resamples)
    truth = truth_of(log) if bayes else None
    if truth is not None:
        best = evaluate(answer(truth), threshold, resamples=0)
        report.metrics.update({f"bayes_{name}": best[name] for name in ("log_loss", "auc")})
        report.metrics["bayes_estimated"] = truth.settings.hidden > 0
    return report


def report_of(
    conditional: Predictions,
    unconditional: Predictions | None,
    threshold: float,
    *,
    resamples: int = 200,
) -> Report:
    """Return the report of predictions that are already made; arguments as in `make_report`."""
    metrics = evaluate(conditional, threshold, resamples=resamples)
    if unconditional is not None:
        averaged = evaluate(unconditional, threshold, resamples=0)
        metrics |= {f"unconditional_{name}": averaged[name] for name in METRICS}
    return Report(metrics, conditional, unconditional)
