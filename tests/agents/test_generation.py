"""Slates generated from a next-item matrix, where the right ones are worked out by hand."""

import itertools
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from agents.generation import Generation, generate
from agents.sasrec import SASRecConfig, SASRecPolicy
from agents.site import Site
from responders import Catalogue
from responders.behaviour.slate_rules import SlateRules

NEXT = torch.tensor(  # the chance of each item after each one
    [
        [0.00, 0.60, 0.40, 0.00, 0.00],  # after 0, the best is 1, but
        [0.00, 0.10, 0.20, 0.36, 0.34],  # after 1, nothing is likely, whereas
        [0.00, 0.05, 0.00, 0.90, 0.05],  # after 2, 3 is
        [1.00, 0.00, 0.00, 0.00, 0.00],
        [0.20, 0.20, 0.20, 0.20, 0.20],
    ]
)
START = torch.tensor([[3, 0, -1]])


def model(chance: Tensor) -> Callable[[Tensor], Tensor]:
    """The next item depends on the last one only."""

    def next_item(history: Tensor) -> Tensor:
        last = history.gather(1, (history >= 0).sum(1, keepdim=True) - 1)
        return (chance + 1e-9).log()[last.squeeze(1)]

    return next_item


def slates(how: Generation, rules: SlateRules, history: Tensor = START, **options: Any) -> Any:
    return rules.choose(generate(model(NEXT), history, rules, how, **options)).tolist()


def test_each_strategy_gives_the_slate_worked_out_by_hand() -> None:
    two = SlateRules(5, 2)
    assert slates("topk", two) == [[1, 2]]  # 0.6 and 0.4
    assert slates("greedy", two) == [[1, 3]]  # 0.6, then 0.36
    assert slates("beam", two, paths=1) == [[1, 3]]
    assert slates("beam", two, paths=2) == [[2, 3]]  # 0.4 x 0.9 > 0.6 x 0.36
    assert slates("sample", two, temperature=0.01) == [[1, 3]]
    assert slates("greedy", SlateRules(5, 5)) == [[1, 3, 0, 2, 4]]  # 1 is not shown again
    history = torch.tensor([[0, -1], [4, 2]])
    assert slates("greedy", two, history) == [[1, 3], [3, 0]]


def test_drawn_slates_have_the_models_chances() -> None:
    users, rules = 20_000, SlateRules(5, 2)
    generator = torch.Generator().manual_seed(0)
    drawn = slates("sample", rules, START.expand(users, -1), generator=generator)
    first, second = np.array(drawn).T
    assert (first == 2).mean() == pytest.approx(0.4, abs=0.01)
    after = second[first == 1]  # 1 itself cannot follow: 0.2, 0.36 and 0.34 of 0.9
    assert (after == 3).mean() == pytest.approx(0.4, abs=0.015)
    hot = slates("sample", rules, START.expand(users, -1), temperature=2.0, generator=generator)
    expected = 0.6**0.5 / (0.6**0.5 + 0.4**0.5)
    assert (np.array(hot)[:, 0] == 1).mean() == pytest.approx(expected, abs=0.015)


def test_aggregated_scores_are_sums_over_draws() -> None:
    draws, rules = 20_000, SlateRules(5, 2)
    # Of all draws: 1 first 0.6, 2 first 0.4; second, 3 after 1 in 0.4 of the cases, and so on.
    place = torch.zeros(2, 5)
    place[0] = torch.tensor([0, 0.6, 0.4, 0, 0])
    place[1] = 0.6 * torch.tensor([0, 0, 0.2, 0.36, 0.34]) / 0.9
    place[1] += 0.4 * torch.tensor([0, 0.05, 0, 0.9, 0.05])
    rra = place[0] + place[1] / 2
    ra = place[0] * NEXT[0] + 0.6 / 0.9 * torch.tensor([0, 0, 0.2, 0.36, 0.34]) * NEXT[1]
    ra += 0.4 * NEXT[2] * NEXT[2]
    for how, expected in (("rra", rra), ("ra", ra)):
        generator = torch.Generator().manual_seed(0)
        found = generate(model(NEXT), START, rules, how, draws, generator=generator)[0] / draws
        torch.testing.assert_close(found[1:], expected[1:], atol=0.01, rtol=0)
        assert found[0] <= 0  # never drawn
    assert slates("rra", rules, paths=5000) == [[1, 2]]
    assert slates("ra", rules, paths=5000) == [[3, 1]]


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_a_wide_beam_finds_the_most_likely_slate(seed: int, n_positions: int) -> None:
    chance = torch.rand(5, 5, generator=torch.Generator().manual_seed(seed)).softmax(1)
    rules = SlateRules(5, n_positions)
    found = rules.choose(generate(model(chance), START, rules, "beam", 200))[0].tolist()
    best = max(
        itertools.permutations(range(5), n_positions),
        key=lambda s: np.prod([chance[a, b] for a, b in zip((0, *s), s, strict=False)]),
    )
    assert found == list(best)


@given(st.sampled_from(get_args(Generation)), st.integers(0, 10_000), st.booleans(), st.booleans())
def test_rules_are_kept(how: Generation, seed: int, layers: bool, special: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(12, 12, generator=generator).softmax(1)
    position = torch.arange(4)[:, None] // 2
    rules = SlateRules(
        12,
        4,
        position == torch.arange(12) % 2 if layers else None,
        torch.arange(12) < 6 if special else None,
    )
    history = torch.randint(12, (7, 3), generator=generator)
    score = generate(model(chance), history, rules, how, 3, 1.0, generator)
    slate = rules.choose(score)
    assert score.shape == (7, 12)
    assert (slate >= 0).all()
    assert not rules.broken(slate).any()
    assert (slate.sort(1).values.diff(dim=1) > 0).all()
    if how in ("topk", "greedy", "beam"):
        alone = torch.cat([generate(model(chance), h[None], rules, how, 3) for h in history])
        torch.testing.assert_close(score, alone)


@pytest.mark.parametrize("how", get_args(Generation))
def test_positions_stay_empty_when_no_item_is_left(how: Generation) -> None:
    rules = SlateRules(5, 7)
    slate = slates(how, rules, paths=4)[0]
    assert sorted(slate[:5]) == [0, 1, 2, 3, 4]
    assert slate[5:] == [-1, -1]


@pytest.mark.parametrize("how", get_args(Generation))
def test_policies_generate_as_they_are_set(how: Generation) -> None:
    site = Site(Catalogue(np.arange(20)), 4)
    config = SASRecConfig(generation=how, paths=3, size=8, length=5)
    policy = SASRecPolicy(site, config, seed=1)
    users = [[1, 2, 3], [], [4] * 9]
    answers = policy.recommend(users)
    assert policy.recommend(users) == answers  # draws start again with the seed
    assert all(len(set(answer)) == 4 for answer in answers)
    assert [len(answer) for answer in policy.recommend(users, k=9)] == [9] * 3
