"""The base class of policies that predict the next click from the sequence of those before it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agents.from_log import LogPolicy
from agents.generation import Generation, generate
from agents.sequences import By, Sequences, clicked_history, sequences_of, trimmed
from agents.site import Site
from recsim_env.world import World
from responders import InputError, SessionLog
from responders.config import Config, setting
from responders.device import seeded
from responders.progress import progress_bar
from responders.training.processes import Processes, processes


@dataclass(frozen=True)
class SequentialConfig(Config):
    """Settings that sequential policies have in common."""

    sequence: By = setting("session", "Whose clicks are one sequence.")
    length: int = setting(50, "L, the most recent clicks that are read.", ge=2, le=10_000)
    size: int = setting(64, "d, numbers in the vectors of items and states.", ge=1, le=8192)
    layers: int = setting(2, "Layers of the network.", ge=1, le=100)
    dropout: float = setting(0.2, "Share of the inputs that is dropped in training.", ge=0, lt=1)
    negatives: int = setting(
        0, "Negatives drawn for each click; 0 = the whole catalogue.", ge=0, le=1_000_000
    )
    share: Literal["row", "block", "batch"] = setting("row", "Which clicks share their negatives.")
    epochs: int = setting(20, "Most passes over the sequences.", ge=1)
    patience: int = setting(5, "Epochs without a better NDCG@10 after which to stop.", ge=1)
    batch_size: int = setting(128, "Sequences in a batch.", ge=1)
    learning_rate: float = setting(0.001, "Of Adam.", gt=0)
    generation: Generation = setting("topk", "How slates are made from the next click.")
    paths: int = setting(10, "Beams, or continuations drawn for rra and ra.", ge=1, le=1000)
    temperature: float = setting(1.0, "Logits are divided by it before items are drawn.", gt=0)

    @property
    def loss_options(self) -> dict[str, Any]:
        """Keyword arguments of `linear_cross_entropy`."""
        return {"negatives": self.negatives, "share": self.share} if self.negatives else {}


SMALL = 0.02
"""Deviation of the weights at first, where states are normalised."""


class SequenceModel(nn.Module):
    """Scores the next item by the product of its vector with a state.

    A subclass implements `forward`, or `loss` and `last_state`.

    Args:
        n_items: V.
        config: the settings.
        deviation: of the items' vectors at first. Small ones suit states that are normalised: all
            items have about the same score, and no random preferences must be unlearned.
    """

    def __init__(self, n_items: int, config: SequentialConfig, deviation: float = SMALL) -> None:
        super().__init__()
        self.n_items, self.options = n_items, config.loss_options
        self.items = nn.Embedding(n_items, config.size)
        nn.init.normal_(self.items.weight, std=deviation)

    def forward(self, item: Tensor) -> Tensor:
        """Return the states [B, L, d] after each item of histories [B, L], -1 = none."""
        raise NotImplementedError

    def loss(self, item: Tensor, skipped: Tensor) -> Tensor:
        """Return the loss of a batch of `Sequences.item` and `skipped`, [B, ≤ L + 1]."""
        return self.cross_entropy(self(item[:, :-1]), item[:, 1:])

    def cross_entropy(self, state: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of the targets [B, L], -1 = none, given states [B, L, d]."""
        from responders.kernels import linear_cross_entropy  # slow to import; no world needs it

        has_target = target >= 0
        return linear_cross_entropy(
            state[has_target], self.items.weight, target[has_target], **self.options
        )

    def last_state(self, item: Tensor) -> Tensor:
        """Return the state [B, d] after histories [B, L] with at least one item."""
        last = (item >= 0).sum(1).clamp(min=1) - 1
        return self(item)[torch.arange(len(item), device=item.device), last]

    def scores(self, item: Tensor) -> Tensor:
        """Return the logits [B, V] of the next item after histories [B, L] with at least one."""
        return self.last_state(trimmed(item)) @ self.items.weight.t()


class Epoch(NamedTuple):
    """The mean loss of an epoch, NDCG@10 of the targets after it, or None without any, and the
    process's CPU time of the training steps."""

    loss: float
    ndcg: float | None
    cpu_seconds: float


def train(
    net: SequenceModel,
    data: Sequences,
    config: SequentialConfig,
    *,
    seed: int = 0,
    warm: bool = False,
    progress: bool = False,
) -> list[Epoch]:
    """Train a model on histories until NDCG@10 of the targets is best, and return each epoch.

    Processes that `torchrun` starts train together: each takes a share of every batch, and all end
    with the same weights.

    Args:
        net: has the weights of its best epoch afterwards; without targets, of the last.
        data: from `sequences_of`; targets are not trained on.
        config: the settings.
        seed: of order, dropout and negatives; results are reproducible on the CPU.
        warm: the present weights have learned: keep them if no epoch is better.
        progress: show a progress bar.
    """
    device, found = net.items.weight.device, list[Epoch]()
    item, skipped = (torch.from_numpy(a).to(device) for a in (data.item, data.skipped))
    has_target = data.target >= 0
    optimiser = torch.optim.Adam(net.parameters(), config.learning_rate)
    best, best_epoch, best_weights = -1.0, 0, net.state_dict()
    if warm and has_target.any():
        best = float(gains(net, data.history[has_target], data.target[has_target]).mean())
        best_weights = {k: v.clone() for k, v in best_weights.items()}
    bar = progress_bar(
        range(config.epochs), desc=type(net).__name__, unit="epoch", disable=not progress
    )
    gpus = [device] if device.type == "cuda" else []
    with processes() as joined, torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        for epoch in bar:
            began = time.process_time()
            order = torch.randperm(len(item)).to(device).split(config.batch_size)
            with torch.random.fork_rng(devices=gpus, enabled=joined.count > 1):
                if joined.count > 1:  # dropout and negatives of its own
                    torch.manual_seed((seed + 1) * 1_000_003 + epoch * joined.count + joined.rank)
                loss = _train_epoch(net, optimiser, item, skipped, order, joined)
            seconds = time.process_time() - began
            if not has_target.any():
                found.append(Epoch(loss, None, seconds))
                continue
            score = float(gains(net, data.history[has_target], data.target[has_target]).mean())
            found.append(Epoch(loss, score, seconds))
            if score > best:
                best, best_epoch = score, epoch
                best_weights = {k: v.clone() for k, v in net.state_dict().items()}
            elif epoch - best_epoch >= config.patience:
                break
    net.load_state_dict(best_weights)
    net.eval()
    return found


