"""What profiles of the users' past do for a responder.

    python -m benchmarks.studies.profiles LOG [--past PAST]

trains a responder on the later sessions of LOG without profiles and with each kind, and compares
the log-losses on users who are held out. Differences are to the first, without profiles.
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
from benchmarks.studies.runs import BAYES
from responders import SessionLog, fit
from responders.config import parse_settings
from responders.evaluation.predict import Predictions, predict
from responders.known_truth.world import truth_of
from responders.log.batch import Part
from responders.log.split import split_users
from responders.profiles import ProfileConfig, split_past, with_profiles
from responders.training.fit import configure

NONE = "none"
PROFILES = f"{NONE},counts,svd,autoencoder,autoencoder+svd+counts"
"""Compared by default; + puts profiles side by side."""

FRACTIONS = (0.7, 0.1, 0.2)


def profiles(
    log: SessionLog,
    out: Path,
    past: SessionLog | None = None,
    *,
    kinds: str | Sequence[str] = PROFILES,
    responder: str = "min_gru",
    settings: Mapping[str, Any] | None = None,
    size: int = 32,
    seeds: int = 2,
    resamples: int = 500,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train a responder with each kind of profile and return a row for each.

    Args:
        log: to train and judge on.
        out: folder of the trainings; finished ones are used again.
        past: earlier sessions of its users. None = those of `log` that begin in its first half.
        kinds: `NONE`, or methods of `responders.profiles` joined by +; differences are to the
            first.
        responder: a name.
        settings: of the responder and its training.
        size: of the profiles' vectors.
        seeds: splits by user, each with a training. All slates of the held-out users are judged.
        resamples: for the intervals.
        progress: show progress bars.

    Returns:
        Rows with `profile` and what `benchmarks.studies.judging.judge` returns; for a synthetic
        log also one of its true users, who are read from the later session alone.

    Raises:
        InputError: an unknown name or setting, or a past that `with_profiles` refuses.
    """
    configure(responder, settings or {})
    if past is None:
        past, log = split_past(log)
    parts = [split_users(log, seed, FRACTIONS)["test"].sessions for seed in range(seeds)]
    runs: dict[str, list[Predictions]] = {}
    for kind in names_in(kinds):
        profiled = log
        if kind != NONE:
            profiled = with_profiles(
                log, past, kind.split("+"), ProfileConfig(size=size), progress=progress
            )
        runs[kind] = [
            predict(
                fit(
                    profiled, responder, out / f"{kind}-{seed}", settings, seed=seed,
                    fractions=FRACTIONS, resume=True, progress=progress,
                ).responder,
                profiled, Part.of(profiled, sessions), progress=progress,
            )
            for seed, sessions in enumerate(parts)
        ]  # fmt: skip
    truth = truth_of(log)
    if truth is not None:
        runs[BAYES] = [predict(truth, log, Part.of(log, sessions)) for sessions in parts]
    pooled = {name: [_joined(found)] for name, found in runs.items()}
    return [{"profile": name, **row} for name, row in judge(pooled, resamples).items()]


def _joined(found: Sequence[Predictions]) -> Predictions:
    """Return the predictions for several splits as one, so that users are drawn with all theirs."""
    columns = zip(*(vars(each).values() for each in found), strict=True)
    return Predictions(*map(np.concatenate, columns))


def main(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Folder of the log.")],
    past: Annotated[
        Path | None,
        typer.Option(metavar="LOG", help="Earlier sessions; by default the first half of LOG."),
    ] = None,
    kinds: Annotated[
        str, typer.Option(help="none, or methods joined by +; the first is the reference.")
    ] = PROFILES,
    responder: Annotated[str, typer.Option(help="A name.")] = "min_gru",
    settings: Settings = None,
    size: Annotated[int, typer.Option(min=1, help="Of profiles.")] = 32,
    seeds: Annotated[int, typer.Option(min=1, help="Splits by user.")] = 2,
    out: TrainingsOut = Path("runs/profiles"),
) -> None:
    """Compare profiles of users."""
    check_out(out)
    rows = profiles(
        SessionLog.load(log), out, None if past is None else SessionLog.load(past), kinds=kinds,
        responder=responder, settings=parse_settings(settings),
        size=size, seeds=seeds,
    )  # fmt: skip
    columns = {
        "profile": text("profile"),
        "log-loss": with_interval("log_loss", 4),
        "change": with_interval("log_loss_gain", 4),
        "AUC": with_interval("auc", 3),
        "change of AUC": with_interval("auc_gain", 3),
    }
    caption = (
        f"{responder}, {seeds} splits; change: to the first row, on the same positions; 95 % "
        "intervals over users"
    )
    publish("profiles", f"Profiles: {log.name}", columns, rows, caption=caption, out=out)


if __name__ == "__main__":
    run_script(main)
