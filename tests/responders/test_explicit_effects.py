"""The explicit effects of neural responders: exposure, examination, clicks above, user match."""

import numpy as np
import pytest
import torch

from responders import Catalogue
from responders.log.batch import SessionBatch
from responders.models.parts.exposure import CHUNK, Exposure
from responders.models.parts.items import ItemEncoder
from responders.models.parts.readout import STEP, Readout
from responders.models.parts.session_context import SessionContext, UserMatch

N, S = 40, 4


@pytest.fixture
def items() -> ItemEncoder:
    torch.manual_seed(0)
    return ItemEncoder(N, 6).eval()


@pytest.fixture
def exposure(items: ItemEncoder) -> Exposure:
    exposure = Exposure(S, items.likeness_size, items.n_rows)
    with torch.no_grad():
        exposure.weight.copy_(torch.rand_like(exposure.weight) * 0.1)
    return exposure


def seen(exposure: Exposure, items: ItemEncoder, slates: list[list[int]]) -> dict[str, object]:
    state = exposure.start(torch.zeros(1, 0))
    for slate in slates:
        shown = torch.tensor([slate])
        state = exposure.observe(state, exposure.groups(items, items.index(shown)), shown)
    return state


def taken(
    exposure: Exposure, items: ItemEncoder, slates: list[list[int]], slate: list[int]
) -> float:
    """What the last item of `slate` loses after `slates`."""
    shown = torch.tensor([slate])
    group = exposure.groups(items, items.index(shown))
    with torch.no_grad():
        return -float(exposure(seen(exposure, items, slates), group, shown)[0, -1])


def test_more_of_the_same_never_raises_a_click(exposure: Exposure, items: ItemEncoder) -> None:
    slate = [1, 2, 3, 4]
    loss = [taken(exposure, items, [slate] * n, slate) for n in range(12)]
    assert loss[5] > loss[4] > loss[3] > loss[2] > loss[1] > loss[0]
    assert loss == sorted(loss)


def test_a_shown_item_loses_most_and_other_slates_let_it_recover(
    exposure: Exposure, items: ItemEncoder
) -> None:
    slate, others = [1, 2, 3, 4], [[10, 11, 12, 13], [20, 21, 22, 23]]
    fresh, tired = taken(exposure, items, [], slate), taken(exposure, items, [slate], slate)
    assert tired > taken(exposure, items, [others[0]], slate) > fresh
    assert tired > taken(exposure, items, [slate, *others, *others, *others], slate)


def test_items_like_those_above_lose(exposure: Exposure, items: ItemEncoder) -> None:
    with torch.no_grad():
        assert items.vector_table is not None
        items.vector_table.weight[[1, 2, 3]] = items.vector_table.weight[4].clone()
    assert taken(exposure, items, [], [1, 2, 3, 4]) > taken(exposure, items, [], [10, 11, 12, 4])
    assert taken(exposure, items, [], [-1, -1, -1, 4]) == 0


def test_exposure_of_a_long_session_is_the_same_in_parallel(
    exposure: Exposure, items: ItemEncoder
) -> None:
    """Longer than a chunk, with empty slates and positions."""
    r = 2 * CHUNK + 5
    slate = torch.randint(-1, N, (3, r, S), generator=torch.Generator().manual_seed(1))
    slate[:, ::7] = -1
    slate[0, CHUNK:] = -1
    batch = SessionBatch(slate, torch.zeros(3, r, S), torch.zeros(3, 0), torch.full((3,), r))
    state, stepped = exposure.start(batch.user), []
    with torch.no_grad():
        for t in range(r):
            group = exposure.groups(items, items.index(slate[:, t]))
            stepped.append(exposure(state, group, slate[:, t]))
            state = exposure.observe(state, group, slate[:, t])
        parallel = exposure.parallel(exposure.groups(items, items.index(slate)), batch)
    torch.testing.assert_close(
        parallel[batch.shown], torch.stack(stepped, 1)[batch.shown], atol=1e-5, rtol=1e-5
    )


def test_showings_count_while_they_are_in_the_window(items: ItemEncoder) -> None:
    loss = {}
    for window in (2, 6, 9):
        torch.manual_seed(0)
        exposure = Exposure(S, items.likeness_size, items.n_rows, window)
        others = [[10 * i + j for j in range(S)] for i in range(1, 4)]
        loss[window] = taken(exposure, items, [[1, 2, 3, 4], *others], [1, 2, 3, 4])
    assert loss[2] < loss[6] == pytest.approx(loss[9], rel=1e-5)


def test_the_state_of_exposure_does_not_grow(exposure: Exposure, items: ItemEncoder) -> None:
    sizes = {
        tuple(sorted((k, v.shape) for k, v in seen(exposure, items, [[1, 2, 3, 4]] * n).items()))  # type: ignore[attr-defined]
        for n in (0, 1, 50)
    }
    assert len(sizes) == 1
    assert (1, exposure.window, S) in dict(sizes.pop()).values()


