"""What each world of the suite checks; without its difficulty, nothing is left of the effect."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from agents.epsilon_greedy import EpsilonGreedyPolicy
from agents.far_sighted import FarSightedPolicy
from agents.finding import find_policy
from agents.greedy import GreedyPolicy
from agents.oracle import OraclePolicy
from agents.policy import Policy
from agents.popular import PopularPolicy
from agents.rollout import rollout
from agents.uniform import RandomPolicy
from recsim_env.make import ASSETS, make_world
from recsim_env.observations import HistoryObservation
from recsim_env.skills import SKILLS
from recsim_env.world import World
from responders.known_truth.logs import synthesize
from responders.known_truth.world import KnownTruth

USERS = 300


def world_of(skill: str, easy: bool = False, users: int = USERS) -> World:
    """The world of a skill, or the same without its difficulty."""
    chosen = SKILLS[skill]
    truth = chosen.easy if easy else chosen.truth
    return make_world(skill, num_users=users, responder=truth)


def reward(world: World, policy: Policy) -> np.ndarray:
    return rollout(world, policy, seed=0).reward


def trained(kind: type[Policy], world: World, steps: int = 20_000, **settings: Any) -> Policy:
    config = kind.config_class(**settings) if settings else None
    policy = kind(world, config)
    policy.train(world, steps, seed=1_000_000)
    return policy


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean."""
    half = 1.96 * values.std() / len(values) ** 0.5
    return values.mean() - half, values.mean() + half


def beats(better: np.ndarray, worse: np.ndarray, ratio: float = 1.0) -> bool:
    """Whether the intervals do not overlap, also if the worse values are multiplied by `ratio`."""
    return interval(better)[0] > ratio * interval(worse)[1]


class Static(OraclePolicy):
    """Shows each user what their features promise at the start, whatever happens later."""

    def act(self, observation: dict[str, Tensor]) -> Tensor:
        return self._fill(self._truth.attraction(self._truth.start(observation["user"])))


@pytest.mark.parametrize("skill", [skill for skill in SKILLS if skill != "large"])
def test_the_reference_earns_half_as_much_again_as_random_slates(skill: str) -> None:
    world = world_of(skill)
    random, reference = (
        trained(find_policy(name).source, world)  # type: ignore[arg-type]
        for name in ("random", SKILLS[skill].reference)
    )
    assert beats(reward(world, reference), reward(world, random), 1.5)


def first_clicks(skill: str, easy: bool, change: Any) -> tuple[float, float]:
    """Expected clicks on the oracle's first slates, and on what `change` makes of them."""
    world = world_of(skill, easy)
    found = []
    for edit in (lambda slate, truth: slate, change):
        world.reset(seed=0)
        slate = OraclePolicy(world).act(HistoryObservation(world)(world))
        probability = world.step(edit(slate, world.responder)).probability
        found.append(float(probability.sum(1).mean()))
    return found[0], found[1]


def test_position_order_in_the_slate_matters() -> None:
    hard, easy = (first_clicks("position", e, lambda slate, _: slate.flip(1)) for e in (0, 1))
    assert hard[0] > 1.05 * hard[1]
    assert easy[0] == pytest.approx(easy[1])


def nearest(slate: Tensor, truth: KnownTruth) -> Tensor:
    """The first item of each slate, and those most similar to it."""
    similarity = truth.location[slate[:, 0]] @ truth.location[:-1].t()
    return similarity.topk(slate.shape[1]).indices


def test_compete_near_identical_items_take_each_others_clicks() -> None:
    hard, easy = (first_clicks("compete", e, nearest) for e in (0, 1))
    assert hard[0] > 1.5 * hard[1]
    assert easy[0] < 1.2 * easy[1]
    world = world_of("compete")
    assert beats(reward(world, OraclePolicy(world)), reward(world, GreedyPolicy(world)), 1.3)
    world = world_of("compete", easy=True)
    np.testing.assert_array_equal(*(reward(world, p(world)) for p in (OraclePolicy, GreedyPolicy)))


