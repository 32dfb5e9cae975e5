"""`recsim fidelity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.evaluate import Split
from benchmarks.cli.options import (
    DEVICE,
    Device,
    Jobs,
    LogPath,
    Ray,
    Seed,
    Settings,
    Threads,
    command_line,
    find_workers,
)


def fidelity(
    responders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESPONDER…", help="Folders from `train`, or of synthetic logs (the truth)."
        ),
    ],
    log: LogPath,
    out: Annotated[Path, typer.Option(help="Folder of the report.")],
    target: Annotated[
        Path | None,
        typer.Option(
            metavar="LOG", help="Log of another policy, whose value is predicted from propensities."
        ),
    ] = None,
    split: Annotated[
        Split, typer.Option(help="test: what all responders hold out; all: every session.")
    ] = Split.TEST,
    sessions: Annotated[int, typer.Option(min=1, help="Most sessions to simulate.")] = 5000,
    users: Annotated[int, typer.Option(min=2, help="Users simulated with each policy.")] = 500,
    exploit: Annotated[
        str, typer.Option(help="The policy optimised against each responder: greedy, ppo, …")
    ] = "greedy",
    train_steps: Annotated[
        int, typer.Option(min=1, help="User-slate steps that such a policy learns for.")
    ] = 100_000,
    seed: Seed = 0,
    settings: Settings = None,
    jobs: Jobs = 1,
    ray: Ray = None,
    device: Device = DEVICE,
    threads: Threads = None,
) -> None:
    """Measure how far simulated users can be trusted: a page with figures and a verdict.

    It tests predictions of single answers, compares whole sessions with logged ones and values of
    policies with the truth of a synthetic log or estimates from propensities, and says what
    follows in plain words.
    `--set` changes a threshold of the verdict. Writes report.html, fidelity.json (a row of numbers
    for each responder) and details.json. An interrupted report continues with the same command.

    Example: `recsim fidelity runs/pbm runs/session_gru logs/known --out runs/fidelity`
    """
    from benchmarks.reports.fidelity import COLUMNS
    from benchmarks.reports.tables import console, fill, show_table
    from benchmarks.studies.fidelity import study
    from responders.config import parse_settings

    result = study.fidelity(
        responders,
        log,
        out,
        target=target,
        split=split,
        sessions=sessions,
        users=users,
        exploit=exploit,
        train_steps=train_steps,
        seed=seed,
        thresholds=parse_settings(settings),
        workers=find_workers(jobs, ray, threads, device),
        device=device,
        command=command_line(),
    )
    show_table(f"fidelity: {log}", list(COLUMNS), fill(COLUMNS, result.rows))
    for facts in result.details["responders"]:
        console().print(f"\n{facts['responder']}: {facts['headline']}", style="bold")
        for sentence in facts["verdict"]:
            mark = {"good": "✓", "bad": "✗", "unknown": "?"}[sentence["level"]]
            console().print(f" {mark} {sentence['text']}", markup=False, highlight=False)
    for path in result.files:
        typer.echo(f"wrote {path}")
