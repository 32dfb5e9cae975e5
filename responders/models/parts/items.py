"""Item and user encoders shared by all responders."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from torch import Tensor, nn
from torch.nn import functional as F

from responders.errors import InputError, near_matches
from responders.log.catalogue import Catalogue
from responders.log.counts import count
from responders.log.session_log import SessionLog

Embedding = Literal["learned", "svd", "explicit", "content"]
"""How an item is embedded: `learned` = a free vector each; `svd` = a linear map of the truncated
SVD of the training users' clicks; `explicit` = a linear map of the catalogue's features;
`content` = `explicit` plus a learned vector that starts at zero."""

UNKNOWN_RATE = 0.01
"""Share of items that training replaces by the unknown item, so that its vector means something."""


def item_features(
    log: SessionLog, sessions: np.ndarray, embedding: str, size: int, seed: int = 0
) -> np.ndarray | None:
    """Return the fixed item vectors [N, K] float32 that `embedding` needs, None for `learned`.

    Args:
        log: the log.
        sessions: the training sessions; `svd` reads the clicks of these alone.
        embedding: see `Embedding`.
        size: K of `svd`.
        seed: of `svd`'s random projections.

    Raises:
        InputError: the name is unknown, or `explicit`/`content` on a log without item features.
    """
    if embedding not in get_args(Embedding):
        known = get_args(Embedding)
        raise InputError(f"embedding {embedding!r} is unknown; {near_matches(embedding, known)}")
    if embedding == "learned":
        return None
    if embedding == "svd":
        return _svd(log, sessions, size, seed)
    features = log.catalogue.features
    if not features.shape[1]:
        raise InputError(f"embedding {embedding!r} needs item features; this log has none")
    return features


def _svd(log: SessionLog, sessions: np.ndarray, size: int, seed: int) -> np.ndarray:
    pairs = []
    for rows in log.blocks(sessions):
        row, position = np.nonzero(log.response[rows])
        session = np.searchsorted(log.session_start, rows[row], "right") - 1
        pairs.append(np.stack([log.user[session], log.slate[rows[row], position]]))
    owner, item = np.concatenate(pairs, 1)
    ones = np.ones(len(owner), np.float32)
    clicks = csr_matrix((ones, (owner, item)), (len(log.users), len(log.catalogue)))
    size = min(size, min(clicks.shape) - 1)
    vectors = TruncatedSVD(size, random_state=seed).fit(clicks).components_.T
    return (vectors * np.sqrt(len(vectors))).astype(np.float32)


class ItemEncoder(nn.Module):
    """Items as vectors of `size` numbers and a bias.

    Every catalogue index has a *row* of the tables. Row N is the unknown item: it stands for items
    that training never showed and for items added later, and its vector for those that training
    hardly showed. Row N + 1 is the empty position: zeros.

    Args:
        n_items: N.
        size: d.
        embedding: how items become vectors, see `Embedding`.
        fixed: [N, K] float32 given vectors, from `item_features`; None with `learned`.
        min_shown: items shown less often in training have no vector of their own.
        prior: how many impressions the mean counts for when a bias is learned.
    """

    def __init__(
        self,
        n_items: int,
        size: int,
        embedding: str = "learned",
        fixed: Tensor | None = None,
        min_shown: int = 1,
        prior: float = 0.0,
    ) -> None:
        super().__init__()
        self.lookup: Tensor
        self.vector_row: Tensor
        self.pull: Tensor
        self.fixed: Tensor
        self.centre: Tensor
        self.scale: Tensor
        self.unknown, self.empty, self.size = n_items, n_items + 1, size
        self.min_shown, self.prior = min_shown, prior
        self.of_catalogue = embedding in ("explicit", "content")
        n_rows = n_items + 2
        rows = torch.cat([torch.tensor([self.empty]), torch.arange(n_items)])
        self.register_buffer("lookup", rows)  # [N + 1]: the row of index i stands at i + 1
        self.register_buffer("vector_row", torch.arange(n_rows))  # whose vector a row has
        self.register_buffer("pull", torch.zeros(n_rows))  # prior / impressions in training
        self.bias = _table(n_rows, 1, 0.0, self.empty)
        self.weight = None
        if embedding in ("learned", "content"):
            std = 0.1 if embedding == "learned" else 0.0
            self.weight = _table(n_rows, size, std, self.empty)
        self.project = None
        if fixed is not None:
            centre, scale = fixed.mean(0), fixed.std(0, correction=0).clamp(min=1e-6)
            fixed = (fixed - centre) / scale if self.of_catalogue else fixed
            self.register_buffer("centre", centre)
            self.register_buffer("scale", scale)
            self.register_buffer("fixed", F.pad(fixed, (0, 0, 0, 2)))  # unknown, empty: zeros
            self.project = nn.Linear(fixed.shape[1], size, bias=False)

    def rows(self, item: Tensor) -> Tensor:
        """Return the table rows (int64) of catalogue indices, -1 being the empty position.

        While training, a few items are replaced by the unknown one.
        """
        rows = self.lookup[item + 1]
        if self.training:
            lost = torch.rand(rows.shape, device=rows.device) < UNKNOWN_RATE
            rows = torch.where(lost & (rows != self.empty), self.unknown, rows)
        return rows

    def forward(self, rows: Tensor) -> Tensor:
        """Return the vectors [..., d] of table rows."""
        if self.project is None:
            assert self.weight is not None
            return self.weight(self.vector_row[rows])
        given = self.project(self.fixed[rows])
        return given if self.weight is None else given + self.weight(rows)

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Learn from the training sessions which items are too rare to have numbers of their own.

        Items with given vectors keep theirs: it says more than the unknown item's.
        """
        shown = torch.from_numpy(count(log, sessions)[0].sum(1))
        self.pull[: len(shown)] = (self.prior / shown.clamp(min=1)).float()
        if self.project is None:
            self.vector_row[: len(shown)][shown < self.min_shown] = self.unknown
            self.lookup[1:][shown == 0] = self.unknown

    def prior_loss(self, rows: Tensor, mean: float) -> Tensor:
        """Return the prior's share (nats, summed) in the loss of shown items in `rows`.

        It draws a bias to 0 as if its item had been seen `prior` times more at the rate `mean`
        (a Beta prior); those impressions are spread over the real ones.
        """
        odds = self.bias(rows).squeeze(-1)
        rate = torch.full_like(odds, mean)
        each = F.binary_cross_entropy_with_logits(odds + torch.logit(rate), rate, reduction="none")
        return (self.pull[rows] * each).sum()

    def add_items(self, catalogue: Catalogue) -> None:
        """Give the items that `catalogue` has beyond the known ones a row.

        It is a new row made of their features where vectors come from the catalogue's features,
        else the unknown item's.
        """
        known = len(self.lookup) - 1
        new = len(catalogue) - known
        rows = torch.full((new,), self.unknown, device=self.lookup.device)
        if self.of_catalogue:
            rows = torch.arange(new, device=rows.device) + len(self.fixed)
            features = torch.from_numpy(catalogue.features[known:].copy()).to(self.fixed)
            self.fixed = torch.cat([self.fixed, (features - self.centre) / self.scale])
            self.bias = _longer(self.bias, self.bias.weight[self.unknown].expand(new, -1))
            self.pull = torch.cat([self.pull, self.pull.new_zeros(new)])
            self.vector_row = torch.cat([self.vector_row, rows])
            if self.weight is not None:
                self.weight = _longer(self.weight, self.weight.weight.new_zeros(new, self.size))
        self.lookup = torch.cat([self.lookup, rows])


def _table(n_rows: int, size: int, std: float, zero_row: int) -> nn.Embedding:
    table = nn.Embedding(n_rows, size, padding_idx=zero_row)
    nn.init.normal_(table.weight, std=std)
    with torch.no_grad():
        table.weight[zero_row] = 0
    return table


def _longer(table: nn.Embedding, rows: Tensor) -> nn.Embedding:
    weight = torch.cat([table.weight.detach(), rows.detach()])
    return nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=table.padding_idx)
