"""Synthetic logs of the presets of known-truth worlds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from responders import InputError, SessionLog
from responders.errors import near_matches
from responders.known_truth.logs import synthesize as write_log
from responders.known_truth.presets import PRESETS


def synthesize(
    out: str | Path,
    preset: str = "contentwise",
    sessions: int = 20_000,
    *,
    seed: int = 0,
    policy: str = "mixed",
    visits: int = 1,
    propensities: bool = False,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    device: str = "auto",
) -> SessionLog:
    """Write a log of simulated users with known probabilities, as `recsim data synthesize` does.

    Args:
        out: folder of the log.
        preset: a key of `responders.known_truth.presets.PRESETS`.
        sessions: in total.
        seed: fixes everything random.
        policy: the logging policy.
        visits: sessions of each user.
        propensities: record the chance of each shown item, given those above it.
        settings: changes to the preset's `TruthConfig`, as text or numbers.
        overwrite: replace `out` if it exists.
        device: auto, cpu or cuda.

    Raises:
        InputError: an unknown preset, policy, setting or device, or `out` exists.
    """
    if preset not in PRESETS:
        raise InputError(f"preset {preset!r} is unknown; {near_matches(preset, PRESETS)}")
    world = PRESETS[preset].changed(**(settings or {}))
    return write_log(
        Path(out),
        world,
        sessions,
        seed=seed,
        policy=policy,
        visits=visits,
        propensities=propensities,
        name=preset,
        overwrite=overwrite,
        device=device,
    )
