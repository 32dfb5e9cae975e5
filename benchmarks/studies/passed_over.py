"""The share of recommended items that users pass over, for policies that learn from a log.

    python -m benchmarks.studies.passed_over LOG --policies sasrec,pnfrec

trains each policy on four fifths of the sessions, and asks it before each slate of the others, from
the first click on, for its ten best items. Those that the slate showed were clicked or passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from agents.finding import find_class
from agents.from_log import LogPolicy, observe_log
from agents.site import Site
from benchmarks.cli.options import LogPath, Repetitions, Settings, TableOut
from benchmarks.harness import names_in, publish, run_script
from benchmarks.reports.tables import number, text, with_interval
from responders import EMPTY, InputError, SessionLog
from responders.config import known_settings, parse_settings
from responders.evaluation.bootstrap import crossed_samples, interval
from responders.log import ragged


def compare(
    log: SessionLog,
    policies: str | Sequence[str] = "sasrec,pnfrec",
    *,
    settings: Mapping[str, Any] | None = None,
    top: int = 10,
    seeds: int = 3,
) -> list[dict[str, Any]]:
    """Train each policy with several seeds; return a row for each.

    Args:
        log: of slates; the last fifth of the sessions is the test.
        policies: names of policies that learn from logs, as a list or comma-separated.
        settings: changed for policies that have them.
        top: k, items that are recommended.
        seeds: repetitions.

    Returns:
        Rows with `policy`, `slates` and, with 95 % intervals over sessions and seeds (`_low`,
        `_high`): `ndcg` (NDCG@k of the clicked items of slates with a click), `passed` (the share
        of the recommended items in a slate that were not clicked), and how much both are above
        those of the first policy, `ndcg_above` and `passed_above`.

    Raises:
        InputError: a policy does not learn from logs, or no session of the test has a slate after
            a click.
    """
    first_test = log.n_sessions - log.n_sessions // 5
    training, test = (
        log.select(sessions=np.arange(first_test)),
        log.select(sessions=np.arange(first_test, log.n_sessions)),
    )
    rows_asked = _after_a_click(test)
    if not len(rows_asked):
        raise InputError("no session of the test has a slate after a click: nothing to ask for")
    site, table, first = Site.of_log(training), list[dict[str, Any]](), None
    for name in names_in(policies):
        kind = find_class(name, LogPolicy, "does not learn from logs")
        config = kind.config_class(**known_settings(kind.config_class, settings or {}))
        counts = []
        for seed in range(seeds):
            policy = kind(site, config, seed)
            policy.fit(training)
            counts.append(_counts(policy, test, rows_asked, top))
        found = _samples(np.array(counts))
        first = first or found
        row: dict[str, Any] = {"policy": name, "slates": len(rows_asked)}
        for what, values in found.items():
            above = values - first[what]
            row |= interval(what, values[0], values[1:])
            row |= interval(f"{what}_above", above[0], above[1:])
        table.append(row)
    return table


def _after_a_click(log: SessionLog) -> np.ndarray:
    """Return the slates of a log before which their session has a click."""
    clicks = (log.response > 0).sum(1)
    before = np.cumsum(clicks) - clicks
    return np.flatnonzero(before > before[log.session_start[:-1]][ragged.owner(log.session_length)])


def _counts(policy: LogPolicy, log: SessionLog, rows: np.ndarray, top: int) -> np.ndarray:
    """Return sums over the slates `rows` of each session, [sessions, 4].

    They are NDCG, slates with a click, recommended items in the slate that were passed over, and
    recommended items in the slate.
    """
    policy.reset()
    session, values = ragged.owner(log.session_length)[rows], np.zeros((len(rows), 4))
    discount = 1 / np.log2(np.arange(top) + 2)
    for part in np.array_split(np.arange(len(rows)), max(len(rows) // 512, 1)):
        with torch.no_grad():
            score = policy.score(observe_log(log, rows[part], policy.site))
        best = score.topk(top, 1).indices.numpy()
        shown, clicked = log.slate[rows[part]], log.response[rows[part]] > 0
        is_same = (best[:, :, None] == shown[:, None]) & (shown != EMPTY)[:, None]
        hit = (is_same & clicked[:, None]).any(2)
        ideal = np.cumsum(np.r_[0.0, discount])[clicked.sum(1).clip(max=top)]
        gain = np.divide(hit @ discount, ideal, out=np.zeros(len(part)), where=ideal > 0)
        met = is_same.any(2)
        values[part] = np.stack([gain, ideal > 0, (met & ~hit).sum(1), met.sum(1)], 1)
    return np.stack(
        [np.bincount(session, column, minlength=log.n_sessions) for column in values.T], 1
    )


def _samples(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return `ndcg` and `passed` of counts [seeds, sessions, 4]: the value, then its resamples."""
    drawn = [np.r_[c.mean(), crossed_samples(c)] for c in np.moveaxis(counts, 2, 0)]
    with np.errstate(invalid="ignore"):  # a resample without any such slate is left out
        return {"ndcg": drawn[0] / drawn[1], "passed": drawn[2] / drawn[3]}


def main(
    log: LogPath,
    policies: Annotated[str, typer.Option(help="Policies, by name.")] = "sasrec,pnfrec",
    seeds: Repetitions = 3,
    top: Annotated[int, typer.Option(min=1, help="Items that are recommended.")] = 10,
    settings: Settings = None,
    out: TableOut = Path("runs/passed_over"),
) -> None:
    """Compare the shares of recommended items that are passed over."""
    torch.set_num_threads(1)
    loaded = SessionLog.load(log)
    rows = compare(loaded, policies, settings=parse_settings(settings), top=top, seeds=seeds)
    columns = {
        "policy": text("policy"),
        f"NDCG@{top}": with_interval("ndcg", 4),
        "above the first": with_interval("ndcg_above", 4),
        "passed over, %": with_interval("passed", 1, scale=100),
        "points above the first": with_interval("passed_above", 2, scale=100),
        "slates": number("slates"),
    }
    kind = "SYNTHETIC " if loaded.synthetic else ""
    caption = f"{seeds} seeds; 95 % intervals over sessions and seeds, differences with the same"
    publish("passed_over", f"{kind}{log.name}", columns, rows, caption=caption, out=out)


if __name__ == "__main__":
    run_script(main)
