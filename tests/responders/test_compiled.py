"""The compiled forms of responders answer as the ordinary ones do."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_map

from responders import Catalogue
from responders.compiling import can_compile
from responders.models.base import Responder
from responders.models.state import State, put_rows, take_rows
from tests.conftest import COMPILED, random_responder, uniform

pytestmark = pytest.mark.skipif(not can_compile(), reason="numba is not installed")

N, S, F = 9, 4, 2


@torch.no_grad()
def both(name: str, **settings: Any) -> tuple[Responder, Responder]:
    """The same responder twice; the second is prepared and answers few users in compiled loops."""
    one, two = (random_responder(name, N, S, F, **settings) for _ in range(2))
    for responder in (one, two):
        responder.items.row_of_item[3] = responder.items.unknown  # type: ignore[operator,union-attr,index]
    two.prepare()
    return one, two


def assert_same(
    ordinary: Responder, compiled: Responder, state: State, slate: torch.Tensor
) -> State:
    """Both answers to a slate agree; return the state after it.

    The numbers are the same in every run of the tests; none is within rounding of a probability.
    """
    numbers = uniform(slate, int(slate.sum()) + 100)
    before = tree_map(torch.clone, state)
    one, two = (r.respond(state, slate, numbers) for r in (ordinary, compiled))
    torch.testing.assert_close(two.probability, one.probability, atol=1e-6, rtol=0)
    assert torch.equal(two.click, one.click)
    torch.testing.assert_close(two.state, one.state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, before, atol=0, rtol=0)  # the given state stays
    return two.state


slates = st.lists(st.lists(st.integers(-1, N - 1), min_size=1, max_size=S), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(COMPILED),
    effects=st.fixed_dictionaries(
        {effect: st.booleans() for effect in ("match", "exposure", "examination")}
    ),
    user=st.lists(st.floats(-9, 9, width=32), min_size=F, max_size=F),
    history=slates,
)
@torch.no_grad()
def test_answers_are_the_same(
    name: str, effects: dict[str, bool], user: list[float], history: list[list[int]]
) -> None:
    """Over sessions of slates of any width, with gaps, repeated and unknown items."""
    ordinary, compiled = both(name, **effects)
    state = ordinary.start(torch.tensor([user]))
    for slate in history:
        state = assert_same(ordinary, compiled, state, torch.tensor([slate]))


@pytest.mark.parametrize("name", COMPILED)
@torch.no_grad()
def test_users_answer_in_one_batch_and_start_new_sessions(name: str) -> None:
    ordinary, compiled = both(name)
    generator = torch.Generator().manual_seed(0)
    user = torch.randn(5, F, generator=generator)
    state = ordinary.start(user)
    for _ in range(20):
        slate = torch.randint(-1, N, (5, S), generator=generator)
        slate[torch.rand(5, generator=generator) < 0.2] = -1
        state = assert_same(ordinary, compiled, state, slate)
        state = put_rows(
            state, torch.rand(5, generator=generator) < 0.3, ordinary.start(user.flip(0))
        )
    turned = take_rows(state, torch.tensor([4, 3, 2, 1, 0]))
    wide = slate.flip(0).t().contiguous().t()  # as its memory runs over users first
    assert_same(ordinary, compiled, turned, wide)


@torch.no_grad()
def test_new_items_are_known() -> None:
    ordinary, compiled = (random_responder("session_gru", N, S, F) for _ in range(2))
    for responder in (ordinary, compiled):
        responder.extend(Catalogue(range(N + 2)))
    compiled.prepare()
    assert_same(ordinary, compiled, ordinary.start(torch.zeros(1, F)), torch.tensor([[N, 1, 2]]))


@torch.no_grad()
def test_changed_weights_count_at_once() -> None:
    ordinary, compiled = both("session_gru")
    state, slate = ordinary.start(torch.zeros(2, F)), torch.tensor([[0, 1, 2], [4, 5, 6]])
    for prepare in (False, True):
        assert_same(ordinary, compiled, state, slate)
        for responder in (ordinary, compiled):
            for parameter in responder.parameters():
                parameter.mul_(1.5)
        if prepare:
            compiled.prepare()
        assert_same(ordinary, compiled, state, slate)


def test_gradients_pass() -> None:
    _, compiled = both("session_gru")
    slate = torch.tensor([[0, 1, 2]])
    compiled.respond(
        compiled.start(torch.zeros(1, F)), slate, uniform(slate)
    ).probability.sum().backward()
    assert all(p.grad is not None for p in compiled.readout.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", COMPILED)
@torch.no_grad()
def test_marginal_probabilities_are_the_same(name: str) -> None:
    ordinary, compiled = both(name)
    state, slate = ordinary.start(torch.ones(1, F)), torch.tensor([[5, -1, 3, 0]])
    state = assert_same(ordinary, compiled, state, torch.tensor([[1, 2, 3, 4]]))
    one, two = ordinary.marginal(state, slate), compiled.marginal(state, slate)
    torch.testing.assert_close(two, one, atol=1e-6, rtol=0)


@torch.no_grad()
def test_impossible_slates_are_refused() -> None:
    _, compiled = both("session_gru")
    state = compiled.start(torch.zeros(1, F))
    for slate in ([[N]], [[-2]], [[0] * (S + 1)]):
        with pytest.raises(IndexError):
            compiled.respond(state, torch.tensor(slate), torch.rand(1, len(slate[0])))
