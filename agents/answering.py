"""Real users' histories as observations, and what a policy answers as raw item ids."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.site import Site
from responders import EMPTY, Catalogue, InputError
from responders.log import ragged

_LONGEST = 1000  # items of a history that are read
_BATCH = 512


def recommend(
    site: Site,
    answer: Callable[[dict[str, Tensor]], Tensor],
    histories: Sequence[Sequence[Any]],
    users: np.ndarray | None,
) -> list[list[Any]]:
    """Return ranked items for real users; see `Policy.recommend`.

    Args:
        site: of the policy.
        answer: returns ranked items [B, k] for an observation of B users, -1 = no more.
        histories: raw ids of the items clicked by each user.
        users: [B, F] features of the users; None = the site's mean.
    """
    features = _features(site, users, len(histories))
    indices = _indices(site.catalogue, histories)
    answers: list[list[Any]] = []
    for first in range(0, len(histories), _BATCH):
        part = slice(first, first + _BATCH)
        slate = answer(observe(site, indices[part], features[part]))
        ids = site.catalogue.ids[slate.clamp(min=0).cpu().numpy()].tolist()
        answers += [
            [item for item, is_shown in zip(*row, strict=True) if is_shown]
            for row in zip(ids, (slate != EMPTY).tolist(), strict=True)
        ]
    return answers


def _indices(catalogue: Catalogue, histories: Sequence[Sequence[Any]]) -> list[np.ndarray]:
    """Return the catalogue indices of each history, without the items that are not in it."""
    length = np.array([len(history) for history in histories], np.int64)
    ids = [item for history in histories for item in history]
    index = _index(catalogue, ids)
    known = index != EMPTY
    if ids and not known.any():
        raise InputError(
            f"none of the {len(ids)} items is in the catalogue: its ids are such as "
            f"{catalogue.ids.tolist()[0]!r}, and a history has {ids[0]!r}"
        )
    if not known.all():
        example = ids[int(np.argmin(known))]
        warnings.warn(
            f"{int((~known).sum())} of {len(ids)} items of the histories are not in the catalogue "
            f"and were ignored, such as {example!r}",
            stacklevel=4,
        )
    kept = np.bincount(ragged.owner(length)[known], minlength=len(length))
    return np.split(index[known], np.cumsum(kept)[:-1]) if len(length) else []


def _index(catalogue: Catalogue, ids: list[Any]) -> np.ndarray:
    """Return the catalogue index of raw ids of any type, -1 if it is not in the catalogue."""
    if catalogue.ids.dtype.kind not in "iu":
        return catalogue.index(np.array([str(item) for item in ids], object))
    index = np.full(len(ids), EMPTY, np.int64)
    is_whole = np.array([isinstance(item, Integral) for item in ids], bool)
    index[is_whole] = catalogue.index([item for item in ids if isinstance(item, Integral)])
    return index


def _features(site: Site, users: np.ndarray | None, n_users: int) -> Tensor:
    """Return the users' features [n_users, F], by default the mean."""
    n_features = site.features.shape[1]
    if users is None:
        return site.features.mean(0).expand(n_users, -1)
    features = np.asarray(users, np.float32)
    if features.shape != (n_users, n_features) or not np.isfinite(features).all():
        raise InputError(
            f"users must be finite numbers [{n_users}, {n_features}], one row of features for each "
            f"history, not {features.shape}"
        )
    return torch.from_numpy(features).to(site.device)


def observe(site: Site, histories: Sequence[np.ndarray], users: Tensor) -> dict[str, Tensor]:
    """Return a batched `HistoryObservation` in which every item of the histories was clicked.

    Items fill the slates without gaps and end at the last position of the last slate.

    Args:
        site: of the policy.
        histories: catalogue indices of B users, most recent last.
        users: [B, F].
    """
    recent = [history[-_LONGEST:] for history in histories]
    length = np.array([len(history) for history in recent], np.int64)
    n_slates = -(-length // site.n_positions)
    width = max(int(n_slates.max(initial=0)), 1) * site.n_positions
    item = np.full((len(recent), width), EMPTY, np.int64)
    column = width - np.repeat(length, length) + ragged.place(length)
    item[ragged.owner(length), column] = np.concatenate([*recent, np.zeros(0, np.int64)])
    items = torch.from_numpy(item).to(site.device)
    step = torch.from_numpy(n_slates).unsqueeze(1).to(site.device)
    observation = {"item": items, "click": (items >= 0).to(torch.int8), "step": step}
    if users.shape[1]:
        observation["user"] = users
    if site.returns is not None:
        observation |= {"visit": torch.zeros_like(step), "gap": torch.zeros_like(step).float()}
    return observation
