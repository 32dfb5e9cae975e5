"""What the function and the module take, choose and refuse."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from responders import InputError
from responders.kernels import (
    LinearCrossEntropy,
    choose_negatives,
    linear_cross_entropy,
)
from tests.responders.kernels.losses import inputs


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
        ({"negatives": 2, "proposal": torch.ones(9, 1)}, r"must be \[V\] real numbers"),
        ({"negatives": 2, "proposal": torch.ones(9, dtype=torch.complex64)}, "complex64"),
        ({"negatives": 1 << 31}, "negatives must be below"),
        ({"ignore_index": 1 << 70}, "ignore_index must fit into int64"),
        ({"share": None}, "share None is unknown"),
        ({"correction": 1}, "correction 1 is unknown"),
        ({"reduction": None}, "reduction None is unknown"),
        ({"implementation": 5}, "implementation 5 is unknown"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        linear_cross_entropy(torch.randn(6, 4), torch.randn(9, 4), torch.zeros(6).long(), **options)
