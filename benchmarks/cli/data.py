"""`recsim data`: convert, synthesize and show session logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.cli.options import (
    DEVICE,
    Device,
    LogPath,
    Overwrite,
    Seed,
    Settings,
    Threads,
    set_threads,
)
from responders.files import check_free
from responders.known_truth.presets import PRESETS
from responders.log.session_log import SessionLog
from responders.sources.registry import SOURCES

Column = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="csv only.", rich_help_panel="Columns of csv")
]
Columns = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", help="csv only; repeatable.", rich_help_panel="Columns of csv"),
]

app = typer.Typer(no_args_is_help=True, help="Convert, synthesize and show session logs.")


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help=f"Format of the raw files: {', '.join(SOURCES)}."),
    ],
    raw: Annotated[
        str, typer.Argument(metavar="RAW", help="Raw file or folder as published, or its URL.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the log to.")],
    catalogue: Annotated[
        Path | None,
        typer.Option(metavar="LOG", help="Keep this log's item index; new items are appended."),
    ] = None,
    negatives: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="movielens only: put each film among this many random ones (constructed slates).",
        ),
    ] = None,
    overwrite: Overwrite = False,
    session: Columns = None,
    item: Column = None,
    click: Column = None,
    step: Column = None,
    position: Column = None,
    time: Column = None,
    user: Column = None,
    propensity: Column = None,
    price: Column = None,
    item_feature: Columns = None,
    user_feature: Columns = None,
) -> None:
    """Convert raw files to a session log.

    With `csv`, RAW is your own CSV or Parquet file with a row per shown item. Options name its
    columns where they are not called session, item, click, step, position, time, user and
    propensity; `--session`, `--item-feature` and `--user-feature` may be repeated.

    Example: `recsim data convert rl4rs rl4rs-dataset/ logs/rl4rs`

    Example: `recsim data convert csv shown.csv logs/mine --session user --session visit --time at`

    Example: `recsim data convert csv s3://bucket/shown/ logs/mine`
    """
    from benchmarks.reports.tables import print_log
    from responders.sources import convert as convert_source

    names: dict[str, Any] = {
        "session": session,
        "item": item,
        "click": click,
        "step": step,
        "position": position,
    }
    names |= {"time": time, "user": user, "propensity": propensity, "price": price}
    names |= {"negatives": negatives, "item_features": item_feature, "user_features": user_feature}
    options: dict[str, Any] = {name: value for name, value in names.items() if value}
    index = None if catalogue is None else SessionLog.load(catalogue).catalogue
    log = convert_source(source, raw, out, catalogue=index, overwrite=overwrite, **options)
    print_log(log, out)


@app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the log to.")],
    preset: Annotated[str, typer.Option(help=f"{', '.join(PRESETS)}.")] = "contentwise",
    sessions: Annotated[int, typer.Option(min=1, help="Sessions in total.")] = 20_000,
    seed: Seed = 0,
    policy: Annotated[
        str, typer.Option(help="mixed, popular, uniform, personal, repeating or informed.")
    ] = "mixed",
    visits: Annotated[int, typer.Option(min=1, help="Sessions of each user.")] = 1,
    propensities: Annotated[
        bool, typer.Option("--propensities", help="Record the chance of each shown item.")
    ] = False,
    settings: Settings = None,
    overwrite: Overwrite = False,
    device: Device = DEVICE,
    threads: Threads = None,
) -> None:
    """Write a log of simulated users whose true probabilities are known.

    The users are synthetic, and every table says so. `--set` changes a parameter of the world, such
    as `--set taste=0` or `--set position_bias=1`; see `TruthConfig` for all of them.

    Example: `recsim data synthesize logs/known --preset contentwise --sessions 20000`
    """
    from benchmarks.reports.tables import print_log
    from benchmarks.studies.synthesize import synthesize as write_log
    from responders.config import parse_settings

    set_threads(threads)
    log = write_log(
        out,
        preset,
        sessions,
        seed=seed,
        policy=policy,
        visits=visits,
        propensities=propensities,
        settings=parse_settings(settings),
        overwrite=overwrite,
        device=device,
    )
    print_log(log, out)


@app.command()
def profile(
    log: LogPath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the log to.")],
    past: Annotated[
        Path | None,
        typer.Option(metavar="LOG", help="Earlier sessions; by default the first ones of LOG."),
    ] = None,
    share: Annotated[
        float, typer.Option(help="Without --past, share of LOG's sessions that are the past.")
    ] = 0.5,
    methods: Annotated[
        str, typer.Option(help="autoencoder, svd, counts; comma-separated.")
    ] = "autoencoder",
    seed: Seed = 0,
    settings: Settings = None,
    overwrite: Overwrite = False,
    device: Device = DEVICE,
    threads: Threads = None,
) -> None:
    """Write a log whose users have their past as features.

    OUT has the sessions of LOG, without those that are the past, and `past_…` features of their
    users, which responders, observations and policies read as any user features. `--set` changes
    a setting of `ProfileConfig`, such as `--set size=16`.

    Example: `recsim data profile logs/news logs/profiled --past logs/news_history`
    """
    from benchmarks.harness import names_in
    from benchmarks.reports.tables import print_log
    from responders.config import make_config, parse_settings
    from responders.profiles import ProfileConfig, split_past, with_profiles

    set_threads(threads)
    check_free(out, overwrite)
    config = make_config(ProfileConfig, parse_settings(settings), "a profile")
    later = SessionLog.load(log)
    if past is None:
        earlier, later = split_past(later, share)
    else:
        earlier = SessionLog.load(past)
    made = with_profiles(later, earlier, names_in(methods), config, seed=seed, device=device)
    made.save(out, overwrite=overwrite)
    print_log(made, out)


@app.command()
def content(
    log: LogPath,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, Parquet or .npy; see below.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the log to.")],
    item: Annotated[str, typer.Option(metavar="COLUMN", help="Of item ids.")] = "item",
    text: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Text to encode; repeatable.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Of Sentence Transformers; by default all-MiniLM-L6-v2.")
    ] = None,
    overwrite: Overwrite = False,
    device: Device = DEVICE,
    threads: Threads = None,
) -> None:
    """Write a log whose items have content from FILE as further features.

    FILE has a row for each item: columns of numbers or, in Parquet, of lists of numbers; with
    `--text`, texts that a sentence encoder makes vectors of (needs recsim-env[text]). A .npy file
    has an array [N, K] in the order of LOG's catalogue.

    Example: `recsim data content logs/films movies.csv logs/titled --item movieId --text title`
    """
    from benchmarks.reports.tables import print_log
    from responders.content import read_content, with_content

    set_threads(threads)
    check_free(out, overwrite)
    loaded = SessionLog.load(log)
    found = read_content(
        file, loaded.catalogue, item=item, text=text or (), model=model, device=device
    )
    made = with_content(loaded, found)
    made.save(out, overwrite=overwrite)
    print_log(made, out)


@app.command()
def show(log: LogPath) -> None:
    """Print counts, click rates by position and step, users, time span and licence."""
    from benchmarks.reports.tables import print_log

    print_log(SessionLog.load(log), log)
