"""The folder of a training: what it holds, whether it may be used, and what is removed from it."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from responders.errors import InputError
from responders.files import holds_files, read_json
from responders.training.checkpoint import AUTOENCODER, CARD, INITIAL, WEIGHTS
from responders.training.trainer import STATE

RUN = "run.json"
"""The file in a training folder that describes the training."""

REFIT = "refit"
"""The folder in a training folder with the TensorBoard run and the resumable state of refitting."""


def already_finished(out: Path, run: dict[str, Any], resume: bool, overwrite: bool) -> bool:
    """Return whether `out` holds this training, finished; raise if it holds anything else to keep.

    What a training left that failed before its first save is removed.
    """
    if not holds_files(out):
        return False
    if not (out / RUN).exists():
        raise InputError(f"{out} is not empty and holds no training ({RUN}): choose another --out")
    kept = CARD if (out / CARD).exists() else STATE
    if overwrite or not (out / kept).exists():
        remove(out)
        return False
    if not resume:
        what = "a finished training: use "
        if kept == STATE:
            what = "an unfinished training: use --resume to continue, "
        raise InputError(f"{out} holds {what}--overwrite to replace it, or choose another --out")
    previous = read_json(out / RUN, "training")
    for key, value in run.items():
        if previous.get(key) != value:
            raise InputError(
                f"{out / RUN} has {key} = {previous.get(key)!r}, not {value!r}: resume "
                "with the same log and settings, use --overwrite, or choose another --out"
            )
    return kept == CARD


def remove(out: Path) -> None:
    """Remove the files of a training from `out`, and the folder if nothing else is in it."""
    for name in (CARD, RUN, STATE, WEIGHTS, AUTOENCODER):
        (out / name).unlink(missing_ok=True)
        (out / f".{name}.tmp").unlink(missing_ok=True)
    for name in (INITIAL, REFIT, "tensorboard"):
        shutil.rmtree(out / name, ignore_errors=True)
        shutil.rmtree(out / f".{name}.tmp", ignore_errors=True)
    with suppress(OSError):  # missing, or something else is in it
        out.rmdir()
