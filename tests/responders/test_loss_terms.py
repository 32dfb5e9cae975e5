"""Class weights, label smoothing and z-loss against `torch.nn.functional.cross_entropy`."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from responders import InputError
from responders.kernels import linear_cross_entropy

N, V, D = 12, 7, 5


def problem(seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    drawn = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    target = torch.randint(V, (N,), generator=generator)
    target[seed % N] = -100
    return {
        "hidden": drawn(N, D).requires_grad_(),
        "items": drawn(V, D).requires_grad_(),
        "target": target,
        "bias": drawn(V).requires_grad_(),
    }


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    weighted=st.booleans(),
    label_smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    z_loss=st.sampled_from([0.0, 1e-2]),
    reduction=st.sampled_from(["none", "sum", "mean"]),
)
def test_terms_are_those_of_pytorch(
    seed: int, weighted: bool, label_smoothing: float, z_loss: float, reduction: str
) -> None:
    given_ = problem(seed)
    weight = None
    if weighted:
        weight = torch.rand(V, generator=torch.Generator().manual_seed(seed)).double()
    found = linear_cross_entropy(
        **given_,
        weight=weight,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        reduction=reduction,
    )
    logits = given_["hidden"] @ given_["items"].t() + given_["bias"]
    counted = given_["target"] != -100
    expected = F.cross_entropy(
        logits, given_["target"], weight, label_smoothing=label_smoothing, reduction="none"
    )
    expected = expected + z_loss * logits.logsumexp(1).square() * counted
    if reduction != "none":
        expected = expected.sum()
    if reduction == "mean":
        total = counted.sum() if weight is None else weight[given_["target"][counted]].sum()
        expected = expected / total
    torch.testing.assert_close(found, expected)
    leaves = [given_[name] for name in ("hidden", "items", "bias")]
    for own, reference in zip(
        torch.autograd.grad(found.sum(), leaves),
        torch.autograd.grad(expected.sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(own, reference)


def test_terms_with_softcap_and_negatives() -> None:
    given_ = problem(0)
    logits = given_["hidden"] @ given_["items"].t() + given_["bias"]
    capped = 3 * torch.tanh(logits / 3)
    found = linear_cross_entropy(**given_, softcap=3.0, z_loss=0.1)
    counted = given_["target"] != -100
    expected = F.cross_entropy(capped, given_["target"])
    expected = expected + 0.1 * capped.logsumexp(1)[counted].square().mean()
    torch.testing.assert_close(found, expected)

    weight = torch.arange(1.0, V + 1)
    plain = linear_cross_entropy(**given_, negatives=4, seed=0, reduction="none")
    found = linear_cross_entropy(**given_, negatives=4, seed=0, weight=weight)
    of_target = weight[given_["target"][counted]]
    torch.testing.assert_close(found, (plain[counted] * of_target).sum() / of_target.sum())


def test_targets_that_are_all_ignored_have_no_loss() -> None:
    given_ = problem(0) | {"target": torch.full((N,), -100)}
    assert linear_cross_entropy(**given_, label_smoothing=0.1) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.5}, "at most 1"),
        ({"label_smoothing": -0.1}, "label_smoothing must not be negative"),
        ({"z_loss": float("nan")}, "z_loss"),
        ({"z_loss": 0.1, "negatives": 3}, "z_loss needs the full catalogue"),
        ({"label_smoothing": 0.1, "softcap": 5.0}, "cannot be combined with softcap"),
        ({"weight": torch.ones(V - 1)}, r"weight must be a floating-point tensor \[7\]"),
        ({"weight": -torch.ones(V)}, "negative or non-finite"),
    ],
)
def test_unusable_terms_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        linear_cross_entropy(**problem(0), **options)
