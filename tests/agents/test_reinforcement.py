"""Reinforcement learning over slates."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import plackett_luce
from agents.gru_ts import GRUTSConfig, GRUTSPolicy
from agents.neural import NeuralPolicy
from agents.rollout import rollout
from agents.slate_ppo import SlatePPOConfig, SlatePPOPolicy
from agents.slateq import SlateQConfig, SlateQPolicy
from agents.uniform import RandomPolicy
from agents.user_features import UserFeatures
from recsim_env.make import make_world
from recsim_env.observations import HistoryObservation
from responders import InputError
from responders.behaviour.slate_rules import SlateRules

LAYERS = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).bool()
SPECIAL = torch.tensor([1, 1, 0, 1, 0, 0]).bool()
RULES = [
    SlateRules(6, 3),
    SlateRules(6, 3, allowed=LAYERS),
    SlateRules(6, 3, special=SPECIAL),
    SlateRules(6, 3, allowed=LAYERS, special=SPECIAL),
]
QUICK = {
    SlatePPOPolicy: SlatePPOConfig(candidates=40, size=8, hidden_size=16, n_steps=4),
    SlateQPolicy: SlateQConfig(candidates=40, size=8, hidden_size=16, batch_size=128),
    GRUTSPolicy: GRUTSConfig(candidates=40, size=8, hidden_size=16, updates=8, batch_size=128),
}


def valid_slates(rules: SlateRules) -> torch.Tensor:
    """Return every slate that the rules permit."""
    slates = torch.tensor(list(permutations(range(rules.n_items), rules.n_positions)))
    return slates[~rules.broken(slates)]


EFFECTS = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("effects", [None, EFFECTS], ids=["alone", "effects"])
@pytest.mark.parametrize("rules", RULES)
@settings(max_examples=20, deadline=None)
@given(score=st.lists(st.floats(-50, 50, width=32), min_size=6, max_size=6))
def test_probabilities_of_all_slates_sum_to_one(
    rules: SlateRules, effects: torch.Tensor | None, score: list[float]
) -> None:
    slates = valid_slates(rules)
    scores = torch.tensor(score, dtype=torch.float64).expand(len(slates), -1)
    factors = plackett_luce.factors_of(slates, rules, effects)
    log_prob = plackett_luce.log_prob(scores, slates, rules, effects, factors)
    assert (log_prob <= 1e-9).all()
    assert float(log_prob.sum(1).exp().sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("effects", [None, EFFECTS.float()], ids=["alone", "effects"])
@pytest.mark.parametrize("rules", RULES)
def test_slates_are_drawn_as_often_as_their_probability_says(
    rules: SlateRules, effects: torch.Tensor | None
) -> None:
    score = torch.tensor([0.5, -1.0, 0.0, 1.0, 0.3, -0.2])
    n = 200_000
    generator = torch.Generator().manual_seed(0)
    drawn, found = plackett_luce.draw(score.expand(n, -1), rules, effects, generator)
    slates = valid_slates(rules)
    digits = 6 ** torch.arange(3)
    count = torch.bincount((drawn * digits).sum(1), minlength=6**3)[(slates * digits).sum(1)]
    assert count.sum() == n
    log_prob = plackett_luce.log_prob(score.expand(len(slates), -1), slates, rules, effects)
    chance = log_prob.sum(1).exp()
    deviation = (n * chance * (1 - chance)).sqrt()
    assert ((count - n * chance).abs() < 4.5 * deviation).all()
    some = slice(1000)
    exact = plackett_luce.log_prob(score.expand(n, -1)[some], drawn[some], rules, effects)
    torch.testing.assert_close(found[some], exact, atol=1e-5, rtol=0)


def test_the_mean_effect_of_the_items_above_decides_the_next_one() -> None:
    """The best item takes from its like, so the second-best comes below another one."""
    score = torch.tensor([[3.0, 2.9, 1.0, 0.5]])
    effects = torch.zeros(4, 4)
    effects[0, 1] = -4.0
    assert plackett_luce.best(score, SlateRules(4, 3)).tolist() == [[0, 1, 2]]
    # Below items 0 and 2, the effect of the first counts half: 2.9 - 4 / 2 = 0.9 > 0.5.
    assert plackett_luce.best(score, SlateRules(4, 3), effects).tolist() == [[0, 2, 1]]


@pytest.mark.parametrize("effects", [None, torch.zeros(4, 4)])
def test_probabilities_stay_exact_where_the_slate_has_nearly_all_the_weight(
    effects: torch.Tensor | None,
) -> None:
    score = torch.tensor([[40.0, 20.0, 0.0, -20.0]])
    found = plackett_luce.log_prob(score, torch.tensor([[0, 1, 2]]), SlateRules(4, 3), effects)
    exact = score.double()
    expected = [float(exact[0, k] - exact[0, k:].logsumexp(0)) for k in range(3)]
    np.testing.assert_allclose(found[0].double(), expected, atol=1e-6)


def test_empty_positions_have_no_gradient_that_is_not_a_number() -> None:
    rules = SlateRules(2, 3)
    score = torch.tensor([[1.0, 2.0]], requires_grad=True)
    slate, _ = plackett_luce.draw(score.detach(), rules, None, torch.default_generator)
    assert slate[0, 2] == -1
    log_prob = plackett_luce.log_prob(score, slate, rules)
    assert log_prob[0, 1:].tolist() == [0, 0]
    log_prob.sum().backward()
    assert score.grad is not None
    assert torch.isfinite(score.grad).all()


def test_features_of_users_are_means_by_recency(small_log_path: Path) -> None:
    world = make_world("any", num_users=3, responder=small_log_path, history=2)
    features = UserFeatures(RandomPolicy(world).site)
    observe = HistoryObservation(world)
    world.reset(seed=0)
    slate = torch.arange(world.n_positions).expand(3, -1)
    world.step(slate)
    click = world.step(slate + 20).click.float()
    x = features(observe(world))
    n_features, n_items = world.features.shape[1], features.items.shape[1]
    new, old = features.items[slate[0] + 20], features.items[slate[0]]
    shown = x[:, n_features : n_features + 3 * n_items].view(3, 3, n_items)
    for k, decay in enumerate((0.5, 0.8, 1.0)):
        expected = (new.mean(0) + decay * old.mean(0)) / (1 + decay)
        torch.testing.assert_close(shown[:, k], expected.expand(3, -1))
    clicked = x[:, n_features + 3 * n_items : n_features + 6 * n_items].view(3, 3, n_items)[:, 0]
    earlier = observe(world)["click"][:, : world.n_positions].float()
    torch.testing.assert_close(clicked, (click @ new + 0.5 * earlier @ old) / 1.5)
    assert x.shape == (3, features.size)


def test_repeats_of_candidates_are_weighted_by_recency(small_log_path: Path) -> None:
    world = make_world("any", num_users=3, responder=small_log_path, history=2)
    policy = SlateQPolicy(world, QUICK[SlateQPolicy])
    world.reset(seed=0)
    inside, outside = policy.candidates[:1], torch.tensor([-1] * (world.n_positions - 1))
    slate = torch.cat([inside, outside]).expand(3, -1)
    first, second = world.step(slate).click[:, 0].float(), world.step(slate).click[:, 0].float()
    history = policy.state(HistoryObservation(world)(world)).history
    torch.testing.assert_close(history["shown"][:, 0], torch.full((3,), 1.8))
    torch.testing.assert_close(history["clicked"][:, 0], second + 0.8 * first)
    assert not history["shown"][:, 1:].any()


def test_features_of_slates_are_means_of_their_items(small_log_path: Path) -> None:
    world = make_world("any", num_users=3, responder=small_log_path, history=4)
    features = UserFeatures(RandomPolicy(world).site)
    world.reset(seed=0)
    slate = torch.arange(world.n_positions).expand(3, -1)
    click = world.step(slate).click.float()
    found = features.by_slate(HistoryObservation(world)(world))
    assert found.shape == (3, 4, features.slate_size)
    assert not found[:, :3].any()
    items = features.items[slate[0]]
    expected = [items.mean(0).expand(3, -1), click @ items / world.n_positions, click]
    torch.testing.assert_close(found[:, 3], torch.cat(expected, 1))


@pytest.mark.parametrize("settings", [{}, {"memory": 8}, {"reads_above": False}])
def test_slates_of_slate_ppo_begin_with_its_scores(
    settings: dict[str, Any], small_log_path: Path
) -> None:
    world = make_world("any", num_users=20, responder=small_log_path)
    policy = SlatePPOPolicy(world, replace(QUICK[SlatePPOPolicy], **settings), seed=0)
    policy.train(world, 200, seed=1)
    observation = HistoryObservation(world)(world)
    slate = policy.act(observation)
    assert policy.score(observation).topk(world.n_positions).indices.equal(slate)
    click = policy.net.click_model
    assert click.reads_above == bool(settings.get("reads_above", True))
    if click.reads_above:
        assert click.query.weight.abs().max() > 0


def test_competing_items_are_kept_apart() -> None:
    """In a world where similar items compete, policies learn not to show them together."""
    world = make_world("compete", num_users=64)
    features = torch.nn.functional.normalize(UserFeatures(RandomPolicy(world).site).items, dim=1)

    def likeness(reads_above: bool) -> float:
        config = replace(QUICK[SlatePPOPolicy], candidates=100, reads_above=reads_above)
        policy = SlatePPOPolicy(world, config, seed=0)
        policy.train(world, 4_000, seed=1)
        world.reset(seed=0)
        vectors = features[policy.act(HistoryObservation(world)(world))]
        return float((vectors @ vectors.transpose(1, 2)).mean())

    assert likeness(True) < 0.8 * likeness(False)


@pytest.mark.parametrize("kind", QUICK)
def test_policies_learn_to_beat_random(kind: type[NeuralPolicy], small_log_path: Path) -> None:
    world = make_world("any", num_users=64, responder=small_log_path)
    policy = kind(world, QUICK[kind], seed=0)
    assert policy.train(world, 6_000, seed=1) >= 6_000
    evaluation = make_world("any", num_users=300, responder=small_log_path)
    value = rollout(evaluation, policy, seed=0).reward.mean()
    assert value > 1.5 * rollout(evaluation, RandomPolicy(evaluation), seed=0).reward.mean()


@pytest.mark.parametrize("kind", QUICK)
def test_policies_learn_the_same_weights_again(
    kind: type[NeuralPolicy], small_log_path: Path
) -> None:
    weights = []
    for _ in range(2):
        world = make_world("any", num_users=16, responder=small_log_path)
        policy = kind(world, QUICK[kind], seed=3)
        policy.train(world, 128, seed=7)
        weights.append(policy.net.state_dict())
    for name, value in weights[0].items():
        assert torch.isfinite(value).all()
        assert torch.equal(value, weights[1][name]), name


@pytest.mark.parametrize("kind", QUICK)
def test_policies_learn_slates_with_layers(kind: type[NeuralPolicy]) -> None:
    world = make_world("rl4rs", num_users=16, reward="revenue")
    policy = kind(world, QUICK[kind], seed=0)
    policy.train(world, 128, seed=1)
    run = rollout(world, policy, seed=0)
    assert not world.rules.broken(torch.from_numpy(run.log.slate.astype(np.int64))).any()


def test_several_rewards_are_refused(small_log_path: Path) -> None:
    world = make_world("any", num_users=4, responder=small_log_path, reward=["clicks", "diversity"])
    with pytest.raises(InputError, match="learns from one reward, the world has 2"):
        SlateQPolicy(world).train(world, 10, seed=0)
