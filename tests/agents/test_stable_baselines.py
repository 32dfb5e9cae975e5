"""Policies that Stable-Baselines3 and sb3-contrib train."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import load_policy
from agents.a2c import A2CConfig, A2CPolicy
from agents.dqn import DQNConfig, DQNPolicy
from agents.gems import GeMSConfig, GeMSPolicy
from agents.maskable_ppo import MaskablePPOConfig, MaskablePPOPolicy
from agents.ppo import PPOConfig, PPOPolicy
from agents.recurrent_ppo import RecurrentPPOConfig, RecurrentPPOPolicy
from agents.rollout import rollout
from agents.sac import SACConfig, SACPolicy
from agents.stable_baselines import SB3Policy
from agents.uniform import RandomPolicy
from agents.wolpertinger import WolpertingerConfig, WolpertingerPolicy
from recsim_env.make import make_world
from recsim_env.observations import HistoryObservation
from recsim_env.world import World
from responders import InputError

SMALL = {"candidates": 20, "hidden_size": 16, "learning_rate": 0.003}
QUICK: dict[type[SB3Policy], Any] = {
    A2CPolicy: A2CConfig(**SMALL),
    PPOPolicy: PPOConfig(**SMALL),
    MaskablePPOPolicy: MaskablePPOConfig(**SMALL),
    RecurrentPPOPolicy: RecurrentPPOConfig(memory_size=8, **SMALL),
    DQNPolicy: DQNConfig(updates=8, batch_size=128, **SMALL),
    SACPolicy: SACConfig(updates=8, batch_size=128, **SMALL),
    GeMSPolicy: GeMSConfig(
        hidden_size=16,
        learning_rate=0.003,
        updates=8,
        batch_size=128,
        latent=4,
        epochs=5,
        candidates=20,
    ),
    WolpertingerPolicy: WolpertingerConfig(
        hidden_size=16, learning_rate=0.003, updates=8, batch_size=128, components=3, neighbours=10
    ),
}


@pytest.mark.parametrize("kind", QUICK)
def test_policies_learn_to_beat_random(kind: type[SB3Policy], small_log_path: Path) -> None:
    world = make_world("any", num_users=64, responder=small_log_path)
    policy = kind(world, QUICK[kind], seed=0)
    assert policy.train(world, 2_500, seed=1) >= 2_500
    evaluation = make_world("any", num_users=300, responder=small_log_path)
    value = rollout(evaluation, policy, seed=0).reward.mean()
    assert value > 1.4 * rollout(evaluation, RandomPolicy(evaluation), seed=0).reward.mean()


def test_the_seed_of_training_chooses_its_users(small_log_path: Path) -> None:
    world = make_world("any", num_users=8, responder=small_log_path)
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(5)
        policy = A2CPolicy(world, QUICK[A2CPolicy], seed=0)
        policy.train(world, 80, seed)
        weights.append(torch.cat([w.flatten() for w in policy.network.parameters()]))
        drawn = torch.rand(())
        torch.manual_seed(5)
        assert drawn == torch.rand(())  # the global generator is as before
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("kind", QUICK)
def test_the_same_weights_again_in_a_folder_without_pickles(
    kind: type[SB3Policy], small_log_path: Path, tmp_path: Path
) -> None:
    weights = []
    for _ in range(2):
        world = make_world("any", num_users=16, responder=small_log_path)
        policy = kind(world, QUICK[kind], seed=3)
        policy.train(world, 128, seed=7)
        weights.append(policy.network.state_dict())
    for name, value in weights[0].items():
        assert torch.isfinite(value).all()
        assert torch.equal(value, weights[1][name]), name
    files = {path.name for path in policy.save(tmp_path / "p").iterdir()}
    assert files == {"card.json", "policy.safetensors"}
    same = (policy, load_policy(tmp_path / "p", world), load_policy(tmp_path / "p"))
    slates = [rollout(world, each, seed=9).log.slate for each in same]
    np.testing.assert_array_equal(slates[0], slates[1])
    np.testing.assert_array_equal(slates[0], slates[2])


@pytest.mark.parametrize("kind", QUICK)
def test_slates_with_layers(kind: type[SB3Policy]) -> None:
    world = make_world("rl4rs", num_users=8, reward="revenue")
    policy = kind(world, QUICK[kind], seed=0)
    policy.train(world, 64, seed=1)
    slate = torch.from_numpy(rollout(world, policy, seed=0).log.slate.astype(np.int64))
    assert not world.rules.broken(slate).any()
    assert (slate >= 0).all()
    assert (slate.sort(1).values.diff(dim=1) > 0).all()


def test_the_autoencoder_gives_slates_that_were_logged(small_log_path: Path) -> None:
    """A log of four slates: its latent points decode to them, each best item at its position."""
    world = make_world("any", num_users=4, responder=small_log_path)
    slates = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:20].view(4, 5)
    first = world.initial_sessions.select(np.arange(40))
    log = replace(
        first,
        slate=slates.repeat(len(first.slate) // 4 + 1, 1)[: len(first.slate)].numpy(),
        response=np.zeros_like(first.response),
    )
    policy = GeMSPolicy(world, GeMSConfig(hidden_size=16, latent=4, epochs=150, divergence=0.1))
    policy.learn_slates(log)
    column = policy._candidates.columns(slates)
    latent, _ = policy.vae.encode(column, torch.zeros(slates.shape))
    assert policy.decode(latent.detach() / 2).equal(slates)
    assert policy.is_fitted


def test_a_missing_package_is_one_error(
    small_log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(InputError, match=r"RecurrentPPO needs .* 'recsim-env\[rl\]'"):
        RecurrentPPOPolicy(make_world("any", responder=small_log_path))


def first(world: World) -> dict[str, torch.Tensor]:
    world.reset(seed=0)
    return HistoryObservation(world)(world)


def test_arms_show_one_item_and_the_slate_the_best_of_them(small_log_path: Path) -> None:
    world = make_world("any", num_users=3, responder=small_log_path)
    policy = DQNPolicy(world, QUICK[DQNPolicy])
    arms = policy.actions(world).arms
    assert arms.shape == (20, world.n_positions)
    assert arms[:, 1:].eq(-1).all()
    observation = first(world)
    value = policy.network.q_net(policy.flat(observation))
    best = arms[value.topk(world.n_positions, 1).indices, 0]
    assert policy.act(observation).equal(best)


def test_arms_of_a_catalogue_with_layers_are_popular_slates_with_one_item() -> None:
    world = make_world("rl4rs", num_users=2)
    arms = DQNPolicy(world, DQNConfig(candidates=10)).actions(world).arms
    assert arms.shape == (30, 9)
    assert not world.rules.broken(arms).any()
    common = arms.mode(0).values
    own = (arms != common).sum(1)
    assert own.max() <= 3, "an item at the top of its layer moves the two below it down"


def test_masks_leave_out_repeated_candidates() -> None:
    world = make_world("rl4rs", num_users=4)
    policy = MaskablePPOPolicy(world, MaskablePPOConfig(candidates=200, hidden_size=8))
    mask = policy._actions.mask()
    assert mask is not None
    choices = policy.choices(first(world))
    for choice, valid in zip(choices, mask.view(9, 200), strict=True):
        assert choice.probs[:, ~valid].max() == 0
        assert choice.probs[:, valid].min() > 0


def test_the_memory_of_users_is_their_own_and_starts_empty(small_log_path: Path) -> None:
    world = make_world("any", num_users=4, responder=small_log_path)
    policy = RecurrentPPOPolicy(world, QUICK[RecurrentPPOPolicy])
    observation = first(world)
    policy.act(observation)
    once = policy._memory
    policy.act(observation)  # at step 0 again: as if nothing had happened
    assert once is not None
    assert policy._memory is not None
    assert once[0].equal(policy._memory[0])
    later = observation | {"step": observation["step"] + torch.tensor([[0], [1], [0], [1]])}
    policy.act(later)
    changed = (policy._memory[0] - once[0]).abs().amax((0, 2)) > 0
    assert changed.tolist() == [False, True, False, True]
    policy.reset()
    assert policy._memory is None


def test_the_critic_ranks_the_items_near_the_actors_point(small_log_path: Path) -> None:
    world = make_world("any", num_users=3, responder=small_log_path)
    config = WolpertingerConfig(hidden_size=16, components=3, neighbours=10)
    policy = WolpertingerPolicy(world, config)
    observation = first(world)
    flat, vectors = policy.flat(observation), policy._actions.vectors
    point, _ = policy.network.predict(flat.numpy(), deterministic=True)
    slate = policy.act(observation)
    for user in range(3):
        near = (vectors @ torch.from_numpy(point[user])).topk(10).indices
        values = policy.network.critic(flat[user].expand(10, -1), vectors[near])
        best = torch.minimum(*values).squeeze(1).argsort(descending=True)[: world.n_positions]
        assert slate[user].equal(near[best])
