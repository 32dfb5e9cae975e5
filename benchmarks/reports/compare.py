"""The tables and the plot of `recsim compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.reports.published import published_for
from benchmarks.reports.tables import (
    Cell,
    fill,
    interval,
    kind_of,
    markdown_table,
    number,
    show_table,
    with_deviation,
)
from benchmarks.studies.runs import BAYES, Run, bayes, load_predictions
from responders import SessionLog
from responders.evaluation.bootstrap import user_weights
from responders.evaluation.metrics import METRICS, weighted_metrics
from responders.evaluation.predict import Predictions
from responders.files import new_file, write_json

_RESAMPLES = 300
_MEASURED = [key for name in METRICS for key in (name, f"unconditional_{name}")]
_COSTS = ("sparse_auc", "parameters", "train_seconds", "peak_mb", "ms_per_slate", "epochs")

Result = dict[str, Any]
"""The contents of a run's `result.json`."""


def summarise(log: SessionLog, results: list[tuple[Run, Result]], out: Path) -> pd.DataFrame:
    """Return one row per split, responder and embedding, best log-loss first in each split.

    Means and standard deviations are over seeds. Intervals are 95 % bootstrap intervals over users
    of the mean over seeds, with the same resamples for every row; `log_loss_above_best` is the
    difference to the best row in the same resamples.
    """
    frames = []
    for split in dict.fromkeys(run.split for run, _ in results):
        of_split = [(run, result) for run, result in results if run.split == split]
        rows, boots = _rows(log, of_split, out)
        best = int(np.argmin([row["log_loss"] for row in rows]))
        for row, boot in zip(rows, boots, strict=True):
            for name in ("auc", "log_loss"):
                row[f"{name}_low"], row[f"{name}_high"] = _interval_of(boot[name])
            above = boot["log_loss"] - boots[best]["log_loss"]
            row["log_loss_above_best"] = row["log_loss"] - rows[best]["log_loss"]
            low, high = _interval_of(above)
            row["log_loss_above_best_low"], row["log_loss_above_best_high"] = low, high
        rows += _bayes_row(log, split, sorted({run.seed for run, _ in of_split}), out)
        frames.append(pd.DataFrame(rows).sort_values("log_loss", kind="stable"))
        if rows[-1]["responder"] == BAYES:
            _add_gap(frames[-1])
    return pd.concat(frames, ignore_index=True)


def _rows(
    log: SessionLog, results: list[tuple[Run, Result]], out: Path
) -> tuple[list[dict[str, Any]], list[dict[str, np.ndarray]]]:
    """Return a row per responder and embedding, and its resampled metrics [_RESAMPLES]."""
    weights = list(user_weights(len(log.users), _RESAMPLES))
    published = published_for(log)
    groups: dict[tuple[str, str], list[tuple[Run, Result]]] = {}
    for run, result in results:
        groups.setdefault((run.responder, run.embedding), []).append((run, result))
    rows, boots = [], []
    for (responder, embedding), group in groups.items():
        row: dict[str, Any] = {
            "split": group[0][0].split, "responder": responder, "embedding": embedding,
            "seeds": len(group),
        }  # fmt: skip
        frame = pd.DataFrame([result for _, result in group])
        for name in _MEASURED:
            values = frame[name].astype(float)
            row[name], row[f"{name}_sd"] = values.mean(), values.std(ddof=1)
        for name in _COSTS:
            row[name] = frame[name].astype(float).mean() if name in frame else np.nan
        if responder in published:
            names = ("published_auc", "published_f1", "published_accuracy")
            row |= dict(zip(names, published[responder], strict=True))
        rows.append(row)
        each = [_resampled(load_predictions(out, run)[0], weights) for run, _ in group]
        boots.append({k: np.mean([e[k] for e in each], 0) for k in ("auc", "log_loss")})
    return rows, boots


