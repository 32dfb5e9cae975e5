"""Policies that learn from logs, and bandits, where the right answer is known."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents import Policy, Transition, load_policy
from agents.answering import observe
from agents.ease import EASEConfig, EASEPolicy
from agents.epsilon_greedy import EpsilonGreedyPolicy
from agents.from_log import LogPolicy, clicked_items, session_clicks
from agents.item_knn import ItemKNNConfig, ItemKNNPolicy
from agents.lin_ts import LinTSConfig, LinTSPolicy
from agents.lin_ucb import LinUCBConfig, LinUCBPolicy
from agents.linear_features import item_components, user_state
from agents.recent_popular import RecentPopularConfig, RecentPopularPolicy
from agents.rollout import rollout
from agents.saving import learned_tensors
from agents.site import Site
from agents.ucb import UCBConfig, UCBPolicy
from recsim_env import make_world
from responders import Catalogue, InputError, SessionLog, Users
from responders.known_truth.logs import synthesize
from responders.known_truth.presets import TruthConfig

N = 6


def log_of(sessions: list[list[int]], day: list[int] | None = None, items: int = N) -> SessionLog:
    """A log in which every item shown was clicked, one per slate."""
    length = [len(session) for session in sessions]
    start = np.repeat(np.array(day or [0] * len(sessions)) * 86_400, length)
    return SessionLog(
        slate=np.concatenate(sessions)[:, None],
        response=np.ones((sum(length), 1)),
        session_start=np.r_[0, np.cumsum(length)],
        user=np.arange(len(sessions)),
        time=start + np.concatenate([np.arange(n) for n in length]),
        catalogue=Catalogue(np.arange(items)),
        users=Users(np.arange(len(sessions))),
    )


TOY = [[0, 1], [0, 1], [0, 1, 2], [3, 4], [3, 4], [5]]
SITE = Site(Catalogue(np.arange(N)), 2)


def seen(*histories: list[int]) -> dict[str, Tensor]:
    return observe(SITE, [np.array(h, int) for h in histories], SITE.features.mean(0)[None])


def collaborative() -> list[Any]:
    names = ["recent_popular", "item_knn", "ease", "als", "bpr"]
    needs = pytest.mark.skipif(find_spec("implicit") is None, reason="needs implicit")
    return [pytest.param(n, marks=[needs] if n in ("als", "bpr") else []) for n in names]


def make(name: str, **settings: Any) -> LogPolicy:
    from agents.registry import POLICIES
    from responders.registry import load

    kind = load(POLICIES, name, "policy")
    return kind(SITE, kind.config_class(**settings))


def test_recent_clicks_count_more() -> None:
    sessions = [[0], [0], [0], [1], [1], [2]]
    policy = RecentPopularPolicy(SITE, RecentPopularConfig(half_life=1))
    policy.fit(log_of(sessions, day=[0, 0, 0, 2, 2, 3]))
    assert policy.clicks.tolist() == pytest.approx([3 / 8, 1, 1, 0, 0, 0])
    assert policy.recommend([[]], k=3) == [[1, 2, 0]]  # popularity decides between 1 and 2


def test_neighbours_are_by_cosine() -> None:
    policy = ItemKNNPolicy(SITE, ItemKNNConfig(shrinkage=0, neighbours=3))
    policy.fit(log_of(TOY))
    expected = np.zeros((N, N))
    for i, j, cosine in ((0, 1, 1), (0, 2, 3**-0.5), (1, 2, 3**-0.5), (3, 4, 1)):
        expected[i, j] = expected[j, i] = cosine
    found = policy.affinity(seen(*[[i] for i in range(N)]))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    both = policy.affinity(seen([0, 3]))
    np.testing.assert_allclose(both[0], expected[0] + expected[3], atol=1e-6)
    narrow = ItemKNNPolicy(SITE, ItemKNNConfig(shrinkage=0, neighbours=1))
    narrow.fit(log_of(TOY))
    assert narrow.affinity(seen([0])).nonzero().tolist() == [[0, 1]]
    recommended = policy.recommend([[3], [], [5]], k=2)
    assert recommended[0][0] == 4
    assert sorted(recommended[1]) == sorted(recommended[2]) == [0, 1]  # the most popular


def test_ease_is_the_constrained_ridge_regression() -> None:
    policy = EASEPolicy(SITE, EASEConfig(regularisation=2.0))
    policy.fit(log_of(TOY))
    x = session_clicks(log_of(TOY)).toarray()
    for j in range(N):  # a ridge regression of each item on all others
        others = np.delete(x, j, 1)
        ridge = np.linalg.solve(others.T @ others + 2 * np.eye(N - 1), others.T @ x[:, j])
        np.testing.assert_allclose(np.delete(policy.weight[:, j].numpy(), j), ridge, atol=1e-5)
    assert policy.weight.diagonal().eq(0).all()
    with pytest.raises(InputError, match="at most 30,000"):
        EASEPolicy(Site(Catalogue(np.arange(30_001)), 2))


def test_als_gives_new_users_the_vectors_of_implicit() -> None:
    pytest.importorskip("implicit")
    from agents.als import ALSPolicy
    from agents.implicit_package import import_implicit, one_blas_thread

    policy = make("als", factors=3)
    assert isinstance(policy, ALSPolicy)
    policy.fit(log_of(TOY))
    with one_blas_thread():
        peer = import_implicit("als").AlternatingLeastSquares(
            factors=3, regularization=0.1, alpha=40, num_threads=1
        )
    peer.item_factors = policy.vectors.numpy()
    clicks = session_clicks(log_of(TOY)).astype("float32")
    expected = peer.recalculate_user(np.arange(len(TOY)), clicks)
    found = policy.user_vectors(torch.from_numpy(clicks.toarray()))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", collaborative()[1:])
def test_what_was_clicked_together_is_recommended(name: str) -> None:
    rng = np.random.default_rng(0)  # two groups of items that are never clicked together
    groups = (np.array([0, 1, 2]), np.array([3, 4, 5]))
    sessions = [rng.permutation(groups[i % 2])[:2].tolist() for i in range(200)]
    policy = make(name, **({"factors": 2} if name in ("als", "bpr") else {}))
    policy.fit(log_of(sessions))
    score = policy.score(seen([0], [4]))
    assert score[0, [1, 2]].min() > score[0, [3, 4, 5]].max()
    assert score[1, [3, 5]].min() > score[1, [0, 1, 2]].max()


@pytest.mark.parametrize("name", [*collaborative(), "sasrec", "gru4rec", "bert4rec", "pnfrec"])
def test_policies_from_logs_can_be_saved_and_refuse_other_logs(name: str, tmp_path: Path) -> None:
    policy = make(name)
    policy.fit(log_of(TOY))
    assert policy.steps == log_of(TOY).n_slates
    assert not policy.synthetic
    loaded = load_policy(policy.save(tmp_path / "p"))
    assert loaded.score(seen([0], [])).equal(policy.score(seen([0], [])))
    with pytest.raises(InputError, match=r"another catalogue \(7 items\)"):
        policy.fit(log_of(TOY, items=7))
    silent = log_of(TOY)
    object.__setattr__(silent, "response", np.zeros_like(silent.response))
    with pytest.raises(InputError, match="no click to learn from"):
        policy.fit(silent)


@pytest.mark.parametrize("name", ["item_knn", "ease"])
def test_a_world_teaches_through_random_slates(name: str, small_log_path: Path) -> None:
    from agents.finding import find_policy
    from agents.uniform import RandomPolicy

    world = make_world("any", num_users=200, responder=small_log_path)
    policy = find_policy(name).make(world, 0)
    assert policy.train(world, 3000, seed=5) >= 3000
    assert policy.synthetic
    rewards = [rollout(world, p, seed=0).reward.mean() for p in (policy, RandomPolicy(world))]
    assert rewards[0] > 1.3 * rewards[1]


def step(site: Site, slate: Tensor, click: Tensor, user: Tensor) -> Transition:
    b = len(slate)
    empty = torch.full((b, site.n_positions), -1)
    observation = {"item": empty, "click": torch.zeros_like(empty).to(torch.int8), "user": user}
    no = torch.zeros(b, dtype=torch.bool)
    active = torch.arange(b) < b - 1  # the last row's session is over
    return Transition(observation, slate, click, click.sum(1).float(), observation, no, no, active)


def random_step(site: Site, n: int = 40) -> Transition:
    generator = torch.Generator().manual_seed(0)
    slate = torch.rand(n, site.n_items, generator=generator).topk(site.n_positions).indices
    slate[0, 1] = -1
    click = (torch.rand(slate.shape, generator=generator) < 0.4) & (slate >= 0)
    return step(site, slate, click, torch.randn(n, site.features.shape[1], generator=generator))


FEATURED = Site(
    Catalogue(np.arange(N), np.random.default_rng(0).normal(size=(N, 3))),
    2,
    torch.tensor([[-1.0, 0.0], [1.0, 4.0]]),
)


def test_user_states_are_standardised() -> None:
    items = item_components(FEATURED, 2)
    torch.testing.assert_close(items.t() @ items / N, torch.eye(2))
    torch.testing.assert_close(items.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    seen = observe(FEATURED, [np.array([1, 3]), np.array([], int)], torch.tensor([[1.0, 4.0]] * 2))
    state = user_state(FEATURED, items, seen)
    torch.testing.assert_close(state[0], torch.cat([torch.ones(3), items[[1, 3]].mean(0)]))
    torch.testing.assert_close(state[1], torch.tensor([1.0, 1, 1, 0, 0]))
    assert item_components(SITE, 2).shape == (N, 0)


def test_lin_ucb_is_ridge_regression_with_its_standard_error() -> None:
    policy = LinUCBPolicy(FEATURED, LinUCBConfig(exploration=0.7, components=2))
    t = random_step(FEATURED)
    policy.learn(t)
    policy.learn(t)
    x = user_state(FEATURED, policy.items, t.observation)
    for item in range(N):
        rows, positions = ((t.slate == item) & t.active[:, None]).nonzero(as_tuple=True)
        own = x[rows].repeat(2, 1)
        y = t.click[rows, positions].float().repeat(2)
        gram = torch.eye(x.shape[1]) + own.t() @ own
        torch.testing.assert_close(policy.weight[item], torch.linalg.solve(gram, own.t() @ y))
        torch.testing.assert_close(policy.inverse[item], torch.linalg.inv(gram))
    variance = torch.einsum("bd,nde,be->bn", x, policy.inverse, x)
    bound = policy.score(t.observation) + 0.7 * variance.sqrt()
    assert policy.act(t.observation).equal(bound.topk(2).indices)


def test_lin_ts_samples_the_posterior_of_one_regression() -> None:
    policy = LinTSPolicy(FEATURED, LinTSConfig(exploration=0.5, components=2))
    t = random_step(FEATURED)
    policy.learn(t)
    x = user_state(FEATURED, policy.items, t.observation)
    vectors = torch.cat([torch.ones(N, 1), policy.items], 1)
    rows, positions = ((t.slate >= 0) & t.active[:, None]).nonzero(as_tuple=True)
    items = t.slate[rows, positions]
    contexts = torch.stack([torch.kron(x[r], vectors[i]) for r, i in zip(rows, items, strict=True)])
    gram = torch.eye(contexts.shape[1]) + contexts.t() @ contexts
    mean = torch.linalg.solve(gram, contexts.t() @ t.click[rows, positions].float())
    torch.testing.assert_close(policy.mean, mean, atol=1e-4, rtol=1e-3)
    score = torch.stack([torch.stack([torch.kron(u, v) @ mean for v in vectors]) for u in x])
    torch.testing.assert_close(policy.score(t.observation), score, atol=1e-4, rtol=1e-3)

    drawn = policy.sample(50_000)
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.t().cov(), 0.25 * torch.linalg.inv(gram), atol=0.02, rtol=0)
    policy.exploration = 0.0
    assert policy.act(t.observation).equal(policy.score(t.observation).topk(2).indices)


def test_ucb_shows_new_items_first_and_then_the_best_bounds() -> None:
    policy = UCBPolicy(SITE, UCBConfig(exploration=0.0))
    policy.shown[:4] = 10.0
    policy.clicked[:4] = torch.tensor([1.0, 8.0, 2.0, 7.0])
    assert policy.act(seen([0]))[0].sort().values.tolist() == [4, 5]
    policy.shown[4:] = 10.0
    assert policy.act(seen([0]))[0].tolist() == [1, 3]
    policy.exploration, policy.shown[0] = 2.0, 1.0  # 0.1 ± a wide bound
    policy.clicked[0] = 0.0
    assert policy.act(seen([0]))[0, 0] == 0
    assert policy.recommend([[]], k=1) == [[1]]  # without exploration


@pytest.fixture(scope="module")
def personal_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world in which taste, which the users' features show, is all that matters."""
    config = TruthConfig(
        n_items=40, n_positions=4, dimensions=3, clusters=6, item_features=4, feature_noise=0.0,
        taste=6.0, quality=0.1, drift=0.0, fade=0.0, fatigue=0.0, competition=0.0,
        click_effect=0.0, position_bias=0.0, max_slates=12,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("logs") / "personal"
    synthesize(path, config, 400, progress=False)
    return path


@pytest.mark.parametrize("kind", [LinUCBPolicy, LinTSPolicy])
def test_contextual_bandits_win_where_features_matter(
    kind: type[Policy], personal_log: Path
) -> None:
    world = make_world("any", num_users=200, responder=personal_log)
    rewards = []
    for each in (EpsilonGreedyPolicy, UCBPolicy, kind):
        policy = each(world)
        policy.train(world, 6000, seed=10)
        rewards.append(rollout(world, policy, seed=0).reward.mean())
    assert rewards[2] > 1.3 * max(rewards[:2])


def test_clicked_items_are_counted_once() -> None:
    found = clicked_items(seen([0, 2, 0], []), N)
    assert found.tolist() == [[1, 0, 1, 0, 0, 0], [0] * N]


def test_bandits_have_tensors_to_save() -> None:
    assert learned_tensors(UCBPolicy(SITE)).keys() == {"clicked", "shown"}
    names = {"items", "gram", "inverse", "target", "weight"}
    assert learned_tensors(LinUCBPolicy(FEATURED)).keys() == names
