"""Items as vectors and biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.config import Config, setting
from responders.errors import InputError
from responders.log.catalogue import Catalogue
from responders.log.counts import click_matrix, count
from responders.log.session_log import SessionLog
from responders.models.parts.tables import BoundedDelta, extended, zero_row_table

Embedding = Literal["learned", "svd", "explicit", "content", "content_delta"]
"""How an item becomes a vector: `learned` = a free vector each; `svd` = a linear map of the
truncated SVD of the training users' clicks; `explicit` = a linear map of the catalogue's features;
`content` = `explicit` plus a learned vector that starts at zero; `content_delta` = a linear map of
the sum of the normalised features and a learned delta of bounded norm (arXiv 2507.19473)."""

FROM_FEATURES = ("explicit", "content", "content_delta")
"""The embeddings that are made of the catalogue's features."""


@dataclass(frozen=True)
class ItemConfig(Config):
    """Settings of how items become vectors and biases."""

    embedding: Embedding = setting("learned", "How items become vectors.")
    embedding_size: int = setting(32, "d, size of a vector.", ge=1, le=8192)
    min_shown: int = setting(10, "Items shown less often in training share one vector.", ge=0)
    prior: float = setting(
        10.0, "Pseudo-impressions at the mean click rate in an item's bias.", ge=0
    )
    delta: float = setting(
        0.3, "With `content_delta`, the largest norm of the delta; that of the content is 1.", ge=0
    )


UNKNOWN_RATE = 0.01
"""Share of items replaced by the unknown item during training, so that its vector is trained."""


def given_item_vectors(
    log: SessionLog, sessions: np.ndarray, embedding: str, size: int, seed: int = 0
) -> np.ndarray | None:
    """Return the fixed item vectors [N, K] float32 that `embedding` needs, None for `learned`.

    Args:
        log: the log.
        sessions: the training sessions; `svd` reads only their clicks.
        embedding: see `Embedding`.
        size: K of `svd`.
        seed: of the random projections of `svd`.

    Raises:
        InputError: an embedding made of item features for a log without any.
    """
    if embedding == "learned":
        return None
    if embedding == "svd":
        return _svd(log, sessions, size, seed)
    features = log.catalogue.features
    if not features.shape[1]:
        raise InputError(f"embedding {embedding!r} needs item features; this log has none")
    return features


def _svd(log: SessionLog, sessions: np.ndarray, size: int, seed: int) -> np.ndarray:
    clicks = click_matrix(log, sessions)
    size = min(size, min(clicks.shape) - 1)
    from sklearn.decomposition import TruncatedSVD  # slow to import; no world needs it

    vectors = TruncatedSVD(size, random_state=seed).fit(clicks).components_.T
    return (vectors * np.sqrt(len(vectors))).astype(np.float32)


