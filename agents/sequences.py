"""Sequences of clicked items, from logs and from observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from responders import EMPTY, InputError, SessionLog
from responders.log import ragged

By = Literal["session", "user"]
"""Whether the clicks of each session or of each user are a sequence."""


@dataclass(frozen=True)
class Sequences:
    """The clicked items of U sessions or users in order, and the item that was clicked next.

    Args:
        item: [U, L + 1] int64, the last clicks, oldest first, padded on the right with -1: L for a
            model to read, and the one after them.
        target: [U] int64, the click after all of these, -1 = none.
        skipped: [U, L + 1] int64, the last items that were shown in slates above the target's and
            not clicked, padded alike.
        n_items: V.
    """

    item: np.ndarray
    target: np.ndarray
    skipped: np.ndarray
    n_items: int

    @property
    def history(self) -> np.ndarray:
        """[U, L] int64, the last L clicks before the target."""
        return latest(torch.from_numpy(self.item)).numpy()


def trimmed(item: Tensor) -> Tensor:
    """Return sequences [B, L] without the columns that are padding in every row, but for two."""
    return item[:, : max(int((item >= 0).sum(1).max()), 2)]


def latest(item: Tensor) -> Tensor:
    """Return the last L items of sequences [B, L + 1] that are padded on the right with -1."""
    return torch.where(item[:, -1:] >= 0, item[:, 1:], item[:, :-1])


def sequences_of(
    log: SessionLog, length: int = 50, *, leave_out: int = 2, by: By = "user"
) -> Sequences:
    """Return the sequences of a log that have at least two clicks, in the order of time.

    Of those with more than two clicks, the last `leave_out` are left out, and the first of them is
    the target. So 2 gives what to train and validate on, and 1 what to test the last click with.

    Args:
        log: clicks of one slate are in the order of their positions.
        length: L.
        leave_out: 1 or 2.
        by: see `By`.

    Raises:
        InputError: no session or user has two clicks.
    """
    session = ragged.owner(log.session_length)
    owner = log.user[session] if by == "user" else session
    began = log.time[log.session_start[:-1]][session]
    rank = np.empty(log.n_slates, np.int64)  # of slates, with a user's sessions one after another
    rank[np.lexsort((began, owner))] = np.arange(log.n_slates)
    slate, item = _in_order(log, log.response > 0, rank)
    of, n_owners = owner[slate], int(owner.max()) + 1
    count = np.bincount(of, minlength=n_owners)
    kept = count >= 2
    if not kept.any():
        raise InputError(f"no {by} of the log has two clicks: there is no sequence to learn from")
    n_history = np.where(count > 2, count - leave_out, count)
    place = ragged.place(count)
    is_history, is_target = place < n_history[of], place == n_history[of]
    history = padded(item[is_history], of[is_history], n_owners, length + 1)
    target = np.full(n_owners, EMPTY, np.int64)
    target[of[is_target]] = item[is_target]

    end = np.full(n_owners, log.n_slates, np.int64)  # rank of the target's slate
    end[of[is_target]] = rank[slate[is_target]]
    slate, item = _in_order(log, (log.slate != EMPTY) & (log.response == 0), rank)
    above = rank[slate] < end[owner[slate]]
    skipped = padded(item[above], owner[slate[above]], n_owners, length + 1)
    return Sequences(history[kept], target[kept], skipped[kept], len(log.catalogue))


def _in_order(log: SessionLog, mask: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the slates and items of the positions [T, S] in `mask`, by the slates' ranks [T]."""
    slate, position = np.nonzero(mask)
    order = np.argsort(rank[slate], kind="stable")
    slate, position = slate[order], position[order]
    return slate, log.slate[slate, position].astype(np.int64)


def padded(item: np.ndarray, owner: np.ndarray, n_owners: int, length: int) -> np.ndarray:
    """Return the last `length` items of each owner, padded on the right with -1: [n_owners, L].

    Args:
        item: [n].
        owner: [n], ascending.
        n_owners: number of rows.
        length: L.
    """
    count = np.bincount(owner, minlength=n_owners)
    column = ragged.place(count) - np.maximum(count - length, 0)[owner]
    rows = np.full((n_owners, length), EMPTY, np.int64)
    rows[owner[column >= 0], column[column >= 0]] = item[column >= 0]
    return rows


def clicked_history(observation: dict[str, Tensor], length: int) -> Tensor:
    """Return the last L clicks of a batched `HistoryObservation`, [B, L] as `Sequences.history`."""
    click = observation["click"] > 0
    clicks_from_here = click.flip(1).cumsum(1).flip(1)
    kept = click & (clicks_from_here <= length)
    column = torch.where(kept, kept.cumsum(1) - 1, length)  # the last column is dropped
    history = column.new_full((len(click), length + 1), EMPTY)
    return history.scatter(1, column, observation["item"])[:, :length]


def appended(history: Tensor, item: Tensor) -> Tensor:
    """Return histories [B, L] with one more item each, without the oldest where they were full.

    Args:
        history: [B, L] int64, padded on the right with -1.
        item: [B] int64, -1 = none.
    """
    length, size = (history >= 0).sum(1), history.shape[1]
    is_full = (length == size) & (item >= 0)
    history = torch.where(is_full.unsqueeze(1), history.roll(-1, 1), history)
    column = torch.where(is_full, size - 1, length).clamp(max=size - 1).unsqueeze(1)
    value = torch.where(item.unsqueeze(1) >= 0, item.unsqueeze(1), history.gather(1, column))
    return history.scatter(1, column, value)
