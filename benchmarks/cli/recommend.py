"""`recsim recommend`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.options import Threads, set_threads


def recommend(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="Folder of a saved policy.")],
    histories: Annotated[
        Path,
        typer.Argument(
            metavar="HISTORIES", help="CSV with columns user, item and optionally time."
        ),
    ],
    k: Annotated[
        int | None,
        typer.Option("--k", min=1, help="Items for each user; by default a slate's positions."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write CSV here instead of to stdout.")
    ] = None,
    threads: Threads = None,
) -> None:
    """Recommend items to real users with a saved policy: user, rank, item as CSV.

    A row of HISTORIES is a click. Without times, the most recent click of a user is last.
    Items that are not in the policy's catalogue are ignored, and a warning counts them.

    Example: `recsim recommend runs/my_policy histories.csv --k 10 --out recommended.csv`
    """
    from benchmarks.harness import check_out
    from benchmarks.studies.recommend import recommend as study
    from responders.files import new_file

    set_threads(threads)
    if out is not None:
        check_out(out.absolute().parent)
    table = study(policy, histories, k)
    if out is None:
        table.to_csv(sys.stdout, index=False)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_file(out) as building:
        table.to_csv(building, index=False)
    typer.echo(f"wrote {out}")
