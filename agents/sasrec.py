"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018), in one file.

Sequences from a log, the model, training with `linear_cross_entropy` over the catalogue or sampled
negatives, and NDCG@10 of each user's last item among all items.
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
    """The clicked items of each of U users, in order.

    Args:
        item: [U, L] int64, the last L items for training, padded on the right with -1.
        validation: [U] int64, the second last item.
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
    slate_row, position = np.nonzero(log.response)
    session = np.searchsorted(log.session_start, slate_row, "right") - 1
    user = log.user[session]
    order = np.lexsort((position, log.time[slate_row], user))
    user, item = user[order], log.slate[slate_row[order], position[order]]
    start = np.flatnonzero(np.r_[True, np.diff(user) != 0])
    sequences = [items for items in np.split(item, start[1:]) if len(items) >= 3]
    if not sequences:
        raise InputError("no user of the log has three clicks: there is no sequence to learn from")
    padded = np.full((len(sequences), length), -1, np.int64)
    for i, items in enumerate(sequences):
        history = items[:-2][-length:]
        padded[i, : len(history)] = history
    validation, test = (np.array([items[i] for items in sequences], np.int64) for i in (-2, -1))
    return Sequences(padded, validation, test, len(log.catalogue))


class SASRec(nn.Module):
    """Causal transformer over the items clicked so far; scores are products with item vectors.

    Args:
        n_items: V.
        length: L, the maximum length of a history.
        size: d.
        layers: number of transformer blocks.
        heads: number of attention heads.
        dropout: of the inputs.
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
        position = torch.arange(item.shape[1], device=item.device)
        x = self.drop(self.items(item.clamp(min=0)) + self.position(position))
        for block in self.blocks:
            x = block(x, causal=True)
        return self.norm(x)

    def scores(self, item: Tensor) -> Tensor:
        """Return scores [B, V] of the next item after histories [B, L], padded on the right."""
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
    """Train a SASRec to predict each item from those before it; return the best one on validation.

    Args:
        data: from `sequences_of`.
        epochs: passes over all users.
        batch_size: users in a batch.
        learning_rate: of Adam.
        seed: of weights, order, dropout and negatives; results are reproducible on the CPU.
        device: to train on.
        progress: show a progress bar.
        log: called with epoch, loss and validation NDCG@10.
        model: keyword arguments of `SASRec`.
        loss_options: of `linear_cross_entropy`, such as negatives=256, share="block".
    """
    torch.manual_seed(seed)
    history = torch.from_numpy(data.item).to(device)
    net = SASRec(data.n_items, history.shape[1], **(model or {})).to(device)
    optimiser = torch.optim.Adam(net.parameters(), learning_rate)
    best, best_weights = -1.0, net.state_dict()
    for epoch in progress_bar(range(epochs), desc="SASRec", unit="epoch", disable=not progress):
        net.train()
        losses = []
        for users in torch.randperm(len(history)).split(batch_size):
            item = history[users.to(device)]
            target = torch.cat([item[:, 1:], torch.full_like(item[:, :1], -1)], 1)
            has_target = target >= 0
            loss = linear_cross_entropy(
                net(item)[has_target], net.items.weight, target[has_target], **loss_options
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        validation_ndcg = ndcg(net, data.item, data.validation)
        if log is not None:
            log(epoch, float(np.mean(losses)), validation_ndcg)
        if validation_ndcg > best:
            best = validation_ndcg
            best_weights = {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(best_weights)
    return net.eval()


@torch.inference_mode()
def gains(net: SASRec, item: np.ndarray, target: np.ndarray, top: int = 10) -> np.ndarray:
    """Return NDCG@`top` of each user's `target` [U] after histories [U, L], among all items: [U].

    With one relevant item it is 1 / log2(1 + rank), or 0 beyond `top`; items of the history are
    ranked too.
    """
    net.eval()
    device, gain = net.items.weight.device, []
    for users in np.array_split(np.arange(len(item)), max(len(item) // 512, 1)):
        scores = net.scores(torch.from_numpy(item[users]).to(device))
        target_score = scores.gather(1, torch.from_numpy(target[users]).to(device).unsqueeze(1))
        if not torch.isfinite(scores).all():
            raise InputError("scores are NaN or infinite: the model cannot be ranked")
        # Ties share the middle rank, so that constant scores are as bad as random ones.
        ties = (scores == target_score).sum(1) - 1
        rank = 1 + (scores > target_score).sum(1).double() + ties / 2
        gain.append(torch.where(rank <= top, 1 / torch.log2(1 + rank), 0.0).cpu())
    return torch.cat(gain).numpy()


def ndcg(net: SASRec, item: np.ndarray, target: np.ndarray, top: int = 10) -> float:
    """Return the mean of `gains`."""
    return float(gains(net, item, target, top).mean())


def with_last(data: Sequences) -> np.ndarray:
    """Return the histories [U, L] with the validation item appended, as input for testing."""
    length = (data.item >= 0).sum(1)
    is_full = length == data.item.shape[1]
    extended = np.where(is_full[:, None], np.roll(data.item, -1, 1), data.item)
    extended[np.arange(len(extended)), np.where(is_full, length - 1, length)] = data.validation
    return extended
