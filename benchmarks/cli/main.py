"""The `recsim` command."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from responders import InputError, SessionLog

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
data = typer.Typer(no_args_is_help=True, help="Convert, synthesize and look at session logs.")
app.add_typer(data, name="data")

# Spelt out here, so that --help does not wait for PyTorch; a test compares it with the registry.
RESPONDER_NAMES = (
    "item_ctr, position_ctr, pbm, cascade, dcm, ubm, dbn, ccm, mf, logistic_regression, slate_gru, "
    "session_gru, hierarchical_gru, slate_transformer, session_transformer, transformer_gru, scot, "
    "adv_ncm, rancm"
)

LogPath = Annotated[Path, typer.Argument(metavar="LOG", help="Folder of a session log.")]
Seed = Annotated[int, typer.Option(min=0, help="Fixes everything random.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeatable."),
]


def _settings(pairs: list[str] | None) -> dict[str, str]:
    found = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--set takes KEY=VALUE, not {pair!r}")
        found[key.strip()] = value.strip()
    return found


def _command() -> str:
    return shlex.join(["recsim", *sys.argv[1:]])


@data.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Format of the raw files.")],
    raw: Annotated[Path, typer.Argument(metavar="RAW", help="Raw file or folder as published.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the log to.")],
    catalogue: Annotated[
        Path | None,
        typer.Option(metavar="LOG", help="Keep this log's item index; new items are appended."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert raw files to a session log.

    SOURCE is one of contentwise, rl4rs, trec-session, open-bandit, ebnerd, movielens, amazon.

    Example: `recsim data convert rl4rs rl4rs-dataset/ logs/rl4rs`
    """
    from benchmarks.reports.tables import print_log
    from responders.sources import convert as convert_source

    index = None if catalogue is None else SessionLog.load(catalogue).catalogue
    log = convert_source(source, raw, out, catalogue=index, overwrite=overwrite)
    print_log(log, out)


