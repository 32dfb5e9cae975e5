"""What the features of an autoencoder stand for: items, attributes and users they go along with."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from responders.interpretation.states import States
from responders.log.catalogue import Catalogue, Users

_PRIOR = 20  # clicks at the mean activation that are added to those on every item
_CATEGORIES = 50  # most values of an attribute that are told apart
_ITEMS = 5
_NAMED = 0.3  # |rho| from which an attribute names a feature


class Columns(NamedTuple):
    """Named columns."""

    names: list[str]
    values: np.ndarray  # [n, A] float64


def item_columns(catalogue: Catalogue) -> Columns:
    """Return the features, the price and the categories (one column for each value) of items."""
    names, columns = list(catalogue.feature_names), [catalogue.features.astype(np.float64)]
    if catalogue.price is not None:
        names.append("price")
        columns.append(catalogue.price[:, None].astype(np.float64))
    for name, column in catalogue.attributes.items():
        values = np.unique(column.astype(str))
        if name not in ("shown", "clicked") and 1 < len(values) <= _CATEGORIES:
            names += [f"{name}={value}" for value in values]
            columns.append((column.astype(str)[:, None] == values).astype(np.float64))
    return Columns(names, np.concatenate(columns, 1))


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of the columns of a [n, A] and b [n, B]; 0 for constants."""
    a, b = (x - x.mean(0, dtype=np.float64) for x in (a, b))
    norm = np.linalg.norm(a, axis=0)[:, None] * np.linalg.norm(b, axis=0)
    return np.divide(a.T @ b, norm, out=np.zeros(norm.shape), where=norm > 1e-9)


def tastes(states: States, columns: np.ndarray) -> np.ndarray:
    """Return the mean of item columns [N, A] over recent clicks, [n, A]; 0 before the first."""
    n_clicks = np.asarray(states.clicks.sum(1))
    return (states.clicks @ columns) / np.maximum(n_clicks, 1e-9)


def describe(states: States, code: np.ndarray, catalogue: Catalogue, users: Users) -> pd.DataFrame:
    """Return a row for each feature: how often it is active, and with what.

    Activations are correlated with the mean attributes of the items clicked recently and with the
    features of users, over the moments after the first click. The items of a feature are those
    after whose clicks it is most active on average, drawn to its mean by 20 clicks.

    Args:
        states: of n moments.
        code: [n, M] activations.
        catalogue: of the log.
        users: of the log.

    Returns:
        The columns feature, name, active (share of the moments), activation (mean while active),
        items (ids), lift (of the first item: mean activation over the feature's mean),
        attribute, attribute_rho, user_attribute and user_attribute_rho.
    """
    after = np.asarray(states.clicks.sum(1)).ravel() > 0
    items, mean = item_columns(catalogue), code[after].mean(0, dtype=np.float64)
    clicked = np.asarray(states.clicks.sum(0)).ravel()
    level = (states.clicks.T @ code).T + _PRIOR * mean[:, None]
    level = level / (clicked + _PRIOR)  # [M, N]
    taste = correlation(code[after], tastes(states, items.values)[after])
    who = correlation(code[after], users.features[states.user[after]])
    rows = []
    for f in range(code.shape[1]):
        active: np.ndarray = code[:, f] > 0
        row: dict[str, Any] = {"feature": f, "name": "never active", "active": active.mean()}
        if mean[f] > 0:
            row["activation"] = code[active, f].mean()
            best = np.argsort(-level[f])[:_ITEMS]
            row["items"] = " ".join(map(str, catalogue.ids[best].tolist()))
            row["lift"] = level[f, best[0]] / mean[f]
            row["name"] = f"items {row['items'].replace(' ', ', ')}"
            row |= _strongest("attribute", items.names, taste[f])
            row |= _strongest("user_attribute", list(users.feature_names), who[f])
            if abs(row.get("attribute_rho", 0)) >= _NAMED:
                row["name"] = f"{'' if row['attribute_rho'] > 0 else 'not '}{row['attribute']}"
        rows.append(row)
    return pd.DataFrame(rows)


def _strongest(kind: str, names: list[str], rho: np.ndarray) -> dict[str, str | float]:
    if not names:
        return {}
    best = int(np.abs(rho).argmax())
    return {kind: names[best], f"{kind}_rho": float(rho[best])}
