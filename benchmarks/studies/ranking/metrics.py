"""Ranking metrics of a policy over the whole catalogue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from agents.answering import observe
from agents.policy import Policy
from benchmarks.studies.ranking.splits import Cases
from responders import InputError
from responders.log import ragged

NAMES = ("ndcg", "hit", "mrr", "map", "recall")
"""Metrics of ranks; each with `@` and a cut-off."""

_NUMBERS = 1 << 23  # scores held at once


def ranks_of(score: Tensor, target: Tensor) -> Tensor:
    """Return the rank of each target among the items, float64 [B, M], ascending.

    Targets that score the same as other items are ranked in the middle of them. Those with a score
    of −inf are not recommended: their rank is inf.

    Args:
        score: [B, N], no NaN.
        target: [B, M] int64, different items, padded with -1.
    """
    own = score.gather(1, target.clamp(min=0)).masked_fill(target < 0, -torch.inf)
    own = own.sort(1, descending=True).values
    above, equal = _counts(score, own)
    own_above, own_equal = _counts(own, own)
    place = torch.arange(1, own.shape[1] + 1, dtype=torch.float64, device=score.device)
    rank = place + (above - own_above) + (equal - own_equal) / 2
    return torch.where(own == -torch.inf, torch.inf, rank)


def _counts(values: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many of `values` [B, N] are above and equal to each of `wanted`, [B, M]."""
    if wanted.shape[1] == 1:  # much faster than to sort
        return (values > wanted).sum(1, keepdim=True), (values == wanted).sum(1, keepdim=True)
    ascending, wanted = values.sort(1).values, wanted.contiguous()
    right = torch.searchsorted(ascending, wanted, right=True)
    return values.shape[1] - right, right - torch.searchsorted(ascending, wanted)


def metrics_at(rank: Tensor, n_targets: Tensor, k: int) -> dict[str, Tensor]:
    """Return NDCG, hit rate, reciprocal rank, average precision and recall at k, each [B].

    NDCG and average precision are divided by their best possible value with k places.

    Args:
        rank: from `ranks_of`.
        n_targets: [B] int64.
        k: the cut-off.
    """
    found = rank <= k
    place = torch.arange(1, rank.shape[1] + 1, dtype=torch.float64, device=rank.device)
    possible = place <= n_targets.clamp(max=k).unsqueeze(1)
    gain = torch.where(found, 1 / torch.log2(1 + rank), 0.0).sum(1)
    best = torch.where(possible, 1 / torch.log2(1 + place), 0.0).sum(1)
    return {
        "ndcg": gain / best,
        "hit": found.any(1).double(),
        "mrr": torch.where(found[:, 0], 1 / rank[:, 0], 0.0),
        "map": torch.where(found, place / rank, 0.0).sum(1) / possible.sum(1),
        "recall": found.sum(1) / n_targets,
    }


@torch.no_grad()
def evaluate(
    policy: Policy,
    cases: Cases,
    cutoffs: Sequence[int],
    *,
    keep_seen: bool = True,
    clicked: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return the metrics of each case, `NAME@k` → [C], and the coverage of the catalogue.

    Args:
        policy: scores items.
        cases: the questions; a user's features are the mean of the policy's site.
        cutoffs: the values of k.
        keep_seen: whether items of the history are ranked; otherwise they are never recommended.
        clicked: [N], how often items were clicked in training, for `novelty`: the mean of −log2 of
            their share, with one click added to each.

    Returns:
        `ndcg@k`, `hit@k`, …, and `novelty@k` if `clicked` is given; and `coverage@k`, the share of
        the catalogue that is among the first k of any case.

    Raises:
        InputError: a score is NaN or infinite.
    """
    values: dict[str, list[np.ndarray]] = {}
    n_items, most = policy.n_items, min(max(cutoffs), policy.n_items)
    shown = {k: np.zeros(n_items, bool) for k in cutoffs}
    bits = None if clicked is None else -np.log2((clicked + 1) / (clicked + 1).sum())
    policy.reset()
    for part in np.array_split(np.arange(len(cases)), max(len(cases) * n_items // _NUMBERS, 1)):
        history = [cases.history(case) for case in part]
        score = _scores(policy, history)
        if not keep_seen:
            row = torch.from_numpy(ragged.owner(np.array([len(h) for h in history])))
            score[row, torch.from_numpy(np.concatenate(history))] = -torch.inf
        target = [torch.from_numpy(cases.targets(case)) for case in part]
        n_targets = torch.tensor([len(each) for each in target])
        rank = ranks_of(score, torch.nn.utils.rnn.pad_sequence(target, True, -1))
        best = score.topk(most, 1).indices.numpy()
        for k in cutoffs:
            found = metrics_at(rank, n_targets, k)
            for name, value in found.items():
                values.setdefault(f"{name}@{k}", []).append(value.numpy())
            shown[k][best[:, :k]] = True
            if bits is not None:
                values.setdefault(f"novelty@{k}", []).append(bits[best[:, :k]].mean(1))
    return (
        {name: np.concatenate(each) for name, each in values.items()},
        {f"coverage@{k}": float(each.mean()) for k, each in shown.items()},
    )


def _scores(policy: Policy, history: list[np.ndarray]) -> Tensor:
    """Return the scores [B, N] of a policy after histories, on the CPU."""
    features = policy.site.features.mean(0).expand(len(history), -1)
    score = policy.score(observe(policy.site, history, features))
    if not torch.isfinite(score).all():
        raise InputError(f"{type(policy).__name__} gave NaN or infinite scores: it cannot rank")
    return score.expand(len(history), -1).cpu().clone()


def by_user(user: np.ndarray, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the means over the cases of each user, in the order of users: [C] → [U]."""
    _, index, count = np.unique(user, return_inverse=True, return_counts=True)
    return {name: np.bincount(index, each) / count for name, each in values.items()}
