"""Which item embedding answers best for items that training never showed.

    python -m benchmarks.studies.cold_items LOG --test OTHER

trains one responder with each embedding and compares the AUC over items shown in training (warm)
and over all others (cold). The first embedding is the reference of the paired differences. With
`--hold-out 0.2` instead of `--test`, a fifth of the items is taken out of the slates of 70 % of
LOG's users, and the others judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.cli.options import Settings, TrainingsOut
from benchmarks.harness import check_out, names_in, publish, run_script
from benchmarks.reports.tables import number, text, with_interval
from benchmarks.studies.judging import judge
from responders import EMPTY, InputError, SessionLog, fit
from responders.config import parse_settings
from responders.evaluation.predict import Predictions, predict
from responders.log import ragged
from responders.log.batch import Part
from responders.log.split import make_split
from responders.training.fit import configure

EMBEDDINGS = (
    "content_delta:delta=0,content_delta,content_delta:delta=1000,content,explicit,svd,learned"
)
"""Compared by default: frozen content, with a bounded delta, fine-tuned, and the others."""

PARTS = ("warm", "cold")

TEST_USERS = 0.3
"""Share of the users who judge where items are held out."""


def hold_out(log: SessionLog, share: float) -> tuple[SessionLog, SessionLog]:
    """Split a log by user, and take a share of the shown items out of the first part.

    Positions of these items become empty, and slates of nothing else are left out; the slates of
    the second part stay as they are.

    Args:
        log: the log.
        share: of the items that the log shows, in (0, 1).

    Raises:
        InputError: `share` is out of range, or a part would have no session.
    """
    if not 0 < share < 1:
        raise InputError(f"the share of items held out must be within 0 and 1, not {share}")
    rng = np.random.default_rng(0)
    shown = np.unique(log.slate[log.slate != EMPTY])
    is_out = np.zeros(len(log.catalogue) + 1, bool)  # the last one is the empty position
    is_out[rng.choice(shown, round(share * len(shown)), replace=False)] = True
    is_test = (rng.permutation(len(log.users)) < TEST_USERS * len(log.users))[log.user]
    if is_test.all() or not is_test.any():
        raise InputError("the log has too few users to judge with some of them")
    train = log.select(~is_test)
    out = is_out[train.slate]
    slate, response = np.where(out, EMPTY, train.slate), np.where(out, 0, train.response)
    rows = (slate != EMPTY).any(1)
    length = np.bincount(ragged.owner(train.session_length)[rows], minlength=train.n_sessions)
    train = replace(
        train, slate=slate[rows], response=response[rows], time=train.time[rows],
        session_start=ragged.offsets(length), propensity=None,
    )  # fmt: skip
    return train.select(length > 0), log.select(is_test)


def cold_items(
    log: SessionLog,
    out: Path,
    *,
    test: SessionLog | None = None,
    responder: str = "scot",
    embeddings: str | Sequence[str] = EMBEDDINGS,
    settings: Mapping[str, Any] | None = None,
    seeds: int = 3,
    resamples: int = 500,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train a responder with each embedding and return a row for each.

    Args:
        log: to train on.
        out: folder of the trainings; finished ones are used again.
        test: log of other sessions with the same catalogue; all of its slates are judged. None =
            `log` is split by time, and its last slates are judged.
        responder: a name.
        embeddings: of `responders.models.parts.items.Embedding`, each with settings after colons;
            differences are to the first.
        settings: of the responder and its training.
        seeds: of training.
        resamples: for the intervals.
        progress: show progress bars.

    Returns:
        Rows with `embedding`, `seeds` and, for `warm` and `cold` items, `<part>_positions` and
        what `benchmarks.studies.judging.judge` returns, such as `cold_auc` and `cold_auc_gain`.

    Raises:
        InputError: an unknown name, another catalogue, or no cold item in the slates judged.
    """
    names = names_in(embeddings)
    configs = {name: {**(settings or {}), **_settings(name)} for name in names}
    for config in configs.values():
        configure(responder, config)
    if test is not None and test.catalogue.fingerprint() != log.catalogue.fingerprint():
        raise InputError("the test log has another catalogue than the log to train on")
    runs: dict[str, list[dict[str, Predictions]]] = {
        name: [
            _judged(log, test, responder, config, out / f"{name.replace(':', '-')}-{seed}", seed,
                    progress)
            for seed in range(seeds)
        ]
        for name, config in configs.items()
    }  # fmt: skip
    by_part = {
        part: judge({name: [run[part] for run in found] for name, found in runs.items()}, resamples)
        for part in PARTS
    }
    rows = []
    for name, (first, *_) in runs.items():
        row: dict[str, Any] = {"embedding": name, "seeds": seeds}
        for part in PARTS:
            row[f"{part}_positions"] = len(first[part].click)
            row |= {f"{part}_{key}": value for key, value in by_part[part][name].items()}
        rows.append(row)
    return rows


