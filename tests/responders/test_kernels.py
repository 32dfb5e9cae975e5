"""Cross-entropy over large catalogues: against the float64 reference, PyTorch, and statistics."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from responders import InputError
from responders.kernels import (
    LinearCrossEntropy,
    choose_negatives,
    chunked,
    linear_cross_entropy,
)
from responders.kernels.loss import BLOCK, Share, implementation_for
from responders.kernels.negatives import Proposal, Sampling, philox
from responders.kernels.reference import reference

SHARES = Share.__args__  # type: ignore[attr-defined]
ROWS = {"row": 1, "block": BLOCK, "batch": 1 << 30}
TOLERANCE = {
    torch.float64: (1e-12, 1e-11),
    torch.float32: (1e-6, 5e-6),
    torch.float16: (1e-4, 1e-3),
    torch.bfloat16: (5e-4, 5e-3),
}


def inputs(
    n: int, v: int, d: int, dtype: torch.dtype = torch.float32, scale: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = (scale * torch.randn(n, d, generator=generator)).to(dtype).requires_grad_()
    items = (torch.randn(v, d, generator=generator) / max(d, 1) ** 0.5).to(dtype).requires_grad_()
    return hidden, items, torch.randint(v, (n,), generator=generator)


def distance(found: Tensor, expected: Tensor) -> float:
    gap = torch.linalg.vector_norm(found.detach().double() - expected.detach().double())
    return float(gap / torch.linalg.vector_norm(expected.detach().double()).clamp(min=1e-30))


def drawn(n: int, k: int, share: str, proposal: Proposal, seed: int) -> tuple[Tensor, Tensor]:
    """The negatives of each position [n, k], and what is subtracted from their logits."""
    index = proposal.draw(seed, torch.arange(n) // ROWS[share], k)
    return index, np.log(k) + proposal.log_probability(index)


def check(
    hidden: Tensor,
    items: Tensor,
    loss: Tensor,
    expected: Tensor,
    weights: tuple[Tensor, ...] = (),
) -> None:
    """Loss and gradients against the reference, as relative norms."""
    inner, outer = TOLERANCE[hidden.dtype]
    assert distance(loss, expected) <= inner
    leaves = (hidden, items, *weights)
    found = torch.autograd.grad(loss.sum(), leaves)
    right = torch.autograd.grad(expected.sum(), leaves)
    for got, wanted in zip(found, right, strict=True):
        assert distance(got, wanted) <= outer
        assert got.dtype == hidden.dtype


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_full_loss_is_the_references(dtype: torch.dtype, reduction: str) -> None:
    hidden, items, target = inputs(37, 101, 19, dtype)
    loss = linear_cross_entropy(hidden, items, target, reduction=reduction)
    each = reference(hidden, items, target)
    expected = {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction]
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    check(hidden, items, loss, expected)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("correction", ["logq", "none"])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_the_sampled_loss_is_the_references(
    share: str, correction: str, dtype: torch.dtype
) -> None:
    hidden, items, target = inputs(150, 90, 12, dtype)
    weight = torch.rand(90, generator=torch.Generator().manual_seed(1)) + 0.1
    for proposal in (Proposal(90), Proposal.by_weight(weight)):
        index, shift = drawn(150, 30, share, proposal, seed=7)
        assert (index == target.unsqueeze(1)).any()  # collisions are part of the case
        expected = reference(
            hidden, items, target, negatives=index, shift=shift if correction == "logq" else None
        )
        loss = linear_cross_entropy(
            hidden, items, target, negatives=30, share=share, proposal=proposal, seed=7,
            correction=correction, reduction="none",
        )  # fmt: skip
        check(hidden, items, loss, expected)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 140),
    v=st.integers(1, 70),
    d=st.sampled_from([1, 2, 3, 7, 16, 33]),
    k=st.one_of(st.none(), st.integers(1, 40)),
    share=st.sampled_from(SHARES),
    ignored=st.sets(st.integers(0, 139)),
    tile=st.sampled_from([1, 64, 500, 1 << 21]),
    capped=st.booleans(),
    biased=st.booleans(),
    reduction=st.sampled_from(["mean", "sum", "none"]),
)
def test_any_shape_any_tile(
    n: int,
    v: int,
    d: int,
    k: int | None,
    share: str,
    ignored: set[int],
    tile: int,
    capped: bool,
    biased: bool,
    reduction: str,
) -> None:
    hidden, items, target = inputs(n, v, d, torch.float64, seed=n + v)
    bias = torch.randn(v, dtype=torch.float64).requires_grad_() if biased else None
    softcap = 2.0 if capped else None
    counts = torch.tensor([i not in ignored for i in range(n)])
    index, shift = (None, None) if k is None else drawn(n, k, share, Proposal(v), 3)
    each = reference(hidden, items, target, bias, softcap, index, shift) * counts
    if reduction == "mean":
        expected = each.sum() / max(int(counts.sum()), 1)
    else:
        expected = each.sum() if reduction == "sum" else each
    given_target = torch.where(counts, target, -100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "_TILE", tile)
        patch.setattr(chunked, "_SHARE", 0.0)
        loss = linear_cross_entropy(
            hidden, items, given_target, negatives=k, share=share, seed=3, bias=bias,
            softcap=softcap, reduction=reduction,
        )  # fmt: skip
        torch.testing.assert_close(loss, expected, atol=1e-9, rtol=1e-9)
        leaves = [hidden, items, *([bias] if bias is not None else [])]
        found = torch.autograd.grad(loss.sum(), leaves)
    right = torch.autograd.grad(expected.sum(), leaves)
    for got, wanted in zip(found, right, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("negatives", [None, 5])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck(negatives: int | None, reduction: str) -> None:
    hidden, items, target = inputs(6, 8, 3, torch.float64)
    bias = torch.randn(8, dtype=torch.float64).requires_grad_()

    def loss(h: Tensor, c: Tensor, b: Tensor) -> Tensor:
        return linear_cross_entropy(
            h, c, target, negatives=negatives, seed=1, bias=b, softcap=3.0, reduction=reduction
        )

    assert torch.autograd.gradcheck(loss, (hidden, items, bias))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignore_index", [-100, -1, 3])
def test_it_agrees_with_pytorchs_cross_entropy(reduction: str, ignore_index: int) -> None:
    hidden, items, target = inputs(40, 11, 6, torch.float64)
    target[::3] = ignore_index
    expected = F.cross_entropy(
        hidden @ items.t(), target, ignore_index=ignore_index, reduction=reduction
    )
    loss = linear_cross_entropy(
        hidden, items, target, ignore_index=ignore_index, reduction=reduction
    )
    torch.testing.assert_close(loss, expected)
    for got, wanted in zip(
        torch.autograd.grad((loss * loss).sum(), (hidden, items)),
        torch.autograd.grad((expected * expected).sum(), (hidden, items)),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("negatives", [None, 20])
def test_each_position_keeps_its_own_upstream_gradient(negatives: int | None) -> None:
    hidden, items, target = inputs(30, 25, 5, torch.float64)
    weight = torch.rand(30, dtype=torch.float64)
    index, shift = (None, None) if negatives is None else drawn(30, 20, "row", Proposal(25), 2)
    expected = (reference(hidden, items, target, None, None, index, shift) * weight).sum()
    loss = linear_cross_entropy(
        hidden, items, target, negatives=negatives, seed=2, reduction="none"
    )
    found = torch.autograd.grad((loss * weight).sum(), (hidden, items))
    for got, wanted in zip(found, torch.autograd.grad(expected, (hidden, items)), strict=True):
        torch.testing.assert_close(got, wanted)


def test_a_second_backward_pass_finds_the_same_gradients() -> None:
    hidden, items, target = inputs(20, 30, 4, torch.float64)
    loss = 3 * linear_cross_entropy(hidden, items, target)
    first = torch.autograd.grad(loss, (hidden, items), retain_graph=True)
    for got, wanted in zip(torch.autograd.grad(loss, (hidden, items)), first, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("negatives", [None, 4])
def test_only_what_needs_a_gradient_gets_one(negatives: int | None) -> None:
    hidden, items, target = inputs(9, 12, 4)
    linear_cross_entropy(hidden, items.detach(), target, negatives=negatives, seed=0).backward()
    alone = hidden.grad
    hidden.grad = None
    linear_cross_entropy(hidden, items, target, negatives=negatives, seed=0).backward()
    torch.testing.assert_close(alone, hidden.grad)


@pytest.mark.parametrize("negatives", [None, 8])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_logits_stay_finite(negatives: int | None, size: float) -> None:
    hidden, items, target = inputs(16, 20, 4, scale=abs(size))
    loss = linear_cross_entropy(hidden * np.sign(size), items, target, negatives=negatives, seed=0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hidden.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("negatives", [None, 8])
def test_all_ignored_is_zero_with_zero_gradients(negatives: int | None) -> None:
    hidden, items, _ = inputs(5, 7, 3)
    for reduction in ("mean", "sum", "none"):
        loss = linear_cross_entropy(
            hidden, items, torch.full((5,), -100), negatives=negatives, reduction=reduction
        )
        assert (loss == 0).all()
        for gradient in torch.autograd.grad(loss.sum(), (hidden, items)):
            assert (gradient == 0).all()


def test_a_negative_that_is_the_target_counts_for_nothing() -> None:
    """With one item every negative is the target, so nothing is left to be wrong about."""
    hidden, items, target = inputs(10, 1, 3)
    assert (linear_cross_entropy(hidden, items, target, negatives=6, reduction="none") == 0).all()


def test_non_contiguous_inputs_are_read_as_they_are() -> None:
    hidden, items, target = inputs(20, 15, 6)
    strided_h, strided_c = hidden.detach().t().contiguous().t(), items.detach().repeat(1, 2)[:, ::2]
    strided_t = target.repeat_interleave(2)[::2]
    plain = strided_c.contiguous()
    for negatives in (None, 7):
        loss, other = (
            linear_cross_entropy(strided_h, c, strided_t, negatives=negatives, seed=1)
            for c in (strided_c, plain)
        )
        torch.testing.assert_close(loss, other)


# The negatives.


def test_philox_is_philox() -> None:
    """Known answers of Random123: counter and key of zeros, and of ones."""
    zero = torch.zeros(1, dtype=torch.int64)
    words = [int(w) for w in philox(0, zero, zero)]
    assert words == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("v", [7, 100])
def test_uniform_negatives_are_uniform(v: int) -> None:
    index = Proposal(v).draw(5, torch.arange(500), 100)
    assert index.min() >= 0
    assert index.max() < v
    assert stats.chisquare(torch.bincount(index.flatten(), minlength=v)).pvalue > 1e-3


def test_weighted_negatives_follow_their_weights() -> None:
    weight = torch.tensor([5.0, 0.2, 1.0, 3.0, 0.5])
    proposal = Proposal.by_weight(weight)
    found = torch.bincount(proposal.draw(1, torch.arange(1000), 100).flatten(), minlength=5)
    expected = weight.double() / weight.double().sum() * found.sum()
    assert stats.chisquare(found, expected).pvalue > 1e-3


def test_who_shares_negatives() -> None:
    proposal, position = Proposal(1000), torch.arange(200)
    by_row = proposal.draw(0, position, 20)
    by_block = proposal.draw(0, position // BLOCK, 20)
    assert len(torch.unique(by_row, dim=0)) == 200
    assert len(torch.unique(by_block, dim=0)) == 4
    assert not torch.equal(by_row, proposal.draw(1, position, 20))


@pytest.mark.parametrize("share", SHARES)
def test_a_seed_fixes_the_negatives(share: str) -> None:
    hidden, items, target = inputs(70, 500, 8)
    options = {"negatives": 16, "share": share}
    first, again, other = (
        linear_cross_entropy(hidden, items, target, seed=seed, **options)  # type: ignore[arg-type]
        for seed in (4, 4, 5)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(0)
    drawn_first = linear_cross_entropy(hidden, items, target, **options)  # type: ignore[arg-type]
    drawn_next = linear_cross_entropy(hidden, items, target, **options)  # type: ignore[arg-type]
    assert not torch.equal(drawn_first, drawn_next)
    torch.manual_seed(0)
    assert torch.equal(
        drawn_first,
        linear_cross_entropy(hidden, items, target, **options),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_corrected_loss_tends_to_the_full_one(share: str, weighted: bool) -> None:
    hidden, items, target = inputs(64, 50, 8)
    weight = torch.linspace(0.2, 2.0, 50)
    proposal = Proposal.by_weight(weight) if weighted else Proposal(50)

    def mean(k: int) -> float:
        found = [
            linear_cross_entropy(
                hidden, items, target, negatives=k, share=share, proposal=proposal, seed=seed
            )
            for seed in range(8)
        ]
        return float(torch.stack(found).mean())

    with torch.no_grad():
        full = float(linear_cross_entropy(hidden, items, target))
        few, many = (abs(mean(k) - full) for k in (4, 2000))
    assert many < 0.02
    assert many < few


# Where it runs.


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
        torch.manual_seed(0)
        layer = torch.nn.Linear(6, 12, bias=False)
        target = inputs(10, 12, 6)[2]
        x = torch.randn(10, 12)
        wrapped = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(12, 6))
        loss = linear_cross_entropy(wrapped(x), layer.weight, target)
        loss.backward()
        gradient = wrapped.module.weight.grad
        expected = torch.autograd.grad(
            F.cross_entropy(wrapped.module(x) @ layer.weight.t(), target), wrapped.module.weight
        )[0]
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-5)
    finally:
        torch.distributed.destroy_process_group()


def test_the_module_is_the_function() -> None:
    hidden, items, target = inputs(10, 12, 4)
    module = LinearCrossEntropy(negatives=5, seed=3, reduction="sum")
    expected = linear_cross_entropy(hidden, items, target, negatives=5, seed=3, reduction="sum")
    assert torch.equal(module(hidden, items, target), expected)


def test_the_cheaper_loss_is_chosen_openly(caplog: pytest.LogCaptureFixture) -> None:
    choose_negatives.cache_clear()
    hidden, items, target = inputs(10, 2100, 4)
    with caplog.at_level("INFO", "responders.kernels.loss"):
        full = linear_cross_entropy(hidden, items, target, negatives="auto")
        sampled = linear_cross_entropy(
            hidden, items, target, negatives="auto", share="block", seed=1
        )
    assert torch.equal(full, linear_cross_entropy(hidden, items, target))
    expected = linear_cross_entropy(hidden, items, target, negatives=1024, share="block", seed=1)
    assert torch.equal(sampled, expected)
    first, second = (record.getMessage() for record in caplog.records)
    assert "the full loss: the full catalogue of 2,100 items is cheaper" in first
    assert "1,024 negatives: the full catalogue of 2,100 items costs more" in second
    assert choose_negatives(10_000_000)[0] == 1024


BAD: list[tuple[Callable[[Tensor, Tensor, Tensor], Tensor], str]] = [
    (lambda h, c, y: linear_cross_entropy(h, c, y + 20), "target .* is not in the catalogue of 20"),
    (lambda h, c, y: linear_cross_entropy(h, c, y - 30), "is not in the catalogue"),
    (lambda h, c, y: linear_cross_entropy(h, c, y[:3]), r"target must be \[10\] int64"),
    (lambda h, c, y: linear_cross_entropy(h, c, y.int()), "int32"),
    (lambda h, c, y: linear_cross_entropy(h[:, :2], c, y), r"must be \[N, d\] and \[V, d\]"),
    (lambda h, c, y: linear_cross_entropy(h.double(), c, y), "give both one dtype"),
    (lambda h, c, y: linear_cross_entropy(h, c, y, bias=h[:, 0]), r"bias must be \[20\]"),
    (
        lambda h, c, y: linear_cross_entropy(h, c, y, negatives=0),
        "negatives must be a whole number of at least 1, not 0",
    ),
    (lambda h, c, y: linear_cross_entropy(h, c, y, softcap=0.0), "softcap must be positive"),
    (lambda h, c, y: linear_cross_entropy(h, c, y, reduction="avg"), "reduction 'avg' is unknown"),
    (
        lambda h, c, y: linear_cross_entropy(h, c, y, negatives=2, share="rows"),
        "share 'rows' is unknown; did you mean row",
    ),
    (
        lambda h, c, y: linear_cross_entropy(h, c, y, negatives=2, proposal=torch.ones(3)),
        "the proposal is of 3 items, the catalogue has 20",
    ),
    (
        lambda h, c, y: linear_cross_entropy(h, c, y, negatives=2, proposal=-torch.ones(20)),
        "is not positive and finite",
    ),
    (
        lambda h, c, y: linear_cross_entropy(h, c, y, negatives=2, proposal="popular"),
        "proposal 'popular' is unknown",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_refused(
    call: Callable[[Tensor, Tensor, Tensor], Tensor], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(*inputs(10, 20, 4))


# The Triton kernels: on a GPU where there is one, else in Triton's interpreter.

triton_loss = pytest.importorskip("responders.kernels.triton_loss")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL_TILES = triton_loss.Tiles(16, 16, 16)
CASES = {
    "ragged": (37, 53, 19),
    "one of each": (1, 1, 1),
    "fewer items than a tile": (20, 5, 7),
    "a power of two": (32, 64, 16),
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
    hidden, items, target = inputs(35, 40, 12, dtype)
    proposal = Proposal(40)
    index = shift = None
    if group_rows is not None:
        index = proposal.draw((3 << 33) + 11, torch.arange(35) // group_rows, 21)
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
    hidden, items, target = inputs(37, 23, 19)
    bias = torch.randn(23).requires_grad_() if extra else None
    proposal = Proposal.by_weight(torch.rand(23) + 0.1) if extra else Proposal(23)
    leaves = [hidden, items, *([bias] if bias is not None else [])]
    upstream = torch.rand(37)
    runs = []
    for deterministic in (False, True, True):
        loss = of_triton(
            hidden, items, target, bias, 2.0 if extra else None, proposal, 21, group_rows,
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
    hidden, items, target = (t.to(DEVICE) for t in inputs(70, 60, 8))
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


@pytest.mark.parametrize("negatives", [None, 8])
def test_leading_dimensions_are_kept(negatives: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, items = (torch.randn(n, 5, generator=generator) for n in (12, 20))
    target = torch.randint(20, (12,), generator=generator)
    target[3] = -100
    options: dict[str, Any] = {"negatives": negatives, "seed": 3}
    flat = linear_cross_entropy(hidden, items, target, reduction="none", **options)
    wide = linear_cross_entropy(
        hidden.view(3, 4, 5), items, target.view(3, 4), reduction="none", **options
    )
    assert torch.equal(wide, flat.view(3, 4))
    mean = linear_cross_entropy(hidden.view(3, 4, 5), items, target.view(3, 4), **options)
    torch.testing.assert_close(mean, linear_cross_entropy(hidden, items, target, **options))


def test_autocast_casts_as_linear_does() -> None:
    hidden = torch.randn(6, 4, dtype=torch.bfloat16, requires_grad=True)
    items = torch.randn(9, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        linear_cross_entropy(hidden, items, torch.randint(9, (6,)), bias=torch.zeros(9)).backward()
    assert items.grad is not None
    assert items.grad.dtype == torch.float32


@pytest.mark.parametrize("negatives", [None, 4])
def test_second_derivatives_are_refused(negatives: int | None) -> None:
    hidden = torch.randn(6, 4, requires_grad=True)
    loss = linear_cross_entropy(
        hidden, torch.randn(9, 4), torch.randint(9, (6,)), negatives=negatives
    )
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, hidden, create_graph=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"softcap": float("inf")}, "softcap must be a finite number"),
        ({"negatives": 2.5}, "negatives must be a whole number"),
        ({"negatives": 2, "seed": -1}, "seed must be a whole number of at least 0"),
        ({"negatives": 2, "seed": 1 << 63}, "seed must be below"),
        ({"ignore_index": 1.5}, "ignore_index must be a whole number"),
        ({"bias": [0.0] * 9}, "bias must be a tensor, not list"),
        ({"bias": torch.zeros(9, dtype=torch.int64)}, "bias must be of a floating-point dtype"),
        ({"negatives": 2, "proposal": 3}, "proposal must be 'uniform', weights"),
        ({"negatives": 2, "proposal": torch.arange(9.0)}, "weight 0 of item 0 is not positive"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        linear_cross_entropy(torch.randn(6, 4), torch.randn(9, 4), torch.zeros(6).long(), **options)