def _interval_of(resampled: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of resamples, NaN if too few are defined."""
    defined = resampled[~np.isnan(resampled)]
    if len(defined) < _RESAMPLES / 2:
        return np.nan, np.nan
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def _resampled(predictions: Predictions, weights: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return AUC and log-loss [resamples] with the users weighted; NaN if undefined."""
    metrics = weighted_metrics(predictions, threshold=0.5)
    undefined = {"auc": np.nan, "log_loss": np.nan}
    samples = []
    for by_user in weights:
        weight = by_user[predictions.user].astype(float)
        # A resample of a small log may contain no user of this test part.
        samples.append(metrics(weight) if weight.any() else undefined)
    return {name: np.array([sample[name] for sample in samples]) for name in undefined}


def _bayes_row(log: SessionLog, split: str, seeds: list[int], out: Path) -> list[dict[str, Any]]:
    results = [bayes(log, split, seed, out) for seed in seeds]
    frame = pd.DataFrame([result for result in results if result is not None])
    if not len(frame):
        return []
    name = f"{BAYES} (estimate)" if bool(frame.estimated.iloc[0]) else BAYES
    row: dict[str, Any] = {"split": split, "responder": name, "embedding": "", "seeds": len(seeds)}
    for metric in _MEASURED:
        row[metric] = frame[metric].astype(float).mean()
    return [row]


def _add_gap(frame: pd.DataFrame) -> None:
    """Add the share of the log-loss gap from position CTR to the Bayes optimum that is closed."""
    start = frame.log_loss[frame.responder == "position_ctr"]
    if len(start):
        best = frame.log_loss[frame.responder == BAYES].iloc[0]
        frame["gap_closed"] = (start.iloc[0] - frame.log_loss) / (start.iloc[0] - best)


_QUALITY: dict[str, Cell] = {
    "AUC": with_deviation("auc", 4),
    "95 %": interval("auc", 3),
    "log-loss": with_deviation("log_loss", 4),
    "above best": interval("log_loss_above_best", 4),
    "gap closed": number("gap_closed", 1, scale=100, unit="%"),
    "AUC, sparse": number("sparse_auc", 4),
}
_MORE: dict[str, Cell] = {
    "AUC, uncond.": number("unconditional_auc", 4),
    "log-loss, uncond.": number("unconditional_log_loss", 4),
    "F1": number("f1", 3),
    "accuracy": number("accuracy", 3),
    "ECE": number("ece", 4),
    "perplexity": number("perplexity", 4),
    "published AUC": number("published_auc", 3),
    "published F1": number("published_f1", 3),
    "published accuracy": number("published_accuracy", 3),
}
_COST: dict[str, Cell] = {
    "parameters": number("parameters", 0),
    "epochs": number("epochs", 0),
    "train s": number("train_seconds", 1),
    "peak MB": number("peak_mb", 0),
    "ms / slate": number("ms_per_slate", 4),
}
_TABLES = {
    "": _QUALITY,
    "more: uncond. = averaged over the clicks above in the slate": _MORE,
    "cost": _COST,
}


def _cells(table: pd.DataFrame, columns: Mapping[str, Cell]) -> tuple[list[str], list[list[str]]]:
    """Return column names and rows of text, without columns that are empty in every row."""
    records = [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
    rows = fill({"responder": _name, **columns}, records)
    names = ["responder", *columns]
    kept = [i for i in range(len(names)) if any(row[i] for row in rows)]
    return [names[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _name(row: Mapping[str, Any]) -> str:
    return row["responder"] + (f" ({row['embedding']})" if row["embedding"] else "")


_TITLES = {
    "user": "split by user: 80 % train, 10 % validate, 10 % test; last 20 % of a session counts",
    "time": "split by time: 80 % of the slates train, the next 10 % validate, the last 10 % test",
}


def show(table: pd.DataFrame, log: SessionLog) -> None:
    """Print the tables."""
    for split, rows in table.groupby("split", sort=False):
        caption = (
            f"{kind_of(log)}; ± deviation over {int(rows.seeds.max())} seeds; 95 % intervals over "
            "users; above best: log-loss minus the best row's, same users; sparse: items shown "
            "fewer than 20 times in training"
        )
        for title, columns in _TABLES.items():
            title = title or f"{log.card.get('name')}, {_TITLES[str(split)]}"
            show_table(title, *_cells(rows, columns), caption if columns is _QUALITY else None)


def write(table: pd.DataFrame, log: SessionLog, out: Path, facts: dict[str, Any]) -> list[Path]:
    """Write compare.csv, .md, .json and .png to `out`; return the files."""
    files = [out / f"compare.{end}" for end in ("csv", "md", "json", "png")]
    with new_file(files[0]) as building:
        table.to_csv(building, index=False)
    text = [f"# {log.card.get('name')} ({kind_of(log)})", "", f"`{facts['command']}`", ""]
    for split, rows in table.groupby("split", sort=False):
        text += [f"## {_TITLES[str(split)]}", ""]
        for columns in _TABLES.values():
            text += [markdown_table(*_cells(rows, columns)), ""]
    with new_file(files[1]) as building:
        building.write_text("\n".join(text))
    records = [row.dropna().to_dict() for _, row in table.iterrows()]
    write_json(files[2], {**facts, "rows": records})
    _plot(table, log, files[3])
    return files


def _plot(table: pd.DataFrame, log: SessionLog, path: Path) -> None:
    """Plot AUC against the time per slate, one panel per split."""
    from matplotlib.figure import Figure

    splits = list(table.split.unique())
    figure = Figure(figsize=(7.5 * len(splits), 5.4), layout="constrained")
    panels = figure.subplots(1, len(splits), squeeze=False)[0]
    embeddings = sorted(set(table.embedding))
    for axes, split in zip(panels, splits, strict=True):
        rows = table[table.split == split]
        for i, embedding in enumerate(embeddings):
            group = rows[(rows.embedding == embedding) & rows.ms_per_slate.notna()]
            error = [group.auc - group.auc_low, group.auc_high - group.auc]
            axes.errorbar(
                group.ms_per_slate, group.auc, np.abs(error), fmt="osD^v"[i % 5], color=f"C{i}",
                ecolor=f"C{i}", elinewidth=0.8, alpha=0.85, label=embedding or "no embedding",
            )  # fmt: skip
            for _, row in group.iterrows():
                axes.annotate(
                    row.responder, (row.ms_per_slate, row.auc), textcoords="offset points",
                    xytext=(6, 3), fontsize=8,
                )  # fmt: skip
        optimum = rows[rows.responder.str.startswith(BAYES)]
        if len(optimum):
            axes.axhline(optimum.auc.iloc[0], color="0.4", linestyle="--", linewidth=1)
            axes.annotate(
                optimum.responder.iloc[0], (0.01, optimum.auc.iloc[0]), fontsize=8,
                xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
            )  # fmt: skip
        axes.set(xscale="log", xlabel="milliseconds per generated slate", title=f"split by {split}")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("AUC on the test part (95 % interval over users)")
    panels[0].legend(loc="lower right", fontsize=8)
    figure.suptitle(f"{log.card.get('name')} – {kind_of(log)}")
    with new_file(path) as building:
        figure.savefig(building, dpi=120, format="png")


def facts_of(runs: list[Run], command: str, log: SessionLog) -> dict[str, Any]:
    """Return how a table was produced."""
    return {
        "log": log.fingerprint(),
        "synthetic": log.synthetic,
        "command": command,
        "runs": [asdict(run) for run in runs],
    }
