"""Train and evaluate many responders on one log: every responder × embedding × seed × split.

Each run has its own process, so that its peak memory is measured separately and a crash does not
affect other runs. Finished runs are kept: the same call continues where an interrupted one stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from benchmarks.harness import names_in
from benchmarks.reports.compare import facts_of, summarise, write
from benchmarks.studies.runs import RESULT, Run, load_result, run_one
from benchmarks.workers import Workers, run_cases
from responders import InputError, SessionLog
from responders.config import known_settings
from responders.files import holds_files, lock
from responders.log.split import SPLITS
from responders.models.base import LogShape
from responders.models.parts.items import Embedding
from responders.models.registry import RESPONDERS
from responders.registry import load
from responders.training.config import TrainConfig
from responders.training.fit import configure

OUT = Path("runs/compare")
"""Default folder of a comparison."""


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Args:
        table: see `benchmarks.reports.compare.summarise`.
        log: the log.
        files: the tables and the plot that were written.
    """

    table: pd.DataFrame
    log: SessionLog
    files: list[Path]


def compare(
    log: str | Path,
    responders: str | Sequence[str] = "all",
    *,
    embeddings: str | Sequence[str] = "learned",
    splits: str | Sequence[str] = "user,time",
    seeds: int = 3,
    out: str | Path = OUT,
    settings: Mapping[str, str] | None = None,
    workers: Workers = Workers(),  # noqa: B008
    device: str = "auto",
    command: str = "",
    progress: bool = True,
) -> Comparison:
    """Compare responders on one log, as `recsim compare` does.

    Args:
        log: folder of the log.
        responders: names, as a list or comma-separated, or all; see `Run` for settings.
        embeddings: of `responders.models.parts.items.Embedding`, for responders that have one.
        splits: user, time or both.
        seeds: repetitions, each with its own user split.
        out: folder of the runs, the tables and the plot; finished runs in it are kept.
        settings: changed for every responder that has them.
        workers: what does the runs.
        device: auto, cpu or cuda.
        command: the command line, for the files.
        progress: show progress bars.

    Raises:
        InputError: an unknown name or setting, or `out` holds runs with other settings, or other
            files.
    """
    names, settings = responder_names(responders), dict(settings or {})
    check_settings(names, settings)
    log_path, out = Path(log), Path(out)
    loaded = SessionLog.load(log_path)
    runs = plan(names, names_in(embeddings), names_in(splits), seeds, loaded)
    with lock(out):
        if holds_files(out) and not any(out.glob("*/*.json")):
            raise InputError(f"{out} is not empty and holds no comparison: choose another --out")
        out.mkdir(exist_ok=True)
        results = dict(
            run_all(
                log_path, runs, out, settings,
                workers=workers, device=device, progress=progress,
            )
        )  # fmt: skip
        table = summarise(loaded, [(run, results[run]) for run in runs], out)
        files = write(table, loaded, out, facts_of(runs, command, loaded))
    return Comparison(table, loaded, files)


def responder_names(responders: str | Sequence[str]) -> list[str]:
    """Return the names of the responders, with their settings; `all` = all of them.

    Raises:
        InputError: no name, an unknown name, or invalid settings.
    """
    names = list(RESPONDERS) if responders == "all" else names_in(responders)
    for name in names:
        run = Run(name, "", "user", 0)
        config, _ = configure(run.name, run.settings)
        if getattr(config, "embedding", "learned") == "learned":  # other embeddings need data
            load(RESPONDERS, run.name, "responder")(LogShape(1, 1), config)
    if not names:
        raise InputError(f"no responder given; known: {', '.join(RESPONDERS)}")
    return names


def plan(
    responders: list[str], embeddings: list[str], splits: list[str], seeds: int, log: SessionLog
) -> list[Run]:
    """Return the runs, ordered by seed, so that every responder has a result early.

    Raises:
        InputError: an unknown name, or there are no runs.
    """
    for what, names, known in (
        ("embedding", embeddings, get_args(Embedding)),
        ("split", splits, SPLITS),
    ):
        for name in names:
            if name not in known:
                raise InputError(f"{what} {name!r} is unknown: {', '.join(known)}")
    single_slates = int(log.session_length.max()) < 2
    runs = []
    for seed in range(seeds):
        for split in splits:
            for name in responders:
                kind = load(RESPONDERS, name.split(":")[0], "responder")
                if single_slates and kind.reads_history:
                    continue
                has_embedding = hasattr(kind.config_class, "embedding")
                runs += [Run(name, e, split, seed) for e in (embeddings if has_embedding else [""])]
    if not runs:
        raise InputError("nothing to compare: sessions have only one slate; choose pbm or similar")
    return runs


def settings_of(run: Run, settings: dict[str, str]) -> dict[str, Any]:
    """Return those of `settings` that the responder has, and the run's own settings."""
    kind = load(RESPONDERS, run.name, "responder")
    chosen = known_settings(kind.config_class, settings) | known_settings(TrainConfig, settings)
    return chosen | run.settings | ({"embedding": run.embedding} if run.embedding else {})


def check_settings(responders: list[str], settings: dict[str, str]) -> None:
    """Raise `InputError` for a setting that no responder has, or an invalid value."""
    for key, value in settings.items():
        having = [n for n in responders if key in settings_of(Run(n, "", "user", 0), {key: value})]
        for name in having or responders[:1]:
            configure(name.split(":")[0], {key: value})


def run_all(
    log_path: Path,
    runs: list[Run],
    out: Path,
    settings: dict[str, str],
    *,
    workers: Workers = Workers(),  # noqa: B008
    device: str = "auto",
    progress: bool = True,
) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Do the runs that are not in `out` yet; yield every run with its result.

    Arguments are those of `compare`, with the runs from `plan`.

    Raises:
        InputError: from a run, with its name.
    """
    cases: dict[Run, tuple[Any, ...]] = {}
    fingerprint = SessionLog.load(log_path).fingerprint()
    for run in runs:
        folder, chosen = out / run.folder, settings_of(run, settings)
        if (folder / RESULT).exists():
            yield run, _load_result(folder / RESULT, {"settings": chosen, "log": fingerprint})
        else:
            bars = progress and workers.here
            cases[run] = (log_path, run, folder, chosen, device, bars)
    done = len(runs) - len(cases)
    yield from run_cases(run_one, cases, workers, label="compare", done=done, progress=progress)


def _load_result(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    result = load_result(path)
    for key, value in wanted.items():
        if result.get(key) != value:
            raise InputError(
                f"{path} was made with {key} = {result.get(key)!r}, not {value!r}: choose another "
                "--out or delete the folder"
            )
    return result
