"""Under autocast, compilation, checkpointing and data parallelism, as PyTorch's own losses."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from responders.kernels import linear_cross_entropy
from responders.kernels.reference import reference
from tests.responders.kernels.losses import distance, inputs


def test_inference_mode_and_checkpointing() -> None:
    hidden, items, target = inputs(20, 30, 4)
    with torch.inference_mode():
        plain = linear_cross_entropy(hidden, items, target)
    loss = torch.utils.checkpoint.checkpoint(
        linear_cross_entropy, hidden, items, target, use_reentrant=False
    )
    torch.testing.assert_close(plain, loss)
    expected = torch.autograd.grad(linear_cross_entropy(hidden, items, target), (hidden, items))
    for got, wanted in zip(torch.autograd.grad(loss, (hidden, items)), expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_autocast_computes_in_half_precision_and_returns_full_gradients() -> None:
    hidden, items, target = inputs(20, 30, 8)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, items, target)
    loss.backward()
    assert loss.dtype == torch.float32
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.float32
    assert distance(loss, reference(hidden, items, target).mean()) < 0.01


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # PyTorch's own, at a break
@pytest.mark.parametrize("negatives", [None, 6])
def test_it_can_stand_in_a_compiled_function(negatives: int | None) -> None:
    """The loss itself runs as it is; the code around it is compiled."""
    hidden, items, target = inputs(20, 30, 8)

    def loss(h: Tensor, c: Tensor) -> Tensor:
        return 2 * linear_cross_entropy(h.tanh(), c, target, negatives=negatives, seed=1)

    plain, compiled = loss(hidden, items), torch.compile(loss, backend="aot_eager")(hidden, items)
    torch.testing.assert_close(compiled, plain)
    for got, wanted in zip(
        torch.autograd.grad(compiled, (hidden, items)),
        torch.autograd.grad(plain, (hidden, items)),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_it_trains_under_distributed_data_parallel(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        found, expected = gradients_in_parallel()
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def gradients_in_parallel() -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of a wrapped layer, and that of PyTorch's loss.

    The wrapper must be gone before the process group is destroyed: if it is the last that holds the
    group, it waits for the group's thread, which may wait for the interpreter.
    """
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 12, bias=False)
    target, x = inputs(10, 12, 6)[2], torch.randn(10, 12)
    wrapped = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(12, 6))
    linear_cross_entropy(wrapped(x), layer.weight, target).backward()
    weight = wrapped.module.weight
    found = weight.grad
    plain = F.cross_entropy(wrapped.module(x) @ layer.weight.t(), target)
    expected = torch.autograd.grad(plain, weight)[0]
    assert found is not None
    return found, expected


def test_autocast_casts_as_linear_does() -> None:
    hidden = torch.randn(6, 4, dtype=torch.bfloat16, requires_grad=True)
    items = torch.randn(9, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        linear_cross_entropy(hidden, items, torch.randint(9, (6,)), bias=torch.zeros(9)).backward()
    assert items.grad is not None
    assert items.grad.dtype == torch.float32
