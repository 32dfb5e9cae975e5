"""The batched core: reproducible per user, and its invariants."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils._pytree import tree_leaves

from recsim_env.make import make_world
from recsim_env.streams import UserStreams
from recsim_env.world import World, blank_duplicates
from responders import Catalogue, InputError
from responders.behaviour.leaving import Hazard
from responders.behaviour.returns import Returns
from responders.behaviour.slate_rules import SlateRules
from responders.compiling import FEW_USERS
from responders.training.checkpoint import load_responder
from tests.conftest import EVERY_RESPONDER, random_responder


def small(trained: Path, **options: Any) -> World:
    users = load_responder(trained)
    return World(users.responder, users.initial_sessions, users.hazard, **options)


def play(world: World, steps: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Random slates from a generator per user, so that they do not depend on the batch either."""
    world.reset(seed=seed)
    first = world.first_user
    draws = [np.random.default_rng(first + i) for i in range(world.num_users)]
    seen = []
    for _ in range(steps):
        slate = [rng.choice(world.n_items, world.n_positions, replace=False) for rng in draws]
        outcome = world.step(torch.from_numpy(np.stack(slate)))
        seen.append(vars(outcome) | {"user": world.episodes.user})
        world.reset(outcome.left | outcome.truncated)
    return seen


@pytest.mark.parametrize("num_users", [5, FEW_USERS + 1])
@pytest.mark.parametrize("returns", [None, Returns.rule()])
def test_a_user_does_not_depend_on_the_other_users(
    trained: Path, num_users: int, returns: Returns | None
) -> None:
    """Also where few users step in compiled loops and many do not, over episodes and visits."""
    together = play(small(trained, num_users=num_users, horizon=6, returns=returns), 30)
    for user in (0, 2, 4):
        alone = play(small(trained, num_users=1, first_user=user, horizon=6, returns=returns), 30)
        for step, (one, all_) in enumerate(zip(alone, together, strict=True)):
            for name in one:
                torch.testing.assert_close(
                    one[name][0], all_[name][user], atol=1e-5, rtol=1e-5, msg=f"{name} at {step}"
                )


def test_same_seed_same_episode(trained: Path) -> None:
    world = small(trained, num_users=8)
    one, again, other = play(world, 10, 1), play(world, 10, 1), play(world, 10, 2)
    for a, b in zip(one, again, strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a["click"], b["click"]) for a, b in zip(one, other, strict=True))


def test_invariants_hold_over_many_steps(trained: Path) -> None:
    world = small(trained, num_users=64, horizon=9, history=3)
    generator = torch.Generator().manual_seed(0)
    world.reset(seed=0)
    shown_before = world.episodes.slates.clone()
    for _ in range(60):
        slate = torch.randint(-1, world.n_items, (64, world.n_positions), generator=generator)
        outcome = world.step(slate)
        assert ((outcome.probability >= 0) & (outcome.probability <= 1)).all()
        assert not outcome.click[outcome.slate < 0].any()
        assert torch.equal(outcome.reward, outcome.click.sum(1).float())
        assert not (outcome.left & outcome.truncated).any()
        assert torch.equal(world.episodes.slates[:, -1], outcome.slate)
        assert torch.equal(world.episodes.clicks[:, -1], outcome.click)
        assert torch.equal(world.episodes.slates[:, :-1], shown_before[:, 1:])
        assert (world.episodes.step <= 9).all()
        world.reset(outcome.left | outcome.truncated)
        shown_before = world.episodes.slates.clone()


def test_reset_of_some_leaves_the_others_alone(trained: Path) -> None:
    world = small(trained, num_users=6)
    play(world, 4)
    mask = torch.tensor([True, False, True, False, False, False])
    before = [value.clone() for value in tree_leaves(world.episodes.memory)]
    steps, history = world.episodes.step.clone(), world.episodes.slates.clone()
    world.reset(mask)
    for old, new in zip(before, tree_leaves(world.episodes.memory), strict=True):
        assert torch.equal(new[~mask], old[~mask])
    assert torch.equal(world.episodes.step, steps.masked_fill(mask, 0))
    assert torch.equal(world.episodes.slates[~mask], history[~mask])
    assert (world.episodes.slates[mask] == -1).all()


def test_a_masked_step_moves_the_masked_users_only(trained: Path) -> None:
    world, alone = (small(trained, num_users=4) for _ in range(2))
    slate = torch.arange(world.n_positions).expand(4, -1).contiguous()
    for w in (world, alone):
        w.reset(seed=3)
    mask = torch.tensor([True, False, True, False])
    outcome = world.step(slate, mask)
    whole = alone.step(slate)
    assert torch.equal(outcome.click[mask], whole.click[mask])
    assert (outcome.probability[~mask] == 0).all()
    assert torch.equal(world.episodes.step, mask.long())
    assert torch.equal(world.step(slate).click[~mask], whole.click[~mask])


