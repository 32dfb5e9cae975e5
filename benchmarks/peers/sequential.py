"""Our sequential recommenders against RecTools' and cornac's on the same split.

    python -m venv RT && RT/bin/pip install "rectools[torch]==0.19.0" torch==2.13.0
    python -m venv CO && CO/bin/pip install cornac==3.0.0 torch==2.13.0
    python -m benchmarks.peers.sequential LOG --rectools RT/bin/python --cornac CO/bin/python

Each user's last click is the test, and the one before it chooses the epoch on both sides. The
catalogue is what the training sequences hold, as the peers know no other item; users whose last two
clicks are not in it are trained on but not tested. Sizes, history length, batch size, the most
epochs and the patience are the same; the rest is each side's default. The peers run in environments
of their own and return lists of ten items, which our code judges. An epoch's time is the CPU time
of its training steps on one thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from agents.registry import POLICIES
from agents.sequences import Sequences, sequences_of
from agents.sequential import gains
from agents.site import Site
from benchmarks.harness import check_out, names_in, publish, run_script
from benchmarks.peers import sequential_models
from benchmarks.reports.tables import Cell, number, text, with_interval
from responders import Catalogue, InputError, SessionLog
from responders.evaluation.bootstrap import crossed_interval
from responders.registry import load

PEERS = {"sasrec": "rectools", "bert4rec": "rectools", "gru4rec": "cornac"}
"""The library that each of our models is compared with."""


@dataclass(frozen=True)
class Settings:
    """What both sides have in common.

    Args:
        size: d, of the vectors of items and states.
        layers: of the transformers; GRU4Rec has one.
        heads: of the transformers.
        length: L, clicks that are read.
        batch_size: users in a batch.
        epochs: at most.
        patience: epochs without a better NDCG@10 of the validation clicks after which to stop.
    """

    size: int = 64
    layers: int = 2
    heads: int = 2
    length: int = 50
    batch_size: int = 128
    epochs: int = 20
    patience: int = 5

    def of(self, model: str) -> dict[str, Any]:
        """Return the settings of a model by name."""
        return asdict(self) | ({"layers": 1} if model == "gru4rec" else {})


@dataclass(frozen=True)
class Run:
    """What one training gives.

    Args:
        gain: [U], NDCG@10 of each user's last click.
        epochs: until it stopped.
        seconds: CPU time of the training steps of an epoch, median.
    """

    gain: np.ndarray
    epochs: int
    seconds: float


def gains_of_lists(lists: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the NDCG of one `target` [U] each in ranked lists [U, k], -1 = none: [U]."""
    hit = lists == target[:, None]
    return np.where(hit.any(1), 1 / np.log2(hit.argmax(1) + 2), 0.0)


def ours(
    model: str, site: Site, training: Sequences, test: Sequences, settings: Settings, seed: int
) -> Run:
    """Train our model and judge it."""
    kind = load(POLICIES, model, "policy")
    chosen = settings.of(model)
    if model == "gru4rec":
        del chosen["heads"]
    policy = kind(site, kind.config_class(**chosen), seed)
    epochs = policy.fit_sequences(training, progress=True)
    gain = gains(policy.net, test.history, test.target)
    return Run(gain, len(epochs), float(np.median([epoch.cpu_seconds for epoch in epochs])))


