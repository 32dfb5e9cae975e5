"""`recsim pretrain`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from benchmarks.cli.options import (
    DEVICE,
    Device,
    Jobs,
    LogPath,
    Overwrite,
    Ray,
    Seeds,
    Settings,
    Threads,
    command_line,
    find_workers,
)
from responders.errors import InputError

Number = TypeVar("Number", int, float)


def pretrain(
    simulator: Annotated[
        str,
        typer.Argument(
            metavar="ENV|RESPONDER",
            help="Environment id, or folder from `train`; of several, comma-separated, a random "
            "one answers each session.",
        ),
    ],
    log: LogPath,
    policy: Annotated[
        str, typer.Option(help="A sequential policy, or slateq or slate_ppo (synthetic logs).")
    ] = "sasrec",
    behaviour: Annotated[
        str,
        typer.Option(
            help="Sequential: who chooses slates: random, popular, mixed, responder, logged."
        ),
    ] = "random,popular,mixed",
    shares: Annotated[
        str, typer.Option(help="Sequential: percent of the real users to fine-tune on.")
    ] = "0,1,5,20,100",
    sessions: Annotated[int, typer.Option(min=1, help="Sequential: simulated sessions.")] = 20_000,
    shift: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRAIT=STRENGTH",
            help="Sequential: users who come more often in the simulator, such as click_rate=-1.",
        ),
    ] = None,
    horizon: Annotated[
        int | None,
        typer.Option(min=1, help="Sequential: slates after which a simulated session is cut."),
    ] = None,
    interactions: Annotated[
        str, typer.Option(help="slateq, slate_ppo: user-slate steps with true users.")
    ] = "0,500,1000,2000,5000,10000,20000",
    train_steps: Annotated[
        int, typer.Option(min=1, help="slateq, slate_ppo: user-slate steps in the simulator.")
    ] = 50_000,
    users: Annotated[
        int, typer.Option(min=1, help="slateq, slate_ppo: true users to evaluate with.")
    ] = 500,
    seeds: Seeds = 3,
    jobs: Jobs = 1,
    ray: Ray = None,
    out: Annotated[Path, typer.Option(help="Folder for table and plot.")] = Path("runs/pretrain"),
    settings: Settings = None,
    overwrite: Overwrite = False,
    device: Device = DEVICE,
    threads: Threads = None,
) -> None:
    """Measure what a policy gains by learning with simulated users first.

    A sequential policy learns from simulated sessions of a behaviour policy, is fine-tuned on a
    share of the log's users, and ranks the clicks of the log's test users. It is compared with no
    pretraining, and with pretraining on sessions resampled from the share. `slateq` and `slate_ppo`
    learn in the simulator and continue with the true users of a synthetic log. The same command
    continues an interrupted study.

    Example: `recsim pretrain runs/session_gru logs/known --policy sasrec --out runs/pretrain`
    """
    from agents.finding import find_policy
    from agents.sequential import SequentialPolicy
    from benchmarks.reports import pretrain as report
    from benchmarks.studies.pretraining import reinforcement, sequences
    from responders.config import parse_settings

    kind = find_policy(policy).source
    common: dict[str, Any] = {
        "seeds": seeds,
        "settings": parse_settings(settings),
        "workers": find_workers(jobs, ray, threads, device),
        "device": device,
        "out": out,
        "overwrite": overwrite,
        "command": command_line(),
    }
    if isinstance(kind, type) and issubclass(kind, SequentialPolicy):
        result = sequences.pretrain(
            simulator,
            log,
            policy,
            behaviours=behaviour,
            shares=_numbers("shares", shares, float),
            sessions=sessions,
            shift={name: _number(name, value) for name, value in parse_settings(shift).items()},
            horizon=horizon,
            **common,
        )
    else:
        result = reinforcement.pretrain(
            simulator,
            log,
            policy,
            interactions=_numbers("interactions", interactions, int),
            steps=train_steps,
            users=users,
            **common,
        )
    report.show(result.rows, result.facts)
    for path in result.files:
        typer.echo(f"wrote {path}")


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(f"shift by {name} is a number such as -1, not {value!r}") from None


def _numbers(name: str, text: str, kind: Callable[[str], Number]) -> list[Number]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name} are numbers such as 0,1,5, not {text!r}") from None
