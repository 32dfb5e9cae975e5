"""RecTools' metrics of given recommendations, and leaks counted one by one; prints JSON.

`ranking.py` starts this file by path in an environment with RecTools; it must not import this
package.
"""

# RecTools is installed in its own virtual environment.
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pandas as pd


def metrics(file: Any, k: int) -> dict[str, list[float]]:
    """Return each metric at k of each case."""
    from rectools.metrics import MAP, MRR, NDCG, HitRate, MeanInvUserFreq, Recall

    def table(name: str) -> pd.DataFrame:
        return pd.DataFrame(file[name], columns=["user_id", "item_id"])

    reco, targets, before = table("recommended"), table("targets"), table("clicked")
    reco["rank"] = reco.groupby("user_id").cumcount() + 1
    # One user more who clicked everything adds one click to each item, as ours does.
    everything = pd.DataFrame({"user_id": -1, "item_id": np.arange(int(file["n_items"]))})
    found = {
        "ndcg": NDCG(k, divide_by_achievable=True).calc_per_user(reco, targets),
        "hit": HitRate(k).calc_per_user(reco, targets),
        "mrr": MRR(k).calc_per_user(reco, targets),
        "map": MAP(k).calc_per_user(reco, targets),
        "recall": Recall(k).calc_per_user(reco, targets),
        "novelty": MeanInvUserFreq(k).calc_per_user(reco, pd.concat([before, everything])),
    }
    return {name: each.sort_index().tolist() for name, each in found.items()}


def leaks(file: Any) -> dict[str, float]:
    """Return the share of users with a target before some training slate, and of such slates."""
    training = file["training_time"]
    later = np.array([(training > time).mean() for time in file["target_time"]])
    leaking = pd.Series(later > 0).groupby(file["target_user"]).any()
    return {"leaking_users": float(leaking.mean()), "later_slates": float(later.mean())}


if __name__ == "__main__":
    with np.load(sys.argv[1]) as arrays:
        result = {"metrics": metrics(arrays, int(sys.argv[2])), "leaks": leaks(arrays)}
    print(json.dumps(result))
