"""Policies that learn from logs, on logs where the right answer is known."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents import load_policy
from agents.answering import observe
from agents.ease import EASEConfig, EASEPolicy
from agents.finding import find_policy
from agents.from_log import LogPolicy, clicked_items, session_clicks
from agents.item_knn import ItemKNNConfig, ItemKNNPolicy
from agents.recent_popular import RecentPopularConfig, RecentPopularPolicy
from agents.registry import POLICIES
from agents.rollout import rollout
from agents.site import Site
from agents.uniform import RandomPolicy
from recsim_env import make_world
from responders import Catalogue, InputError, SessionLog
from responders.log import ragged
from responders.registry import load
from tests.conftest import log_of

N = 6


def clicked(sessions: list[list[int]], day: list[int] | None = None, items: int = N) -> SessionLog:
    """A log in which every item shown was clicked, one per slate."""
    length = np.array([len(session) for session in sessions])
    start = np.repeat(np.array(day or [0] * len(sessions)) * 86_400, length)
    slate, time = np.concatenate(sessions)[:, None], start + ragged.place(length)
    return log_of(slate, 1, length, items=items, time=time)


TOY = [[0, 1], [0, 1], [0, 1, 2], [3, 4], [3, 4], [5]]
SITE = Site(Catalogue(np.arange(N)), 2)


def seen(*histories: list[int]) -> dict[str, Tensor]:
    return observe(SITE, [np.array(h, int) for h in histories], SITE.features.mean(0)[None])


def collaborative() -> list[Any]:
    names = ["recent_popular", "item_knn", "ease", "als", "bpr"]
    needs = pytest.mark.skipif(find_spec("implicit") is None, reason="needs implicit")
    return [pytest.param(n, marks=[needs] if n in ("als", "bpr") else []) for n in names]


def make(name: str, **settings: Any) -> LogPolicy:
    kind = load(POLICIES, name, "policy")
    return kind(SITE, kind.config_class(**settings))


def test_recent_clicks_count_more() -> None:
    sessions = [[0], [0], [0], [1], [1], [2]]
    policy = RecentPopularPolicy(SITE, RecentPopularConfig(half_life=1))
    policy.fit(clicked(sessions, day=[0, 0, 0, 2, 2, 3]))
    assert policy.clicks.tolist() == pytest.approx([3 / 8, 1, 1, 0, 0, 0])
    assert policy.recommend([[]], k=3) == [[1, 2, 0]]  # popularity decides between 1 and 2


def test_neighbours_are_by_cosine() -> None:
    policy = ItemKNNPolicy(SITE, ItemKNNConfig(shrinkage=0, neighbours=3))
    policy.fit(clicked(TOY))
    expected = np.zeros((N, N))
    for i, j, cosine in ((0, 1, 1), (0, 2, 3**-0.5), (1, 2, 3**-0.5), (3, 4, 1)):
        expected[i, j] = expected[j, i] = cosine
    found = policy.affinity(seen(*[[i] for i in range(N)]))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    both = policy.affinity(seen([0, 3]))
    np.testing.assert_allclose(both[0], expected[0] + expected[3], atol=1e-6)
    narrow = ItemKNNPolicy(SITE, ItemKNNConfig(shrinkage=0, neighbours=1))
    narrow.fit(clicked(TOY))
    assert narrow.affinity(seen([0])).nonzero().tolist() == [[0, 1]]
    recommended = policy.recommend([[3], [], [5]], k=2)
    assert recommended[0][0] == 4
    assert sorted(recommended[1]) == sorted(recommended[2]) == [0, 1]  # the most popular


def test_ease_is_the_constrained_ridge_regression() -> None:
    policy = EASEPolicy(SITE, EASEConfig(regularisation=2.0))
    policy.fit(clicked(TOY))
    x = session_clicks(clicked(TOY)).toarray()
    for j in range(N):  # a ridge regression of each item on all others
        others = np.delete(x, j, 1)
        ridge = np.linalg.solve(others.T @ others + 2 * np.eye(N - 1), others.T @ x[:, j])
        np.testing.assert_allclose(np.delete(policy.weight[:, j].numpy(), j), ridge, atol=1e-5)
    assert policy.weight.diagonal().eq(0).all()
    with pytest.raises(InputError, match="at most 30,000"):
        EASEPolicy(Site(Catalogue(np.arange(30_001)), 2))


def test_als_gives_new_users_the_vectors_of_implicit() -> None:
    pytest.importorskip("implicit")
    from threadpoolctl import threadpool_limits

    from agents.als import ALSPolicy
    from agents.implicit_package import import_implicit

    policy = make("als", factors=3)
    assert isinstance(policy, ALSPolicy)
    policy.fit(clicked(TOY))
    with threadpool_limits(1, "blas"):
        peer = import_implicit("als").AlternatingLeastSquares(
            factors=3, regularization=0.1, alpha=40, num_threads=1
        )
    peer.item_factors = policy.vectors.numpy()
    clicks = session_clicks(clicked(TOY)).astype("float32")
    expected = peer.recalculate_user(np.arange(len(TOY)), clicks)
    found = policy.user_vectors(torch.from_numpy(clicks.toarray()))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", collaborative()[1:])
def test_what_was_clicked_together_is_recommended(name: str) -> None:
    rng = np.random.default_rng(0)  # two groups of items that are never clicked together
    groups = (np.array([0, 1, 2]), np.array([3, 4, 5]))
    sessions = [rng.permutation(groups[i % 2])[:2].tolist() for i in range(200)]
    policy = make(name, **({"factors": 2} if name in ("als", "bpr") else {}))
    policy.fit(clicked(sessions))
    score = policy.score(seen([0], [4]))
    assert score[0, [1, 2]].min() > score[0, [3, 4, 5]].max()
    assert score[1, [3, 5]].min() > score[1, [0, 1, 2]].max()


@pytest.mark.parametrize("name", [*collaborative(), "sasrec", "gru4rec", "bert4rec", "pnfrec"])
def test_policies_from_logs_can_be_saved_and_refuse_other_logs(name: str, tmp_path: Path) -> None:
    policy = make(name)
    policy.fit(clicked(TOY))
    assert policy.steps == clicked(TOY).n_slates
    assert not policy.synthetic
    loaded = load_policy(policy.save(tmp_path / "p"))
    assert loaded.score(seen([0], [])).equal(policy.score(seen([0], [])))
    with pytest.raises(InputError, match=r"another catalogue \(7 items\)"):
        policy.fit(clicked(TOY, items=7))
    silent = clicked(TOY)
    object.__setattr__(silent, "response", np.zeros_like(silent.response))
    with pytest.raises(InputError, match="no click to learn from"):
        policy.fit(silent)


@pytest.mark.parametrize("name", ["item_knn", "ease"])
def test_a_world_teaches_through_random_slates(name: str, small_log_path: Path) -> None:
    world = make_world("any", num_users=200, responder=small_log_path)
    policy = find_policy(name).make(world, 0)
    assert policy.train(world, 3000, seed=5) >= 3000
    assert policy.synthetic
    rewards = [rollout(world, p, seed=0).reward.mean() for p in (policy, RandomPolicy(world))]
    assert rewards[0] > 1.3 * rewards[1]


def test_clicked_items_are_counted_once() -> None:
    found = clicked_items(seen([0, 2, 0], []), N)
    assert found.tolist() == [[1, 0, 1, 0, 0, 0], [0] * N]