@settings(max_examples=20, deadline=None)
@given(
    by_streak=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    weights=st.tuples(*3 * [st.sampled_from([0.0, -1.5, 0.5])]),
    min_slates=st.integers(1, 4),
    max_slates=st.none() | st.integers(3, 8),
)
def test_few_users_leave_as_many_do(
    trained: Path,
    by_streak: list[float],
    weights: tuple[float, float, float],
    min_slates: int,
    max_slates: int | None,
) -> None:
    """Few users leave in compiled loops, many in PyTorch."""
    hazard = Hazard(tuple(by_streak), min_slates, weights, max_slates)
    users = load_responder(trained)
    few, many = (
        World(users.responder, users.initial_sessions, hazard, num_users=n)
        for n in (3, FEW_USERS + 1)
    )
    for one, all_ in zip(play(few, 8), play(many, 8), strict=True):
        torch.testing.assert_close(one["leave_chance"], all_["leave_chance"][:3])
        assert torch.equal(one["left"], all_["left"][:3])


def test_users_leave_by_the_hazard_and_never_without_one(trained: Path) -> None:
    users = load_responder(trained)
    staying = World(users.responder, users.initial_sessions, None, num_users=50, horizon=30)
    staying.reset(seed=0)
    slate = torch.arange(staying.n_positions).expand(50, -1).contiguous()
    for step in range(1, 31):
        outcome = staying.step(slate)
        assert not outcome.left.any()
        assert outcome.truncated.all() == (step == 30)
    leaving = small(trained, num_users=500)
    leaving.reset(seed=0)
    slate = slate[:1].expand(500, -1)
    left = [leaving.step(slate).left for _ in range(3)]
    assert not left[0].any()
    assert not left[1].any(), "nobody leaves before min_slates"
    assert 0 < left[2].sum() < 150


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 7).flatmap(lambda n: st.lists(st.tuples(*n * [st.integers(-1, 4)]), min_size=1))
)
def test_later_copies_are_blanked(slates: list[tuple[int, ...]]) -> None:
    shown, copies = blank_duplicates(torch.tensor(slates))
    many = [t[: len(slates)] for t in blank_duplicates(torch.tensor(slates * (FEW_USERS + 1)))]
    assert torch.equal(shown, many[0])
    assert torch.equal(copies, many[1])
    for items, row, n_copies in zip(slates, shown.tolist(), copies.tolist(), strict=True):
        first = [i >= 0 and i not in items[:place] for place, i in enumerate(items)]
        assert row == [i if new else -1 for i, new in zip(items, first, strict=True)]
        assert n_copies == sum(i >= 0 for i in items) - sum(first)


def test_streams_are_uniform_and_apart() -> None:
    numbers = UserStreams(200, seed=0).uniform(500)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    flat = numbers.flatten().numpy()
    assert stats.kstest(flat, "uniform").pvalue > 1e-3
    neighbours = np.corrcoef(numbers[:-1].flatten(), numbers[1:].flatten())[0, 1]
    serial = np.corrcoef(flat[:-1], flat[1:])[0, 1]
    assert abs(neighbours) < 0.015
    assert abs(serial) < 0.015
    other = UserStreams(200, seed=1).uniform(500).flatten().numpy()
    assert abs(np.corrcoef(flat, other)[0, 1]) < 0.015


def test_streams_continue_and_wait() -> None:
    whole = UserStreams(3, seed=5).uniform(8)
    parts = UserStreams(3, seed=5)
    assert torch.equal(torch.cat([parts.uniform(3), parts.uniform(5)], 1), whole)
    waiting = UserStreams(3, seed=5)
    waiting.uniform(3, torch.tensor([True, False, True]))
    assert torch.equal(waiting.uniform(5)[1], whole[1, :5])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["all", "mask"]), st.integers(1, 6), st.integers(0, 31))))
def test_streams_draw_the_same_in_every_way(draws: list[tuple[str, int, int]]) -> None:
    """In compiled loops for few users; by NumPy and by PyTorch for many."""
    few, *many = UserStreams(5, seed=3), *(UserStreams(FEW_USERS + 5, seed=3) for _ in range(2))
    many[0]._by_numpy = False
    for way, n, bits in draws:
        mask = torch.tensor([bits >> i & 1 == 1 for i in range(FEW_USERS + 5)])
        one = few.uniform(n, None if way == "all" else mask[:5])[mask[:5]]
        for streams in many:
            two = streams.uniform(n, None if way == "all" else mask)[:5][mask[:5]]
            assert torch.equal(one, two)


@pytest.mark.parametrize("seed", [-1, 1.5, "0", True, None])
def test_bad_seeds_are_refused(seed: Any) -> None:
    with pytest.raises(InputError, match="seed must be a whole number"):
        UserStreams(1, seed)