def theirs(
    model: str, python: str, training: Sequences, test: Sequences, settings: Settings, seed: int
) -> Run:
    """Train the peer's model in its own interpreter and judge its lists.

    Raises:
        InputError: the interpreter cannot be started, or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        arrays, out = Path(folder) / "arrays.npz", Path(folder) / "lists.npz"
        valid = training.target >= 0
        np.savez(
            arrays,
            training=training.item,
            validation_history=training.history[valid],
            validation_target=training.target[valid],
            test_history=test.history,
            n_items=np.array(training.n_items),
        )
        options = json.dumps({**settings.of(model), "seed": seed})
        script = str(Path(sequential_models.__file__).absolute())
        command = [str(Path(python).absolute()), script, str(arrays), model, options, str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        try:
            subprocess.run(
                command, capture_output=True, text=True, check=True, cwd=folder, env=environment
            )
        except OSError as error:
            raise InputError(f"{python} cannot be started ({error})") from error
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
            raise InputError(f"{PEERS[model]} fails in {python}: {reason}") from error
        with np.load(out) as found:
            gain = gains_of_lists(found["lists"], test.target)
            return Run(gain, len(found["ndcg"]), float(np.median(found["seconds"])))


def compare(
    log: SessionLog,
    pythons: dict[str, str],
    models: str | Sequence[str],
    settings: Settings,
    seeds: int = 1,
) -> list[dict[str, Any]]:
    """Train each model here and in its peer's interpreter, in turn; return a row for each.

    Args:
        log: clicks in time order are the sequences of its users.
        pythons: interpreters by library.
        models: keys of `PEERS`, as a list or comma-separated.
        settings: of both sides.
        seeds: repetitions.

    Returns:
        Rows with `model`, `peer`, `users`, `items`, `seeds`; NDCG@10 (`ours`, `theirs` and their
        `difference`) with 95 % intervals over users and seeds (`_low`, `_high`); hit rates,
        `epochs` and `seconds` of an epoch.

    Raises:
        InputError: an unknown model, or a library without interpreter; see `split` and `theirs`.
    """
    names = names_in(models)
    for name in names:
        if name not in PEERS:
            raise InputError(f"model {name!r} has no peer: {', '.join(PEERS)}")
        if not pythons.get(PEERS[name]):
            raise InputError(f"model {name} needs --{PEERS[name]}, an interpreter that has it")
    training, test = split(log, settings.length)
    site = Site(Catalogue(np.arange(training.n_items)), log.n_positions)
    rows = list[dict[str, Any]]()
    for name in names:
        here, there = list[Run](), list[Run]()
        for seed in range(seeds):
            here.append(ours(name, site, training, test, settings, seed))
            python = pythons[PEERS[name]]
            there.append(theirs(name, python, training, test, settings, seed))
        own, other = (np.array([run.gain for run in runs]) for runs in (here, there))
        rows.append(
            {
                "model": name,
                "peer": PEERS[name],
                "users": own.shape[1],
                "items": training.n_items,
                "seeds": seeds,
                **crossed_interval("ours", own),
                **crossed_interval("theirs", other),
                **crossed_interval("difference", own - other),
                "hits": (own > 0).mean(),
                "their_hits": (other > 0).mean(),
                "epochs": np.mean([run.epochs for run in here]),
                "their_epochs": np.mean([run.epochs for run in there]),
                "seconds": np.mean([run.seconds for run in here]),
                "their_seconds": np.mean([run.seconds for run in there]),
            }
        )
    return rows


def split(log: SessionLog, length: int) -> tuple[Sequences, Sequences]:
    """Return sequences to train and choose the epoch on, and the test's; items are numbered anew.

    Raises:
        InputError: no user has three clicks, of which the last two are on items of the training.
    """
    training, test = (sequences_of(log, length, leave_out=n) for n in (2, 1))
    known = np.unique(training.item[training.item >= 0])
    number_of = np.full(training.n_items + 1, -1)  # the last one, -1, stays -1
    number_of[known] = np.arange(len(known))
    training, test = (
        Sequences(number_of[each.item], number_of[each.target], number_of[each.skipped], len(known))
        for each in (training, test)
    )
    kept = (training.target >= 0) & (test.target >= 0)
    if not kept.any():
        raise InputError("no user has three clicks on items of the training: nothing to test with")
    return training, Sequences(test.item[kept], test.target[kept], test.skipped[kept], len(known))


def main(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Folder of a session log.")],
    rectools: Annotated[str, typer.Option(help="The interpreter with RecTools.")] = "",
    cornac: Annotated[str, typer.Option(help="The interpreter with cornac.")] = "",
    models: Annotated[str, typer.Option(help="sasrec, bert4rec, gru4rec.")] = ",".join(PEERS),
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 1,
    epochs: Annotated[int, typer.Option(min=1, help="Of each run, at most.")] = 20,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without a better one.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Users in a batch.")] = 128,
    length: Annotated[int, typer.Option(min=2, help="Clicks that are read.")] = 50,
    out: Annotated[Path, typer.Option(help="Folder for the table.")] = Path("runs/peers"),
) -> None:
    """Compare our sequential recommenders with RecTools' and cornac's."""
    check_out(out)
    torch.set_num_threads(1)
    settings = Settings(batch_size=batch_size, epochs=epochs, patience=patience, length=length)
    loaded = SessionLog.load(log)
    rows = compare(loaded, {"rectools": rectools, "cornac": cornac}, models, settings, seeds)
    columns: dict[str, Cell] = {
        "model": text("model"),
        "peer": text("peer"),
        "NDCG@10, ours": with_interval("ours", 4),
        "peer's": with_interval("theirs", 4),
        "ours less peer's": with_interval("difference", 4),
        "HR@10, ours": number("hits", 4),
        "peer's HR": number("their_hits", 4),
        "epochs, ours": number("epochs"),
        "peer's epochs": number("their_epochs"),
        "s/epoch, ours": number("seconds", 2),
        "peer's s/epoch": number("their_seconds", 2),
    }
    title = f"{log.name}: {rows[0]['users']:,} users, {rows[0]['items']:,} items"
    caption = f"{settings}; {seeds} seeds; 95 % intervals over users and seeds; s of CPU, 1 thread"
    publish("sequential_peers", title, columns, rows, caption=caption, out=out)


if __name__ == "__main__":
    run_script(main)
