"""What must hold at length: invariants, memory, no waiting for the device, compiling."""

import gc
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.speed.soak import soak
from recsim_env.make import make_world
from recsim_env.world import World
from responders.behaviour.returns import Returns
from responders.models.registry import RESPONDERS
from responders.training.checkpoint import load_responder
from tests.conftest import random_responder

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")
"""Operators whose result the host must wait for on a GPU."""


class NoWaiting(TorchDispatchMode):
    """Refuses operators that wait for the device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in args[1]
        )
        if any(name.startswith(w) for w in WAITS) or by_mask:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the ways that are taken on a GPU, where PyTorch's one_hot looks at nothing either."""
    monkeypatch.setattr("responders.models.parts.click_gru.may_have_gaps", lambda slate: True)
    monkeypatch.setattr("responders.models.random_access.all_ended", lambda alive: False)
    monkeypatch.setattr("recsim_env.world.may_count", lambda mask: False)
    monkeypatch.setattr(
        "torch.nn.functional.one_hot",
        lambda x, n: (x.unsqueeze(-1) == torch.arange(n)).long(),
    )


def wait_for_nothing(world: World) -> None:
    """Have `world` on the CPU do as on a GPU."""
    world.streams._by_numpy = False


def world_of(name: str, trained: Path, **options: Any) -> World:
    users = load_responder(trained)
    shape = users.responder.shape
    responder = random_responder(name, shape.n_items, shape.n_positions, shape.n_user_features)
    return World(responder, users.initial_sessions, users.hazard, **options)


@pytest.mark.parametrize("name", RESPONDERS)
def test_a_step_never_waits_for_the_device(
    name: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_on_a_gpu(monkeypatch)
    world = world_of(name, trained, num_users=7)
    wait_for_nothing(world)
    slate = torch.randint(world.n_items, (7, world.n_positions))
    world.step(slate)  # tables of the responder are made once
    with NoWaiting():
        for _ in range(3):
            outcome = world.step(slate)
            world.reset(outcome.left | outcome.truncated)


def test_the_extras_of_a_step_do_not_wait_either(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_on_a_gpu(monkeypatch)
    world = make_world(
        "any",
        responder=[trained, trained],
        num_users=6,
        returns="rule",
        one_member=True,
        shift={"click_rate": 1.0},
        reward=("clicks", "diversity", "novelty", "satisfaction", "retention", "disagreement"),
    )
    wait_for_nothing(world)
    slate = torch.randint(world.n_items, (6, world.n_positions))
    world.step(slate)
    with NoWaiting():
        outcome = world.step(slate)
        world.reset(outcome.left | outcome.truncated)


@pytest.mark.parametrize("name", ["session_gru", "session_transformer"])
def test_rows_are_reset_alike_with_and_without_counting_them(name: str, trained: Path) -> None:
    one, two = (world_of(name, trained, num_users=9, returns=Returns.rule()) for _ in range(2))
    wait_for_nothing(two)
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        slate = torch.randint(40, (9, one.n_positions), generator=generator)
        mask = torch.rand(9, generator=generator) < 0.4
        for world in (one, two):
            world.step(slate)
        one.reset(mask)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("recsim_env.world.may_count", lambda mask: False)
            two.reset(mask)
        for name in ("user", "visit", "gap", "streak", "step", "slates"):
            assert torch.equal(getattr(one.episodes, name), getattr(two.episodes, name)), name
        assert torch.equal(one.streams.uniform(9), two.streams.uniform(9))
        torch.testing.assert_close(one.episodes.memory, two.episodes.memory)


@pytest.mark.parametrize("name", ["session_gru", "pbm"])
def test_a_compiled_step_is_the_step(name: str, trained: Path) -> None:
    plain, compiled = (world_of(name, trained, num_users=5, seed=2) for _ in range(2))
    step = torch.compile(compiled.step, backend="eager")
    for i in range(4):
        slate = torch.randint(
            40, (5, plain.n_positions), generator=torch.Generator().manual_seed(i)
        )
        one, two = plain.step(slate), step(slate)
        for field in vars(one):
            torch.testing.assert_close(getattr(one, field), getattr(two, field))


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("RecSim-ContentWise-v0", {}),
        ("RecSim-ContentWise-v0", {"returns": "rule", "candidates": 20, "retrieval": "random"}),
        ("RecSim-RL4RS-v0", {"paged": False}),
    ],
    ids=str,
)
def test_thousands_of_random_steps(env_id: str, options: dict[str, Any]) -> None:
    report = soak(env_id, users=64, steps=64 * 60, progress=False, **options)
    assert report.steps == 64 * 60
    assert report.episodes > 64


def test_memory_does_not_grow() -> None:
    envs = gym.make_vec("RecSim-ContentWise-v0", num_envs=16, autoreset_mode="SameStep")
    envs.reset(seed=0)
    action = envs.action_space.sample()

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    for _ in range(20):
        envs.step(action)
    before = tensors()
    for _ in range(200):
        envs.step(action)
    assert tensors() <= before + 5


def test_inference_mode_leaves_nothing_behind(trained: Path) -> None:
    with torch.inference_mode():
        world = world_of("session_gru", trained, num_users=6, seed=1)
        slate = torch.randint(world.n_items, (6, world.n_positions))
        first = world.step(slate)
    mask = torch.tensor([True, False] * 3)
    world.reset(mask)
    second = world.step(slate)
    plain = world_of("session_gru", trained, num_users=6, seed=1)
    torch.testing.assert_close(first.probability, plain.step(slate).probability)
    plain.reset(mask)
    torch.testing.assert_close(second.probability, plain.step(slate).probability)
