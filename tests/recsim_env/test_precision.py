"""Global settings of PyTorch change no result."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from responders.behaviour.leaving import Hazard


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "RecSim-ContentWise-v0",
            {
                "observe": "flat",
                "returns": "rule",
                "leaving": Hazard((0.3,), 1, (0.1, 0, 0)),
                "reward": ("clicks", "satisfaction"),
            },
        ),
        ("RecSim-ContentWise-v0", {"observe": "state", "reward": "expected_clicks"}),
        ("RecSim-RL4RS-v0", {}),
        ("RecSim-v0", {"responder": "truth"}),
    ],
)
def test_environments_do_not_depend_on_them(
    name: str, options: dict[str, Any], small_log_path: Path
) -> None:
    if options.get("responder"):
        options = {"responder": small_log_path}

    def play() -> list[Any]:
        envs = gym.make_vec(name, num_envs=4, **options)
        found = [envs.reset(seed=0)[0]]
        for step in range(9):
            item = (np.arange(np.prod(envs.action_space.shape)) + 4 * step) % 20
            actions = item.reshape(envs.action_space.shape)
            found += envs.step(actions)[:2]
        return found

    plain = play()
    for around in (
        torch.autocast("cpu", torch.bfloat16),
        torch.autocast("cpu", torch.float16),
        default_dtype(torch.float64),
        default_dtype(torch.float16),
    ):
        with around:
            found = play()
        assert torch.get_default_dtype() == torch.float32
        for expected, one in zip(plain, found, strict=True):
            np.testing.assert_equal(one, expected)
