"""Sequential recommenders trained with the full loss and with sampled negatives.

    python -m benchmarks.studies.sequential LOG
    python -m benchmarks.studies.sequential LOG --models sasrec,gru4rec,bert4rec --losses full

trains each model on the clicks of a log with each loss and several seeds, and prints NDCG@10 of
every user's last item, ranked among all items.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer
from scipy.stats import ttest_1samp

from agents.finding import find_class
from agents.sequences import sequences_of
from agents.sequential import SequentialPolicy, gains
from agents.site import Site
from benchmarks.cli.options import LogPath, Repetitions, TableOut
from benchmarks.harness import describe, names_in, publish, run_script
from benchmarks.reports.tables import number, text, with_deviation
from responders import InputError, SessionLog
from responders.device import pick_device
from responders.kernels.loss import Share

LOSSES = "row:256,full,block:256,block:2048,batch:256"
"""The losses compared by default."""


def parse_loss(name: str) -> dict[str, Any]:
    """Return the options of `linear_cross_entropy` for full, row:K, block:K or batch:K.

    Raises:
        InputError: an unknown name.
    """
    share, _, negatives = name.partition(":")
    if name == "full":
        return {}
    if share not in get_args(Share) or not negatives.isdigit():
        raise InputError(f"loss {name!r} is not full, row:K, block:K or batch:K")
    return {"negatives": int(negatives), "share": share}


def compare(
    log: SessionLog,
    models: str | Sequence[str] = "sasrec",
    losses: str | Sequence[str] = LOSSES,
    *,
    seeds: int = 3,
    epochs: int = 20,
    batch_size: int = 128,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Train each model with each loss; return a row for each pair.

    Args:
        log: its clicks in time order are the sequences.
        models: names of sequential policies, as a list or comma-separated.
        losses: full, row:K, block:K or batch:K, likewise.
        seeds: repetitions.
        epochs: of each training, unless it stops early.
        batch_size: users in a batch.
        device: auto, cpu or cuda.

    Returns:
        Rows with `model`, `loss`, `ndcg` (NDCG@10, mean over seeds), `ndcg_<seed>`, `ndcg_sd` over
        seeds, the number of `users`, `epochs` (mean) and `seconds` of a run, and `above_low` and
        `above_high`, the 95 % interval over users of the difference from the first row.

    Raises:
        InputError: an unknown model or loss, or no user has three clicks.
    """
    options = {name: parse_loss(name) for name in names_in(losses)}
    reason = "is not sequential: it has no sequences to train on"
    kinds = {name: find_class(name, SequentialPolicy, reason) for name in names_in(models)}
    training = sequences_of(log, leave_out=2)
    test = sequences_of(log, leave_out=1)
    has_target = test.target >= 0
    if not has_target.any():
        raise InputError("no user of the log has three clicks: there is nothing to test with")
    history, target = test.history[has_target], test.target[has_target]
    site = Site(log.catalogue, log.n_positions, device=pick_device(device))
    rows: list[dict[str, Any]] = []
    first = None
    for (model, kind), (loss, chosen) in product(kinds.items(), options.items()):
        config = kind.config_class(epochs=epochs, batch_size=batch_size, **chosen)
        by_seed, n_epochs, began = [], 0, time.perf_counter()
        for seed in range(seeds):
            policy = kind(site, config, seed)
            n_epochs += len(policy.fit_sequences(training, progress=True))
            by_seed.append(gains(policy.net, history, target))
        by_user = np.mean(by_seed, 0)
        means = np.mean(by_seed, 1)
        row = {
            "model": model,
            "loss": loss,
            "ndcg": by_user.mean(),
            **{f"ndcg_{seed}": mean for seed, mean in enumerate(means)},
            "ndcg_sd": np.std(means, ddof=1) if seeds > 1 else None,
            "users": len(by_user),
            "epochs": n_epochs / seeds,
            "seconds": (time.perf_counter() - began) / seeds,
        }
        if first is None:
            first = by_user
        else:
            interval = ttest_1samp(by_user - first, 0).confidence_interval()
            row |= {"above_low": interval.low, "above_high": interval.high}
        rows.append(row)
    return rows


def main(
    log: LogPath,
    models: Annotated[str, typer.Option(help="Sequential policies, by name.")] = "sasrec",
    losses: Annotated[
        str, typer.Option(help="full, or how K negatives are shared: row:K, block:K, batch:K.")
    ] = LOSSES,
    seeds: Repetitions = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Of each run, at most.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Users in a batch.")] = 128,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: TableOut = Path("runs/sequential"),
) -> None:
    """Compare sequential recommenders, and the full loss with sampled negatives."""
    loaded = SessionLog.load(log)
    rows = compare(
        loaded, models, losses, seeds=seeds, epochs=epochs, batch_size=batch_size, device=device
    )
    columns = {
        "model": text("model"),
        "loss": text("loss"),
        "NDCG@10": with_deviation("ndcg", 4),
        "above the first row's, same users": lambda row: (
            f"{row['above_low']:+.4f} to {row['above_high']:+.4f}" if "above_low" in row else "–"
        ),
        "epochs": number("epochs"),
        "seconds": number("seconds"),
    }
    title = (
        f"Sequential recommenders on {rows[0]['users']:,} users, {len(loaded.catalogue):,} items, "
        f"{describe(pick_device(device))}"
    )
    caption = f"± deviation over {seeds} seeds; 95 % intervals over users; last item among all"
    publish("sequential", title, columns, rows, caption=caption, out=out)


if __name__ == "__main__":
    run_script(main)
