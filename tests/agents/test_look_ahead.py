"""One step of look-ahead."""

from pathlib import Path

import pytest
import torch

from agents.greedy import GreedyPolicy
from agents.look_ahead import LookAheadConfig, LookAheadPolicy, VisitCounter
from agents.rollout import rollout
from agents.site import Site
from agents.tracking import StateTracker
from agents.uniform import RandomPolicy
from recsim_env.make import make_world
from recsim_env.observations import HistoryObservation
from recsim_env.skills import SKILLS
from responders import InputError


@pytest.mark.parametrize("warm_start", [0, 2])
def test_it_knows_when_users_leave(small_log_path: Path, warm_start: int) -> None:
    world = make_world("any", num_users=40, responder=small_log_path, warm_start=warm_start)
    counting = VisitCounter(world.responder)
    tracker, random = StateTracker(counting, world.n_positions), RandomPolicy(world)
    observe = HistoryObservation(world)
    world.reset(seed=0)
    for _ in range(8):
        observation = observe(world)
        state, episodes = tracker.state(observation), world.episodes
        assert state["streak"].equal(episodes.streak)
        assert state["step"].equal(episodes.visit_step)
        assert state["clicks"].equal(episodes.visit_clicks)
        chosen = random.act(observation)
        outcome = world.step(chosen[0])
        memory = world.responder.observe(state["memory"], outcome.slate, outcome.click)
        after = counting.after(state, outcome.slate, outcome.click, memory)
        chance = world.leave_chance(
            after["streak"], after["step"], outcome.click.sum(1), after["clicks"], memory
        )
        torch.testing.assert_close(chance, outcome.leave_chance)
        world.reset(mask=outcome.left | outcome.truncated)


def test_the_first_imagined_slate_is_the_greedy_one(small_log_path: Path) -> None:
    world = make_world("any", num_users=30, responder=small_log_path)
    observation = HistoryObservation(world)(world)
    same = LookAheadPolicy(world, LookAheadConfig(slates=1))
    expected = GreedyPolicy(world).act(observation)
    assert same.act(observation).equal(expected)
    several = LookAheadPolicy(world, LookAheadConfig(slates=5, spread=3.0))
    score = several._scores(several._tracker.state(observation)["memory"], 30)
    slates = several._imagined(score).view(30, 5, -1)
    assert slates[:, 0].equal(expected)
    assert (slates[:, 1:] != slates[:, :1]).any(2).float().mean() > 0.9


def test_looking_ahead_pays_where_clicks_make_users_leave() -> None:
    world = make_world("clickbait", num_users=200, responder=SKILLS["clickbait"].truth)
    config = LookAheadConfig(slates=16, draws=4, spread=2.0, candidates=60)
    ahead, now = (
        rollout(world, policy, seed=0).reward.mean()
        for policy in (LookAheadPolicy(world, config), GreedyPolicy(world))
    )
    assert ahead > now


def test_slates_with_layers() -> None:
    world = make_world("rl4rs", num_users=4)
    policy = LookAheadPolicy(world, LookAheadConfig(slates=2, draws=1, next_candidates=5))
    slate = policy.act(HistoryObservation(world)(world))
    assert not world.rules.broken(slate).any()
    assert (slate >= 0).all()


def test_it_needs_its_world(small_log_path: Path, tmp_path: Path) -> None:
    world = make_world("any", responder=small_log_path)
    policy = LookAheadPolicy(world)
    with pytest.raises(InputError, match="look_ahead cannot be saved: make it from its world"):
        policy.save(tmp_path / "p")
    with pytest.raises(InputError, match="look_ahead needs a world"):
        LookAheadPolicy(Site(world.catalogue, 3))