class ItemEncoder(nn.Module):
    """Items as vectors of `size` numbers and a bias.

    Catalogue indices are mapped to *rows* of the tables by `index`. Row N is the unknown item: it
    represents items that training never showed and items that were added later, and lends its
    vector to items that training rarely showed. Row N + 1 is the empty position: zeros.

    Args:
        n_items: N.
        size: d.
        embedding: how items become vectors, see `Embedding`.
        given: [N, K] float32 from `given_item_vectors`; None with `learned`.
        min_shown: items shown less often in training have no vector of their own.
        prior: pseudo-impressions at the mean click rate when a bias is learned.
        delta: with `content_delta`, the largest norm of an item's delta.
    """

    def __init__(
        self,
        n_items: int,
        size: int,
        embedding: str = "learned",
        given: Tensor | None = None,
        min_shown: int = 1,
        prior: float = 0.0,
        delta: float = 0.0,
    ) -> None:
        super().__init__()
        self.row_of_item: Tensor
        self.vector_row: Tensor
        self.prior_weight: Tensor
        self.given: Tensor
        self.centre: Tensor
        self.scale: Tensor
        self.unknown, self.empty, self.size = n_items, n_items + 1, size
        self.min_shown, self.prior = min_shown, prior
        self.uses_catalogue = embedding in FROM_FEATURES
        n_rows = n_items + 2
        rows = torch.cat([torch.tensor([self.empty]), torch.arange(n_items)])
        self.register_buffer("row_of_item", rows)  # [N + 1]: the row of item i is at i + 1
        self.register_buffer("vector_row", torch.arange(n_rows))  # whose vector a row uses
        self.register_buffer("prior_weight", torch.zeros(n_rows))  # prior / impressions
        self.bias_table = zero_row_table(n_rows, 1, 0.0, self.empty)
        self.vector_table = None
        if embedding in ("learned", "content"):
            std = 0.1 if embedding == "learned" else 0.0
            self.vector_table = zero_row_table(n_rows, size, std, self.empty)
        self.projection = self.delta = None
        if given is not None:
            self.register_buffer("centre", given.mean(0))
            self.register_buffer("scale", given.std(0, correction=0).clamp(min=1e-6))
            self.projection = nn.Linear(given.shape[1], size, bias=False)
            if embedding == "content_delta":
                self.delta = BoundedDelta(n_rows, given.shape[1], delta, self.empty)
            given = self._content(given) if self.uses_catalogue else given
            self.register_buffer("given", F.pad(given, (0, 0, 0, 2)))  # unknown, empty: zeros

    def _content(self, features: Tensor) -> Tensor:
        """Return the content vectors [n, K] of features [n, K]: standardised, normed for deltas."""
        content = (features - self.centre) / self.scale
        return content if self.delta is None else self.delta.normed(content)

    @property
    def likeness_size(self) -> int:
        """Size of the vectors that `likeness` returns."""
        return self.size if self.projection is None else self.projection.in_features

    def likeness(self, rows: Tensor) -> Tensor:
        """Return the vectors [..., K] that tell which items are alike: given ones, else learned."""
        return self.vector(rows) if self.projection is None else self.given[rows]

    @property
    def n_rows(self) -> int:
        """Rows of the tables, the unknown item and the empty position included."""
        return self.bias_table.num_embeddings

    def index(self, item: Tensor, replace_some: bool = True) -> Tensor:
        """Return the table rows (int64) of catalogue indices, -1 being the empty position.

        Args:
            item: of any shape.
            replace_some: in training mode, replace a few items by the unknown one.
        """
        rows = self.row_of_item[item + 1]
        if self.training and replace_some:
            replaced = torch.rand(rows.shape, device=rows.device) < UNKNOWN_RATE
            rows = torch.where(replaced & (rows != self.empty), self.unknown, rows)
        return rows

    def every_row(self) -> Tensor:
        """Return all rows of the tables, [n_rows] int64."""
        return torch.arange(self.n_rows, device=self.bias_table.weight.device)

    def vector(self, rows: Tensor) -> Tensor:
        """Return the vectors [..., d] of table rows [...]."""
        if self.projection is None:
            assert self.vector_table is not None
            return self.vector_table(self.vector_row[rows])
        vector = self.projection(self.given[rows])
        if self.delta is not None:
            # The map learns from content alone: it must serve items that have no delta.
            vector = vector + F.linear(self.delta(rows), self.projection.weight.detach())
        return vector if self.vector_table is None else vector + self.vector_table(rows)

    def bias(self, rows: Tensor) -> Tensor:
        """Return the biases [...] of table rows [...]."""
        return self.bias_table(rows).squeeze(-1)

    def initialise(self, log: SessionLog, sessions: np.ndarray) -> None:
        """Learn from the training sessions which items are too rare for a vector of their own.

        Items with given vectors keep them: they say more than the unknown item's vector.
        """
        shown = torch.from_numpy(count(log, sessions)[0].sum(1))
        self.prior_weight[: len(shown)] = (self.prior / shown.clamp(min=1)).float()
        if self.projection is None:
            self.vector_row[: len(shown)][shown < self.min_shown] = self.unknown
            self.row_of_item[1:][shown == 0] = self.unknown

    def prior_loss(self, item: Tensor, log_odds: Tensor, prior_rate: Tensor) -> Tensor:
        """Return the loss (nats, summed) of a Beta prior on what is learned of each item.

        The prior acts like `prior` more impressions of each item, clicked at `prior_rate`; they
        are spread over the item's real impressions.

        Args:
            item: [P] catalogue indices of shown items.
            log_odds: [P] learned log-odds of these items.
            prior_rate: scalar, mean of the prior.
        """
        weight = self.prior_weight[self.index(item, replace_some=False)]
        rate = prior_rate.expand_as(log_odds)
        loss = F.binary_cross_entropy_with_logits(log_odds, rate, reduction="none")
        return (weight * loss).sum()

    def bias_prior_loss(self, item: Tensor, mean_rate: Tensor) -> Tensor:
        """Return `prior_loss` of the biases: each is drawn towards 0 at the rate `mean_rate`."""
        bias = self.bias(self.index(item, replace_some=False))
        return self.prior_loss(item, bias + torch.logit(mean_rate), mean_rate)

    def add_items(self, catalogue: Catalogue) -> None:
        """Give a row to each item that `catalogue` has beyond the known ones.

        It is a new row made of the item's features where vectors come from the catalogue's
        features, otherwise the unknown item's row.
        """
        known = len(self.row_of_item) - 1
        new = len(catalogue) - known
        rows = torch.full((new,), self.unknown, device=self.row_of_item.device)
        if self.uses_catalogue:
            rows = torch.arange(new, device=rows.device) + len(self.given)
            features = torch.from_numpy(catalogue.features[known:].copy()).to(self.given)
            self.given = torch.cat([self.given, self._content(features)])
            bias = self.bias_table.weight[self.unknown].expand(new, -1)
            self.bias_table = extended(self.bias_table, bias)
            self.prior_weight = torch.cat([self.prior_weight, self.prior_weight.new_zeros(new)])
            self.vector_row = torch.cat([self.vector_row, rows])
            if self.vector_table is not None:
                zeros = self.vector_table.weight.new_zeros(new, self.size)
                self.vector_table = extended(self.vector_table, zeros)
            if self.delta is not None:
                self.delta.add_rows(new)
        self.row_of_item = torch.cat([self.row_of_item, rows])
