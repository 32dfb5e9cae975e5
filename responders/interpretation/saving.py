"""The autoencoder of a responder or policy, in its folder; and the vectors that steer it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from responders.config import make_config
from responders.errors import InputError, check_finite, check_whole
from responders.files import read_json
from responders.interpretation.autoencoder import AutoencoderConfig, SparseAutoencoder
from responders.training.checkpoint import AUTOENCODER, WEIGHTS, save_tensors


def save_autoencoder(net: SparseAutoencoder, folder: Path) -> Path:
    """Write an autoencoder into the folder of the responder or policy whose states it reads."""
    facts = {"settings": json.dumps(asdict(net.config)), "weights": _fingerprint(folder)}
    tensors = {name: tensor.detach().contiguous() for name, tensor in net.state_dict().items()}
    save_tensors(folder / AUTOENCODER, tensors, facts)
    return folder / AUTOENCODER


def load_autoencoder(folder: Path) -> SparseAutoencoder:
    """Return the autoencoder that `recsim interpret` left in a responder's or policy's folder.

    Raises:
        InputError: there is none, it is damaged, or the weights have changed since.
    """
    path, again = folder / AUTOENCODER, f"run `recsim interpret {folder} LOG --out DIR`"
    if not path.exists():
        raise InputError(f"{folder} was not interpreted, so it has no features to steer: {again}")
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
        tensors = load_file(path)
        settings = make_config(AutoencoderConfig, json.loads(facts["settings"]), "interpret")
        net = SparseAutoencoder(tensors["decoder"].shape[1], settings)
        net.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read ({reason}): {again} again") from error
    if facts.get("weights") != _fingerprint(folder):
        raise InputError(f"{path} belongs to other weights than those of {folder}: {again} again")
    return net.eval()


def steering(folder: Path, steer: Mapping[int, float]) -> Tensor:
    """Return the vector [D] that adds features to the hidden states of a responder or policy.

    Args:
        folder: interpreted by `recsim interpret`.
        steer: how much is added to the activation, by number of the feature.

    Raises:
        InputError: a feature is unknown, a strength is not finite, or see `load_autoencoder`.
    """
    if not isinstance(steer, Mapping):
        raise InputError(f"steer is a dictionary from features to strengths, not {steer!r}")
    net = load_autoencoder(folder)
    directions = net.directions
    total = torch.zeros(directions.shape[1])
    for feature, strength in steer.items():
        number = check_whole("steer: a feature", feature, 0)
        if number >= len(directions):
            raise InputError(
                f"steer: feature {number} is unknown: {folder} has 0 to {len(directions) - 1}"
            )
        total += check_finite(f"steer: the strength of {number}", strength) * directions[number]
    return total


def _fingerprint(folder: Path) -> str:
    """Return a hash of the weights in a folder."""
    card: dict[str, Any] = read_json(folder / "card.json", "responder or policy")
    weights = folder / (WEIGHTS if card.get("kind") == "responder" else "policy.safetensors")
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
