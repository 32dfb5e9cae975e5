"""Which negatives are drawn, and that the corrected loss tends to the full one."""

import pytest
import torch
from scipy import stats

from responders.kernels import linear_cross_entropy
from responders.kernels.loss import BLOCK
from responders.kernels.negatives import Proposal, philox
from tests.responders.kernels.losses import SHARES, inputs


def test_a_negative_that_is_the_target_counts_for_nothing() -> None:
    """With one item every negative is the target, so nothing is left to be wrong about."""
    hidden, items, target = inputs(10, 1, 3)
    assert (linear_cross_entropy(hidden, items, target, negatives=6, reduction="none") == 0).all()


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
