"""Trains another library's sequential recommender and writes the lists it recommends.

`sequential.py` starts this file by path in an environment with RecTools or cornac; it must not
import this package.
"""

# RecTools and cornac are installed in virtual environments of their own.
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import contextlib
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

Lists = Callable[[np.ndarray], np.ndarray]
"""From histories [U, L], padded on the right with -1, to the ten best items [U, 10], -1 = none."""


def ndcg(lists: np.ndarray, target: np.ndarray) -> float:
    """Return the mean NDCG@10 of one target [U] each in lists [U, 10]."""
    user, place = np.nonzero(lists == target[:, None])
    return float((1 / np.log2(place + 2)).sum() / len(lists)) if len(user) else 0.0


class Best:
    """Keeps the weights of the epoch with the best NDCG@10 of the validation clicks.

    Args:
        file: with `validation_history` [U, L] and `validation_target` [U].
        patience: epochs without a better one after which to stop.
    """

    def __init__(self, file: Any, patience: int) -> None:
        self.history, self.target = file["validation_history"], file["validation_target"]
        self.patience = patience
        self.found: list[float] = []
        self.weights: dict[str, torch.Tensor] = {}

    def add(self, lists: Lists, module: torch.nn.Module) -> bool:
        """Judge the weights of one more epoch; return whether to go on."""
        self.found.append(ndcg(lists(self.history), self.target))
        best = int(np.argmax(self.found))
        if best == len(self.found) - 1:
            self.weights = {name: each.clone() for name, each in module.state_dict().items()}
        return len(self.found) - 1 - best < self.patience


def rectools(file: Any, model: str, settings: dict[str, Any]) -> tuple[Best, list[float], Lists]:
    """Train SASRecModel or BERT4RecModel."""
    import pandas as pd
    from pytorch_lightning import Callback, Trainer, seed_everything
    from rectools.dataset import Dataset
    from rectools.models import BERT4RecModel, SASRecModel

    warnings.filterwarnings("ignore")
    seconds: list[float] = []

    class Clock(Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            self.began = time.process_time()

        def on_train_epoch_end(self, *_: Any) -> None:
            seconds.append(time.process_time() - self.began)

    def dataset(history: np.ndarray) -> Any:
        user, place = np.nonzero(history >= 0)
        columns = {"user_id": user, "item_id": history[user, place], "weight": 1.0}
        # The order is the time.
        return Dataset.construct(
            pd.DataFrame({**columns, "datetime": pd.to_datetime(place, unit="s")})
        )

    def lists(history: np.ndarray) -> np.ndarray:
        users = np.flatnonzero(history[:, 0] >= 0)
        found = net.recommend(
            users, dataset(history), k=10, filter_viewed=False, on_unsupported_targets="ignore"
        )
        items = np.full((len(history), 10), -1)
        items[found["user_id"], found["rank"] - 1] = found["item_id"]
        return items

    seed_everything(settings["seed"])
    net = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel}[model](
        n_blocks=settings["layers"],
        n_heads=settings["heads"],
        n_factors=settings["size"],
        session_max_len=settings["length"],
        batch_size=settings["batch_size"],
    )
    net._trainer = Trainer(  # as in RecTools' guide to training
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=[Clock()],
    )
    training, best = dataset(file["training"]), Best(file, settings["patience"])
    for _ in range(settings["epochs"]):
        net.fit_partial(training, min_epochs=1, max_epochs=1)
        if not best.add(lists, net.torch_model):
            break
    net.torch_model.load_state_dict(best.weights)
    return best, seconds, lists


def cornac(file: Any, model: str, settings: dict[str, Any]) -> tuple[Best, list[float], Lists]:
    """Train GRU4Rec."""
    from cornac.data import SequentialDataset
    from cornac.models import GRU4Rec
    from cornac.models.gru4rec import recom_gru4rec

    seconds: list[float] = []
    training, best = file["training"], Best(file, settings["patience"])
    rows = np.argwhere(training >= 0)
    data = SequentialDataset.build(
        [(str(user), str(training[user, place]), int(place)) for user, place in rows], fmt="SIT"
    )
    item = np.array([int(each) for each in data.item_ids])
    index = np.full(int(file["n_items"]) + 1, -1)  # -1 stays -1
    index[item] = np.arange(len(item))

    @torch.no_grad()
    def lists(history: np.ndarray) -> np.ndarray:
        net.model.eval()
        state = torch.zeros(len(history), settings["size"])
        for column in index[history].T:
            # An item without clicks in training has no vector, and is passed over.
            known, new = torch.from_numpy(column >= 0), torch.from_numpy(column).clamp(min=0)
            read = [state.clone()]
            net.model.hidden_step(net.model.Wy(new), read)
            state = torch.where(known[:, None], read[0], state)
        scores = net.model.score_items(state, net.model.Wy.weight, net.model.By.weight)
        return item[scores[:, : len(item)].topk(10).indices.numpy()]

    class Enough(Exception):
        """The patience is at its end."""

    began = time.process_time()

    def judge(*_: Any, **__: Any) -> float:
        nonlocal began
        seconds.append(time.process_time() - began)
        if not best.add(lists, net.model):
            raise Enough
        began = time.process_time()
        return best.found[-1]

    recom_gru4rec.val_score = judge  # it is called after each epoch
    net = GRU4Rec(
        layers=[settings["size"]] * settings["layers"],
        batch_size=settings["batch_size"],
        n_epochs=settings["epochs"],
        model_selection="best",
        val_eval_every=1,
        seed=settings["seed"],
    )
    with contextlib.suppress(Enough):
        net.fit(data, data)
    net.model.load_state_dict(best.weights)
    return best, seconds, lists


def main(arrays: Path, model: str, settings: dict[str, Any], out: Path) -> None:
    """Train `model` on the sequences in `arrays`, and write lists and what happened to `out`."""
    torch.set_num_threads(1)
    with np.load(arrays) as archive:
        file = dict(archive)
    train = cornac if model == "gru4rec" else rectools
    best, seconds, lists = train(file, model, settings)
    np.savez(out, lists=lists(file["test_history"]), ndcg=best.found, seconds=seconds)


if __name__ == "__main__":
    # Files beside this one have the names of the packages that are imported, and would shadow them.
    folder = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), Path(sys.argv[4]))