def _settings(name: str) -> dict[str, str]:
    embedding, *settings = name.split(":")
    return {"embedding": embedding, **parse_settings(settings)}


def _judged(
    log: SessionLog,
    test: SessionLog | None,
    responder: str,
    settings: Mapping[str, Any],
    out: Path,
    seed: int,
    progress: bool,
) -> dict[str, Predictions]:
    """Train one responder and return its predictions for warm and for cold items."""
    split = "time" if test is None else "user"
    checkpoint = fit(
        log, responder, out, settings, seed=seed, split=split, resume=True, progress=progress
    )
    if test is None:
        test, part = log, make_split(log, split, seed)["test"]
    else:
        part = Part.of(test, np.arange(test.n_sessions))
    found = predict(checkpoint.responder, test, part, progress=progress)
    cold = checkpoint.initial_sessions.catalogue.attributes["shown"][found.item] == 0
    if not found.click[cold].any():
        raise InputError("no cold item was clicked in the slates judged: give another --test log")
    return {
        name: Predictions(*(values[rows] for values in vars(found).values()))
        for name, rows in (("warm", ~cold), ("cold", cold))
    }


def main(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Folder of the log to train on.")],
    test: Annotated[
        Path | None, typer.Option(help="Log to judge on; by default the last slates of LOG.")
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option("--hold-out", help="Share of items that only users who judge are shown."),
    ] = None,
    responder: Annotated[str, typer.Option(help="A name.")] = "scot",
    embeddings: Annotated[
        str, typer.Option(help="Comma-separated; the first is the reference.")
    ] = EMBEDDINGS,
    settings: Settings = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of training.")] = 3,
    out: TrainingsOut = Path("runs/cold_items"),
) -> None:
    """Compare embeddings on items that training never showed."""
    check_out(out)
    loaded, other = SessionLog.load(log), None if test is None else SessionLog.load(test)
    if held_out is not None:
        if test is not None:
            raise InputError("give --test or --hold-out, and not both")
        loaded, other = hold_out(loaded, held_out)
    rows = cold_items(
        loaded, out, test=other, responder=responder, embeddings=embeddings,
        settings=parse_settings(settings), seeds=seeds,
    )  # fmt: skip
    columns = {"embedding": text("embedding")}
    for part in PARTS:
        columns |= {
            f"AUC, {part}": with_interval(f"{part}_auc", 3),
            f"gain, {part}": with_interval(f"{part}_auc_gain", 3),
            f"log-loss, {part}": number(f"{part}_log_loss", 4),
        }
    caption = (
        f"{responder}, {seeds} seeds; {rows[0]['warm_positions']:,} positions of items shown in "
        f"training, {rows[0]['cold_positions']:,} of others; gain: AUC less that of the first "
        f"row; 95 % intervals over seeds and users"
    )
    publish("cold_items", f"Cold items: {log.name}", columns, rows, caption=caption, out=out)


if __name__ == "__main__":
    run_script(main)
