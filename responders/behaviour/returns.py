"""Whether and when a user comes back after leaving, learned from a log or given by a rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from responders.errors import InputError, check_finite
from responders.log.session_log import SessionLog

_BINS = (0, 1, 2, 4, 8)
"""The smallest number of clicks of a visit in each bin."""

_QUANTILES = 33
_PRIOR, _FEW = 20.0, 20
_DAY = 86_400.0


@dataclass(frozen=True)
class Returns:
    """The chance that a user comes back, and the time until then, by the clicks of the visit.

    Args:
        window: seconds; a user who stays away longer counts as gone.
        clicks: [K] smallest number of clicks of a visit in each bin, ascending from 0.
        chance: [K] to come back within the window.
        gap: [K][Q] quantiles of the seconds until then, evenly spaced from 0 to 1.

    Raises:
        InputError: the tables do not fit together.
    """

    window: float
    clicks: tuple[int, ...]
    chance: tuple[float, ...]
    gap: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        k = len(self.clicks)
        ascending = list(self.clicks) == sorted(set(self.clicks)) and k and self.clicks[0] == 0
        if not ascending or len(self.chance) != k or len(self.gap) != k:
            raise InputError("returns need bins of clicks ascending from 0, and a row for each")
        if not all(0 <= p <= 1 for p in self.chance):
            raise InputError(f"chances to come back must lie between 0 and 1, not {self.chance}")
        if len({len(row) for row in self.gap}) != 1 or len(self.gap[0]) < 2:
            raise InputError("gap must have the same number of quantiles, two or more, in each bin")
        if not check_finite("window", self.window) > 0:
            raise InputError(f"window must be more than 0 seconds, not {self.window}")
        for row in self.gap:
            if not (row[0] >= 0 and row[-1] <= self.window and list(row) == sorted(row)):
                raise InputError("gaps must ascend within 0 and the window")

    @staticmethod
    def rule(chance: tuple[float, ...] = (0.3, 0.5, 0.65, 0.75, 0.8), days: float = 1.0) -> Returns:
        """Return a fixed rule: `chance` by clicks (0, 1, 2+, 4+, 8+), gaps of `days` on average.

        Gaps follow an exponential distribution with mean `days`, truncated at a week.
        """
        if not check_finite("days", days) > 0:
            raise InputError(f"days must be more than 0, not {days}")
        share = np.linspace(0, 1, _QUANTILES)
        gap = np.minimum(-np.log1p(-share * (1 - np.exp(-7 / days))) * days, 7.0) * _DAY
        row = tuple(float(g) for g in gap)
        return Returns(7 * _DAY, _BINS[: len(chance)], chance, (row,) * len(chance))

    @staticmethod
    def from_json(values: dict[str, Any]) -> Returns:
        """Return the returns whose `dataclasses.asdict` was written as JSON."""
        return Returns(
            float(values["window"]),
            tuple(values["clicks"]),
            tuple(values["chance"]),
            tuple(tuple(row) for row in values["gap"]),
        )

    def tables(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
        """Return clicks [K] int64, chance [K] and gap [K, Q] as tensors."""
        return (
            torch.tensor(self.clicks, device=device),
            torch.tensor(self.chance, dtype=torch.float32, device=device),
            torch.tensor(self.gap, dtype=torch.float32, device=device),
        )


def draw_return(
    tables: tuple[Tensor, Tensor, Tensor], clicks: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """Return who comes back [B] bool, and after how many seconds [B] float32.

    Args:
        tables: from `Returns.tables`.
        clicks: [B] int64 clicks of the visit.
        uniform: [B, 2] in [0, 1).
    """
    bin_start, chance, gap = tables
    bin_ = torch.searchsorted(bin_start, clicks.contiguous(), right=True) - 1
    quantile = uniform[:, 1] * (gap.shape[1] - 1)
    lower = quantile.long()
    quantiles = gap[bin_]
    below, above = (quantiles.gather(1, (lower + i).unsqueeze(1)).squeeze(1) for i in (0, 1))
    return uniform[:, 0] < chance[bin_], below + (above - below) * (quantile - lower)


def fit_returns(log: SessionLog, sessions: np.ndarray) -> Returns | None:
    """Estimate returns from users with more than one session; None if there are none.

    90 % of the returns happen within the window, which is at most half the log's time span. A
    session counts only if the log continues for a window after it, so that a return is observed.
    """
    starts, ends = log.session_start[sessions], log.session_start[sessions + 1] - 1
    begin, end, user = log.time[starts], log.time[ends], log.user[sessions]
    total = np.r_[0, log.response.sum(1).cumsum()]
    clicks = total[ends + 1] - total[starts]
    order = np.lexsort((begin, user))
    begin, end, user, clicks = begin[order], end[order], user[order], clicks[order]
    has_next = np.r_[user[1:] == user[:-1], False]
    gap = np.where(has_next, np.r_[begin[1:], 0] - end, np.inf)
    positive_gap = gap[has_next & (gap > 0)]
    if not len(positive_gap):
        return None
    window = float(min(np.quantile(positive_gap, 0.9), (end.max() - begin.min()) / 2))
    observed = (end <= end.max() - window) & (gap > 0)
    returned = observed & (gap <= window)
    if not returned.any():
        return None
    bin_ = np.searchsorted(_BINS, clicks, "right") - 1
    n_seen, n_back = (np.bincount(bin_[m], minlength=len(_BINS)) for m in (observed, returned))
    overall = n_back.sum() / n_seen.sum()
    chance = (n_back + _PRIOR * overall) / (n_seen + _PRIOR)
    share = np.linspace(0, 1, _QUANTILES)
    gap_quantiles = []
    for k in range(len(_BINS)):
        bin_gap = gap[returned & (bin_ == k)]
        gap_quantiles.append(np.quantile(bin_gap if len(bin_gap) >= _FEW else gap[returned], share))
    return Returns(
        window,
        _BINS,
        tuple(float(p) for p in chance),
        tuple(tuple(float(g) for g in quantiles) for quantiles in gap_quantiles),
    )
