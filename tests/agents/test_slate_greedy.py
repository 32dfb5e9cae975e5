"""Slates that are filled from the top by the world's own responder."""

from pathlib import Path

import torch
from torch import Tensor

from agents.greedy import GreedyConfig, GreedyPolicy
from agents.oracle import OraclePolicy
from agents.slate_greedy import SlateGreedyConfig, SlateGreedyPolicy
from recsim_env.make import make_world
from recsim_env.observations import HistoryObservation
from recsim_env.world import World


def slates(
    world: World, policy: type[GreedyPolicy] | type[OraclePolicy], **settings: int
) -> list[Tensor]:
    """The slates of three steps in which `policy` acts."""
    chosen = policy(world, policy.config_class(**settings) if settings else None)
    observe = HistoryObservation(world)
    world.reset(seed=0)
    found = []
    for _ in range(3):
        found.append(chosen.act(observe(world)))
        world.step(found[-1])
    return found


def test_with_the_true_users_it_is_the_oracle(small_log_path: Path) -> None:
    world = make_world("any", num_users=40, responder=small_log_path)
    n = world.n_items
    found = slates(world, SlateGreedyPolicy, candidates=n, tried=n)
    for slate, best in zip(found, slates(world, OraclePolicy), strict=True):
        assert slate.equal(best)


def test_with_one_trial_it_is_greedy(small_log_path: Path) -> None:
    world = make_world("any", num_users=20, responder=small_log_path)
    first, second = SlateGreedyConfig(tried=1), GreedyConfig()
    observation = HistoryObservation(world)(world)
    assert (
        SlateGreedyPolicy(world, first)
        .act(observation)
        .equal(GreedyPolicy(world, second).act(observation))
    )


def test_users_are_answered_one_by_one_as_together(small_log_path: Path) -> None:
    world = make_world("any", num_users=6, responder=small_log_path)
    observation = HistoryObservation(world)(world)
    together = SlateGreedyPolicy(world).act(observation)
    for i in range(6):
        one = {name: value[i : i + 1] for name, value in observation.items()}
        assert torch.equal(SlateGreedyPolicy(world).act(one), together[i : i + 1])
