"""Estimates of another policy's clicks per slate from a log with propensities.

All take arrays [T, S] of T logged slates of S positions, with zeros at empty positions:

click     1 where the item was clicked
weight    chance that the other policy shows the item there, over the logged propensity
logged    a model's click probability of the logged item
expected  the model's mean click probability over the items that the other policy shows there

and return the contribution [T] of each slate, whose mean is the estimate. Policies choose each
position's item on its own. Positions are combined in three ways: a click depends on the item at its
position (ips, snips, dr), on the items from the top to there (cascade_dr), or the clicks of a slate
are a sum of unknown terms, one for each position (pseudo_inverse).
"""

from __future__ import annotations

import numpy as np


def ips(click: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return inverse propensity scores by position (item-position model, Li et al., KDD 2018)."""
    return (weight * click).sum(1)


def snips(click: np.ndarray, weight: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """Return self-normalised scores (Swaminathan and Joachims, NeurIPS 2015).

    The weights of each position are scaled to the number of slates that fill it.

    Args:
        click: [T, S].
        weight: [T, S].
        filled: [T, S] bool, positions that are not empty.
    """
    total = np.where(filled, weight, 0).sum(0)
    scale = np.divide(filled.sum(0), total, out=np.zeros(len(total)), where=total > 0)
    return (weight * scale * click).sum(1)


def dr(
    click: np.ndarray, weight: np.ndarray, logged: np.ndarray, expected: np.ndarray
) -> np.ndarray:
    """Return doubly robust scores (Dudík et al., ICML 2011), position by position."""
    return (expected + weight * (click - logged)).sum(1)


def pseudo_inverse(click: np.ndarray, weight: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """Return the slate pseudo-inverse estimator (Swaminathan et al., NeurIPS 2017).

    For policies that choose positions independently it weights the clicks of a slate by
    1 − S + Σ weights.

    Args:
        click: [T, S].
        weight: [T, S].
        filled: [T, S] bool, positions that are not empty.
    """
    factor = 1 + np.where(filled, weight - 1, 0).sum(1)
    return factor * click.sum(1)


def cascade_dr(
    click: np.ndarray, weight: np.ndarray, logged: np.ndarray, expected: np.ndarray
) -> np.ndarray:
    """Return the cascade doubly robust estimator (Kiyohara et al., WSDM 2022) of clicks.

    `logged` and `expected` are of single positions, given the logged items above. Positions that
    are empty have weight 1.
    """
    through = np.cumprod(weight, 1)
    above = np.concatenate([np.ones((len(weight), 1)), through[:, :-1]], 1)
    return (through * (click - logged) + above * expected).sum(1)
