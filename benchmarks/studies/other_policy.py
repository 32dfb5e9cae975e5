"""How well responders trained on one policy's log answer the slates of another policy.

    python -m benchmarks.studies.other_policy LOG OTHER --responders scot,scot:ips_clip=10

trains each on LOG and judges it on OTHER, a log of the same catalogue. Differences are to the
first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.cli.options import Settings, TrainingsOut
from benchmarks.harness import check_out, names_in, publish, run_script
from benchmarks.reports.tables import text, with_interval
from benchmarks.studies.judging import judge
from benchmarks.studies.runs import Run
from responders import InputError, SessionLog, fit
from responders.config import parse_settings
from responders.evaluation.predict import Predictions, predict
from responders.log.batch import Part
from responders.training.fit import configure


def other_policy(
    log: SessionLog,
    other: SessionLog,
    responders: str | Sequence[str],
    out: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    seeds: int = 2,
    resamples: int = 500,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train responders on `log` and return a row for each, judged on `other`.

    Args:
        log: to train on.
        other: to judge on, with the same catalogue; all of its slates count.
        responders: names with settings after colons; differences are to the first.
        out: folder of the trainings; finished ones are used again.
        settings: of all responders and their training.
        seeds: of training.
        resamples: for the intervals.
        progress: show progress bars.

    Returns:
        Rows with `responder` and what `benchmarks.studies.judging.judge` returns.

    Raises:
        InputError: an unknown name or setting, or another catalogue.
    """
    if other.catalogue.fingerprint() != log.catalogue.fingerprint():
        raise InputError("the other log has another catalogue than the log to train on")
    chosen = [Run(name, "", "user", 0) for name in names_in(responders)]
    for run in chosen:
        configure(run.name, {**(settings or {}), **run.settings})
    everyone = Part.of(other, np.arange(other.n_sessions))
    runs: dict[str, list[Predictions]] = {run.responder: [] for run in chosen}
    for run in chosen:
        for seed in range(seeds):
            checkpoint = fit(
                log, run.name, out / f"{run.folder}-{seed}", {**(settings or {}), **run.settings},
                seed=seed, resume=True, progress=progress,
            )  # fmt: skip
            found = predict(checkpoint.responder, other, everyone, progress=progress)
            runs[run.responder].append(found)
    return [{"responder": name, **row} for name, row in judge(runs, resamples).items()]


def main(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Folder of the log to train on.")],
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="Folder of the log to judge on.")],
    responders: Annotated[
        str, typer.Option(help="Names with settings after colons; the first is the reference.")
    ] = "scot,scot:ips_clip=10",
    settings: Settings = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of training.")] = 2,
    out: TrainingsOut = Path("runs/other_policy"),
) -> None:
    """Judge responders on the slates of another policy."""
    check_out(out)
    rows = other_policy(
        SessionLog.load(log), SessionLog.load(other), responders, out,
        settings=parse_settings(settings), seeds=seeds,
    )  # fmt: skip
    columns = {
        "responder": text("responder"),
        "log-loss": with_interval("log_loss", 4),
        "change": with_interval("log_loss_gain", 4),
        "AUC": with_interval("auc", 4),
        "change of AUC": with_interval("auc_gain", 4),
        "ECE": with_interval("ece", 4),
        "change of ECE": with_interval("ece_gain", 4),
        "top": with_interval("top", 2),
    }
    caption = (
        f"{seeds} seeds; change: to the first row, on the same positions; 95 % intervals over "
        "seeds and users; top: how much the effect of the first position is overestimated, 1 = not"
    )
    title = f"Trained on {log.name}, judged on {other.name}"
    publish("other_policy", title, columns, rows, caption=caption, out=out)


if __name__ == "__main__":
    run_script(main)