def _train_epoch(
    net: SequenceModel,
    optimiser: torch.optim.Optimizer,
    item: Tensor,
    skipped: Tensor,
    batches: Sequence[Tensor],
    joined: Processes,
) -> float:
    """Train on the rows of each batch; return the mean loss."""
    net.train()
    losses = []
    for rows in batches:
        share = joined.share_of_rows(rows)
        loss = net.loss(trimmed(item[share]), trimmed(skipped[share]))
        if joined.count > 1:  # a mean over the next clicks of the share: weigh it by their number
            whole = 1 if share is not rows else joined.count
            clicks = [(item[r, 1:] >= 0).sum().clamp(min=1) for r in (share, rows)]
            loss = loss * clicks[0] / clicks[1] / whole
        optimiser.zero_grad()
        loss.backward()
        joined.add_gradients(list(net.parameters()))
        optimiser.step()
        losses.append(loss.detach())
    return joined.total(float(torch.stack(losses).mean()))[0]


@torch.no_grad()
def gains(net: SequenceModel, item: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return NDCG@10 of each user's `target` [U] after histories [U, L], among all items: [U].

    With one relevant item it is 1 / log2(1 + rank), or 0 beyond rank 10; items of the history are
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
        gain.append(torch.where(rank <= 10, 1 / torch.log2(1 + rank), 0.0).cpu())
    return torch.cat(gain).numpy()


class SequentialPolicy(LogPolicy):
    """Predicts the next click from the clicks so far.

    It trains on all clicks of a sequence but the last, and stops when NDCG@10 of the last ones is
    best; sequences of two clicks are only trained on. Users without a click get what is popular.

    A subclass implements `network`.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights, training, draws, and the log of random slates.
    """

    config_class: ClassVar[type[Config]] = SequentialConfig
    config: SequentialConfig

    def __init__(
        self, world: World | Site, config: SequentialConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(world, config, seed)
        self.net = self._new_network()
        self._steering: Tensor | None = None  # [N], added to the logits
        self._generator = torch.Generator(self.device).manual_seed(seed)

    def network(self) -> SequenceModel:
        """Return the model with random weights."""
        raise NotImplementedError

    def _new_network(self) -> SequenceModel:
        with seeded(self.seed):
            return self.network().to(self.device).eval()

    def reset(self) -> None:
        self._generator.manual_seed(self.seed)

    def fit_log(self, log: SessionLog) -> None:
        self.fit_sequences(self._sequences(log))

    def fine_tune(self, log: SessionLog) -> None:
        """Continue to learn, from the present weights, from the sessions of another log.

        They are kept if no epoch makes NDCG@10 of the last clicks better; with at most two clicks
        in every sequence, which leaves nothing to judge by, it trains for all epochs.

        Raises:
            InputError: see `fit`.
        """
        self.count_clicks(log)
        self.fit_sequences(self._sequences(log), warm=True)
        self.count_steps(log.n_slates, log.synthetic)

    def _sequences(self, log: SessionLog) -> Sequences:
        return sequences_of(log, self.config.length, leave_out=1, by=self.config.sequence)

    def fit_sequences(
        self, data: Sequences, progress: bool = False, *, warm: bool = False
    ) -> list[Epoch]:
        """Learn from sequences, from the start or, if `warm`, the present weights; see `train`."""
        if not warm:
            self.net = self._new_network()
        return train(self.net, data, self.config, seed=self.seed, warm=warm, progress=progress)

    def next_item(self, history: Tensor) -> Tensor:
        """Return the logits [B, N] of the next click after histories [B, L], -1 = none."""
        popular = (self.popularity + 1e-3).log()  # as logits, for users without a click
        scores = self.net.scores(history)
        if self._steering is not None:
            scores = scores + self._steering
        return torch.where(history[:, :1] >= 0, scores, popular)

    def steer(self, direction: Tensor) -> None:
        """Add a vector [d] to the state after every history; popular items stay as they are."""
        # Logits are products with the state, so that this is the same for every user.
        self._steering = self.net.items.weight.detach() @ direction.to(self.device)

    @torch.no_grad()
    def score(self, observation: dict[str, Tensor]) -> Tensor:
        history = clicked_history(observation, self.config.length)
        return generate(
            self.next_item,
            history,
            self.rules,
            self.config.generation,
            self.config.paths,
            self.config.temperature,
            self._generator,
        )
