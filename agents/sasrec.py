"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018), in one file.

Read from top to bottom: sequences from a log, the model, its training with `linear_cross_entropy`
over the catalogue or over sampled negatives, and NDCG@10 of each user's last item among all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from responders import InputError, SessionLog
from responders.kernels import linear_cross_entropy
from responders.models.parts.attention import Block
from responders.progress import progress_bar


@dataclass(frozen=True)
class Sequences:
    """What each of U users picked, in order.

    Args:
        item: [U, L] int64, the last L items, from the left; -1 = none.
        validation: [U] int64, the item before the last.
        test: [U] int64, the last item.
        n_items: V.
    """

    item: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    n_items: int


def sequences_of(log: SessionLog, length: int = 50) -> Sequences:
    """Return the clicked items of every user with at least three, in time order (leave-one-out).

    Raises:
        InputError: no user has three clicks.
    """
    row, position = np.nonzero(log.response)
    session = np.searchsorted(log.session_start, row, "right") - 1
    user = log.user[session]
    order = np.lexsort((position, log.time[row], user))
    user, item = user[order], log.slate[row[order], position[order]]
    start = np.flatnonzero(np.r_[True, np.diff(user) != 0])
    each = [picked for picked in np.split(item, start[1:]) if len(picked) >= 3]
    if not each:
        raise InputError("no user of the log has three clicks: there is no sequence to learn from")
    known = np.full((len(each), length), -1, np.int64)
    for i, picked in enumerate(each):
        history = picked[:-2][-length:]
        known[i, : len(history)] = history
    validation, test = (np.array([picked[at] for picked in each], np.int64) for at in (-2, -1))
    return Sequences(known, validation, test, len(log.catalogue))


class SASRec(nn.Module):
    """Causal transformer over the items picked so far; scores are products with item vectors.

    Args:
        n_items: V.
        length: L, the longest history it reads.
        size: d.
        layers: transformer blocks.
        heads: of attention.
        dropout: of item vectors while training.
    """

    def __init__(
        self,
        n_items: int,
        length: int = 50,
        size: int = 64,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items, size)
        self.position = nn.Embedding(length, size)
        nn.init.normal_(self.items.weight, std=size**-0.5)
        nn.init.normal_(self.position.weight, std=size**-0.5)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(size, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(size)

    def forward(self, item: Tensor) -> Tensor:
        """Return the hidden states [B, L, d] after each item of histories [B, L], -1 = none."""
        place = torch.arange(item.shape[1], device=item.device)
        x = self.drop(self.items(item.clamp(min=0)) + self.position(place))
        for block in self.blocks:
            x = block(x, causal=True)
        return self.norm(x)

    def scores(self, item: Tensor) -> Tensor:
        """Return scores [B, V] of the next item after histories [B, L], filled from the left."""
        last = (item >= 0).sum(1).clamp(min=1) - 1
        hidden = self(item)[torch.arange(len(item), device=item.device), last]
        return hidden @ self.items.weight.t()


def train(
    data: Sequences,
    *,
    epochs: int = 20,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
    log: Callable[[int, float, float], None] | None = None,
    model: dict[str, Any] | None = None,
    **loss_options: Any,
) -> SASRec:
    """Train a SASRec to predict each item from those before it; keep the best on validation items.

    Args:
        data: from `sequences_of`.
        epochs: over all users.
        batch_size: users in a batch.
        learning_rate: of Adam.
        seed: fixes weights, order, dropout and negatives on the CPU.
        device: where to train.
        progress: show a progress bar.
        log: called with epoch, loss and validation NDCG@10.
        model: keyword arguments of `SASRec`.
        loss_options: of `linear_cross_entropy`, such as negatives=256, share="block".
    """
    torch.manual_seed(seed)
    history = torch.from_numpy(data.item).to(device)
    net = SASRec(data.n_items, history.shape[1], **(model or {})).to(device)
    optimiser = torch.optim.Adam(net.parameters(), learning_rate)
    best, kept = -1.0, net.state_dict()
    for epoch in progress_bar(range(epochs), desc="SASRec", unit="epoch", disable=not progress):
        net.train()
        losses = []
        for rows in torch.randperm(len(history)).split(batch_size):
            item = history[rows.to(device)]
            target = torch.cat([item[:, 1:], torch.full_like(item[:, :1], -1)], 1)
            known = target >= 0
            loss = linear_cross_entropy(
                net(item)[known], net.items.weight, target[known], **loss_options
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        found = ndcg(net, data.item, data.validation)
        if log is not None:
            log(epoch, float(np.mean(losses)), found)
        if found > best:
            best, kept = found, {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(kept)
    return net.eval()


@torch.inference_mode()
def gains(net: SASRec, item: np.ndarray, target: np.ndarray, top: int = 10) -> np.ndarray:
    """Return NDCG@`top` of each user's `target` [U] after histories [U, L], among all items: [U].

    With one right item it is 1 / log2(1 + rank), 0 beyond `top`; items of the history may be
    recommended again.
    """
    net.eval()
    device, found = net.items.weight.device, []
    for rows in np.array_split(np.arange(len(item)), max(len(item) // 512, 1)):
        scores = net.scores(torch.from_numpy(item[rows]).to(device))
        own = scores.gather(1, torch.from_numpy(target[rows]).to(device).unsqueeze(1))
        rank = 1 + (scores > own).sum(1).double()
        found.append(torch.where(rank <= top, 1 / torch.log2(1 + rank), 0.0).cpu())
    return torch.cat(found).numpy()


def ndcg(net: SASRec, item: np.ndarray, target: np.ndarray, top: int = 10) -> float:
    """Return the mean of `gains`."""
    return float(gains(net, item, target, top).mean())


def with_last(data: Sequences) -> np.ndarray:
    """Return the histories [U, L] with the validation item appended: what a test may look at."""
    length = (data.item >= 0).sum(1)
    full = length == data.item.shape[1]
    moved = np.where(full[:, None], np.roll(data.item, -1, 1), data.item)
    moved[np.arange(len(moved)), np.where(full, length - 1, length)] = data.validation
    return moved