def test_no_click_is_likelier_than_that_its_position_is_looked_at() -> None:
    readout = Readout(3, S, 5, reads_clicks_above=False, examination=True)
    assert readout.looked_at is not None
    looked_at = torch.tensor([0.9, 0.5, 0.3, 0.1])
    with torch.no_grad():
        readout.looked_at.copy_(torch.logit(looked_at) / STEP)
        shown = torch.ones(5, S, dtype=torch.bool)
        found = readout.finish(torch.full((5, S), 30.0), shown).sigmoid()
        torch.testing.assert_close(found[0], looked_at)
        odds = torch.randn(5, S)
        found = readout.finish(odds, shown)
        torch.testing.assert_close(found.sigmoid(), looked_at * odds.sigmoid())
        torch.testing.assert_close(readout.finish(odds[:, :2], shown[:, :2]), found[:, :2])


def test_each_click_above_adds_the_same() -> None:
    readout = Readout(3, S, 5, reads_clicks_above=True)
    shown = torch.tensor([[True, True, False, True]])
    with torch.no_grad():
        readout.click_bias.fill_(-0.3 / STEP)
        click = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
        found = readout.finish(torch.zeros(1, S), shown, click)
        torch.testing.assert_close(found, torch.tensor([[0.0, -0.3, -0.3, -0.3]]))
        # Clicks that are not read count by their probabilities, one half each.
        found = readout.finish(torch.zeros(1, S), shown)
    torch.testing.assert_close(found, torch.tensor([[0.0, -0.15, -0.3, -0.3]]))


def test_dropout_leaves_the_biases_of_whole_rows() -> None:
    readout = Readout(3, S, 5, reads_clicks_above=False, dropout=0.5).train()
    hidden, item = torch.randn(400, S, 5), torch.randn(400, S, 3)
    bias, position = torch.zeros(400, S), torch.arange(S).expand(400, S)
    torch.manual_seed(0)
    with torch.no_grad():
        found = readout(hidden, item, bias, position)
        without = readout(torch.zeros_like(hidden), item, bias, position)
        whole = readout.eval()(hidden, item, bias, position)
    dropped = (found == without).all(1)
    assert float(dropped.float().mean()) == pytest.approx(0.5, abs=0.1)
    torch.testing.assert_close(found[~dropped], whole[~dropped])


def test_the_match_starts_at_zero_and_is_bilinear() -> None:
    match = UserMatch(2, 3)
    user, item = torch.randn(4, 3), torch.randn(4, S, 3)
    assert not match(user, item).any()
    with torch.no_grad():
        match.matrix.weight.normal_()
    expected = torch.einsum("bsd,de,be->bs", item, match.matrix.weight, user)
    torch.testing.assert_close(match(user, item), expected)


def test_each_effect_can_be_off(items: ItemEncoder) -> None:
    off = SessionContext(S, 2, items, match=False, window=0)
    state, slate = off.start(torch.zeros(1, 2)), torch.tensor([[1, 2, 3, 4]])
    assert set(state) == {"counts"}
    torch.testing.assert_close(off(state, items, slate), torch.zeros(1, S))
    on = SessionContext(S, 2, items)
    assert (on(on.start(torch.zeros(1, 2)), items, slate)[0, 1:] < 0).all()


def test_groups_are_shares_and_empty_positions_have_none(
    exposure: Exposure, items: ItemEncoder
) -> None:
    group = exposure.groups(items, items.index(torch.tensor([[0, 5, -1]])))
    torch.testing.assert_close(group.sum(-1), torch.tensor([[1.0, 1.0, 0.0]]))


def test_items_can_belong_together_whatever_their_vectors(
    exposure: Exposure, items: ItemEncoder
) -> None:
    with torch.no_grad():
        exposure.own.weight[[1, 2], 5] = 50 / STEP
        exposure.own.weight[3, 6] = 50 / STEP
    alone = [taken(exposure, items, [], [i]) for i in (2, 3)]
    after = [taken(exposure, items, [[1]], [i]) for i in (2, 3)]
    assert after[0] > alone[0] + 0.01
    assert after[1] == pytest.approx(alone[1], abs=1e-5)


def test_own_log_odds_of_items_have_a_normal_prior(exposure: Exposure, items: ItemEncoder) -> None:
    with torch.no_grad():
        exposure.own.weight[[3, 4], 0] = torch.tensor([2.0, 1.0]) / STEP
        items.prior_weight[[3, 4]] = torch.tensor([10 / 5, 10 / 1])  # shown five times and once
    item = torch.tensor([3] * 5 + [4] + [7])
    loss = exposure.prior_loss(items, item).item()
    assert loss == pytest.approx((2.0**2 + 1.0**2) / 2)
    exposure.add_items(Catalogue(np.arange(N + 3)))
    assert exposure.own.weight.shape[0] == items.n_rows + 3
    assert not exposure.own.weight[-3:].any()
