"""Hidden states: what they are of, replacing them, and steering by them."""

import numpy as np
import pytest
import torch

from responders.interpretation.autoencoder import AutoencoderConfig, fit_autoencoder
from responders.interpretation.naming import correlation
from responders.models.base import unroll
from responders.models.steered import Steered, has_hidden
from tests.conftest import EVERY_RESPONDER, random_batch, random_responder, uniform

WITH_HIDDEN = [name for name in EVERY_RESPONDER if has_hidden(random_responder(name))]


def test_the_networks_with_a_vector_of_the_user_are_known() -> None:
    assert {
        "slate_gru", "session_gru", "hierarchical_gru", "slate_transformer", "transformer_gru",
        "min_gru", "hstu", "scot",
    } <= set(WITH_HIDDEN)  # fmt: skip
    assert not {"pbm", "mf", "known_truth"} & set(WITH_HIDDEN)


@pytest.mark.parametrize("name", WITH_HIDDEN)
@torch.no_grad()
def test_hidden_state_is_replaced_and_decides(name: str) -> None:
    responder, batch = random_responder(name).eval(), random_batch()
    state = responder.start(batch.user)
    state = responder.observe(state, batch.slate[:, 0], batch.click[:, 0])
    hidden = responder.hidden(state)
    other = hidden + torch.linspace(-1, 1, hidden.shape[1])
    replaced = responder.with_hidden(state, other)
    torch.testing.assert_close(responder.hidden(replaced), other)
    torch.testing.assert_close(responder.hidden(responder.with_hidden(replaced, hidden)), hidden)
    torch.testing.assert_close(responder.hidden(state), hidden)
    slate, same = batch.slate[:, 1], responder.with_hidden(state, hidden)
    shown = slate >= 0
    before = responder.logits(state, slate)[shown]
    torch.testing.assert_close(responder.logits(same, slate)[shown], before)
    assert (responder.logits(replaced, slate)[shown] - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["session_gru", "slate_gru", "scot", "min_gru"])
@torch.no_grad()
def test_steered_users_are_scored_from_moved_states_and_remember_as_before(name: str) -> None:
    inner, batch = random_responder(name).eval(), random_batch()
    size = inner.hidden(inner.start(batch.user)).shape[1]
    torch.testing.assert_close(
        unroll(Steered(inner, torch.zeros(size)), batch)[batch.shown],
        unroll(inner, batch)[batch.shown],
    )
    steered, state = Steered(inner, torch.ones(size)), inner.start(batch.user)
    moved = inner.with_hidden(state, inner.hidden(state) + 1)
    slate, numbers = batch.slate[:, 0], uniform(batch.slate[:, 0])
    answer, expected = (r.respond(s, slate, numbers) for r, s in ((steered, state), (inner, moved)))
    torch.testing.assert_close(answer.probability, expected.probability)
    torch.testing.assert_close(
        inner.hidden(answer.state), inner.hidden(inner.observe(state, slate, answer.click))
    )
    steered.prepare()  # the compiled form of a session_gru, where numba is installed
    torch.testing.assert_close(
        steered.respond(state, slate, numbers).probability, answer.probability, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_autoencoder_finds_the_directions_of_sparse_sums(tied: bool) -> None:
    rng = np.random.default_rng(0)
    truth = np.linalg.qr(rng.normal(size=(12, 8)))[0].T  # 8 directions at right angles
    parts = rng.uniform(1, 2, (1000, 8)) * (rng.random((1000, 8)) < 0.15)
    vectors = torch.from_numpy((parts @ truth).astype(np.float32))
    config = AutoencoderConfig(
        features=12, active=3, tied=tied, epochs=25, batch_size=100, learning_rate=0.02
    )
    with torch.enable_grad():
        net = fit_autoencoder(vectors.numpy(), config)
    code = net.encode(vectors)
    assert code.min() >= 0
    assert (code > 0).sum(1).max() <= 3
    torch.testing.assert_close(net.directions.norm(dim=1), torch.ones(12))
    error = (net(vectors) - vectors).square().sum()
    assert error < 0.2 * (vectors - vectors.mean(0)).square().sum()
    rho = np.abs(correlation(code.numpy(), parts)).max(0)
    assert (rho > 0.8).mean() >= 0.5


def test_features_without_use_start_again() -> None:
    vectors = np.eye(6, dtype=np.float32)[np.arange(600) % 6]
    config = AutoencoderConfig(features=12, active=1, epochs=30, learning_rate=0.01)
    net, again = (fit_autoencoder(vectors, config) for _ in range(2))
    assert torch.equal(net.decoder, again.decoder)
    with torch.no_grad():
        assert (net.encode(torch.from_numpy(vectors)) > 0).any(0).sum() >= 6
