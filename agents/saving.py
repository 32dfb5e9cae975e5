"""Policies on disk: safetensors and JSON, nothing pickled.

DIR/policy.safetensors   what was learned, and the catalogue's columns
DIR/card.json            kind, settings, seed, steps, catalogue ids, the form of slates
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from agents.registry import known_policies
from agents.site import Site
from responders import Catalogue
from responders.config import Config
from responders.files import new_folder, write_json
from responders.training.checkpoint import save_tensors

FORMAT = 1
CARD, TENSORS = "card.json", "policy.safetensors"


class Savable(Protocol):
    """What is saved of a policy in addition to its tensors; see `Policy`."""

    config: Config
    site: Site
    seed: int
    steps: int
    synthetic: bool


def name_of(kind: type) -> str:
    """Return the registered name of a class of policies, or else `module:Class`."""
    path = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for name, known in known_policies().items() if known == path), path)


def learned_tensors(policy: object) -> dict[str, Tensor]:
    """Return the tensors that a policy has learned, by the name of their attribute.

    They are its attributes that are tensors, and the tensors of those that are modules
    (`attribute.name`), unless the attribute's name starts with an underscore.
    """
    found: dict[str, Tensor] = {}
    for name, value in vars(policy).items():
        if name.startswith("_"):
            continue
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, nn.Module):
            found |= {f"{name}.{key}": tensor for key, tensor in value.state_dict().items()}
    return found


def save_policy(policy: Savable, path: Path, overwrite: bool = False) -> Path:
    """Write a policy to the folder `path`; see `Policy.save`."""
    site, catalogue = policy.site, policy.site.catalogue
    tensors = {f"policy.{name}": tensor for name, tensor in learned_tensors(policy).items()}
    tensors |= {f"catalogue.{name}": value for name, value in _columns(catalogue).items()}
    tensors["site.features"] = site.features
    card = {
        "format": FORMAT,
        "kind": "policy",
        "policy": name_of(type(policy)),
        "config": asdict(policy.config),
        "seed": policy.seed,
        "steps": policy.steps,
        "synthetic": policy.synthetic,
        "site": {
            "n_positions": site.n_positions,
            "horizon": site.horizon,
            "history": site.history,
            "returns": None if site.returns is None else asdict(site.returns),
        },
        "catalogue": {
            "ids": catalogue.ids.tolist(),
            "feature_names": list(catalogue.feature_names),
            "fingerprint": catalogue.fingerprint(),
        },
    }
    with new_folder(path, overwrite) as building:
        # Copies, because safetensors refuses tensors that share memory.
        copies = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
        save_tensors(building / TENSORS, copies)
        write_json(building / CARD, card)
    return path


def _columns(catalogue: Catalogue) -> dict[str, Tensor]:
    """Return the numeric columns of a catalogue; attributes that are text are left out."""
    columns: dict[str, Any] = {
        f"attribute.{name}": column for name, column in catalogue.attributes.items()
    }
    columns |= {"features": catalogue.features, "price": catalogue.price}
    return {
        name: torch.from_numpy(np.array(column))
        for name, column in columns.items()
        if column is not None and column.dtype.kind in "biuf"
    }
