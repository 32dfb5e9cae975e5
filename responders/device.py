"""Where tensors live."""

from __future__ import annotations

import torch

from responders.errors import InputError


def pick_device(device: torch.device | str) -> torch.device:
    """Return the device called `device`; `auto` is the GPU where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device {device!r} is unknown: auto, cpu or cuda") from error
    if picked.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda is not available here: use cpu")
    return picked
