"""The Triton kernels: on a GPU where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from responders import InputError
from responders.kernels import linear_cross_entropy
from responders.kernels.loss import BLOCK, implementation_for
from responders.kernels.negatives import Proposal, Sampling
from responders.kernels.reference import reference
from tests.responders.kernels.losses import SHARES, check, inputs

triton_loss = pytest.importorskip("responders.kernels.triton_loss")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL_TILES = triton_loss.Tiles(16, 16, 16)
CASES = {
    "ragged": (21, 37, 19),
    "one of each": (1, 1, 1),
    "fewer items than a tile": (20, 5, 7),
    "whole tiles": (16, 32, 16),
    "an odd size": (17, 33, 31),
}


def of_triton(
    hidden: Tensor,
    items: Tensor,
    target: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    proposal: Proposal | None,
    k: int,
    group_rows: int,
    deterministic: bool = False,
) -> Tensor:
    """The kernels' losses of tensors on the CPU, computed where the kernels run."""
    hidden, items, target = hidden.to(DEVICE), items.to(DEVICE), target.to(DEVICE)
    bias = None if bias is None else bias.to(DEVICE)
    sampling = None
    if proposal is not None:
        sampling = Sampling(k, group_rows, proposal.to(DEVICE), (3 << 33) + 11, True)
    problem = triton_loss.Problem(
        hidden.detach(), items.detach(), None if bias is None else bias.detach(), target, softcap,
        sampling, deterministic, SMALL_TILES,
    )  # fmt: skip
    return triton_loss.TritonCrossEntropy.apply(hidden, items, bias, problem).cpu()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("group_rows", [None, 1, 16, 0])
@pytest.mark.parametrize("extra", [False, True])
def test_the_kernels_are_the_reference(case: str, group_rows: int | None, extra: bool) -> None:
    """Full and sampled by row, by group and by batch; with bias, softcap and weights."""
    n, v, d = CASES[case]
    hidden, items, target = inputs(n, v, d)
    bias = torch.randn(v).requires_grad_() if extra else None
    weight = torch.rand(v, generator=torch.Generator().manual_seed(1)) + 0.1
    proposal = Proposal.by_weight(weight) if extra else Proposal(v)
    index = shift = None
    if group_rows is not None:
        group = torch.arange(n) // (group_rows or 1 << 30)
        index = proposal.draw((3 << 33) + 11, group, 21)
        shift = np.log(21) + proposal.log_probability(index)
    softcap = 2.0 if extra else None
    each = reference(hidden, items, target, bias, softcap, index, shift)
    upstream = torch.rand(n, generator=torch.Generator().manual_seed(2))
    loss = of_triton(
        hidden, items, target, bias, softcap, None if group_rows is None else proposal, 21,
        1 if group_rows is None else group_rows,
    )  # fmt: skip
    leaves = [hidden, items, *([bias] if bias is not None else [])]
    found = torch.autograd.grad((loss * upstream).sum(), leaves)
    right = torch.autograd.grad((each * upstream).sum(), leaves)
    assert torch.linalg.vector_norm(loss - each) <= 1e-6 * torch.linalg.vector_norm(each) + 1e-6
    for got, wanted in zip(found, right, strict=True):
        gap, size = (torch.linalg.vector_norm(t.double()) for t in (got - wanted, wanted))
        assert gap <= 5e-6 * size + 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("group_rows", [None, 1, 16])
