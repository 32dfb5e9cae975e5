"""Does sampling negatives cost a recommender anything? SASRec with the full loss and with samples.

    python -m benchmarks.studies.sasrec LOG

trains SASRec on the clicks of a log with each loss and several seeds and prints NDCG@10 on every
user's last item, ranked among all items.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import pandas as pd
import torch
import typer
from scipy.stats import ttest_1samp

from agents.sasrec import gains, sequences_of, train, with_last
from benchmarks.reports.tables import console, show_table
from responders import SessionLog
from responders.kernels.loss import Share


def _options(name: str) -> dict[str, Any]:
    """Return the options of `linear_cross_entropy` for full, row:K, block:K or batch:K."""
    share, _, number = name.partition(":")
    if name == "full":
        return {}
    if share not in get_args(Share) or not number.isdigit():
        raise typer.BadParameter(f"{name!r} is not full, row:K, block:K or batch:K")
    return {"negatives": int(number), "share": share}


def main(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Folder of a session log.")],
    losses: Annotated[
        str, typer.Option(help="full, or who shares K negatives: row:K, block:K, batch:K.")
    ] = "row:256,full,block:256,block:2048,batch:256",
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Of each run.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Users in a batch.")] = 128,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for the table.")] = Path("runs/sasrec"),
) -> None:
    """Compare the full loss with negatives by row, by block and by batch."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    data = sequences_of(SessionLog.load(log))
    ways = {name: _options(name) for name in losses.split(",")}
    rows: list[dict[str, Any]] = []
    by_user: dict[str, list[np.ndarray]] = {}
    for name, options in ways.items():
        for seed in range(seeds):
            began = time.perf_counter()
            net = train(
                data, epochs=epochs, batch_size=batch_size, seed=seed, device=device, **options
            )
            gain = gains(net, with_last(data), data.test)
            seconds = time.perf_counter() - began
            rows.append({"loss": name, "seed": seed, "ndcg": gain.mean(), "seconds": seconds})
            by_user.setdefault(name, []).append(gain)
    table = pd.DataFrame(rows)
    first = next(iter(ways))
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "sasrec.csv", index=False)
    cells = []
    for loss, each in table.groupby("loss", sort=False):
        deviation = each.ndcg.std() if len(each) > 1 else np.nan
        against = "–"
        if loss != first:
            gap = np.mean(by_user[str(loss)], 0) - np.mean(by_user[first], 0)
            low, high = ttest_1samp(gap, 0).confidence_interval()
            against = f"{low:+.4f} to {high:+.4f}"
        cells.append(
            [
                str(loss),
                f"{each.ndcg.mean():.4f} ± {deviation:.4f}",
                against,
                f"{each.seconds.mean():,.0f}",
            ]
        )
    show_table(
        f"SASRec on {len(data.test):,} users, {data.n_items:,} items, {device}",
        ["loss", "NDCG@10", f"above {first}'s, same users", "seconds"],
        cells,
        f"± deviation over {seeds} seeds; 95 % over users; every user's last item among all",
    )
    console().print(f"wrote {out / 'sasrec.csv'}")


if __name__ == "__main__":
    typer.run(main)
