"""How common slates are in the log."""

from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsim_env.adapters.wrappers import PenaliseUnsupported, VectorPenaliseUnsupported
from recsim_env.loading import open_responder
from recsim_env.make import make_vector_env, make_world
from responders import Catalogue, InputError, SessionLog
from responders.behaviour.support import Support, fit_support, repetition, unit_vectors

QUARTERS = Support((0.0, 0.1, 0.2, 0.4, 0.8))


def test_the_share_is_that_of_the_logs_slates() -> None:
    given_repetition = torch.tensor([0.0, 0.05, 0.1, 0.3, 0.8, 0.9])
    expected = torch.tensor([1.0, 0.875, 0.75, 0.375, 0.0, 0.0])
    torch.testing.assert_close(QUARTERS.share(given_repetition), expected)
    flat = Support((0.0, 0.0, 0.0, 0.5))  # most slates repeat nothing
    torch.testing.assert_close(flat.share(torch.tensor([0.0, 0.25])), torch.tensor([1.0, 1 / 6]))


@given(st.lists(st.floats(0, 2, width=32), min_size=2, max_size=20))
def test_more_repetition_never_has_more_support(values: list[float]) -> None:
    share = QUARTERS.share(torch.tensor(sorted(values)))
    assert (share.diff() <= 1e-6).all()
    assert ((share >= 0) & (share <= 1)).all()


@pytest.mark.parametrize("quantiles", [(0.0,), (0.2, 0.1), (-0.1, 0.2), (0.0, float("nan"))])
def test_quantiles_that_are_none_are_refused(quantiles: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="support needs two or more finite quantiles"):
        Support(quantiles)


def test_repetition_counts_similar_items_by_recency() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.0, 0.0]])  # the last is empty
    slates = torch.tensor([[[-1, -1], [1, 1], [0, -1]]])
    found = repetition(torch.tensor([[0, 2]]), slates, vectors)
    # Slates of ages 1 and 0 add 0.8 · (0, 1) and (1/2, 0) to what was shown.
    assert float(found) == pytest.approx((0.5 + (0.6 * 0.5 + 0.8 * 0.8)) / 2)
    assert float(repetition(torch.tensor([[-1, -1]]), slates, vectors)) == 0
    nothing = torch.full((1, 3, 2), -1)
    assert float(repetition(torch.tensor([[0, 2]]), nothing, vectors)) == 0


def test_without_features_only_the_same_item_counts() -> None:
    vectors = unit_vectors(Catalogue(np.arange(50)))
    slates = torch.arange(10).view(1, 1, 10)
    same = float(repetition(torch.arange(10).view(1, 10), slates, vectors))
    other = float(repetition(torch.arange(20, 30).view(1, 10), slates, vectors))
    assert same > 3 * other


def test_the_support_of_a_log_is_uniform_over_its_own_slates(small_log: SessionLog) -> None:
    support = fit_support(small_log, np.arange(small_log.n_sessions))
    vectors = unit_vectors(small_log.catalogue)
    found = []
    for session in range(200):
        first, end = small_log.session_start[session : session + 2]
        slates = torch.full((1, 10, small_log.n_positions), -1)
        for slate in small_log.slate[first:end]:
            now = torch.from_numpy(slate.astype(np.int64)).unsqueeze(0)
            found.append(repetition(now, slates, vectors))
            slates = torch.cat([slates[:, 1:], now.unsqueeze(1)], 1)
    share = support.share(torch.cat(found))
    later = share[share < 1]
    assert abs(float(later.mean()) - float(later.max()) / 2) < 0.05
    assert float(later.min()) < 0.02


def test_environments_say_the_support_of_slates(small_log_path: Path) -> None:
    env = make_vector_env(
        3, "any", responder=small_log_path, support=True, leaving=False, warm_start=0
    )
    env.reset(seed=0)
    vectors = unit_vectors(env.world.catalogue)
    alike = (vectors @ vectors[0]).topk(env.world.n_positions).indices.numpy()
    slate, shares = np.tile(alike, (3, 1)), []
    for _ in range(4):
        *_, info = env.step(slate)
        shares.append(info["support"])
    assert shares[0].shape == (3,)
    assert (shares[0] == 1).all()  # nothing was shown before
    assert (np.diff(np.stack(shares), axis=0) <= 0).all()
    assert shares[-1].max() < 0.05  # the log never shows one group of items again and again
    plain = make_vector_env(3, "any", responder=small_log_path)
    plain.reset(seed=0)
    assert "support" not in plain.step(slate)[-1]


def test_pessimism_scales_rewards(small_log_path: Path) -> None:
    options = {"responder": small_log_path, "support": True}
    env = VectorPenaliseUnsupported(make_vector_env(5, "any", **options), weight=0.5)
    bare = make_vector_env(5, "any", **options)
    world = make_world("any", num_users=5, reward="supported_clicks", **options)
    with pytest.raises(InputError, match="weight must be from 0 to 1, not 2"):
        VectorPenaliseUnsupported(env.env, weight=2)
    single = PenaliseUnsupported(gymnasium.make("recsim_env:RecSim-v0", **options), weight=1.0)
    slate = np.tile(np.arange(5), (5, 1))
    env.reset(seed=1), bare.reset(seed=1), single.reset(seed=1)
    for _ in range(3):
        _, pessimistic, *_ = env.step(slate)
        _, clicks, _, _, info = bare.step(slate)
        outcome = world.step(torch.from_numpy(slate))
        np.testing.assert_allclose(pessimistic, clicks * (1 - 0.5 * (1 - info["support"])))
        torch.testing.assert_close(outcome.reward, outcome.click.sum(1) * outcome.support)
        _, reward, *_, last = single.step(slate[0])
        assert reward == pytest.approx(last["response"].sum() * last["support"])


def test_what_support_needs_is_said(small_log_path: Path, trained: Path) -> None:
    with pytest.raises(InputError, match="needs support=True"):
        make_world("any", responder=small_log_path, reward="supported_clicks")
    with pytest.raises(InputError, match="support looks at 10 slates"):
        make_world("any", responder=small_log_path, support=True, history=4)
    with pytest.raises(InputError, match="make it with support=True"):
        VectorPenaliseUnsupported(make_vector_env(2, "any", responder=small_log_path))
    old = replace(open_responder(trained), support=None)
    with pytest.raises(InputError, match="needs a responder that knows the log"):
        make_world("any", responder=old, support=True)
