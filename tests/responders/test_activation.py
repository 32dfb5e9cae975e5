"""Base-level activation: what users clicked before, with forgetting."""

import numpy as np
import pytest
import torch

from responders.known_truth.presets import TruthConfig
from responders.known_truth.world import make_truth
from responders.log.batch import SessionBatch
from responders.models.parts.activation import CHUNK, REMEMBERED, Activation
from responders.models.parts.readout import STEP

S = 4
NOBODY = torch.zeros(1, 0)


@pytest.fixture
def activation() -> Activation:
    activation = Activation()
    with torch.no_grad():
        activation.strength.fill_(1.5 / STEP)
        activation.offset.fill_(0.7)
    return activation


def gain(activation: Activation, history: list[tuple[list[int], list[int]]], item: int) -> float:
    """What `item` gains after slates and their clicks."""
    state = activation.start(NOBODY)
    for slate, click in history:
        state = activation.observe(state, torch.tensor([slate]), torch.tensor([click]))
    with torch.no_grad():
        return float(activation(state, torch.tensor([[item]])))


def test_the_gain_is_the_stated_function_of_the_clicks(activation: Activation) -> None:
    shown = ([7, 1, 2, 3], [1, 0, 0, 0])
    other = ([5, 4, -1, -1], [0, 1, 0, 0])
    history = [shown, other, shown, other]  # item 7 was clicked 4 and 2 slates ago
    assert float(activation.decay.detach()) == pytest.approx(0.5, abs=1e-3)
    a = 4**-0.5 + 2**-0.5
    assert gain(activation, history, 7) == pytest.approx(1.5 * np.log1p(np.exp(0.7) * a), rel=1e-3)
    assert gain(activation, history, 1) == 0  # shown, not clicked
    assert gain(activation, history, -1) == 0


def test_clicks_are_forgotten_and_add_up(activation: Activation) -> None:
    click, other = ([7, 1], [1, 0]), ([5, 4], [0, 0])
    after = [gain(activation, [click, *[other] * n], 7) for n in range(5)]
    assert after == sorted(after, reverse=True)
    assert after[4] > 0
    assert gain(activation, [click, click], 7) > gain(activation, [other, click], 7)
    empty = ([-1, -1], [0, 0])  # is no slate: nothing is forgotten
    assert gain(activation, [click, empty, empty], 7) == pytest.approx(after[0])


def test_a_new_part_changes_nothing_and_learns() -> None:
    activation = Activation()
    state = activation.observe(activation.start(NOBODY), torch.tensor([[3]]), torch.tensor([[1]]))
    found = activation(state, torch.tensor([[3]]))
    assert not found.any()
    found.sum().backward()
    assert activation.strength.grad is not None
    assert float(activation.strength.grad) > 0


def test_a_long_session_is_the_same_in_parallel_and_its_state_is_bounded(
    activation: Activation,
) -> None:
    r = 3 * CHUNK + 5
    generator = torch.Generator().manual_seed(0)
    slate = torch.randint(-1, 12, (3, r, S), generator=generator)
    slate[:, ::7] = -1
    click = ((torch.rand(slate.shape, generator=generator) < 0.6) & (slate >= 0)).float()
    assert click.sum((1, 2)).min() > REMEMBERED
    batch = SessionBatch(slate, click, torch.zeros(3, 0), torch.full((3,), r))
    state, stepped = activation.start(batch.user), []
    with torch.no_grad():
        for t in range(r):
            stepped.append(activation(state, slate[:, t]))
            state = activation.observe(state, slate[:, t], click[:, t])
        parallel = activation.parallel(batch)
    torch.testing.assert_close(parallel, torch.stack(stepped, 1), atol=1e-5, rtol=1e-5)
    assert state["item"].shape == state["age"].shape == (3, REMEMBERED)


WORLD = TruthConfig(
    n_items=30, n_positions=3, dimensions=3, clusters=4, fatigue=0, drift=0, competition=0
)


def test_users_of_the_truth_click_again_and_forget() -> None:
    truth = make_truth(WORLD.changed(repeat=2.0, repeat_decay=0.5, position_bias=0, click_effect=0))
    slate, other = torch.tensor([[4, 5, 6]]), torch.tensor([[7, 8, 9]])
    state = truth.start(torch.zeros(1, 3))
    before = truth.logits(state, slate)
    state = truth.observe(state, slate, torch.tensor([[1.0, 0.0, 0.0]]))
    gains = []
    for _ in range(3):
        gains.append(truth.logits(state, slate) - before)
        state = truth.observe(state, other, torch.zeros(1, 3))
    first = torch.cat(gains)[:, 0]
    expected = 2 * torch.log2(1 + 0.5 ** torch.arange(3.0))
    torch.testing.assert_close(first, expected, atol=1e-4, rtol=1e-4)
    assert torch.cat(gains)[:, 1:].abs().max() < 1e-5
    attraction = truth.attraction(state) - truth.attraction(truth.start(torch.zeros(1, 3)))
    assert attraction.argmax() == 4


def test_without_repetition_nothing_of_it_is_there() -> None:
    assert "clicked" not in make_truth(WORLD).start(torch.zeros(1, 3))
