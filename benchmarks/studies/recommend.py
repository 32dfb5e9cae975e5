"""Recommendations of a saved policy for the users of a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from agents.loading import load_policy
from responders import InputError
from responders.errors import check_whole
from responders.log import columns
from responders.log.columns import reject


def recommend(policy: str | Path, histories: str | Path, k: int | None = None) -> pd.DataFrame:
    """Return what a saved policy recommends to the users of a file, as `recsim recommend` does.

    Items outside the policy's catalogue are ignored, with a warning that counts them; users keep
    the mean features of those that the policy was made for.

    Args:
        policy: folder of the policy.
        histories: a CSV file with the columns user, item and, optionally, time: a row for each
            click. Without time, the rows of a user are in order, most recent last.
        k: items for each user; by default as many as its slates have positions.

    Returns:
        A frame with the columns user, rank (from 1) and item, users in order of appearance.

    Raises:
        InputError: the policy or the file is missing or damaged, a value is missing, or no item is
            in the catalogue.
    """
    if k is not None:
        check_whole("k", k, 1)
    loaded = load_policy(policy)
    table = read_histories(histories)
    # The type of ids is the catalogue's: 7 in a column with text is still the item 7.
    if loaded.catalogue.ids.dtype.kind in "iu":
        items = [_number(text) for text in table["item"]]
    else:
        items = table["item"].tolist()
    user, names = table["user"].cat.codes, table["user"].cat.categories
    rows = np.split(np.argsort(user, kind="stable"), np.cumsum(np.bincount(user))[:-1])
    ranked = loaded.recommend([[items[row] for row in own] for own in rows], k)
    length = [len(row) for row in ranked]
    return pd.DataFrame(
        {
            "user": np.repeat(np.asarray(names), length),
            "rank": np.concatenate([np.arange(1, n + 1) for n in length]),
            "item": [item for row in ranked for item in row],
        }
    )


def _number(text: str) -> int | str:
    """Return the whole number that a text is, such as "7" or "7.0"; otherwise the text."""
    whole = re.fullmatch(r"([+-]?[0-9]+)(\.0*)?", text)
    return int(whole[1]) if whole else text


def read_histories(file: str | Path) -> pd.DataFrame:
    """Return the rows of a file of histories, user and item as text, in order of time.

    Raises:
        InputError: see `recommend`.
    """
    path = Path(file)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{path} cannot be read as CSV: {str(error).strip()}") from None
    for name in ("user", "item"):
        if name not in table:
            raise InputError(
                f"{path} has no column {name}; its columns are {', '.join(table.columns)}: name "
                "them user, item and, optionally, time"
            )
    if table.empty:
        raise InputError(f"{path} has no rows")

    def fault(row: int, column: str, value: Any, why: str) -> InputError:
        return InputError(f"{path}, line {row + 2}, column {column}: {value!r} {why}")

    for name in table.columns.intersection(["user", "item", "time"]):
        reject(table[name].str.strip() == "", name, table[name], "is missing", fault)
    if "time" in table:
        exact, _ = columns.times(table["time"], "time", fault)
        table = table.iloc[np.argsort(exact, kind="stable")]
    # Users appear in the order of the file, not of time.
    table["user"] = pd.Categorical(table["user"], table["user"].sort_index().unique())
    return table
