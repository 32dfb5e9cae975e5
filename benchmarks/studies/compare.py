"""Train and test many responders on one log: every responder × embedding × seed × split.

Each run has a process of its own, so that its peak of memory is its own and a crash stops nothing
else. A finished run is kept: the same command goes on where it stopped.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.memory import memory, peak_memory
from responders import InputError, SessionLog
from responders.device import pick_device
from responders.evaluation.metrics import METRICS, best_threshold, evaluate, sparse_auc
from responders.evaluation.predict import Predictions, predict
from responders.files import read_json, write_json
from responders.known_truth.world import truth_of
from responders.log.batch import Part, make_batch
from responders.log.split import SPLITS, make_split
from responders.models.base import LogShape, Responder
from responders.models.build import RESPONDERS, default_options, responder_class
from responders.models.parts.items import Embedding
from responders.progress import progress_bar
from responders.training.config import TrainConfig
from responders.training.fit import fit, parse_options

RESULT = "result.json"
"""The file of a run's folder that says that it is finished, and what came of it."""

BAYES = "Bayes optimum"

_DRAWS = 32
_USERS = 256  # answered at once when the speed of simulation is measured


@dataclass(frozen=True)
class Run:
    """One training and test.

    Args:
        responder: a key of `RESPONDERS`, with settings of its own after a colon:
            slate_gru:readout=soft, session_gru:next_click=0.1:hidden_size=32.
        embedding: of its items; "" where it has none.
        split: user or time.
        seed: of the user split and the training.
    """

    responder: str
    embedding: str
    split: str
    seed: int

    @property
    def name(self) -> str:
        """The responder without its settings."""
        return self.responder.split(":")[0]

    @property
    def settings(self) -> dict[str, str]:
        """The settings of its own."""
        pairs = (pair.partition("=") for pair in self.responder.split(":")[1:])
        return {key: value for key, _, value in pairs}

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        parts = (self.split, self.responder.replace(":", "-"), self.embedding, str(self.seed))
        return "-".join(filter(None, parts))


def plan(
    responders: list[str], embeddings: list[str], splits: list[str], seeds: int, log: SessionLog
) -> list[Run]:
    """Return the runs, seed by seed, so that a table stands early.

    Raises:
        InputError: an unknown name, or no run is left.
    """
    known = Embedding.__args__  # type: ignore[attr-defined]
    for name in embeddings:
        if name not in known:
            raise InputError(f"embedding {name!r} is unknown: {', '.join(known)}")
    for name in splits:
        if name not in SPLITS:
            raise InputError(f"split {name!r} is unknown: {' or '.join(SPLITS)}")
    short = int(log.session_length.max()) < 2
    runs = []
    for seed in range(seeds):
        for split in splits:
            for name in responders:
                kind = responder_class(name.split(":")[0])
                if short and kind.reads_history:
                    continue
                has = "embedding" in default_options(kind)
                runs += [Run(name, e, split, seed) for e in (embeddings if has else [""])]
    if not runs:
        raise InputError("nothing to compare: every session of the log has one slate, choose pbm …")
    return runs


def responder_names(text: str) -> list[str]:
    """Return the responders of a comma list; `all` = all there are."""
    names = list(RESPONDERS) if text == "all" else [n.strip() for n in text.split(",") if n.strip()]
    for name in names:
        run = Run(name, "", "user", 0)
        options, _ = parse_options(run.name, run.settings)
        options.pop("embedding", None)
        RESPONDERS[run.name](LogShape(1, 1), **options)  # refuses values that make no sense
    if not names:
        raise InputError(f"no responder given; known: {', '.join(RESPONDERS)}")
    return names


def settings_of(run: Run, settings: dict[str, str]) -> dict[str, Any]:
    """Return those of `settings` that the run's responder has, and its embedding."""
    known = {*default_options(RESPONDERS[run.name]), *vars(TrainConfig())}
    found: dict[str, Any] = {k: v for k, v in settings.items() if k in known}
    return found | run.settings | ({"embedding": run.embedding} if run.embedding else {})


def check_settings(responders: list[str], settings: dict[str, str]) -> None:
    """Raise `InputError` for a setting that none of the responders has, or a wrong value."""
    for key, value in settings.items():
        having = [n for n in responders if key in settings_of(Run(n, "", "user", 0), {key: value})]
        for name in having or responders[:1]:
            parse_options(name.split(":")[0], {key: value})


