"""Action spaces: slates, candidates, scores, proto-items, arms, and their masks."""

import contextlib
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import MaskablePPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from torch.nn import functional as F

from recsim_env import actions as action_module
from recsim_env.actions import (
    ActionCheck,
    ArmActions,
    ProtoActions,
    item_vectors,
    nearest,
    single_item_arms,
)
from recsim_env.adapters.sb3 import SB3VecEnv
from recsim_env.candidates import Candidates, RandomCandidates
from recsim_env.make import make_actions, make_vector_env, make_world
from recsim_env.observations import StateObservation
from recsim_env.scenarios import find_scenario
from recsim_env.vector import RecSimVectorEnv
from responders import InputError
from tests.conftest import random_responder

SLATES, PAGES = "RecSim-ContentWise-v0", "RecSim-RL4RS-v0"

SPACES: list[dict[str, Any]] = [
    {"action": "scores"},
    {"action": "scores", "candidates": 30},
    {"action": "scores", "candidates": 30, "retrieval": "random"},
    {"action": "proto"},
    {"action": "arm"},
    {"action": "arm", "candidates": 7},
    {"candidates": 25, "retrieval": "random"},
    {"candidates": 25, "retrieval": "random", "observe": "flat"},
    {"observe": "state"},
    {"returns": "rule", "observe": "flat"},
    {"returns": "rule"},
]


@pytest.mark.parametrize("options", SPACES, ids=str)
def test_the_checkers_pass_for_every_action_and_observation(options: dict[str, Any]) -> None:
    env = gym.make(SLATES, **options)
    check_env(env.unwrapped, skip_render_check=True)
    sb3_check_env(env.unwrapped)


@pytest.mark.filterwarnings("error")
def test_proto_items_choose_pages_within_the_mask() -> None:
    env = gym.make(PAGES, action="proto")
    assert env.action_space.shape == (32,)
    check_env(env.unwrapped, skip_render_check=True)
    vectors = F.normalize(item_vectors(env.unwrapped.vector.world, 32), dim=1)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(3):
        for position in range(9):
            point = rng.uniform(-1, 1, 32).astype(np.float32)
            valid = env.unwrapped.action_masks()
            similarity = np.where(valid, vectors.numpy() @ point, -np.inf)
            observation, *_, info = env.step(point)
            if position < 8:
                assert observation["page"][position] == similarity.argmax()
        assert not info["invalid"]