def rl4rs_rules() -> SlateRules:
    layer = np.repeat([1, 2, 3], 4)
    special = np.zeros(12, bool)
    special[[4, 5, 9]] = True
    return SlateRules.of(Catalogue(range(12), attributes={"layer": layer, "special": special}), 6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_chosen_slates_keep_the_rules(seed: int) -> None:
    rules = rl4rs_rules()
    score = torch.rand(5, 12, generator=torch.Generator().manual_seed(seed))
    slate = rules.choose(score)
    assert not rules.broken(slate).any()
    assert (slate >= 0).all()
    assert all(len(set(row)) == 6 for row in slate.tolist())
    for s in range(6):
        mask = rules.mask(slate, s)
        assert mask.gather(1, slate[:, s : s + 1]).all()


@pytest.mark.parametrize("layers", [True, False])
def test_slates_are_not_chosen_by_nan(layers: bool) -> None:
    rules = rl4rs_rules() if layers else SlateRules(12, 6)
    score = torch.rand(2, 12)
    score[1, 3] = torch.nan
    with pytest.raises(InputError, match="scores of items are NaN"):
        rules.choose(score)


def test_excluded_items_fill_a_slate_where_nothing_else_is_valid() -> None:
    rules = rl4rs_rules()
    score = torch.full((1, 12), -torch.inf)
    score[0, 8] = 1.0
    slate = rules.choose(score)
    assert not rules.broken(slate).any()
    assert 8 in slate[0]
    assert len(set(slate[0].tolist())) == 6
    assert torch.equal(rules.choose(score.nan_to_num(neginf=-9).long()), slate)


def test_broken_slates_are_seen_and_earn_nothing() -> None:
    rules = rl4rs_rules()
    slates = torch.tensor([[0, 1, 6, 7, 8, 10], [6, 1, 0, 7, 8, 10], [0, 1, 4, 5, 8, 10]])
    assert rules.broken(slates).tolist() == [False, True, True]
    world = make_world("rl4rs", num_users=2)
    good = world.rules.choose(torch.rand(1, world.n_items))
    wrong_layer = good.flip(1)
    outcome = world.step(torch.cat([good, wrong_layer]))
    assert outcome.invalid.tolist() == [False, True]
    assert outcome.reward[0] > 0
    assert outcome.reward[1] == 0


def test_warm_start_shows_logged_slates_first(trained: Path) -> None:
    world = small(trained, num_users=5, warm_start=2, history=4)
    log = world.initial_sessions
    for user in range(5):
        rows = log.rows([int(world.episodes.user[user])])[:2]
        np.testing.assert_array_equal(world.episodes.slates[user, -2:], log.slate[rows])
        np.testing.assert_array_equal(world.episodes.clicks[user, -2:], log.response[rows])
    assert (world.episodes.step == 0).all()
    cold = small(trained, num_users=5)
    assert not torch.equal(world.episodes.memory["hidden"], cold.episodes.memory["hidden"])
    with pytest.raises(InputError, match="warm_start is 9; the initial sessions hold 0 to 4"):
        small(trained, warm_start=9)


def test_bad_slates_and_sizes_are_named(trained: Path) -> None:
    world = small(trained, num_users=2)
    n = world.n_positions
    for slate, message in [
        (torch.zeros(2, n), "dtype torch.float32"),
        (torch.zeros(2, n + 1, dtype=torch.int64), "2 users × 5 positions"),
        (torch.full((2, n), 40), "items 0 to 39"),
    ]:
        with pytest.raises(InputError, match=message):
            world.check(slate)
    for name in ("num_users", "horizon", "history"):
        with pytest.raises(InputError, match=f"{name} must be a whole number of at least 1"):
            small(trained, **{name: 0})
    with pytest.raises(InputError, match="a seed resets all users"):
        world.reset(torch.ones(2, dtype=torch.bool), seed=1)


@pytest.mark.parametrize("name", EVERY_RESPONDER)
def test_a_world_of_any_responder(name: str, trained: Path) -> None:
    """Users come and go at different times, and each is the same as alone; nothing is NaN."""
    shape = load_responder(trained).responder.shape
    users = load_responder(trained)

    def world(**options: Any) -> World:
        responder = random_responder(name, shape.n_items, shape.n_positions, shape.n_user_features)
        return World(responder, users.initial_sessions, users.hazard, horizon=5, **options)

    together = play(world(num_users=4), 12)
    alone = play(world(num_users=1, first_user=2), 12)
    for step, (all_, one) in enumerate(zip(together, alone, strict=True)):
        probability = all_["probability"]
        assert ((probability >= 0) & (probability <= 1)).all()
        assert not (all_["click"] & (all_["slate"] < 0)).any()
        torch.testing.assert_close(
            one["probability"][0], probability[2], atol=1e-5, rtol=1e-5, msg=f"step {step}"
        )