def test_clickbait_the_best_myopic_policy_loses_to_one_that_looks_ahead() -> None:
    world = world_of("clickbait")
    ahead = trained(FarSightedPolicy, world)
    assert beats(reward(world, ahead), reward(world, OraclePolicy(world)), 2)
    np.testing.assert_array_equal(
        reward(world, OraclePolicy(world)), reward(world, GreedyPolicy(world))
    )
    world = world_of("clickbait", easy=True)
    without_regret = trained(FarSightedPolicy, world)
    np.testing.assert_array_equal(reward(world, without_regret), reward(world, OraclePolicy(world)))


def test_clickbait_ends_sessions_alike_in_a_log_and_in_the_world(tmp_path: Path) -> None:
    config = SKILLS["clickbait"].truth
    log = synthesize(tmp_path / "log", config, 2000, policy="uniform", progress=False)
    world = make_world("any", num_users=2000, responder=tmp_path / "log")
    logged, simulated = (
        each.session_length for each in (log, rollout(world, RandomPolicy(world), seed=0).log)
    )
    held_out = world.initial_sessions.n_sessions  # different users in the world
    error = (logged.var() / 2000 + simulated.var() / held_out) ** 0.5
    assert abs(logged.mean() - simulated.mean()) < 4 * error
    assert 4 < logged.mean() < 0.2 / config.leaving, "regret ends them earlier"


@pytest.mark.parametrize("skill", ["fatigue", "drift", "cold"])
def test_users_who_change_or_are_unknown_must_be_followed(skill: str) -> None:
    world = world_of(skill)
    assert beats(reward(world, OraclePolicy(world)), reward(world, Static(world)), 1.3)
    world = world_of(skill, easy=True)
    np.testing.assert_array_equal(*(reward(world, p(world)) for p in (OraclePolicy, Static)))


def test_cold_the_log_knows_nothing_of_half_the_items() -> None:
    unknown, known = (
        world_of("cold", easy, 1).catalogue.attributes["shown"] == 0 for easy in (False, True)
    )
    assert unknown.mean() == pytest.approx(0.5, abs=0.01)
    assert known.mean() < 0.05


def test_explore_what_pays_is_found_by_trying() -> None:
    world = world_of("explore")
    curious, content = (
        reward(world, trained(EpsilonGreedyPolicy, world, epsilon=e)) for e in (0.1, 0.0)
    )
    popular, best = reward(world, PopularPolicy(world)), reward(world, OraclePolicy(world))
    assert beats(curious, content, 1.2)
    assert beats(curious, popular, 1.3)
    assert interval(popular)[1] < 0.6 * best.mean()
    world = world_of("explore", easy=True)
    popular, best = reward(world, PopularPolicy(world)), reward(world, OraclePolicy(world))
    assert popular.mean() > 0.95 * best.mean()


def test_gap_what_a_learned_simulator_promises_is_not_earned() -> None:
    truth = world_of("gap", users=60)
    learned = make_world("gap", num_users=60, responder=ASSETS / "contentwise")
    greedy, best = reward(truth, GreedyPolicy(learned)), reward(truth, OraclePolicy(truth))
    assert interval(best - greedy)[0] > 0
    assert truth.catalogue.fingerprint() == learned.catalogue.fingerprint()


def test_large_the_whole_catalogue_is_worth_searching() -> None:
    world = world_of("large", users=40)
    assert world.n_items == 100_000
    best, few = (reward(world, policy(world)) for policy in (OraclePolicy, GreedyPolicy))
    assert interval(best - few)[0] > 0.1 * few.mean(), "greedy scores 250 candidates"
    world = world_of("large", easy=True)
    np.testing.assert_array_equal(*(reward(world, p(world)) for p in (OraclePolicy, GreedyPolicy)))
