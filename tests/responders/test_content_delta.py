"""The embedding `content_delta`: frozen content vectors and a learned delta of bounded norm."""

import numpy as np
import pytest
import torch

from responders import Catalogue, InputError, SessionLog
from responders.log.split import make_split
from responders.models.build import build_responder
from responders.models.neural import NeuralConfig
from responders.models.parts.items import ItemEncoder
from responders.models.parts.tables import BoundedDelta
from responders.training.fit import fit

N, K = 12, 5


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(0)) * 3 + 1


def encoder(features: torch.Tensor, delta: float) -> ItemEncoder:
    torch.manual_seed(0)
    return ItemEncoder(len(features), 4, "content_delta", features, delta=delta)


@pytest.mark.parametrize("bound", [0.0, 0.3, 2.0])
def test_no_delta_is_longer_than_the_bound(bound: float) -> None:
    delta = BoundedDelta(6, K, bound, zero_row=5)
    with torch.no_grad():
        delta.table.weight.copy_(torch.randn(6, K) * torch.logspace(-3, 3, 6).unsqueeze(1))
        delta.table.weight[5] = 0
    found = delta(torch.arange(6))
    free = delta.table.weight
    length = found.norm(dim=1) / K**0.5
    assert (length <= bound * (1 + 1e-6)).all()
    inside = free.norm(dim=1) <= bound
    torch.testing.assert_close(length[inside], free.norm(dim=1)[inside])
    if bound:
        cosine = torch.cosine_similarity(found[:5], free[:5], dim=1)
        torch.testing.assert_close(cosine, torch.ones(5))


def test_content_vectors_have_one_length_and_do_not_learn(features: torch.Tensor) -> None:
    items = encoder(features, 0.3)
    torch.testing.assert_close(items.given[:N].norm(dim=1), torch.full((N,), K**0.5))
    assert not items.given.requires_grad
    assert not items.given[N:].any()


def test_an_item_that_is_not_trained_keeps_its_content_vector(features: torch.Tensor) -> None:
    """Only items in the loss get a delta, and with the bound 0 nobody does."""
    for bound in (0.3, 0.0):
        items = encoder(features, bound)
        optimiser = torch.optim.Adam(items.parameters(), lr=0.1)
        for _ in range(5):
            optimiser.zero_grad()
            (items.vector(torch.tensor([0, 1])) - 2).square().sum().backward()
            optimiser.step()
        assert items.delta is not None
        deltas = items.delta(torch.arange(N))
        assert bool(deltas[:2].any()) == (bound > 0)
        assert not deltas[2:].any()


def test_the_map_learns_from_content_alone(features: torch.Tensor) -> None:
    items, found = encoder(features, 0.3), []
    assert items.delta is not None
    assert items.projection is not None
    for std in (0.0, 1.0):
        torch.nn.init.normal_(items.delta.table.weight, std=std)
        items.zero_grad()
        items.vector(torch.arange(N)).sum().backward()
        assert items.delta.table.weight.grad is not None
        found.append(items.projection.weight.grad)
    torch.testing.assert_close(*found)
    vector = items.projection(items.given[:N] + items.delta(torch.arange(N)))
    torch.testing.assert_close(items.vector(torch.arange(N)), vector)


def test_added_items_are_made_of_their_features(features: torch.Tensor) -> None:
    """The same vector as if the item had been there, unshown, from the start."""
    whole = encoder(features, 0.3)
    short = ItemEncoder(N - 2, 4, "content_delta", features[:-2], delta=0.3)
    short.load_state_dict(
        {k: v for k, v in whole.state_dict().items() if k in ("centre", "scale")}, strict=False
    )
    assert short.projection is not None
    assert whole.projection is not None
    short.projection.load_state_dict(whole.projection.state_dict())
    short.add_items(Catalogue(np.arange(N), features.numpy()))
    new = torch.tensor([N - 2, N - 1])
    expected = whole.vector(whole.index(new))
    torch.testing.assert_close(short.vector(short.index(new)), expected)
    assert short.delta is not None
    assert len(short.delta.table.weight) == short.n_rows


def test_a_trained_responder_keeps_the_bound(small_log: SessionLog, tmp_path: object) -> None:
    settings = {
        "embedding": "content_delta", "delta": 0.2, "epochs": 1, "hidden_size": 8,
        "learning_rate": 0.1,
    }  # fmt: skip
    checkpoint = fit(small_log, "session_gru", f"{tmp_path}/run", settings, progress=False)
    delta = checkpoint.responder.items.delta  # type: ignore[union-attr]
    found = delta(torch.arange(len(small_log.catalogue)))  # type: ignore[operator]
    length = found.detach().norm(dim=1) / found.shape[1] ** 0.5
    assert 0.19 < float(length.max()) <= 0.2 + 1e-6


def test_content_needs_item_features(small_log: SessionLog) -> None:
    plain = SessionLog(
        **{
            k: getattr(small_log, k) for k in ("slate", "response", "session_start", "user", "time")
        },
        catalogue=Catalogue(small_log.catalogue.ids),
        users=small_log.users,
    )
    sessions = make_split(plain, "user", 0)["train"].sessions
    with pytest.raises(InputError, match="'content_delta' needs item features"):
        build_responder("session_gru", plain, sessions, NeuralConfig(embedding="content_delta"))
