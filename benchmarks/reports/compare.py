"""The table and the plot of `recsim compare`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.reports.tables import kind_of, show_table
from benchmarks.studies.compare import BAYES, Run, bayes, load_predictions
from responders import SessionLog
from responders.evaluation.metrics import METRICS, losses
from responders.evaluation.predict import Predictions
from responders.files import write_json

_RESAMPLES = 300

PUBLISHED: dict[str, dict[str, tuple[float, float, float]]] = {
    "contentwise": {
        "mf": (0.653, 0.198, 0.260),
        "logistic_regression": (0.685, 0.275, 0.759),
        "slate_gru": (0.744, 0.331, 0.860),
        "slate_gru:readout=differentiable_sample": (0.730, 0.283, 0.891),
        "session_gru": (0.740, 0.308, 0.739),
        "hierarchical_gru": (0.725, 0.300, 0.826),
        "slate_transformer": (0.740, 0.328, 0.839),
        "session_transformer": (0.704, 0.284, 0.774),
        "transformer_gru": (0.737, 0.317, 0.850),
        "scot": (0.715, 0.306, 0.813),
    },
    "rl4rs": {
        "mf": (0.717, 0.761, 0.659),
        "logistic_regression": (0.912, 0.879, 0.837),
        "slate_gru": (0.923, 0.884, 0.845),
        "slate_gru:readout=differentiable_sample": (0.919, 0.884, 0.848),
        "session_gru": (0.861, 0.851, 0.793),
        "hierarchical_gru": (0.860, 0.851, 0.796),
        "slate_transformer": (0.930, 0.890, 0.853),
        "session_transformer": (0.925, 0.885, 0.843),
        "transformer_gru": (0.877, 0.856, 0.808),
        "scot": (0.934, 0.896, 0.865),
    },
}
"""AUC, F1 and accuracy on the test split as published with arXiv 2409.20055, each with its best
embedding, on the logs of those names."""


def published_for(log: SessionLog) -> dict[str, tuple[float, float, float]]:
    """Return the published figures for this log, none for a log that they are not about."""
    name = str(log.card.get("name"))
    for known, figures in PUBLISHED.items():
        if not log.synthetic and (name == known or name.startswith(f"{known}-")):
            return figures
    return {}


def summarise(
    log: SessionLog, results: list[tuple[Run, dict[str, Any]]], out: Path
) -> pd.DataFrame:
    """Return one row per split, responder and embedding, best log-loss first in each split.

    Means and deviations are over seeds. Intervals are 95 % percentiles over resamples of users,
    the same users for every row, of the mean over seeds; `log_loss_above_best` is the difference
    to the best row in the same resamples.
    """
    frames = []
    for split in dict.fromkeys(run.split for run, _ in results):
        here = [(run, result) for run, result in results if run.split == split]
        rows, boots = _rows(log, here, out)
        best = int(np.argmin([row["log_loss"] for row in rows]))
        for row, boot in zip(rows, boots, strict=True):
            for name in ("auc", "log_loss"):
                row[f"{name}_low"], row[f"{name}_high"] = _interval_of(boot[name])
            above = boot["log_loss"] - boots[best]["log_loss"]
            row["log_loss_above_best"] = row["log_loss"] - rows[best]["log_loss"]
            low, high = _interval_of(above)
            row["log_loss_above_best_low"], row["log_loss_above_best_high"] = low, high
        rows += _bayes_row(log, split, sorted({run.seed for run, _ in here}), out)
        frames.append(pd.DataFrame(rows).sort_values("log_loss", kind="stable"))
        if rows[-1]["responder"] == BAYES:
            _add_gap(frames[-1])
    return pd.concat(frames, ignore_index=True)


def _rows(
    log: SessionLog, results: list[tuple[Run, dict[str, Any]]], out: Path
) -> tuple[list[dict[str, Any]], list[dict[str, np.ndarray]]]:
    draw = np.random.default_rng(0)
    n = len(log.users)
    weights = [np.bincount(draw.integers(n, size=n), minlength=n) for _ in range(_RESAMPLES)]
    published = published_for(log)
    groups: dict[tuple[str, str], list[tuple[Run, dict[str, Any]]]] = {}
    for run, result in results:
        groups.setdefault((run.responder, run.embedding), []).append((run, result))
    rows, boots = [], []
    for (responder, embedding), group in groups.items():
        row: dict[str, Any] = {
            "split": group[0][0].split, "responder": responder, "embedding": embedding,
            "seeds": len(group),
        }  # fmt: skip
        frame = pd.DataFrame([result for _, result in group])
        measured = [m for name in METRICS for m in (name, f"unconditional_{name}")]
        for name in measured:
            values = frame[name].astype(float)
            row[name], row[f"{name}_sd"] = values.mean(), values.std(ddof=1)
        for name in (
            "sparse_auc",
            "parameters",
            "train_seconds",
            "peak_mb",
            "ms_per_slate",
            "epochs",
        ):
            row[name] = frame[name].astype(float).mean() if name in frame else np.nan
        known = published.get(responder)
        if known:
            row |= dict(
                zip(("published_auc", "published_f1", "published_accuracy"), known, strict=True)
            )
        rows.append(row)
        each = [_resampled(load_predictions(out, run)[0], weights) for run, _ in group]
        boots.append({k: np.mean([e[k] for e in each], 0) for k in ("auc", "log_loss")})
    return rows, boots


def _interval_of(resampled: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of resamples, NaN where too few are defined."""
    defined = resampled[~np.isnan(resampled)]
    if len(defined) < _RESAMPLES / 2:
        return np.nan, np.nan
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def _resampled(found: Predictions, weights: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return AUC and log-loss [resamples] with the users weighted."""
    _, score = np.unique(found.logit, return_inverse=True)
    n = score.max() + 1
    loss = losses(found.logit, found.click)
    auc, log_loss = [], []
    for by_user in weights:
        weight = by_user[found.user].astype(float)
        ones = np.bincount(score, weight * found.click, n)
        zeros = np.bincount(score, weight, n) - ones
        pairs = ones.sum() * zeros.sum()
        below = np.cumsum(zeros) - zeros / 2
        auc.append((ones * below).sum() / pairs if pairs else np.nan)
        total = weight.sum()  # 0 where a small log's resample holds no user of this test part
        log_loss.append((weight * loss).sum() / total if total else np.nan)
    return {"auc": np.array(auc), "log_loss": np.array(log_loss)}


def _bayes_row(log: SessionLog, split: str, seeds: list[int], out: Path) -> list[dict[str, Any]]:
    found = [bayes(log, split, seed, out) for seed in seeds]
    frame = pd.DataFrame([f for f in found if f is not None])
    if not len(frame):
        return []
    name = f"{BAYES} (estimate)" if bool(frame.estimated.iloc[0]) else BAYES
    row: dict[str, Any] = {"split": split, "responder": name, "embedding": "", "seeds": len(seeds)}
    for metric in (m for name in METRICS for m in (name, f"unconditional_{name}")):
        row[metric] = frame[metric].astype(float).mean()
    return [row]


def _add_gap(frame: pd.DataFrame) -> None:
    """Add the share of the way from position CTR to the Bayes optimum, in log-loss."""
    start = frame.log_loss[frame.responder == "position_ctr"]
    if len(start):
        best = frame.log_loss[frame.responder == BAYES].iloc[0]
        frame["gap_closed"] = (start.iloc[0] - frame.log_loss) / (start.iloc[0] - best)


_Cell = Callable[[pd.Series], str]


def _number(name: str, digits: int, spread: bool = False) -> _Cell:
    def cell(row: pd.Series) -> str:
        value = row.get(name)
        if value is None or pd.isna(value):
            return ""
        sd = row.get(f"{name}_sd") if spread else None
        tail = "" if sd is None or pd.isna(sd) else f" ± {sd:.{digits}f}"
        return f"{value:,.{digits}f}{tail}"

    return cell


def _interval(name: str, digits: int) -> _Cell:
    def cell(row: pd.Series) -> str:
        low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
        if low is None or pd.isna(low):
            return ""
        return f"{low:.{digits}f} to {high:.{digits}f}"

    return cell


_QUALITY: dict[str, _Cell] = {
    "AUC": _number("auc", 4, True),
    "95 %": _interval("auc", 3),
    "log-loss": _number("log_loss", 4, True),
    "above best": _interval("log_loss_above_best", 4),
    "gap closed": lambda row: "" if pd.isna(row.get("gap_closed")) else f"{row.gap_closed:.1%}",
    "AUC, sparse": _number("sparse_auc", 4),
}
_MORE: dict[str, _Cell] = {
    "AUC, uncond.": _number("unconditional_auc", 4),
    "log-loss, uncond.": _number("unconditional_log_loss", 4),
    "F1": _number("f1", 3),
    "accuracy": _number("accuracy", 3),
    "ECE": _number("ece", 4),
    "perplexity": _number("perplexity", 4),
    "published AUC": _number("published_auc", 3),
    "published F1": _number("published_f1", 3),
    "published accuracy": _number("published_accuracy", 3),
}
_COST: dict[str, _Cell] = {
    "parameters": _number("parameters", 0),
    "epochs": _number("epochs", 0),
    "train s": _number("train_seconds", 1),
    "peak MB": _number("peak_mb", 0),
    "ms / slate": _number("ms_per_slate", 4),
}
_TABLES = {
    "": _QUALITY,
    "more: uncond. = clicks above in the slate averaged out": _MORE,
    "cost": _COST,
}


def _cells(table: pd.DataFrame, columns: dict[str, _Cell]) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows of text; columns empty in every row are left out."""
    rows = [[cell(row) for cell in columns.values()] for _, row in table.iterrows()]
    kept = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    names = [
        " ".join(filter(None, (row.responder, f"({row.embedding})" if row.embedding else "")))
        for _, row in table.iterrows()
    ]
    heads = ["responder", *(list(columns)[i] for i in kept)]
    return heads, [[name, *(row[i] for i in kept)] for name, row in zip(names, rows, strict=True)]


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
    """Write compare.csv, .md, .json and .png into `out`; return the files."""
    files = [out / f"compare.{end}" for end in ("csv", "md", "json", "png")]
    table.to_csv(files[0], index=False)
    text = [f"# {log.card.get('name')} ({kind_of(log)})", "", f"`{facts['command']}`", ""]
    for split, rows in table.groupby("split", sort=False):
        text += [f"## {_TITLES[str(split)]}", ""]
        for columns in _TABLES.values():
            heads, cells = _cells(rows, columns)
            text += [
                "| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *cells)
            ]
            text.append("")
    files[1].write_text("\n".join(text))
    records = [row.dropna().to_dict() for _, row in table.iterrows()]
    write_json(files[2], {**facts, "rows": records})
    _plot(table, log, files[3])
    return files


def _plot(table: pd.DataFrame, log: SessionLog, path: Path) -> None:
    """Draw AUC against the cost of an answer, one panel per split."""
    from matplotlib.figure import Figure

    splits = list(table.split.unique())
    figure = Figure(figsize=(7.5 * len(splits), 5.4), layout="constrained")
    panels = figure.subplots(1, len(splits), squeeze=False)[0]
    kinds = sorted(set(table.embedding))
    for axes, split in zip(panels, splits, strict=True):
        rows = table[table.split == split]
        for i, embedding in enumerate(kinds):
            here = rows[(rows.embedding == embedding) & rows.ms_per_slate.notna()]
            error = [here.auc - here.auc_low, here.auc_high - here.auc]
            axes.errorbar(
                here.ms_per_slate, here.auc, np.abs(error), fmt="osD^v"[i % 5], color=f"C{i}",
                ecolor=f"C{i}", elinewidth=0.8, alpha=0.85, label=embedding or "no embedding",
            )  # fmt: skip
            for _, row in here.iterrows():
                axes.annotate(
                    row.responder, (row.ms_per_slate, row.auc), textcoords="offset points",
                    xytext=(6, 3), fontsize=8,
                )  # fmt: skip
        best = rows[rows.responder.str.startswith(BAYES)]
        if len(best):
            axes.axhline(best.auc.iloc[0], color="0.4", linestyle="--", linewidth=1)
            axes.annotate(
                best.responder.iloc[0], (0.01, best.auc.iloc[0]), fontsize=8,
                xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
            )  # fmt: skip
        axes.set(xscale="log", xlabel="milliseconds per generated slate", title=f"split by {split}")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("AUC on the test part (95 % interval over users)")
    panels[0].legend(loc="lower right", fontsize=8)
    figure.suptitle(f"{log.card.get('name')} – {kind_of(log)}")
    figure.savefig(path, dpi=120)


def facts_of(runs: list[Run], command: str, log: SessionLog) -> dict[str, Any]:
    """Return how a table was made."""
    return {
        "log": log.fingerprint(),
        "synthetic": log.synthetic,
        "command": command,
        "runs": [asdict(run) for run in runs],
    }