@settings(max_examples=30, deadline=None)
@given(
    b=st.integers(1, 5), n=st.integers(1, 60), k=st.integers(1, 60), tile=st.sampled_from([1, 9])
)
def test_the_nearest_are_exact_whatever_the_tile(b: int, n: int, k: int, tile: int) -> None:
    k = min(k, n)
    generator = torch.Generator().manual_seed(b * n + k)
    point, vectors = (torch.randn(r, 6, generator=generator) for r in (b, n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(action_module, "_TILE", tile)
        found = nearest(point, vectors, k)
    similarity = point @ vectors.t()
    torch.testing.assert_close(similarity.gather(1, found), similarity.topk(k, 1).values)
    assert all(len(set(row)) == k for row in found.tolist())


def test_a_proto_item_at_an_item_shows_that_item_first() -> None:
    world = make_world("contentwise", num_users=3)
    actions = ProtoActions(world)
    slate = actions.slate(actions.vectors[torch.tensor([5, 700, 31])])
    assert slate[:, 0].tolist() == [5, 700, 31]
    assert actions.neighbours(actions.vectors[:2], 40).shape == (2, 40)


def test_scores_show_the_best_first() -> None:
    envs = make_vector_env(4, "contentwise", action="scores", candidates=30)
    envs.reset(seed=0)
    scores = np.random.default_rng(0).uniform(-1, 1, (4, 30)).astype(np.float32)
    *_, info = envs.step(scores)
    popular = envs.actions.candidates.table[0].numpy()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(info["slate"], popular[np.argsort(-scores, 1)[:, :10]])
    layered = make_vector_env(2, "rl4rs", action="scores", paged=False)
    layered.reset(seed=0)
    *_, info = layered.step(np.zeros((2, 283), np.float32))
    assert not info["invalid"].any()


def test_arms_show_what_they_hold() -> None:
    world = make_world("contentwise", num_users=2)
    arms = torch.arange(30).view(3, 10)
    envs = RecSimVectorEnv(world, ArmActions(world, arms=arms))
    envs.reset(seed=0)
    *_, info = envs.step(np.array([2, 0]))
    np.testing.assert_array_equal(info["slate"], arms[[2, 0]].numpy())
    single = single_item_arms(world, Candidates(world))[7]
    assert single.tolist() == [7] + [-1] * 9
    assert envs.action_masks().shape == (2, 3)


def test_random_candidates_differ_and_belong_to_the_user() -> None:
    world = make_world("contentwise", num_users=64, seed=3)
    offered = RandomCandidates(world, 40)(world, None)
    assert all(len(set(row)) == 40 for row in offered.tolist())
    counts = torch.bincount(offered.flatten(), minlength=world.n_items)
    assert counts.max() < 15  # 2,560 draws of 1,000 items
    alone = make_world("contentwise", num_users=1, seed=3, first_user=5)
    assert torch.equal(RandomCandidates(alone, 40)(alone, None)[0], offered[5])
    for n, size in ((1, 1), (2, 2), (12, 12), (97, 97)):
        small = make_world("contentwise", num_users=3)
        small.n_items = n
        rows = RandomCandidates(small, size)(small, None).tolist()
        assert all(sorted(row) == list(range(n)) for row in rows)


def test_offered_candidates_are_what_is_shown() -> None:
    envs = make_vector_env(5, "contentwise", candidates=20, retrieval="random", horizon=3)
    observation, _ = envs.reset(seed=0)
    features = envs.world.catalogue.features
    for _ in range(8):
        offered = observation["candidate"]
        np.testing.assert_allclose(
            observation["candidate_features"], features[offered].reshape(5, -1)
        )
        action = np.tile(np.arange(10), (5, 1))
        observation, _, _, _, info = envs.step(action)
        there = info["_slate"]
        np.testing.assert_array_equal(info["slate"][there], offered[there, :10])


def test_candidates_can_be_given() -> None:
    items = [5, 900, 31, *range(100, 110)]
    envs = make_vector_env(2, "contentwise", candidates=items)
    envs.reset(seed=0)
    *_, info = envs.step(np.tile(np.arange(10), (2, 1)))
    assert info["slate"][0].tolist() == items[:10]
    assert make_vector_env(2, "contentwise", action="arm", candidates=items).action_masks().all()
    for bad, message in (([1, 1000], "items 0 to 999"), ([1, 1], "twice"), ([], "items 0 to")):
        with pytest.raises(InputError, match=message):
            make_vector_env(2, "contentwise", candidates=bad)


def test_a_retrieval_policy_of_your_own() -> None:
    def unseen(world: Any, mask: Any) -> torch.Tensor:
        score = torch.rand(world.num_users, world.n_items)
        seen = world.episodes.slates.flatten(1).clamp(min=0)
        return score.scatter(1, seen, -1.0).topk(15, 1).indices

    envs = make_vector_env(4, "contentwise", retrieval=unseen, horizon=9)
    observation, _ = envs.reset(seed=0)
    for _ in range(4):
        for row, past in zip(observation["candidate"], observation["item"], strict=True):
            assert not set(row.tolist()) & set(past[past >= 0].tolist())
        observation, *_ = envs.step(envs.action_space.sample())
    with pytest.raises(InputError, match=r"candidates are \(4, 2\) torch.float32"):
        make_vector_env(4, "contentwise", retrieval=lambda world, mask: torch.zeros(4, 2))


def test_masks_are_those_of_maskable_ppo() -> None:
    envs = make_vector_env(4, "rl4rs", paged=False, autoreset_mode="SameStep", observe="flat")
    envs.reset(seed=0)
    masks = envs.action_masks()
    assert masks.shape == (4, 9 * 283)
    allowed = masks[0].reshape(9, 283)
    assert allowed.sum(1).tolist() == [39] * 3 + [108] * 3 + [136] * 3
    model = MaskablePPO("MlpPolicy", SB3VecEnv(envs), n_steps=4, batch_size=16, seed=0)
    model.learn(16)
    action, _ = model.predict(envs.observe(), action_masks=masks)
    assert all(allowed[s, item] for row in action for s, item in enumerate(row))
    few = make_vector_env(2, "rl4rs", paged=False, candidates=50)
    assert few.action_masks()[0].reshape(9, 50).sum(1).tolist() == [39] * 3 + [50] * 6
    assert make_vector_env(2, "contentwise").action_masks().all()
    with pytest.raises(InputError, match="no mask"):
        make_vector_env(2, "contentwise", action="proto").action_masks()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_bad_action_is_one_clear_error(data: st.DataObject) -> None:
    """Whatever is given: int64 actions in the space, or `InputError`, never another exception."""
    space = data.draw(
        st.sampled_from(
            [
                gym.spaces.MultiDiscrete([5, 5, 5]),
                gym.spaces.Discrete(4),
                gym.spaces.Box(-1.0, 1.0, (3,), np.float32),
            ]
        )
    )
    number = st.one_of(
        st.integers(-3, 8), st.floats(width=32), st.booleans(), st.none(), st.text(max_size=2)
    )
    thing = data.draw(st.recursive(number, lambda inner: st.lists(inner, max_size=4)))
    with np.errstate(all="ignore"), contextlib.suppress(InputError):
        array = ActionCheck(space, 2)(thing)
        assert all(space.contains(row) for row in array)


BAD = [
    ({"action": "score"}, "action 'score' is unknown; did you mean scores"),
    ({"retrieval": "randm"}, "retrieval 'randm' is unknown; did you mean random"),
    ({"retrieval": "random"}, "random candidates need their number"),
    ({"action": "proto", "candidates": 9}, "a proto-item is compared with the whole catalogue"),
    ({"action": "scores", "candidates": 9}, "9 candidates do not fill 10 positions"),
    ({"action": "arm", "candidates": 9, "retrieval": "random"}, "with action slate or scores"),
    ({"candidates": 1001}, "candidates must be 1 to 1000, not 1001"),
    ({"candidates": 2.5}, "candidates must be 1 to 1000, not 2.5"),
    ({"horizon": "a"}, "horizon must be a whole number"),
    ({"history": 0}, "history must be a whole number ≥ 1, not 0"),
    ({"warm_start": 99}, "warm_start is 99; the initial sessions hold 0 to 4"),
    ({"shift": {"click_rate": float("nan")}}, "shift by click_rate must be a finite number"),
    ({"shift": 3}, "shift must name traits"),
    ({"reward": 3}, "reward 3 names nothing"),
    ({"reward": ["clicks", "nove"]}, "reward 'nove' is unknown; did you mean novelty"),
    ({"reward": {"clicks": float("nan")}}, "weight of clicks must be a finite number"),
    ({"population": 3}, "population must be held_out, cold or a log, not 3"),
    ({"catalogue": 3}, "catalogue must be a Catalogue"),
    ({"leaving": 0.3}, "leaving is True, False or a Hazard"),
    ({"returns": "learnt"}, "returns 'learnt' is unknown: learned, rule"),
    ({"responder": 3}, "a responder is a folder, or several"),
    ({"one_member": True}, "one_member needs an ensemble"),
    ({"device": "gpu"}, "device 'gpu' is unknown: auto, cpu or cuda"),
    ({"device": None}, "device None is unknown"),
    ({"seed": 3}, r"pass the seed to reset\(seed=…\)"),
    ({"autoreset_mode": "same"}, "autoreset_mode 'same' is unknown; did you mean SameStep"),
    ({"warm_start": 1.0}, "warm_start is 1.0"),
    ({"retrieval": 5}, "retrieval 5 is unknown"),
    ({"retrieval": lambda world, mask: None}, "candidates must be a tensor"),
    ({"retrieval": lambda world, mask: None, "candidates": 5}, "decides how many"),
    ({"reward": [["clicks"]]}, "is unknown"),
    ({"shift": {3: 1.0}}, "shift by 3 is unknown"),
    ({"observe": 5}, "observe 5 is unknown"),
    ({"first_user": 1.5}, "gym.make has no setting 'first_user'"),
    ({"paged": "x"}, "paged must be true or false"),
    ({"one_member": 5}, "one_member must be true or false"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_options_without_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_vector_env(2, "contentwise", **options)


def test_layers_and_vectors_are_looked_after() -> None:
    pages = make_world("rl4rs", num_users=2)
    for name in ("arm", "scores"):
        with pytest.raises(InputError, match="layer"):
            make_actions(find_scenario("rl4rs", action=name, candidates=20), pages)
    for options in ({"observe": "flat"}, {"retrieval": "random"}):
        with pytest.raises(InputError, match="paged environments"):
            make_vector_env(2, "rl4rs", **options)
    world = make_world("contentwise", num_users=2)
    world.catalogue = replace(world.catalogue, features=None)
    assert item_vectors(world).shape[0] == 1000  # those that the responder learned
    world.responder = random_responder("item_ctr")
    with pytest.raises(InputError, match="proto-items need item features"):
        item_vectors(world)


def test_a_state_that_grows_is_no_observation() -> None:
    world = make_world("contentwise", num_users=2)
    flat = StateObservation(world)
    assert flat(world).shape == (2, flat.space.shape[0])
    world.responder = random_responder("pbm")
    world.episodes = replace(world.episodes, memory={})
    with pytest.raises(InputError, match="remembers nothing"):
        StateObservation(world)
    world.responder = random_responder("session_transformer")
    world.episodes = replace(world.episodes, memory=world.responder.start(torch.zeros(2, 2)))
    world.n_positions = 4
    with pytest.raises(InputError, match="grows with the session"):
        StateObservation(world)
