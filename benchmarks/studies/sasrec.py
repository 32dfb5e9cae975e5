"""SASRec trained with the full loss and with sampled negatives.

    python -m benchmarks.studies.sasrec LOG

trains SASRec on the clicks of a log with each loss and several seeds, and prints NDCG@10 of every
user's last item, ranked among all items.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer
from scipy.stats import ttest_1samp

from agents.sasrec import gains, sequences_of, train, with_last
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


def compare_losses(
    log: SessionLog,
    losses: str | Sequence[str] = LOSSES,
    *,
    seeds: int = 3,
    epochs: int = 20,
    batch_size: int = 128,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Train SASRec with each loss; return a row for each.

    Args:
        log: its clicks in time order are the sequences.
        losses: full, row:K, block:K or batch:K, as a list or comma-separated.
        seeds: repetitions.
        epochs: of each training.
        batch_size: users in a batch.
        device: auto, cpu or cuda.

    Returns:
        Rows with `loss`, `ndcg` (NDCG@10, mean over seeds), `ndcg_<seed>`, `ndcg_sd` over seeds,
        the number of `users`, `seconds` of a run, and `above_low` and `above_high`, the 95 %
        interval over users of the difference from the first loss.

    Raises:
        InputError: an unknown loss, or no user has three clicks.
    """
    options = {name: parse_loss(name) for name in names_in(losses)}
    data, picked = sequences_of(log), str(pick_device(device))
    rows: list[dict[str, Any]] = []
    first = None
    for name, chosen in options.items():
        by_seed, began = [], time.perf_counter()
        for seed in range(seeds):
            net = train(
                data, epochs=epochs, batch_size=batch_size, seed=seed, device=picked, **chosen
            )
            by_seed.append(gains(net, with_last(data), data.test))
        by_user = np.mean(by_seed, 0)
        means = np.mean(by_seed, 1)
        row = {
            "loss": name,
            "ndcg": by_user.mean(),
            **{f"ndcg_{seed}": mean for seed, mean in enumerate(means)},
            "ndcg_sd": np.std(means, ddof=1) if seeds > 1 else None,
            "users": len(by_user),
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
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Folder of a session log.")],
    losses: Annotated[
        str, typer.Option(help="full, or how K negatives are shared: row:K, block:K, batch:K.")
    ] = LOSSES,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Of each run.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Users in a batch.")] = 128,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for the table.")] = Path("runs/sasrec"),
) -> None:
    """Compare the full loss with negatives by row, by block and by batch."""
    loaded = SessionLog.load(log)
    rows = compare_losses(
        loaded, losses, seeds=seeds, epochs=epochs, batch_size=batch_size, device=device
    )
    columns = {
        "loss": text("loss"),
        "NDCG@10": with_deviation("ndcg", 4),
        f"above {rows[0]['loss']}'s, same users": lambda row: (
            f"{row['above_low']:+.4f} to {row['above_high']:+.4f}" if "above_low" in row else "–"
        ),
        "seconds": number("seconds"),
    }
    title = (
        f"SASRec on {rows[0]['users']:,} users, {len(loaded.catalogue):,} items, "
        f"{describe(pick_device(device))}"
    )
    caption = f"± deviation over {seeds} seeds; 95 % intervals over users; last item among all"
    publish("sasrec", title, columns, rows, caption=caption, out=out)


if __name__ == "__main__":
    run_script(main)
