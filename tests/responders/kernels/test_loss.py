"""Cross-entropy over large catalogues: against the float64 reference and PyTorch."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from responders.kernels import (
    chunked,
    linear_cross_entropy,
)
from responders.kernels.negatives import Proposal
from responders.kernels.reference import reference
from tests.responders.kernels.losses import SHARES, TOLERANCE, check, drawn, inputs


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
