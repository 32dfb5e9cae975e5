"""The runs of a comparison: train and evaluate one responder, with results on disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from benchmarks.harness import PeakMemory, synchronize
from responders import InputError, SessionLog
from responders.config import parse_settings
from responders.device import pick_device
from responders.evaluation.metrics import METRICS, best_threshold, sparse_auc
from responders.evaluation.predict import Predictions, predict
from responders.evaluation.report import Report, make_report
from responders.files import new_file, read_json, write_json
from responders.known_truth.world import truth_of
from responders.log.batch import Part, make_batch
from responders.log.split import make_split
from responders.models.base import Responder
from responders.training.fit import fit

RESULT = "result.json"
"""The file with the metrics of a run, which also marks the run as finished."""

BAYES = "Bayes optimum"

_REPEAT = "delete the run's folder to do it again"
_USERS = 256  # simulated at once when speed is measured


@dataclass(frozen=True)
class Run:
    """One training and its evaluation.

    Args:
        responder: a key of `RESPONDERS`, with settings after colons:
            slate_gru:readout=soft, session_gru:next_click=0.1:hidden_size=32.
        embedding: of items; "" if it has none.
        split: user or time.
        seed: of the user split and the training.
    """

    responder: str
    embedding: str
    split: str
    seed: int

    @property
    def name(self) -> str:
        """The responder's name, without settings."""
        return self.responder.split(":")[0]

    @property
    def settings(self) -> dict[str, str]:
        """The responder's settings."""
        return parse_settings(self.responder.split(":")[1:])

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        parts = (self.split, self.responder.replace(":", "-"), self.embedding, str(self.seed))
        return "-".join(filter(None, parts))


def run_one(
    log_path: Path,
    run: Run,
    out: Path,
    settings: dict[str, Any],
    device: str = "auto",
    progress: bool = False,
) -> dict[str, Any]:
    """Train and evaluate one responder in this process; write its results to the folder `out`.

    Raises:
        InputError: invalid settings, or another run in `out`; the message names the run's folder.
    """
    log, torch_device = SessionLog.load(log_path), pick_device(device)
    peak = PeakMemory(torch_device)
    try:
        checkpoint = fit(
            log, run.name, out, settings, seed=run.seed, split=run.split, resume=True,
            device=device, progress=progress,
        )  # fmt: skip
    except InputError as error:
        raise InputError(f"{run.folder}: {error}") from error
    peak_mb = peak.mb
    responder, card = checkpoint.responder.to(torch_device), checkpoint.card
    part = make_split(log, run.split, run.seed)["test"]
    report = make_report(
        responder, log, part, card["threshold"], device=torch_device, resamples=0, bayes=False
    )
    shown = checkpoint.initial_sessions.catalogue.attributes["shown"]
    facts = {
        "settings": settings,
        "log": log.fingerprint(),
        "parameters": card["parameters"],
        "train_seconds": card["training"].get("seconds", 0.0),
        "epochs": card["training"].get("epochs_run", 0),
        "peak_mb": peak_mb,
        "ms_per_slate": slate_milliseconds(responder, log, part, torch_device),
        "reads_clicks_above": responder.reads_clicks_above,
        "reads_history": responder.reads_history,
        "threshold": card["threshold"],
        "sparse_auc": sparse_auc(report.conditional, shown),
    }
    return save_result(out, facts, report)


def bayes(log: SessionLog, split: str, seed: int, out: Path) -> dict[str, Any] | None:
    """Return the metrics of a synthetic log's true users on the test part; None on a real log."""
    truth = truth_of(log)
    if truth is None:
        return None
    path = out / f"bayes-{split}-{seed}"  # no responder's folder: `fidelity OUT/user-*` skips it
    if not (path / RESULT).exists():
        parts = make_split(log, split, seed)
        threshold = best_threshold(predict(truth, log, parts["validation"]))
        report = make_report(truth, log, parts["test"], threshold, resamples=0, bayes=False)
        save_result(path, {"estimated": truth.config.hidden > 0}, report)
    return load_result(path / RESULT)


def load_result(path: Path) -> dict[str, Any]:
    """Return the result of a finished run.

    Raises:
        InputError: the file is damaged: a metric is missing or no number.
    """
    result = read_json(path, "run")
    for name in (*METRICS, *(f"unconditional_{name}" for name in METRICS)):
        value = result.get(name, "missing")
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise InputError(f"{path}, field {name}: {value!r} is no number: {_REPEAT}")
    return result


def save_result(out: Path, facts: dict[str, Any], report: Report) -> dict[str, Any]:
    """Write the predictions and, last, `facts` with the metrics to `out`; return the latter."""
    out.mkdir(parents=True, exist_ok=True)
    conditional, unconditional = report.conditional, report.unconditional or report.conditional
    with new_file(out / "predictions.npz") as building, building.open("wb") as file:
        np.savez(
            file,
            logit=conditional.logit.astype(np.float32),
            unconditional=unconditional.logit.astype(np.float32),
            click=conditional.click,
            position=conditional.position.astype(np.int16),
            user=conditional.user,
            session=conditional.session,
            item=conditional.item.astype(np.int32),
        )
    result = facts | report.points()
    write_json(out / RESULT, result)
    return result


def load_predictions(out: Path, run: Run) -> tuple[Predictions, Predictions]:
    """Return the conditional and the unconditional predictions of a finished run.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = out / run.folder / "predictions.npz"
    try:
        with path.open("rb") as raw, np.load(raw) as file:  # np.load would leave it open
            rest = [file[k] for k in ("click", "position", "user", "session", "item")]
            logits = [file[k].astype(np.float64) for k in ("logit", "unconditional")]
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error}): {_REPEAT}") from error
    shape = (len(rest[0]),)
    if any(a.shape != shape for a in (*rest, *logits)) or rest[0].dtype != bool:
        raise InputError(f"{path} does not hold arrays of one length: {_REPEAT}")
    rest[1] = rest[1].astype(np.int64)
    return Predictions(logits[0], *rest), Predictions(logits[1], *rest)


@torch.inference_mode()
def slate_milliseconds(
    responder: Responder, log: SessionLog, part: Part, device: torch.device
) -> float:
    """Return the milliseconds to draw one user's clicks on a slate, for 256 users at once.

    Slates are those of logged sessions, in order, so that states are realistic.
    """
    index = np.resize(np.argsort(-part.end, kind="stable"), _USERS)
    batch = make_batch(log, part.take(index)).to(device)
    generator = torch.Generator(device).manual_seed(0)
    responder.prepare()
    state, n_slates, total_seconds, n_steps = responder.start(batch.user), 0, 0.0, 0
    uniform = torch.rand(batch.slate[:, 0].shape, generator=generator, device=device)
    responder.respond(state, batch.slate[:, 0], uniform)  # warm up: the first call allocates memory
    while total_seconds < 1:
        r = n_steps % batch.slate.shape[1]
        state = responder.start(batch.user) if r == 0 else state
        uniform = torch.rand(uniform.shape, generator=generator, device=device)
        began = time.perf_counter()
        state = responder.respond(state, batch.slate[:, r], uniform).state
        synchronize(device)
        total_seconds += time.perf_counter() - began
        n_slates, n_steps = n_slates + len(index), n_steps + 1
    return 1000 * total_seconds / n_slates
