"""Bandits, against closed forms and in a world where the right answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from agents import Policy, Transition
from agents.answering import observe
from agents.epsilon_greedy import EpsilonGreedyConfig, EpsilonGreedyPolicy
from agents.lin_ts import LinTSConfig, LinTSPolicy
from agents.lin_ucb import LinUCBConfig, LinUCBPolicy
from agents.linear_features import item_components, user_state
from agents.rollout import rollout
from agents.saving import learned_tensors
from agents.site import Site
from agents.ucb import UCBConfig, UCBPolicy
from recsim_env import make_world
from responders import Catalogue, InputError
from responders.known_truth.logs import synthesize
from responders.known_truth.presets import TruthConfig

N = 6
SITE = Site(Catalogue(np.arange(N)), 2)


def seen(*histories: list[int]) -> dict[str, Tensor]:
    return observe(SITE, [np.array(h, int) for h in histories], SITE.features.mean(0)[None])


FEATURED = Site(
    Catalogue(np.arange(N), np.random.default_rng(0).normal(size=(N, 3))),
    2,
    torch.tensor([[-1.0, 0.0], [1.0, 4.0]]),
)


def random_step(site: Site, n: int = 40) -> Transition:
    generator = torch.Generator().manual_seed(0)
    slate = torch.rand(n, site.n_items, generator=generator).topk(site.n_positions).indices
    slate[0, 1] = -1
    click = (torch.rand(slate.shape, generator=generator) < 0.4) & (slate >= 0)
    user = torch.randn(n, site.features.shape[1], generator=generator)
    empty = torch.full((n, site.n_positions), -1)
    observation = {"item": empty, "click": torch.zeros_like(empty).to(torch.int8), "user": user}
    no = torch.zeros(n, dtype=torch.bool)
    active = torch.arange(n) < n - 1  # the last row's session is over
    return Transition(observation, slate, click, click.sum(1).float(), observation, no, no, active)


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


def test_lin_ucb_shows_its_candidates_and_learns_of_nothing_else() -> None:
    catalogue = Catalogue(
        np.arange(N),
        FEATURED.catalogue.features,
        attributes={"clicked": np.array([1, 9, 0, 8, 7, 2])},
    )
    site = Site(catalogue, 2, FEATURED.features)
    policy = LinUCBPolicy(site, LinUCBConfig(candidates=3, components=2))
    everything = LinUCBPolicy(site, LinUCBConfig(components=2))
    t = random_step(site)
    for each in (policy, everything):
        each.learn(t)
    assert policy.weight.equal(everything.weight[[1, 3, 4]])
    assert torch.isin(policy.act(t.observation), torch.tensor([1, 3, 4])).all()
    score = policy.score(t.observation)
    assert score[:, [1, 3, 4]].equal(everything.score(t.observation)[:, [1, 3, 4]])
    assert (score[:, [0, 2, 5]] < score[:, [1, 3, 4]].amin(1, keepdim=True)).all()


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


def test_bandits_have_tensors_to_save() -> None:
    assert learned_tensors(UCBPolicy(SITE)).keys() == {"clicked", "shown"}
    names = {"items", "gram", "inverse", "target", "weight"}
    assert learned_tensors(LinUCBPolicy(FEATURED)).keys() == names


def test_epsilon_greedy_learns_the_best_items(small_log_path: Path) -> None:
    world = make_world("any", responder=small_log_path)
    bandit = EpsilonGreedyPolicy(world, EpsilonGreedyConfig(epsilon=0.0))
    slate = torch.tensor([[3, 4]]).expand(50, -1)
    click = torch.tensor([True, False]).expand(50, -1)
    observation = {"item": torch.zeros(50, 1, dtype=torch.int64)}
    no = torch.zeros(50, dtype=torch.bool)
    reward = click.sum(1).float()
    bandit.learn(Transition(observation, slate, click, reward, observation, no, no, ~no))
    chosen, propensity = bandit.act(observation)
    assert chosen[0, 0] == 3
    assert 4 not in chosen[0]
    assert (propensity == 1).all()
    with pytest.raises(InputError, match="epsilon must be a number ≥ 0 and ≤ 1"):
        EpsilonGreedyConfig(epsilon=2)
