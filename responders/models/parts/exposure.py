"""What earlier showings take from an item's odds: of the item itself and of items like it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.log.batch import SessionBatch
from responders.log.catalogue import EMPTY, Catalogue
from responders.models.parts.items import ItemEncoder
from responders.models.parts.packing import slates_before
from responders.models.parts.readout import STEP
from responders.models.parts.tables import extended
from responders.models.state import State

DECAYS = (0.5, 0.8, 0.95)
"""Share of an exposure that is left after each further slate; the model weighs the three."""
GROUPS = 32
"""G, soft groups of similar items."""
CHUNK = 64
"""Slates of a session that `Exposure.parallel` treats at a time."""
CURVATURE = 10.0
"""Of the part of the effect that grows with the logarithm of the exposure."""


class Exposure(nn.Module):
    """Log-odds that an item loses because it, or items like it, were shown before.

    Users tire of what they see again and again, and a network that has never seen the tenth
    repetition says nothing reliable about it. So the loss is a sum of terms that can only grow with
    repetition: of each exposure x, w·x + w'·log(1 + 10x) with w, w' ≥ 0, learned. The exposures are

    * the decayed number of slates filled with items like this one, for each of `DECAYS`;
    * the decayed number of the last W slates that showed this very item;
    * the items like it above it in the slate, per position and as their mean similarity.

    How alike two items are is the product of their shares in G soft groups: the softmax of scaled
    cosines between an item's vector and G learned centres, and of log-odds of the item's own. The
    latter start at zero and have a normal prior, so that an item that the log shows often finds
    the items that users tire of with it, and a rare one is judged by its vector. Recommender
    simulators know the effect as boredom (RecSim, sardine); here its size is learned from the log.

    The state holds the exposure to each group [B, D, G] and the last slates [B, W, S]: it does not
    grow with the number of items.

    Args:
        n_positions: S.
        size: of the vectors that tell which items are alike, see `ItemEncoder.likeness`.
        n_rows: rows of the items' tables.
        window: W, slates back in which showings of the same item are counted.
    """

    def __init__(self, n_positions: int, size: int, n_rows: int, window: int = 5) -> None:
        super().__init__()
        self.n_positions, self.window = n_positions, window
        self.decay: Tensor
        self.recency: Tensor
        self.register_buffer("decay", torch.tensor(DECAYS), persistent=False)
        age = torch.arange(window - 1, -1, -1).unsqueeze(1)
        self.register_buffer("recency", self.decay**age, persistent=False)  # [W, D]
        self.centres = nn.Parameter(F.normalize(torch.randn(GROUPS, size), dim=1))
        self.sharpness = nn.Parameter(torch.tensor(10.0 / STEP))
        self.own = nn.Embedding.from_pretrained(torch.zeros(n_rows, GROUPS), freeze=False)
        self.weight = nn.Parameter(torch.full((2, 2 * len(DECAYS) + 2), 0.4 / STEP))

    def place_centres(self, items: ItemEncoder) -> None:
        """Start from the k-means centres of given item vectors; of learned ones, at random."""
        if items.projection is None:
            return
        vectors = F.normalize(items.given[: items.unknown], dim=1)
        if len(vectors) < GROUPS:
            return
        from sklearn.cluster import MiniBatchKMeans  # slow to import; no world needs it

        means = MiniBatchKMeans(GROUPS, random_state=0, n_init=3).fit(vectors.cpu().numpy())
        with torch.no_grad():
            self.centres.copy_(F.normalize(torch.from_numpy(means.cluster_centers_), dim=1))

    def groups(self, items: ItemEncoder, rows: Tensor) -> Tensor:
        """Return the shares [..., G] of table rows [...] in the groups; zeros for the empty row."""
        cosine = F.normalize(items.likeness(rows), dim=-1) @ F.normalize(self.centres, dim=1).t()
        share = (STEP * (self.sharpness * cosine + self.own(rows))).softmax(-1)
        return share * (rows != items.empty).unsqueeze(-1)

    def prior_loss(self, items: ItemEncoder, item: Tensor) -> Tensor:
        """Return the loss (nats, summed) of the prior on the own log-odds of shown items [P].

        It is that of a standard normal distribution where an item's prior counts 10
        pseudo-impressions, stronger with more, and spread over the item's impressions.
        """
        rows = items.index(item, replace_some=False)
        own = (STEP * self.own(rows)).square().sum(-1)
        return 0.5 / 10 * (items.prior_weight[rows] * own).sum()

    def add_items(self, catalogue: Catalogue) -> None:
        """Give a row to each item that `catalogue` has beyond the known ones; see `ItemEncoder`."""
        known = self.own.num_embeddings - 2  # two rows are the unknown item and the empty position
        self.own = extended(self.own, self.own.weight.new_zeros(len(catalogue) - known, GROUPS))

    def start(self, user: Tensor) -> State:
        """Return the state of new users with features [B, F]."""
        b, device = len(user), user.device
        return {
            "groups": user.new_zeros(b, len(DECAYS), GROUPS),
            "slates": torch.full((b, self.window, self.n_positions), -1, device=device),
        }

    def observe(self, state: State, group: Tensor, slate: Tensor) -> State:
        """Return the state after a slate [B, S] of items with shares `group` [B, S, G]."""
        seen = (slate >= 0).any(1).view(-1, 1, 1)
        decay = torch.where(seen, self.decay.unsqueeze(1), 1.0)
        shown = group.sum(1, keepdim=True) / self.n_positions
        wide = F.pad(slate, (0, self.n_positions - slate.shape[1]), value=-1).unsqueeze(1)
        slates = torch.cat([state["slates"][:, 1:], wide], 1)
        return {
            "groups": decay * state["groups"] + shown,
            "slates": torch.where(seen, slates, state["slates"]),
        }

    def forward(self, state: State, group: Tensor, slate: Tensor) -> Tensor:
        """Return the (negative) log-odds [B, S] to add for a slate with shares `group`."""
        similar = torch.einsum("bsg,bdg->bsd", group, state["groups"])
        return self._loss(similar, self._same(slate, state["slates"]), group)

    def parallel(self, group: Tensor, batch: SessionBatch) -> Tensor:
        """Return the log-odds [B, R, S] to add to every slate, for shares [B, R, S, G].

        Slates are treated `CHUNK` at a time, so that memory grows linearly with R.
        """
        seen, before = batch.shown.any(2), slates_before(batch.shown)
        history = last_slates(batch.slate, seen, before, self.window)
        carried, parts = group.new_zeros(len(group), len(DECAYS), GROUPS), []
        for first in range(0, batch.slate.shape[1], CHUNK):
            part = slice(first, first + CHUNK)
            shares, filled = group[:, part], seen[:, part]
            number = before[:, part] - before[:, first : first + 1]
            after = number + filled
            # Slate q, seen from a later slate r, was followed by `age` further slates with items.
            age = number.unsqueeze(2) - after.unsqueeze(1)
            weight = self._weight(age, filled.unsqueeze(1) & (age >= 0))
            shown = shares.sum(2) / self.n_positions
            exposure = torch.einsum("brqd,bqg->brdg", weight, shown)
            left = self.decay ** number.unsqueeze(2)
            exposure = exposure + left.unsqueeze(3) * carried.unsqueeze(1)
            similar = torch.einsum("brsg,brdg->brsd", shares, exposure)
            same = self._same(batch.slate[:, part], history[:, part])
            parts.append(self._loss(similar, same, shares))
            end = after[:, -1:]
            new = torch.einsum("bqd,bqg->bdg", self._weight(end - after, filled), shown)
            carried = (self.decay**end).unsqueeze(2) * carried + new
        return torch.cat(parts, 1)

    def _weight(self, age: Tensor, counts: Tensor) -> Tensor:
        """Return decay^age [..., D] where `counts` [...] is set, else 0."""
        return torch.where(counts.unsqueeze(-1), self.decay ** age.clamp(min=0).unsqueeze(-1), 0.0)

    def _same(self, slate: Tensor, slates: Tensor) -> Tensor:
        """Return the decayed numbers [..., S, D] of the slates [..., W, S'] that show each item."""
        item = torch.where(slate >= 0, slate, EMPTY - 1)  # equal to no item, not even to none
        item, shown = item.flatten(0, -2).t(), slates.flatten(0, -3).permute(2, 1, 0)
        # With users in the last dimension, the comparisons run over long contiguous rows.
        same = item.contiguous()[:, None, None] == shown.contiguous()  # [S, S', W, B …]
        shows = same.view(torch.uint8).amax(1).to(self.recency.dtype)
        return torch.einsum("swb,wd->bsd", shows, self.recency).view(*slate.shape, -1)

    def _loss(self, similar: Tensor, same: Tensor, group: Tensor) -> Tensor:
        above = (group * (group.cumsum(-2) - group)).sum(-1, keepdim=True)
        filled = (group.sum(-1, keepdim=True) > 0).to(group.dtype)
        n_above = (filled.cumsum(-2) - filled).clamp(min=1)
        x = torch.cat([similar, same, above / self.n_positions, above / n_above], -1)
        linear, logarithmic = (STEP * self.weight).square()
        curved = torch.log1p(CURVATURE * x) / CURVATURE**0.5
        return -(x @ linear + curved @ logarithmic)


def last_slates(slate: Tensor, seen: Tensor, before: Tensor, window: int) -> Tensor:
    """Return the last slates with items before each slate, oldest first, [B, R, W, S].

    Args:
        slate: [B, R, S], -1 = empty.
        seen: [B, R] bool, whether a slate has items.
        before: [B, R] int64, the number of such slates before each.
        window: W.
    """
    b = len(slate)
    order = torch.argsort(~seen, dim=1, stable=True).unsqueeze(2).expand(slate.shape)
    filled = F.pad(slate.gather(1, order), (0, 0, window, 0), value=-1)
    index = before.unsqueeze(2) + torch.arange(window, device=slate.device)
    return filled[torch.arange(b, device=slate.device).view(b, 1, 1), index]