@data.command()
def synthesize(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the log to.")],
    preset: Annotated[str, typer.Option(help="contentwise, rl4rs or pbm.")] = "contentwise",
    sessions: Annotated[int, typer.Option(min=1, help="Users, one session each.")] = 20_000,
    seed: Seed = 0,
    policy: Annotated[str, typer.Option(help="mixed, popular, uniform or personal.")] = "mixed",
    settings: Settings = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a log of simulated users whose true probabilities are known.

    The users are synthetic and every table says so. `--set` changes one effect of the world, such
    as `--set taste=0` or `--set position_bias=1`; see `TruthConfig` for all of them.

    Example: `recsim data synthesize logs/known --preset contentwise --sessions 20000`
    """
    from benchmarks.reports.tables import print_log
    from responders.errors import near_matches
    from responders.known_truth.logs import synthesize as write_log
    from responders.known_truth.presets import PRESETS, TruthConfig
    from responders.training.fit import typed

    if preset not in PRESETS:
        raise InputError(f"preset {preset!r} is unknown; {near_matches(preset, PRESETS)}")
    defaults = vars(TruthConfig())
    changes = {
        key: typed(key, value, type(defaults[key])) if key in defaults else value
        for key, value in _settings(settings).items()
    }
    world = PRESETS[preset].changed(**changes)
    log = write_log(
        out, world, sessions, seed=seed, policy=policy, name=preset, overwrite=overwrite
    )
    print_log(log, out)


@data.command("show")
def show_log(log: LogPath) -> None:
    """Print counts, click rates by position and step, users, time span and licence."""
    from benchmarks.reports.tables import print_log

    print_log(SessionLog.load(log), log)


@app.command()
def train(
    log: LogPath,
    responder: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"{RESPONDER_NAMES}.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, card and TensorBoard run.")],
    seed: Seed = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most so many epochs.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    settings: Settings = None,
) -> None:
    """Train a responder on 80 % of a log's users and test it on 10 %.

    `--set` changes options of the responder (`hidden_size=128`, `embedding=content`) and of the
    training (`learning_rate=0.001`, `batch_size=64`, `patience=7`). Ctrl-C saves and stops;
    `--resume` goes on from there to the same result.

    Example: `recsim train logs/known --responder session_gru --out runs/session_gru`
    """
    from benchmarks.reports.tables import print_metrics
    from responders.training.fit import fit
    from responders.training.trainer import Interrupted

    chosen: dict[str, Any] = dict(_settings(settings))
    if epochs is not None:
        chosen["epochs"] = epochs
    try:
        users = fit(
            SessionLog.load(log),
            responder,
            out,
            chosen,
            seed=seed,
            resume=resume,
            device=device,
            command=_command(),
        )
    except Interrupted:
        typer.echo(
            f"interrupted; everything is saved. Go on with: {_command().removesuffix(' --resume')} "
            "--resume",
            err=True,
        )
        raise typer.Exit(130) from None
    print_metrics(users.card["metrics"], f"{responder} on held-out users ({out})", None)
    typer.echo(f"wrote {out}")


@app.command()
def evaluate(
    responder: Annotated[Path, typer.Argument(metavar="RESPONDER", help="Folder of `train`.")],
    log: LogPath,
    split: Annotated[
        str, typer.Option(help="test: the users held out in training; all: every session.")
    ] = "test",
    context: Annotated[
        float,
        typer.Option(min=0, max=0.99, help="Share of a session's slates that is only history."),
    ] = 0.8,
    draws: Annotated[
        int,
        typer.Option(min=0, help="Answers per slate for unconditional figures; 0 = leave out."),
    ] = 32,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write flat JSON.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Test a responder on a log: AUC, F1, accuracy, log-loss, perplexity, calibration error.

    Each with a 95 % bootstrap interval over users, and by position. Counts the last 20 % of each
    session's slates, the rest is history (`--context 0` counts all); of a responder trained on a
    split by time, the slates after the last moment. Figures are conditional on the clicks above in
    the same slate; for a responder that reads them, `unconditional_…` ones average them out. On a
    synthetic log the Bayes optimum stands beside it.

    Example: `recsim evaluate runs/session_gru logs/known --json metrics.json`
    """
    from benchmarks.reports.tables import kind_of, print_metrics
    from responders.device import pick_device
    from responders.evaluation.metrics import METRICS
    from responders.evaluation.metrics import evaluate as measure
    from responders.evaluation.predict import predict
    from responders.files import write_json
    from responders.known_truth.world import truth_of
    from responders.log.batch import Part
    from responders.log.split import make_split
    from responders.training.checkpoint import load_checkpoint

    if split not in ("test", "all"):
        raise typer.BadParameter(f"{split!r} is neither test nor all", param_hint="--split")
    logged = SessionLog.load(log)
    users = load_checkpoint(responder, logged.catalogue)
    if logged.n_positions > users.responder.shape.n_positions:
        raise InputError(
            f"{log} has slates of {logged.n_positions} positions; {responder} was trained on "
            f"{users.responder.shape.n_positions}"
        )
    _check_user_features(users.responder.shape.n_user_features, logged, log)
    if split == "test":
        if users.card["data"]["fingerprint"] != logged.fingerprint():
            typer.echo(
                "note: this is not the log of the training, so the test split may hold users that "
                "were trained on; --split all counts every session",
                err=True,
            )
        by = users.card["split"]["by"]
        part = make_split(logged, by, users.card["split"]["seed"])["test"]
        if by == "user":
            part = Part.of(logged, part.sessions, context)
    else:
        part = Part.of(logged, np.arange(logged.n_sessions), context)
    where = pick_device(device)
    answer = partial(predict, log=logged, part=part, progress=True)
    answering, threshold = users.responder.to(where), users.card["threshold"]
    metrics = measure(answer(answering, device=where), threshold)
    if draws and answering.reads_clicks_above:
        apart = measure(answer(answering, device=where, draws=draws), threshold)
        metrics |= {f"unconditional_{k}": v for k, v in apart.items() if k in METRICS}
    truth = truth_of(logged)
    if truth is not None:
        best = measure(answer(truth), threshold, resamples=0)
        metrics |= {f"bayes_{name}": best[name] for name in ("log_loss", "auc")}
        metrics["bayes_estimated"] = truth.config.hidden > 0
    name = users.card["responder"]["name"]
    print_metrics(metrics, f"{name} on {log}, {split} ({kind_of(logged)})", metrics["by_position"])
    if json is not None:
        flat = {k: v for k, v in metrics.items() if k != "by_position"}
        for row in metrics["by_position"]:
            place = row["position"] + 1
            flat |= {f"{k}_at_{place}": v for k, v in row.items() if k != "position"}
        write_json(json, flat)
        typer.echo(f"wrote {json}")


def _check_user_features(wanted: int, log: SessionLog, path: Path) -> None:
    have = log.users.features.shape[1]
    if have != wanted:
        raise InputError(f"{path} has {have} user features; the responder was trained on {wanted}")


@app.command()
def compare(
    log: LogPath,
    responders: Annotated[
        str,
        typer.Option(
            help=f"{RESPONDER_NAMES}; a comma list or all. Settings of one follow a colon: "
            "slate_gru:readout=soft."
        ),
    ] = "all",
    embeddings: Annotated[
        str, typer.Option(help="learned, svd, explicit, content; a comma list.")
    ] = "learned",
    split: Annotated[str, typer.Option(help="user, time; a comma list.")] = "user,time",
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions; each splits users anew.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for runs, tables and plot.")] = Path(
        "runs/compare"
    ),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    settings: Settings = None,
) -> None:
    """Train and test responders on one log: a table and a plot of quality against cost.

    By the protocol of arXiv 2409.20055 (users split 80/10/10; the last 20 % of a test session's
    slates count) and by a split at two moments of time. A finished run is kept: the same command
    goes on where it stopped. `--set` changes a setting of every responder that has it. The
    published figures stand beside ours where the log is ContentWise or RL4RS.

    Example: `recsim compare logs/known --responders position_ctr,slate_gru,scot --seeds 3`
    """
    from benchmarks.reports import compare as report
    from benchmarks.studies import compare as comparison

    names = comparison.responder_names(responders)
    chosen = _settings(settings)
    comparison.check_settings(names, chosen)
    logged = SessionLog.load(log)
    kinds, splits = ([x.strip() for x in text.split(",")] for text in (embeddings, split))
    runs = comparison.plan(names, kinds, splits, seeds, logged)
    out.mkdir(parents=True, exist_ok=True)
    try:
        results = list(comparison.compare(log, runs, out, chosen, jobs=jobs, device=device))
    except KeyboardInterrupt:
        typer.echo("interrupted; finished runs are kept. Go on with the same command.", err=True)
        raise typer.Exit(130) from None
    order = {run: i for i, run in enumerate(runs)}
    results.sort(key=lambda pair: order[pair[0]])
    table = report.summarise(logged, results, out)
    report.show(table, logged)
    for path in report.write(table, logged, out, report.facts_of(runs, _command(), logged)):
        typer.echo(f"wrote {path}")


