"""Our ranking metrics against RecTools' on the same recommendations, and leaks counted again.

    python -m venv ENV && ENV/bin/pip install rectools==0.19.0 numpy==1.26.4 pandas==2.3.3
    python -m benchmarks.peers.ranking LOG --python ENV/bin/python

RecTools has an environment of its own; recommendations and targets go there as a file. Two
definitions differ: RecTools divides average precision by the number of targets, ours by the best
value that k places allow; and its novelty is −log2 of the share of users who clicked an item, ours
of the item's share of the clicks. Both are converted to ours.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from agents.finding import find_class
from agents.from_log import LogPolicy
from agents.policy import Policy
from agents.site import Site
from benchmarks.harness import check_out, names_in, publish, run_script
from benchmarks.peers import rectools_metrics
from benchmarks.reports.tables import Cell, number, text
from benchmarks.studies.ranking.metrics import evaluate
from benchmarks.studies.ranking.splits import Cases, Split, SplitOptions, leaks, make_split
from responders import InputError, SessionLog
from responders.config import Config
from responders.log import ragged

_SPLITS = (("global", "all"), ("leave_one_out", "last"))


class Listed(Policy):
    """Scores items by their place in another policy's list, so that no two are equal.

    Args:
        other: scores items.
        k: items of the lists that are kept.

    Attributes:
        lists: of all users so far, [n, k] int64.
    """

    def __init__(self, other: Policy, k: int) -> None:
        super().__init__(other.site, Config())
        self.other, self.k = other, k
        self.lists = torch.zeros(0, k, dtype=torch.int64)

    def score(self, observation: dict[str, Tensor]) -> Tensor:
        score = self.other.score(observation).expand(len(observation["item"]), -1)
        order = score.sort(1, descending=True).indices
        self.lists = torch.cat([self.lists, order[:, : self.k].cpu()])
        return -order.argsort(1).float()


def arrays_of(log: SessionLog, split: Split, lists: np.ndarray) -> dict[str, np.ndarray]:
    """Return recommendations, targets and the training log as arrays for RecTools."""
    cases, training = split.test, split.training
    targets = [cases.targets(case) for case in range(len(cases))]
    row, position = np.nonzero(training.response)
    user = training.user[ragged.owner(training.session_length)[row]]
    n, k = lists.shape
    owner = ragged.owner(np.array([len(each) for each in targets]))
    return {
        "recommended": np.column_stack([np.repeat(np.arange(n), k), lists.ravel()]),
        "targets": np.column_stack([owner, np.concatenate(targets)]),
        "clicked": np.column_stack([user, training.slate[row, position]]).astype(np.int64),
        "n_items": np.array(len(log.catalogue)),
        "training_time": training.time,
        "target_user": cases.user,
        "target_time": cases.time,
    }


def theirs(python: str, arrays: dict[str, np.ndarray], k: int) -> dict[str, Any]:
    """Return what RecTools says of `arrays`.

    Raises:
        InputError: the interpreter cannot be started, or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arrays.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        command = [python, rectools_metrics.__file__, str(path), str(k)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except OSError as error:
            raise InputError(f"{python} cannot be started ({error})") from error
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
            raise InputError(f"RecTools fails in {python}: {reason}") from error
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def converted(
    found: dict[str, list[float]], cases: Cases, clicked: np.ndarray, n_items: int, k: int
) -> dict[str, np.ndarray]:
    """Return RecTools' metrics with our divisor of average precision and our novelty.

    Args:
        found: by name, of each case.
        cases: the questions.
        clicked: [n, 2], users and items of the clicks in training.
        n_items: N.
        k: the cut-off.
    """
    values = {name: np.array(each) for name, each in found.items()}
    count = np.array([len(cases.targets(case)) for case in range(len(cases))])
    values["map"] *= count / np.minimum(count, k)
    users = len(np.unique(clicked[:, 0])) + 1
    values["novelty"] += np.log2((len(clicked) + n_items) / users)
    return values


def compare(
    log: SessionLog, python: str, policies: str = "recent_popular,item_knn", k: int = 10
) -> list[dict[str, Any]]:
    """Return rows with `split`, `policy`, `metric`, `ours`, `theirs` and the largest `difference`.

    Args:
        log: what to rank.
        python: an interpreter with RecTools.
        policies: that learn from logs; comma-separated.
        k: the cut-off.

    Raises:
        InputError: see `theirs` and `make_split`; or a policy does not learn from a log.
    """
    rows: list[dict[str, Any]] = []
    for name, targets in _SPLITS:
        split = make_split(log, name, SplitOptions(targets))  # type: ignore[arg-type]
        for policy in names_in(policies):
            kind = find_class(policy, LogPolicy, "does not learn from a log")
            learner = kind(Site.of_log(split.training))
            learner.fit(split.training)
            listed = Listed(learner, k)
            row, position = np.nonzero(split.training.response)
            counts = np.bincount(split.training.slate[row, position], minlength=len(log.catalogue))
            own, _ = evaluate(listed, split.test, [k], clicked=counts)
            arrays = arrays_of(log, split, listed.lists.numpy())
            found = theirs(python, arrays, k)
            values = converted(
                found["metrics"], split.test, arrays["clicked"], len(log.catalogue), k
            )
            about = {"split": f"{name}, {targets}", "policy": policy, "cases": len(split.test)}
            rows += [
                {
                    **about,
                    "metric": f"{metric}@{k}",
                    "ours": float(own[f"{metric}@{k}"].mean()),
                    "theirs": float(value.mean()),
                    "difference": float(np.abs(own[f"{metric}@{k}"] - value).max()),
                }
                for metric, value in values.items()
            ]
        counted = leaks(split)
        rows += [
            {
                **about,
                "policy": "",
                "metric": metric.replace("_", " "),
                "ours": counted[metric],
                "theirs": value,
                "difference": abs(counted[metric] - value),
            }
            for metric, value in found["leaks"].items()
        ]
    return rows


def main(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Folder of a log with times.")],
    python: Annotated[str, typer.Option(help="The interpreter with RecTools.")],
    policies: Annotated[
        str, typer.Option(help="That learn from logs.")
    ] = "recent_popular,item_knn",
    k: Annotated[int, typer.Option(min=1, help="The cut-off.")] = 10,
    out: Annotated[Path, typer.Option(help="Folder for the table.")] = Path("runs/rectools"),
) -> None:
    """Compare our ranking metrics with RecTools', case by case."""
    check_out(out)
    rows = compare(SessionLog.load(log), python, policies, k)
    columns: dict[str, Cell] = {
        "split, targets": text("split"),
        "policy": text("policy"),
        "cases": number("cases"),
        "metric": text("metric"),
        "ours": number("ours", 6),
        "RecTools": number("theirs", 6),
        "largest difference": lambda row: f"{row['difference']:.0e}",
    }
    publish("rectools", f"Ranking metrics: {log.name}", columns, rows, out=out)


if __name__ == "__main__":
    run_script(main)
