"""The `recsim` command. Each subcommand is a module here that calls one Python function."""

from __future__ import annotations

import typer

from benchmarks.cli import (
    bench,
    compare,
    data,
    demo,
    evaluate,
    fidelity,
    pretrain,
    rank,
    recommend,
    train,
    tune,
)
from benchmarks.errors import one_line_errors

app = typer.Typer(
    name="recsim",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Simulated users for recommender systems: learn them from a log, check them against it, "
    "and try policies on them.\n\n"
    "Start with `recsim demo`. With your own log: `recsim data convert`, `recsim train`, "
    "`recsim evaluate`, `recsim bench`.",
    epilog="Bad input exits 1 with one line that starts with `error:`; `--debug` anywhere on the "
    "line shows the traceback.",
)
app.add_typer(data.app, name="data")
for command in (
    train.train,
    evaluate.evaluate,
    compare.compare,
    bench.bench,
    fidelity.fidelity,
    rank.rank,
    pretrain.pretrain,
    tune.tune,
    recommend.recommend,
    demo.demo,
):
    app.command()(command)


def main() -> None:
    """Run the command line; bad input becomes one line on stderr and exit code 1."""
    with one_line_errors():
        app()


if __name__ == "__main__":
    main()
