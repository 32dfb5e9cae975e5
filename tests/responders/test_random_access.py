"""RANCM against sums over all orders of clicks."""

from itertools import permutations, product

import numpy as np
import pytest
import torch

from responders.models.random_access import RANCM
from tests.conftest import random_responder


def order_probability(responder: RANCM, glances: object, order: tuple[int, ...]) -> float:
    hidden, item, bias = glances  # type: ignore[misc]
    left, total = torch.isfinite(bias), 0.0
    for choice in (*order, bias.shape[1]):
        total += float(responder._scores(glances, hidden, left)[0, choice])  # type: ignore[arg-type]
        if choice < bias.shape[1]:
            hidden = responder.cell(item[:, choice], hidden)
            left = left.clone()
            left[0, choice] = False
    return float(np.exp(total))


@pytest.fixture
def rancm() -> tuple[RANCM, object, dict[tuple[int, ...], float]]:
    """A random model, a slate with an empty position, and the probability of every clicked set."""
    responder = random_responder("rancm")
    assert isinstance(responder, RANCM)
    with torch.no_grad():
        rows = responder.items.index(torch.tensor([[1, -1, 3, 4]]))
        glances = responder._slates(torch.randn(1, 8), rows, torch.zeros(1, 1))
        exact = {}
        for clicks in product([0, 1], repeat=3):
            places = [p for p, c in zip((0, 2, 3), clicks, strict=True) if c]
            exact[tuple(places)] = sum(
                order_probability(responder, glances, order) for order in permutations(places)
            )
    return responder, glances, exact


def test_clicked_sets_have_total_probability_one(
    rancm: tuple[RANCM, object, dict[tuple[int, ...], float]],
) -> None:
    assert sum(rancm[2].values()) == pytest.approx(1, abs=1e-5)


def test_the_likelihood_of_a_set_sums_over_its_orders(
    rancm: tuple[RANCM, object, dict[tuple[int, ...], float]],
) -> None:
    responder, glances, exact = rancm
    responder.orders = 4000
    torch.manual_seed(0)
    for places, probability in exact.items():
        click = torch.zeros(1, 4, dtype=torch.bool)
        click[0, list(places)] = True
        with torch.no_grad():
            found = float(responder.log_likelihood(glances, click).exp())  # type: ignore[arg-type]
        assert found == pytest.approx(probability, rel=0.05)
        if len(places) < 2:  # exact with any number of orders
            assert found == pytest.approx(probability, rel=1e-4)


def test_answers_have_the_models_own_click_rates() -> None:
    responder, wide = random_responder("rancm"), random_responder("rancm", walks=4096)
    assert isinstance(wide, RANCM)
    own = responder.state_dict() | {"uniform": wide.uniform}
    wide.load_state_dict(own)
    slate = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        wide.halt.bias.fill_(2.0)  # click rates well below one half, so that nothing is cut
        state = wide.start(torch.zeros(1, 2))
        offset = wide.session_log_odds(state, slate)
        glances = wide._slates(wide.memory(state), wide.items.index(slate), offset)
        expected = torch.zeros(4)
        for k in range(5):
            for order in permutations(range(4), k):
                expected[list(order)] += order_probability(wide, glances, order)
        found = wide.logits(state, slate).sigmoid()[0]
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
