"""The contract that every responder keeps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from responders import Catalogue, InputError
from responders.log.batch import SessionBatch
from responders.models.base import LogShape, Responder, unroll
from responders.models.ensemble import Ensemble
from responders.models.recurrent import SlateGRU, SlateGRUConfig
from responders.models.state import put_rows, take_rows
from tests.conftest import EVERY_RESPONDER, random_batch, random_responder, uniform


def clone(batch: SessionBatch) -> SessionBatch:
    return SessionBatch(
        batch.slate.clone(), batch.click.clone(), batch.user.clone(), batch.length.clone()
    )


@pytest.mark.parametrize("grad", [True, False])
def test_stepping_equals_forward(responder: Responder, grad: bool) -> None:
    batch = random_batch()
    with torch.set_grad_enabled(grad):
        parallel, stepped = responder(batch), unroll(responder, batch)
    torch.testing.assert_close(parallel[batch.shown], stepped[batch.shown], atol=1e-5, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(EVERY_RESPONDER),
    users=st.integers(1, 5),
    slates=st.integers(1, 6),
    positions=st.integers(1, 4),
)
def test_stepping_equals_forward_at_any_size(
    name: str, users: int, slates: int, positions: int
) -> None:
    responder, batch = random_responder(name), random_batch(users, slates, positions)
    with torch.no_grad():
        parallel, stepped = responder(batch), unroll(responder, batch)
    torch.testing.assert_close(parallel[batch.shown], stepped[batch.shown], atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing(responder: Responder) -> None:
    batch = random_batch()
    slates = torch.nn.functional.pad(batch.slate, (0, 0, 0, 3), value=-1)
    clicks = torch.nn.functional.pad(batch.click, (0, 0, 0, 3))
    padded = SessionBatch(slates, clicks, batch.user, batch.length)
    with torch.no_grad():
        short, long = responder(batch), responder(padded)[:, : batch.slate.shape[1]]
    torch.testing.assert_close(short[batch.shown], long[batch.shown], atol=1e-6, rtol=1e-6)


def test_users_do_not_influence_each_other(responder: Responder) -> None:
    batch = random_batch()
    with torch.no_grad():
        together = responder(batch)
        for user in range(len(batch.slate)):
            rows = slice(user, user + 1)
            alone = SessionBatch(
                batch.slate[rows], batch.click[rows], batch.user[rows], batch.length[rows]
            )
            shown = alone.shown
            torch.testing.assert_close(
                responder(alone)[shown], together[user : user + 1][shown], atol=1e-5, rtol=1e-5
            )


def test_nothing_leaks_from_the_future(responder: Responder) -> None:
    """Changing a later slate or click leaves earlier log-odds as they are."""
    batch = random_batch(slates=4)
    with torch.no_grad():
        before = responder(batch)
        for r in range(1, 4):
            changed = clone(batch)
            changed.slate[:, r:] = torch.where(
                changed.slate[:, r:] >= 0, (changed.slate[:, r:] + 1) % 9, -1
            )
            changed.click[:, r:] = 1 - changed.click[:, r:]
            shown = batch.shown[:, :r]
            torch.testing.assert_close(
                responder(changed)[:, :r][shown], before[:, :r][shown], atol=1e-6, rtol=1e-6
            )
        for s in range(1, 4):
            changed = clone(batch)
            changed.click[:, -1, s:] = 1 - changed.click[:, -1, s:]
            shown = batch.shown[:, -1, : s + 1]
            torch.testing.assert_close(
                responder(changed)[:, -1, : s + 1][shown],
                before[:, -1, : s + 1][shown],
                atol=1e-6,
                rtol=1e-6,
            )


def test_the_flags_say_what_a_responder_reads(responder: Responder) -> None:
    """A click above, or an earlier slate, moves the log-odds if and only if the class says so."""
    slate = torch.tensor([[[0, 1, 2, 3], [4, 5, 6, 7]]])
    other = torch.tensor([[[4, 1, 2, 7], [4, 5, 6, 7]]])
    none = torch.zeros(1, 2, 4)
    above, earlier = none.clone(), none.clone()
    above[0, 0, 0] = 1
    earlier[0, 0, 3] = 1
    user, length = torch.zeros(1, 2), torch.tensor([2])

    def answer(slate: torch.Tensor, click: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return responder(SessionBatch(slate, click, user, length))

    plain = answer(slate, none)
    moved = (answer(slate, above) - plain).abs()[0, 0, 1:].max() > 1e-4
    assert bool(moved) == responder.reads_clicks_above
    moved = (answer(other, earlier) - plain).abs()[0, 1].max() > 1e-4
    assert bool(moved) == responder.reads_history


def test_respond_draws_from_the_stated_probabilities(responder: Responder) -> None:
    """Given its own clicks above, logits() states the probability that respond() drew from."""
    batch = random_batch(users=64)
    with torch.no_grad():
        state = responder.start(batch.user)
        state = responder.observe(state, batch.slate[:, 0], batch.click[:, 0])
        slate = batch.slate[:, 1]
        answer = responder.respond(state, slate, uniform(slate, 0))
        stated = responder.logits(state, slate, answer.click.float()).sigmoid()
    shown = slate >= 0
    torch.testing.assert_close(answer.probability[shown], stated[shown], atol=1e-5, rtol=1e-5)
    assert not answer.click[~shown].any()
    assert (answer.probability[~shown] == 0).all()


def test_respond_clicks_as_often_as_it_says(responder: Responder) -> None:
    n = 5_000
    slate = torch.tensor([[0, 1, 2, 3]]).expand(n, -1)
    with torch.no_grad():
        state = responder.start(torch.zeros(n, 2))
        answer = responder.respond(state, slate, uniform(slate, 1))
    expected, seen = answer.probability.mean(0), answer.click.float().mean(0)
    assert ((expected - seen).abs() < 4 * (0.25 / n) ** 0.5).all()


def test_marginal_probabilities_average_over_the_clicks_above(responder: Responder) -> None:
    n, slate = 5_000, torch.tensor([[0, 1, -1, 3]])
    with torch.no_grad():
        marginal = responder.marginal(responder.start(torch.zeros(1, 2)), slate)[0]
        slates = slate.expand(n, -1)
        answer = responder.respond(responder.start(torch.zeros(n, 2)), slates, uniform(slates, 2))
    # 0.02: what 64 draws of the clicks above may miss
    assert ((marginal - answer.click.float().mean(0)).abs() < 0.02 + 2 * n**-0.5).all()
    assert marginal[2] == 0


def test_respond_moves_the_state_as_observe_does(responder: Responder) -> None:
    batch = random_batch()
    with torch.no_grad():
        state = responder.start(batch.user)
        answer = responder.respond(state, batch.slate[:, 0], uniform(batch.slate[:, 0], 0))
        observed = responder.observe(state, batch.slate[:, 0], answer.click.float())
    torch.testing.assert_close(answer.state, observed, atol=1e-5, rtol=1e-5)


def test_respond_takes_given_uniform_numbers(responder: Responder) -> None:
    batch = random_batch()
    with torch.no_grad():
        state, slate = responder.start(batch.user), batch.slate[:, 0]
        nothing = responder.respond(state, slate, torch.ones(slate.shape))
        everything = responder.respond(state, slate, torch.zeros(slate.shape))
    assert not nothing.click.any()
    assert (everything.click == (slate >= 0)).all()


def test_state_can_be_taken_and_put_row_by_row(responder: Responder) -> None:
    batch = random_batch()
    with torch.no_grad():
        fresh = responder.start(batch.user)
        moved = responder.observe(fresh, batch.slate[:, 0], batch.click[:, 0])
        mask = torch.arange(len(batch.user)) % 2 == 0
        mixed = put_rows(moved, mask, fresh)
        slate = batch.slate[:, 1]
        answers = [responder.logits(state, slate, batch.click[:, 1]) for state in (mixed, moved)]
        alone = responder.logits(take_rows(mixed, mask), slate[mask], batch.click[mask, 1])
        fresh_logits = responder.logits(take_rows(fresh, mask), slate[mask], batch.click[mask, 1])
    shown = slate >= 0
    torch.testing.assert_close(alone[shown[mask]], fresh_logits[shown[mask]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        answers[0][mask][shown[mask]], fresh_logits[shown[mask]], atol=1e-5, rtol=1e-5
    )
    rest = shown & ~mask[:, None]
    torch.testing.assert_close(answers[0][rest], answers[1][rest], atol=1e-5, rtol=1e-5)


def answer_of(responder: Responder, batch: SessionBatch) -> torch.Tensor:
    """Log-odds of a second slate, given the first; what is tabulated is used."""
    with torch.no_grad():
        state = responder.start(batch.user)
        state = responder.observe(state, batch.slate[:, 0], batch.click[:, 0])
        return responder.logits(state, batch.slate[:, 1], batch.click[:, 1])


def test_preparing_changes_no_answer(responder: Responder) -> None:
    batch = random_batch()
    plain = answer_of(responder, batch)
    responder.prepare()
    torch.testing.assert_close(answer_of(responder, batch), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["slate_gru", "session_gru", "hierarchical_gru", "scot"])
def test_what_was_prepared_is_not_used_after_the_weights_change(name: str) -> None:
    responder, batch = random_responder(name), random_batch()
    responder.prepare()
    stepped = unroll(responder, batch)  # with gradients
    stepped[batch.shown].sum().backward()
    assert all(p.grad is not None for k, p in responder.items.named_parameters())  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in responder.parameters():
            parameter.mul_(1.5)
    changed = answer_of(responder, batch)
    fresh = random_responder(name)
    fresh.load_state_dict(responder.state_dict())
    torch.testing.assert_close(changed, answer_of(fresh, batch), atol=1e-5, rtol=1e-5)

    ensemble = Ensemble([fresh]).eval()
    ensemble.prepare()
    ensemble.load_state_dict(
        {k: v / 2 for k, v in ensemble.state_dict().items() if v.is_floating_point()}, strict=False
    )
    halved = random_responder(name)
    halved.load_state_dict(ensemble.members[0].state_dict())
    expected = answer_of(halved, batch).sigmoid()
    torch.testing.assert_close(answer_of(ensemble, batch).sigmoid(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["item_ctr", "mf", "slate_gru", "session_gru"])
def test_cold_items_are_answered_as_the_unknown_item(name: str) -> None:
    responder = random_responder(name)
    responder.extend(Catalogue(range(12)))
    slate = torch.tensor([[9, 10, 11, 3]])
    with torch.no_grad():
        first = responder.logits(responder.start(torch.zeros(1, 2)), slate[:, :1])
        other = responder.logits(responder.start(torch.zeros(1, 2)), slate[:, 1:2])
    assert torch.equal(first, other)
    assert responder.shape.n_items == 12


def test_cold_items_with_features_get_their_own_answer() -> None:
    torch.manual_seed(0)
    features = torch.randn(11, 3)
    responder = SlateGRU(
        LogShape(9, 4, 2), SlateGRUConfig(embedding="content"), features[:9]
    ).eval()
    with torch.no_grad():
        before = responder.logits(responder.start(torch.zeros(1, 2)), torch.tensor([[0, 8]]))
        responder.extend(Catalogue(range(11), features.numpy()))
        after = responder.logits(responder.start(torch.zeros(1, 2)), torch.tensor([[0, 8]]))
        cold = [
            responder.logits(responder.start(torch.zeros(1, 2)), torch.tensor([[item]]))
            for item in (9, 10)
        ]
    torch.testing.assert_close(before, after)
    assert not torch.equal(*cold)


def test_slates_that_cannot_be_answered_are_refused() -> None:
    responder = random_responder("pbm")
    for slate, message in [
        (torch.zeros(2, 5, dtype=torch.int64), "at most 4 positions"),
        (torch.tensor([[0, 9]]), "items 0 to 8"),
        (torch.tensor([[0, -2]]), "items 0 to 8"),
        (torch.zeros(3, dtype=torch.int64), r"\[users, positions\]"),
    ]:
        with pytest.raises(InputError, match=message):
            responder.check_slate(slate)
