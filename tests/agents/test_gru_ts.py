"""Thompson sampling with a GRU, where the right answer is known."""

from pathlib import Path

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from agents.gru_ts import GRUTSConfig, GRUTSPolicy
from agents.rollout import rollout
from recsim_env.make import make_world
from recsim_env.observations import HistoryObservation
from recsim_env.world import World

CONFIG = GRUTSConfig(candidates=40, size=4, hidden_size=8, updates=8, batch_size=128)


@pytest.fixture
def world(small_log_path: Path) -> World:
    return make_world("any", num_users=30, responder=small_log_path)


@pytest.fixture
def policy(world: World) -> GRUTSPolicy:
    """With random vectors and deviations."""
    policy = GRUTSPolicy(world, CONFIG, seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        policy.net.vector.normal_(std=0.5)
        policy.net.log_deviation.uniform_(-2, 0)
    return policy


def test_log_odds_are_distributed_as_products_with_drawn_vectors(
    world: World, policy: GRUTSPolicy
) -> None:
    state = policy.state(HistoryObservation(world)(world))
    with torch.no_grad():
        mean, deviation = policy.net(state)
        users, net = policy.net.users(state), policy.net
        centre = net.centre(net.item_features) + net.vector
        noise = torch.randn(20_000, *centre.shape)
        drawn = (centre + noise * net.log_deviation.exp()) @ users[0]
    torch.testing.assert_close(drawn.mean(0), mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(0), deviation[0], atol=0.03, rtol=0.03)


def test_the_divergence_is_that_of_normal_distributions(policy: GRUTSPolicy) -> None:
    net = policy.net
    posterior = Normal(net.vector, net.log_deviation.exp())
    expected = kl_divergence(posterior, Normal(torch.zeros(()), CONFIG.prior)).sum()
    torch.testing.assert_close(net.divergence(), expected)
    assert GRUTSPolicy(policy.site, CONFIG).net.divergence().item() == pytest.approx(0, abs=1e-4)


def test_each_position_draws_for_itself(world: World, policy: GRUTSPolicy) -> None:
    state = policy.state(HistoryObservation(world)(world))
    with torch.no_grad():
        policy.net.log_deviation.fill_(-20)
        certain = policy.draw(state)
        assert certain.equal(policy.rank(state).topk(world.n_positions, 1).indices)
        policy.net.log_deviation.fill_(2)
        drawn = policy.draw(state)
    assert (drawn.sort(1).values.diff(dim=1) > 0).all()
    assert (drawn != certain).float().mean() > 0.5


def test_what_is_shown_becomes_certain(world: World) -> None:
    policy = GRUTSPolicy(world, CONFIG, seed=0)
    policy.train(world, 1500, seed=0)
    deviation = policy.net.log_deviation.detach().exp().mean(1)
    shown = torch.tensor(rollout(world, policy, seed=0).log.slate).flatten()
    count = torch.bincount(shown, minlength=world.n_items)[policy.candidates]
    most, least = count.topk(8).indices, (-count).topk(8).indices
    assert deviation.mean() < CONFIG.prior
    assert deviation[most].mean() < deviation[least].mean()


def test_the_state_follows_the_clicks_in_their_order(world: World, policy: GRUTSPolicy) -> None:
    observation = HistoryObservation(world)(world)
    item, click = torch.full_like(observation["item"], -1), torch.zeros_like(observation["click"])
    item[:, -2 * world.n_positions :] = torch.arange(2 * world.n_positions)
    click[0, -2 * world.n_positions] = click[1, -1] = 1
    observation |= {"item": item, "click": click, "user": observation["user"][:1].expand(30, -1)}
    users = policy.net.users(policy.state(observation))
    assert not torch.allclose(users[0], users[1], atol=1e-3)
    assert not torch.allclose(users[0], users[2], atol=1e-3)
    torch.testing.assert_close(users[2], users[3])
    assert users[:, -1].eq(1).all()