def compare(
    log_path: Path,
    runs: list[Run],
    out: Path,
    settings: dict[str, str],
    *,
    jobs: int = 1,
    device: str = "auto",
    progress: bool = True,
) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Do the runs that `out` does not hold yet; yield every run and its result as it is there.

    Args:
        log_path: folder of the log.
        runs: from `plan`.
        out: folder of the runs.
        settings: of the responders and their training.
        jobs: runs at a time; the processor's cores are shared among them.
        device: auto, cpu or cuda.
        progress: show progress bars.

    Raises:
        InputError: of a run, with its name.
    """
    todo = []
    for run in runs:
        path = out / run.folder / RESULT
        if path.exists():
            yield run, _checked(read_json(path, "run"), log_path, settings_of(run, settings), path)
        else:
            todo.append(run)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as pool,
        progress_bar(
            total=len(runs), initial=len(runs) - len(todo), desc="compare", unit="run",
            disable=not progress,
        ) as bar,
    ):  # fmt: skip
        futures = {
            pool.submit(
                run_one, log_path, run, out / run.folder, settings_of(run, settings),
                threads=threads, device=device, progress=progress and jobs == 1,
            ): run
            for run in todo
        }  # fmt: skip
        try:
            for future in as_completed(futures):
                run = futures[future]
                bar.set_postfix_str(run.folder, refresh=False)
                try:
                    result = future.result()
                except InputError as error:
                    raise InputError(f"{run.folder}: {error}") from error
                bar.update()
                yield run, result
        except BaseException:
            pool.shutdown(cancel_futures=True)  # what runs already ends by itself or by Ctrl-C
            raise


def _checked(
    result: dict[str, Any], log_path: Path, settings: dict[str, Any], path: Path
) -> dict[str, Any]:
    wanted = {"settings": settings, "log": SessionLog.load(log_path).fingerprint()}
    for key, value in wanted.items():
        if result.get(key) != value:
            raise InputError(
                f"{path} was made with {key} = {result.get(key)!r}, not {value!r}: choose another "
                "--out or delete the folder"
            )
    return result


def run_one(
    log_path: Path,
    run: Run,
    out: Path,
    settings: dict[str, Any],
    *,
    threads: int = 1,
    device: str = "auto",
    progress: bool = False,
) -> dict[str, Any]:
    """Train and test one responder in this process; write `result.json` and `predictions.npz`."""
    torch.set_num_threads(threads)
    log = SessionLog.load(log_path)
    where, before = pick_device(device), memory()
    users = fit(
        log, run.name, out, settings, seed=run.seed, by=run.split, resume=out.exists(),
        device=device, progress=progress,
    )  # fmt: skip
    peak = (peak_memory() - before) / 1024
    if where.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    responder = users.responder.to(where)
    part = make_split(log, run.split, run.seed)["test"]
    given = predict(responder, log, part, device=where)
    apart = given
    if responder.reads_clicks_above:
        apart = predict(responder, log, part, device=where, draws=_DRAWS)
    threshold = users.card["threshold"]
    result = {
        "settings": settings,
        "log": log.fingerprint(),
        "parameters": users.card["parameters"],
        "train_seconds": users.card["training"].get("seconds", 0.0),
        "epochs": users.card["training"].get("epochs_run", 0),
        "peak_mb": peak,
        "ms_per_slate": slate_milliseconds(responder, log, part, where),
        "reads_clicks_above": responder.reads_clicks_above,
        "reads_history": responder.reads_history,
        "threshold": threshold,
        "sparse_auc": sparse_auc(given, users.contexts.catalogue.attributes["shown"]),
        **points(given, threshold),
        **{f"unconditional_{k}": v for k, v in points(apart, threshold).items()},
    }
    save_predictions(out, given, apart)
    write_json(out / RESULT, result)
    return result


def points(predictions: Predictions, threshold: float) -> dict[str, float | None]:
    """Return the metrics of predictions, without intervals."""
    found = evaluate(predictions, threshold, resamples=0)
    return {name: found[name] for name in METRICS}


def save_predictions(out: Path, given: Predictions, apart: Predictions) -> None:
    """Write conditional and unconditional predictions of the same positions to `out`."""
    building = out / "predictions.tmp.npz"
    np.savez(
        building,
        logit=given.logit.astype(np.float32),
        unconditional=apart.logit.astype(np.float32),
        click=given.click,
        position=given.position.astype(np.int16),
        user=given.user,
        session=given.session,
        item=given.item.astype(np.int32),
    )
    os.replace(building, out / "predictions.npz")


def load_predictions(out: Path, run: Run) -> tuple[Predictions, Predictions]:
    """Return the conditional and the unconditional predictions of a finished run."""
    with np.load(out / run.folder / "predictions.npz") as file:
        rest = [file[k] for k in ("click", "position", "user", "session", "item")]
        rest[1] = rest[1].astype(np.int64)
        given, apart = (file[k].astype(np.float64) for k in ("logit", "unconditional"))
    return Predictions(given, *rest), Predictions(apart, *rest)


def bayes(log: SessionLog, split: str, seed: int, out: Path) -> dict[str, Any] | None:
    """Return the metrics of a synthetic log's true users on the test part; None on a real log."""
    truth = truth_of(log)
    if truth is None:
        return None
    run = Run("bayes", "", split, seed)
    path = out / run.folder
    if not (path / RESULT).exists():
        parts = make_split(log, split, seed)
        path.mkdir(parents=True, exist_ok=True)
        given = predict(truth, log, parts["test"])
        apart = predict(truth, log, parts["test"], draws=_DRAWS)
        threshold = best_threshold(predict(truth, log, parts["validation"]))
        save_predictions(path, given, apart)
        result = {
            "estimated": truth.config.hidden > 0,
            **points(given, threshold),
            **{f"unconditional_{k}": v for k, v in points(apart, threshold).items()},
        }
        write_json(path / RESULT, result)
    return read_json(path / RESULT, "run")


@torch.inference_mode()
def slate_milliseconds(
    responder: Responder, log: SessionLog, part: Part, device: torch.device, seconds: float = 1.0
) -> float:
    """Return the milliseconds to draw one user's clicks on a slate, 256 users answered at once.

    The slates are logged ones, in the order of their sessions, so that memories are filled.
    """
    rows = np.resize(np.argsort(-part.end, kind="stable"), _USERS)
    batch = make_batch(log, part.take(rows)).to(device)
    state, drawn, spent, turn = responder.start(batch.user), 0, 0.0, 0
    generator = torch.Generator(device).manual_seed(0)
    responder.respond(state, batch.slate[:, 0], generator)  # first use: tables, allocations
    while spent < seconds:
        r = turn % batch.slate.shape[1]
        state = responder.start(batch.user) if r == 0 else state
        began = time.perf_counter()
        state = responder.respond(state, batch.slate[:, r], generator).state
        if device.type == "cuda":
            torch.cuda.synchronize()
        spent += time.perf_counter() - began
        drawn, turn = drawn + len(rows), turn + 1
    return 1000 * spent / drawn