@app.command()
def bench(
    environment: Annotated[str, typer.Argument(metavar="ENV_ID", help="e.g. RecSim-v0.")],
    policies: Annotated[
        str, typer.Option(help="random, popular, epsilon_greedy, ppo, oracle; a comma list or all.")
    ] = "all",
    users: Annotated[int, typer.Option(min=1, help="Simulated users per seed.")] = 500,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions, training included.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for tables, plot and TensorBoard.")] = Path(
        "runs/bench"
    ),
    responder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A responder of yours, or a synthetic log (its truth)."),
    ] = None,
    train_steps: Annotated[
        int, typer.Option(min=0, help="User-slate steps that learning policies train for.")
    ] = 100_000,
) -> None:
    """Run policies among the same simulated users and print a leaderboard.

    Example: `recsim bench RecSim-v0 --responder runs/session_gru --users 500 --out runs/bench`
    """
    from benchmarks.studies import leaderboard as board
    from recsim_env.make import find_responder, find_scenario, make_world, open_responder

    scenario = find_scenario(environment)
    users_of = open_responder(responder or find_responder(scenario))
    new_world = partial(_new_world, make_world, environment, users_of)
    names = board.policy_names(policies, new_world(1))
    rows = board.leaderboard(new_world, names, users=users, seeds=seeds, training_steps=train_steps)
    kind = "SYNTHETIC users" if users_of.synthetic else "users learned from a real log"
    board.show(rows, f"{environment}: {kind}, {users_of.card['responder']['name']}")
    facts = {
        "environment": environment,
        "responder": users_of.card["responder"]["name"],
        "synthetic": users_of.synthetic,
        "command": _command(),
    }
    for path in board.write(rows, out, facts):
        typer.echo(f"wrote {path}")


def _new_world(make_world: Any, environment: str, users: Any, num_users: int) -> Any:
    return make_world(environment, num_users=num_users, responder=users)


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option(help="Folder for everything it writes; else a new runs/demo.")
    ] = None,
) -> None:
    """Everything once, in under 3 minutes: log, responder, environment, policies, leaderboard."""
    from benchmarks.studies.demo import run

    run(out)


def main() -> None:
    """Run the command line; bad input becomes one line on stderr and exit code 1."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        app()
    except (InputError, OSError) as error:
        if debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