def test_the_kernels_in_half_precision(dtype: torch.dtype, group_rows: int | None) -> None:
    hidden, items, target = inputs(20, 40, 12, dtype)
    proposal = Proposal(40)
    index = shift = None
    if group_rows is not None:
        index = proposal.draw((3 << 33) + 11, torch.arange(20) // group_rows, 21)
        shift = np.log(21) + proposal.log_probability(index)
    expected = reference(hidden, items, target, negatives=index, shift=shift)
    loss = of_triton(
        hidden, items, target, None, None, None if group_rows is None else proposal, 21,
        group_rows or 1,
    )  # fmt: skip
    check(hidden, items, loss, expected)


@pytest.mark.parametrize("group_rows", [1, 16, 0])
@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_gradients_summed_in_order_are_the_same_ones(
    group_rows: int, extra: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`deterministic` changes the order of additions alone, however many slots fit."""
    monkeypatch.setattr(triton_loss, "_SLOT_NUMBERS", at_once)
    hidden, items, target = inputs(18, 18, 17)
    bias = torch.randn(18).requires_grad_() if extra else None
    proposal = Proposal.by_weight(torch.rand(18) + 0.1) if extra else Proposal(18)
    leaves = [hidden, items, *([bias] if bias is not None else [])]
    upstream = torch.rand(18)
    runs = []
    for deterministic in (False, True, True):
        loss = of_triton(
            hidden, items, target, bias, 2.0 if extra else None, proposal, 5, group_rows,
            deterministic,
        )  # fmt: skip
        runs.append(torch.autograd.grad((loss * upstream).sum(), leaves))
    for free, ordered, again in zip(*runs, strict=True):
        torch.testing.assert_close(ordered, free, atol=1e-6, rtol=1e-5)
        assert torch.equal(ordered, again)


@pytest.mark.parametrize("wide", [16, 64, 256, 512, 1024, 4096])
@pytest.mark.parametrize("product", ["half", "tf32", "ieee"])
@pytest.mark.parametrize("on_chip", [99 << 10, 163 << 10, 227 << 10])
def test_tiles_fit_on_the_chip(wide: int, product: str, on_chip: int) -> None:
    width = 2 if product == "half" else 4
    tiles = triton_loss.Tiles.fitting(wide, width, product, on_chip)
    if tiles is None:
        assert 6 * 16 * wide * width + 4096 > on_chip
        return
    assert BLOCK % tiles.rows == 0  # groups are whole tiles
    assert min(tiles.rows, tiles.items) >= 16
    assert (2 * tiles.rows + 4 * tiles.items) * wide * width + 4096 <= on_chip
    if wide <= 64 and product != "ieee" and on_chip > 100 << 10:
        assert (tiles.rows, tiles.items) == (64, 64)


def test_kernels_compile_without_a_gpu_and_fit() -> None:
    """For an RTX 4090 and an H200."""
    program = """
from benchmarks.speed.kernel_resources import ON_CHIP, needs
from responders.kernels.triton_loss import Tiles
for capability in (89, 90):
    tiles = Tiles.fitting(128, 2, "half", ON_CHIP[capability])
    for need in needs(128, "half", capability, tiles):
        assert need.shared <= ON_CHIP[capability], need
        assert need.spilled < 200, need
        print(need.kernel)
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split().count("by_row") == 4


@pytest.mark.parametrize("share", SHARES)
def test_both_implementations_draw_the_same_negatives(share: str) -> None:
    hidden, items, target = (t.to(DEVICE) for t in inputs(35, 60, 8))
    target[::7] = -100
    for reduction in ("mean", "none"):
        by_triton, chunks = (
            linear_cross_entropy(
                hidden, items, target, negatives=20, share=share, seed=9, reduction=reduction,
                implementation=name,
            )
            for name in ("triton", "chunked")
        )  # fmt: skip
        torch.testing.assert_close(by_triton, chunks, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("negatives", [None, 8])
def test_the_kernels_survive_what_is_extreme(negatives: int | None) -> None:
    hidden, items, target = (t.detach().to(DEVICE) for t in inputs(20, 30, 6, scale=1e4))
    hidden.requires_grad_()
    options = {"negatives": negatives, "seed": 1, "implementation": "triton"}
    loss = linear_cross_entropy(hidden, items, target, **options)  # type: ignore[arg-type]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hidden.grad).all()  # type: ignore[arg-type]
    ignored = torch.full_like(target, -100)
    assert linear_cross_entropy(hidden, items, ignored, **options) == 0  # type: ignore[arg-type]


def test_the_full_kernels_read_any_strides() -> None:
    hidden, items, target = (t.detach().to(DEVICE) for t in inputs(20, 30, 6))
    strided = hidden.t().contiguous().t(), items.repeat(1, 2)[:, ::2]
    loss = linear_cross_entropy(*strided, target, implementation="triton")
    plain = linear_cross_entropy(hidden, strided[1].contiguous(), target, implementation="triton")
    torch.testing.assert_close(loss, plain)


@pytest.mark.parametrize("share", [None, *SHARES])
@pytest.mark.parametrize("implementation", ["chunked", "triton"])
def test_nothing_need_be_contiguous(share: str | None, implementation: str) -> None:
    """Every input strided, and the upstream gradient too."""
    wide, table, target = (t.detach().to(DEVICE) for t in inputs(40, 60, 14))
    hidden = wide[::2, ::2].requires_grad_()
    items, bias = table[::3, 1::2].requires_grad_(), torch.randn(40, device=DEVICE)[::2]
    bias.requires_grad_()
    target = (target % 20)[::2]
    upstream = torch.rand(40, device=DEVICE)[::2]
    options: dict[str, object] = {}
    if share is not None:
        options = {"share": share, "negatives": 9, "seed": 4}

    def gradients(*given: Tensor) -> tuple[Tensor, ...]:
        loss = linear_cross_entropy(
            *given[:2], given[3], bias=given[2], reduction="none", implementation=implementation,
            **options,
        )  # type: ignore[arg-type]  # fmt: skip
        return (loss, *torch.autograd.grad(loss, given[:3], upstream))

    found = gradients(hidden, items, bias, target)
    plain = [t.detach().contiguous().requires_grad_() for t in (hidden, items, bias)]
    for one, two in zip(found, gradients(*plain, target.contiguous()), strict=True):
        torch.testing.assert_close(one, two)


def test_what_runs_is_told_and_never_swapped_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, items, target = inputs(5, 6, 3)
    assert implementation_for(hidden) == "chunked"
    with pytest.raises(InputError, match="does not compute in float64"):
        linear_cross_entropy(hidden.double(), items.double(), target, implementation="triton")
    with pytest.raises(InputError, match="implementation 'cuda' is unknown"):
        linear_cross_entropy(hidden, items, target, implementation="cuda")
    monkeypatch.setattr("responders.kernels.triton_kernels.INTERPRETED", False)
    with pytest.raises(InputError, match="needs a CUDA device"):
        linear_cross_entropy(hidden, items, target, implementation="triton")
