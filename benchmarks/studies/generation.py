"""How well the ways of generating a slate find the next several clicks.

    python -m benchmarks.studies.generation LOG --ahead 10

trains a sequential policy on all clicks of each user but the last ten, and ranks these ten among
all items, as in "Autoregressive generation strategies for top-K sequential recommendations"
(Volodkevich et al., 2024, arXiv:2409.17730).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import numpy as np
import torch
import typer

from agents.finding import find_class
from agents.generation import Generation, generate
from agents.sequences import By, Sequences, padded, sequences_of
from agents.sequential import SequentialPolicy
from agents.site import Site
from benchmarks.cli.options import LogPath, Repetitions, Settings, TableOut
from benchmarks.harness import names_in, publish, run_script
from benchmarks.reports.tables import number, text, with_interval
from benchmarks.studies.ranking.metrics import metrics_at, ranks_of
from responders import InputError, SessionLog
from responders.config import make_config, parse_settings
from responders.evaluation.bootstrap import crossed_interval

WAYS = get_args(Generation)


def compare(
    log: SessionLog,
    ways: str | Sequence[str] = WAYS,
    *,
    model: str = "sasrec",
    ahead: int = 10,
    seeds: int = 3,
    settings: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Train a policy with several seeds; return a row for each way of generation.

    Args:
        log: clicks in time order are the sequences of its users.
        ways: names of `Generation`, as a list or comma-separated; differences are from the first.
        model: a sequential policy, by name.
        ahead: k, the clicks to find, the cut-off, and the length of what is generated.
        seeds: repetitions.
        settings: of the policy; `paths` and `temperature` count for all ways.

    Returns:
        Rows with `way`, `users`, `seconds` (CPU time of all answers of a seed) and NDCG@k (`ndcg`),
        the share of the k clicks that is found (`recall`) and the differences (`ndcg_above`,
        `recall_above`) with 95 % intervals over users and seeds (`_low`, `_high`).

    Raises:
        InputError: an unknown way, or no user has three clicks before the last k.
    """
    names = names_in(ways)
    for name in names:
        if name not in WAYS:
            raise InputError(f"generation {name!r} is unknown: {', '.join(WAYS)}")
    kind = find_class(model, SequentialPolicy, "is not sequential: it generates nothing")
    config: Any = make_config(kind.config_class, settings or {}, model)
    training, history, target = split(log, config.length, ahead, config.sequence)
    site = Site(log.catalogue, ahead)
    values: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in names}
    seconds = dict.fromkeys(names, 0.0)
    for seed in range(seeds):
        policy = kind(site, config, seed)
        policy.fit_sequences(training, progress=True)
        for name in names:
            began = time.process_time()
            for key, found in answers(policy, name, history, target).items():
                values[name].setdefault(key, []).append(found)
            seconds[name] += (time.process_time() - began) / seeds
    rows = list[dict[str, Any]]()
    for name in names:
        row: dict[str, Any] = {"way": name, "users": len(target), "seconds": seconds[name]}
        for key, own in values[name].items():
            row |= crossed_interval(key, np.array(own))
            row |= crossed_interval(f"{key}_above", np.array(own) - values[names[0]][key])
        rows.append(row)
    return rows


def split(
    log: SessionLog, length: int, ahead: int, by: By = "user"
) -> tuple[Sequences, torch.Tensor, torch.Tensor]:
    """Return sequences to train on, and histories [U, L] with the next k clicks [U, k].

    The click before the last k is the training's target. Users with fewer than three clicks before
    the last k are only trained on.
    """
    data = sequences_of(log, length + ahead + 1, leave_out=1, by=by)
    clicks = np.concatenate([data.item, data.target[:, None]], 1)
    user, column = np.nonzero(clicks >= 0)
    item, n_users = clicks[user, column], len(clicks)
    count = np.bincount(user, minlength=n_users)
    tested = count >= ahead + 3
    if not tested.any():
        raise InputError(f"no {by} has three clicks before the last {ahead}: nothing to test with")
    from_end = (np.cumsum(count) - 1)[user] - np.arange(len(user))
    learned = ~tested[user] | (from_end > ahead)
    before = ~tested[user] | (from_end >= ahead)
    target = np.full(n_users, -1)
    target[user[tested[user] & (from_end == ahead)]] = item[tested[user] & (from_end == ahead)]
    training = Sequences(
        padded(item[learned], user[learned], n_users, length + 1), target,
        np.full((n_users, length + 1), -1), data.n_items,
    )  # fmt: skip
    history = padded(item[before], user[before], n_users, length)[tested]
    later = padded(item[~before], user[~before], n_users, ahead)[tested]
    return training, torch.from_numpy(history), torch.from_numpy(later)


@torch.no_grad()
def answers(
    policy: SequentialPolicy, way: str, history: torch.Tensor, target: torch.Tensor
) -> dict[str, np.ndarray]:
    """Return NDCG@k and recall@k of the next k clicks `target` [U, k], each [U]."""
    policy.reset()
    options, k = policy.config, target.shape[1]
    found: dict[str, list[np.ndarray]] = {"ndcg": [], "recall": []}
    for item, wanted in zip(history.split(256), target.split(256), strict=True):
        score = generate(
            policy.next_item, item, policy.rules, cast(Generation, way), options.paths,
            options.temperature, torch.Generator().manual_seed(policy.seed),
        )  # fmt: skip
        # An item that is clicked twice counts once.
        wanted = wanted.sort(1).values
        wanted[:, 1:][wanted[:, 1:] == wanted[:, :-1]] = -1
        metrics = metrics_at(ranks_of(score, wanted), (wanted >= 0).sum(1), k)
        for key, parts in found.items():
            parts.append(metrics[key].numpy())
    return {key: np.concatenate(parts) for key, parts in found.items()}


def main(
    log: LogPath,
    ways: Annotated[str, typer.Option(help="Ways of generation.")] = ",".join(WAYS),
    model: Annotated[str, typer.Option(help="A sequential policy.")] = "sasrec",
    ahead: Annotated[int, typer.Option(min=1, help="Clicks to find.")] = 10,
    seeds: Repetitions = 3,
    settings: Settings = None,
    out: TableOut = Path("runs/generation"),
) -> None:
    """Compare the ways of generating a slate by the next several clicks."""
    torch.set_num_threads(1)
    loaded, chosen = SessionLog.load(log), parse_settings(settings)
    rows = compare(loaded, ways, model=model, ahead=ahead, seeds=seeds, settings=chosen)
    columns = {
        "generation": text("way"),
        f"NDCG@{ahead}": with_interval("ndcg", 4),
        "above the first": with_interval("ndcg_above", 4),
        f"recall@{ahead}": with_interval("recall", 4),
        "recall above the first": with_interval("recall_above", 4),
        "CPU s": number("seconds", 1),
    }
    kind = "SYNTHETIC " if loaded.synthetic else ""
    title = f"{kind}{log.name}: the next {ahead} clicks of {rows[0]['users']:,} users, {model}"
    caption = f"{chosen}; {seeds} seeds; 95 % intervals over users and seeds"
    publish("generation", title, columns, rows, caption=caption, out=out)


if __name__ == "__main__":
    run_script(main)
