"""The `recsim` command."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.report import show_table
from responders import InputError, SessionLog
from responders.metrics import METRICS

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
    from responders.sources import convert as convert_source

    index = None if catalogue is None else SessionLog.load(catalogue).catalogue
    log = convert_source(source, raw, out, catalogue=index, overwrite=overwrite)
    _show_log(log, out)


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
    as `--set taste=0` or `--set position_bias=1`; see `TruthSettings` for all of them.

    Example: `recsim data synthesize logs/known --preset contentwise --sessions 20000`
    """
    from responders.errors import near_matches
    from responders.fit import typed
    from responders.synthesize import synthesize as write_log
    from responders.synthetic import PRESETS, TruthSettings

    if preset not in PRESETS:
        raise InputError(f"preset {preset!r} is unknown; {near_matches(preset, PRESETS)}")
    defaults = vars(TruthSettings())
    changes = {
        key: typed(key, value, type(defaults[key])) if key in defaults else value
        for key, value in _settings(settings).items()
    }
    world = PRESETS[preset].changed(**changes)
    log = write_log(
        out, world, sessions, seed=seed, policy=policy, name=preset, overwrite=overwrite
    )
    _show_log(log, out)


@data.command("show")
def show_log(log: LogPath) -> None:
    """Print counts, click rates by position and step, users, time span and licence."""
    _show_log(SessionLog.load(log), log)


def _show_log(log: SessionLog, path: Path) -> None:
    facts = log.summary()
    kind = "SYNTHETIC users" if log.synthetic else "real users"
    length = facts["slates_per_session"]
    rows = [
        ("name", f"{log.card.get('name')} ({kind})"),
        ("source", str(log.card.get("source"))),
        ("licence", str(log.card.get("licence"))),
        ("sessions", f"{facts['sessions']:,} of {facts['users']:,} users"),
        (
            "slates",
            f"{facts['slates']:,}; a session has {length['min']} to {length['max']}, "
            f"mean {length['mean']:.1f}, median {length['median']:g}",
        ),
        ("positions", f"{log.n_positions}; {facts['impressions']:,} items shown"),
        ("items", f"{facts['items']:,}, {facts['items_shown']:,} of them shown"),
        ("features", f"{facts['item_features']} per item, {facts['user_features']} per user"),
        (
            "clicks",
            f"{facts['clicks']:,} = {facts['click_rate']:.2%} of items shown; "
            f"{facts['slates_without_click']:.1%} of slates have none",
        ),
        ("time", f"{facts['first_time']:,} to {facts['last_time']:,} s"),
    ]
    rows += [
        (name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
        for name, value in log.card.get("counts", {}).items()
    ]
    from responders.synthetic import truth_of

    truth = truth_of(log)
    if truth is not None:
        bias = ", ".join(f"{x:.3f}" for x in truth.examination.tolist())
        rows.append(("true examination", bias))
    show_table(str(path), ["", "value"], rows)
    by = [facts["click_rate_by_position"], facts["click_rate_by_step"]]
    width = max(map(len, by))
    show_table(
        "click rate",
        ["", *(str(i + 1) for i in range(min(width, 20)))],
        [
            [name, *(f"{x:.3f}" for x in rates[:20])]
            for name, rates in zip(("by position", "by slate of session"), by, strict=True)
        ],
        "the tenth slate stands for all later ones",
    )


@app.command()
def train(
    log: LogPath,
    responder: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="item_ctr, position_ctr, pbm, mf, logistic_regression, slate_gru or session_gru.",
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
    from responders.fit import fit
    from responders.training import Interrupted

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
    _show_metrics(users.card["metrics"], f"{responder} on held-out users ({out})", None)
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
    from responders.batch import Part
    from responders.checkpoint import load_checkpoint
    from responders.fit import pick_device
    from responders.metrics import evaluate as measure
    from responders.metrics import predict
    from responders.split import make_split
    from responders.storage import write_json
    from responders.synthetic import truth_of

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
        metrics["bayes_estimated"] = truth.settings.hidden > 0
    name = users.card["responder"]["name"]
    _show_metrics(metrics, f"{name} on {log}, {split} ({_kind(logged)})", metrics["by_position"])
    if json is not None:
        flat = {k: v for k, v in metrics.items() if k != "by_position"}
        for row in metrics["by_position"]:
            place = row["position"] + 1
            flat |= {f"{k}_at_{place}": v for k, v in row.items() if k != "position"}
        write_json(json, flat)
        typer.echo(f"wrote {json}")


def _kind(log: SessionLog) -> str:
    return "synthetic users" if log.synthetic else "real users"


def _check_user_features(wanted: int, log: SessionLog, path: Path) -> None:
    have = log.users.features.shape[1]
    if have != wanted:
        raise InputError(f"{path} has {have} user features; the responder was trained on {wanted}")


def _show_metrics(metrics: dict[str, Any], title: str, by_position: list[dict] | None) -> None:
    def number(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.4f}"

    rows = []
    apart = [f"unconditional_{name}" for name in METRICS]
    for name in [*METRICS, *(name for name in apart if name in metrics)]:
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
        bayes = metrics.get(f"bayes_{name}")
        rows.append([name, number(metrics[name]), interval, "" if bayes is None else number(bayes)])
    best = "Bayes optimum (estimate)" if metrics.get("bayes_estimated") else "Bayes optimum"
    columns = ["metric", "measured", "95 % interval", best]
    if "bayes_auc" not in metrics:
        columns, rows = columns[:3], [row[:3] for row in rows]
    caption = f"{metrics['n_positions']:,} positions of {metrics['n_sessions']:,} sessions"
    show_table(title, columns, rows, caption)
    if by_position:
        keys = ("n", "click_rate", "predicted_rate", "auc", "log_loss", "ece")
        show_table(
            "by position",
            ["position", *keys],
            [
                [
                    str(row["position"] + 1),
                    f"{row['n']:,}",
                    *(number(row[key]) for key in keys[1:]),
                ]
                for row in by_position[:20]
            ],
        )


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
    from benchmarks import leaderboard as board
    from recsim_env.scenarios import find_responder, find_scenario, make_world, open_responder

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
    from benchmarks.demo import run

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
