"""Pages that are chosen item by item."""

import gymnasium as gym
import numpy as np

PAGES = "RecSim-RL4RS-v0"


def test_pages_are_built_item_by_item() -> None:
    env = gym.make(PAGES).unwrapped
    observation, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    page = []
    for position in range(9):
        assert observation["position"][0] == position
        assert observation["page"][:position].tolist() == page
        mask = info["action_mask"].astype(bool)
        np.testing.assert_array_equal(mask, env.action_masks())
        layer = env.vector.world.catalogue.attributes["layer"]
        assert (layer[mask] == position // 3 + 1).all()
        assert not mask[page].any()
        page.append(int(rng.choice(np.flatnonzero(mask))))
        observation, reward, _terminated, _truncated, info = env.step(page[-1])
        assert (reward > 0) == (position == 8)
    assert reward < env.vector.world.catalogue.price[page].sum()
    assert observation["item"][-9:].tolist() == page
    assert observation["position"][0] == 0


def test_an_invalid_page_earns_nothing() -> None:
    env = gym.make(PAGES).unwrapped
    env.reset(seed=0)
    for item in [200, *range(8)]:  # the first item is of the third layer
        _, reward, _, _, info = env.step(item)
    assert info["invalid"]
    assert reward == 0


def test_rl4rs_sessions_have_at_most_four_pages() -> None:
    env = gym.make_vec(PAGES, num_envs=64)
    _, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    lengths, length = [], np.zeros(64, int)
    for _ in range(90):
        actions = [rng.choice(np.flatnonzero(mask)) for mask in info["action_mask"]]
        _, _, terminated, truncated, info = env.step(np.array(actions))
        done = terminated | truncated
        length += info.get("_response", 0)
        lengths += length[done].tolist()
        length[done] = 0
    assert set(lengths) == {3, 4}


def test_pages_take_items_as_arms() -> None:
    env = gym.make("RecSim-RL4RS-v0", action="arm")
    assert env.action_space == gym.spaces.Discrete(283)
