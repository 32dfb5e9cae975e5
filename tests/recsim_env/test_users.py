"""Whom a world simulates: populations, return visits, ensembles, new items, vector rewards."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from recsim_env.adapters.wrappers import (
    PenaliseDisagreement,
    ScalariseReward,
    VectorPenaliseDisagreement,
    VectorScalariseReward,
)
from recsim_env.loading import with_items
from recsim_env.make import make_vector_env, make_world, open_responder
from recsim_env.population import shift_weights
from responders import Catalogue, InputError, SessionLog, Users
from responders.behaviour.leaving import Hazard, fit_hazard, leave_chance
from responders.behaviour.returns import Returns, draw_return, fit_returns
from responders.training.checkpoint import load_responder
from responders.training.fit import fit

SLATES = "RecSim-ContentWise-v0"


@pytest.fixture(scope="module")
def second(small_log: SessionLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another responder of the small log."""
    out = tmp_path_factory.mktemp("runs") / "pbm"
    fit(small_log, "pbm", out, {}, progress=False)
    return out


def random_slates(world: Any, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(world.num_users, world.n_items, generator=generator)
    return noise.topk(world.n_positions, 1).indices


# Leaving.


def logistic_log(sessions: int = 3000) -> SessionLog:
    """Users leave the sooner the more slates they have seen; clicks are tossed coins."""
    rng = np.random.default_rng(0)
    length = np.zeros(sessions, int)
    for i in range(sessions):
        while length[i] < 40:
            length[i] += 1
            if rng.random() < 1 / (1 + np.exp(4 - 1.5 * np.log1p(length[i]))):
                break
    total = int(length.sum())
    return SessionLog(
        slate=np.zeros((total, 1)),
        response=rng.integers(0, 2, (total, 1)),
        session_start=np.r_[0, np.cumsum(length)],
        user=np.arange(sessions),
        time=np.arange(total),
        catalogue=Catalogue([0]),
        users=Users(np.arange(sessions)),
    )


def test_the_hazard_head_finds_what_the_streak_does_not_tell(small_log: SessionLog) -> None:
    log = logistic_log()
    hazard = fit_hazard(log, np.arange(log.n_sessions))
    assert any(hazard.weights)
    step = torch.arange(1, 30)
    found = leave_chance(hazard.tables(), step * 0, step, step * 0 + 1, step // 2 + 1)
    true = torch.sigmoid(1.5 * torch.log1p(step.float()) - 4)
    assert (found - true).abs().max() < 0.06
    by_streak = fit_hazard(small_log, np.arange(small_log.n_sessions))
    assert not any(by_streak.weights)  # the known truth leaves by the streak alone


def test_a_rule_makes_users_leave(trained: Path) -> None:
    world = make_world("any", responder=trained, num_users=300, leaving=Hazard((0.0, 0.0, 1.0)))
    for _ in range(4):
        before = world.episodes.streak.clone()
        outcome = world.step(random_slates(world))
        without_click = ~outcome.click.any(1)
        assert torch.equal(outcome.left, without_click & (before >= 1))
        world.reset(outcome.left)
    with pytest.raises(InputError, match="chances between 0 and 1"):
        Hazard((0.1, 1.5))
    whole = make_world("any", responder=trained, leaving=Hazard((0.1,), weights=(0, 0, 1)))
    whole.step(random_slates(whole))
    for weights in ((0.0, 1.0), (0.0, 1.0, np.nan)):
        with pytest.raises(InputError, match=r"of (a|the) hazard"):
            Hazard((0.1,), weights=weights)  # type: ignore[arg-type]


# Coming back.


def visits_log(users: int = 400, visits: int = 6) -> SessionLog:
    """Users who click come back after an hour, those who do not after ten, or never."""
    rng = np.random.default_rng(1)
    rows: list[tuple[int, int, int]] = []
    for user in range(users):
        time = int(rng.integers(0, 20_000))
        for _ in range(visits):
            click = int(rng.random() < 0.5)
            rows.append((user, time, click))
            if rng.random() > (0.9 if click else 0.4):
                break
            time += 3_600 if click else 36_000
    user, time, click = (np.array(column) for column in zip(*rows, strict=True))
    return SessionLog(
        slate=np.zeros((len(rows), 1)),
        response=click[:, None],
        session_start=np.arange(len(rows) + 1),
        user=user,
        time=time,
        catalogue=Catalogue([0]),
        users=Users(np.arange(users)),
    )


def test_returns_are_learned_by_the_clicks_of_the_visit() -> None:
    log = visits_log()
    returns = fit_returns(log, np.arange(log.n_sessions))
    assert returns is not None
    assert returns.chance[1] > returns.chance[0] + 0.15
    assert returns.gap[1][16] == pytest.approx(3_600)
    assert returns.gap[0][16] == pytest.approx(36_000)
    alone = log.select(np.unique(log.user, return_index=True)[1])
    assert fit_returns(alone, np.arange(alone.n_sessions)) is None
    assert Returns.from_json(json.loads(json.dumps(asdict(returns)))) == returns


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ((0.0, (0,), (0.5,), ((0.0, 0.0),)), "window must be more than 0"),
        ((9.0, (0,), (0.5,), ((0.0, 10.0),)), "gaps must ascend within 0 and the window"),
        ((9.0, (0,), (0.5,), ((3.0, 1.0),)), "gaps must ascend"),
        ((9.0, (1,), (0.5,), ((0.0, 1.0),)), "ascending from 0"),
        ((9.0, (0,), (1.5,), ((0.0, 1.0),)), "chances to come back"),
        ((9.0, (0, 2), (0.5, 0.5), ((0.0, 1.0), (0.0, 1.0, 2.0))), "same number of quantiles"),
    ],
)
def test_tables_of_returns_must_fit(tables: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Returns(*tables)
    with pytest.raises(InputError, match="days must be more than 0"):
        Returns.rule(days=0)


def test_draws_follow_the_tables() -> None:
    returns = Returns(10.0, (0, 2), (0.25, 0.75), ((0.0, 1.0), (4.0, 8.0)))
    uniform = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    clicks = torch.arange(4000) % 4
    back, gap = draw_return(returns.tables(), clicks, uniform)
    many = clicks >= 2
    assert back[many].float().mean() == pytest.approx(0.75, abs=0.04)
    assert back[~many].float().mean() == pytest.approx(0.25, abs=0.04)
    assert gap[many].mean() == pytest.approx(6, abs=0.1)
    assert gap[~many].max() <= 1


def test_users_come_back_and_retention_is_paid(trained: Path) -> None:
    world = make_world(
        "any", responder=trained, num_users=200, returns="rule", reward=("clicks", "retention"),
        horizon=25,
    )  # fmt: skip
    came = 0
    for step in range(20):
        clicks, visit, streak = (
            world.episodes.visit_clicks.clone(),
            world.episodes.visit.clone(),
            world.episodes.streak,
        )
        outcome = world.step(random_slates(world, step))
        back = outcome.returned
        came += int(back.sum())
        assert not (back & outcome.left).any()
        assert torch.equal(world.episodes.visit, visit + back)
        assert (world.episodes.visit_step[back] == 0).all()
        assert (world.episodes.streak[back] == 0).all()
        assert torch.equal(
            world.episodes.visit_clicks[~back], (clicks + outcome.click.sum(1))[~back]
        )
        assert torch.equal(outcome.reward[:, 1] > 0, back & (outcome.gap < 7 * 86_400))
        fresh = world.population.memory["hidden"][world.episodes.user]
        torch.testing.assert_close(world.episodes.memory["hidden"][back], fresh[back])
        assert (world.episodes.slates[back, -1] == outcome.slate[back]).all()
        world.reset(outcome.left | outcome.truncated)
        assert streak is not None
    assert came > 50
    with pytest.raises(InputError, match="no user with two sessions"):
        make_world("any", responder=trained, returns="learned")
    with pytest.raises(InputError, match="retention' needs users who come back"):
        make_world("any", responder=trained, reward="retention")


def test_learned_returns_travel_with_the_checkpoint(tmp_path: Path) -> None:
    log = visits_log()
    fit(log, "item_ctr", tmp_path / "run", {}, progress=False)
    users = load_responder(tmp_path / "run")
    assert users.returns is not None
    envs = make_vector_env(3, responder=users, returns="learned", warm_start=0)
    observation, _ = envs.reset(seed=0)
    assert observation["visit"].shape == (3, 1)
    *_, info = envs.step(envs.action_space.sample())
    assert {"returned", "return_gap"} <= set(info)


def test_episodes_with_returns_do_not_depend_on_who_runs_beside(trained: Path) -> None:
    options: dict[str, Any] = {"responder": trained, "returns": "rule", "leaving": Hazard((0.3,))}
    together = make_world("any", num_users=4, **options)
    alone = make_world("any", num_users=1, first_user=2, **options)
    for step in range(12):
        slate = random_slates(together, step)
        many, one = together.step(slate), alone.step(slate[2:3])
        for name in ("click", "returned", "gap", "left"):
            torch.testing.assert_close(getattr(many, name)[2:3], getattr(one, name))
        for world, outcome in ((together, many), (alone, one)):
            world.reset(outcome.left)


# Populations.


def test_populations(trained: Path, small_log: SessionLog, small_log_path: Path) -> None:
    own = make_world("any", responder=trained, num_users=50)
    cold = make_world("any", responder=trained, num_users=50, population="cold")
    assert len(torch.unique(own.features, dim=0)) > 1
    assert len(torch.unique(cold.features, dim=0)) == 1
    torch.testing.assert_close(cold.features[0], own.features.mean(0))
    given = make_world("any", responder=trained, num_users=50, population=small_log_path)
    assert given.initial_sessions.n_sessions == small_log.n_sessions
    assert "clicked" in given.catalogue.attributes
    with pytest.raises(InputError, match="'held_ot' is not a log or a name; did you mean held_out"):
        make_world("any", responder=trained, population="held_ot")
    other = replace(small_log, catalogue=Catalogue(np.arange(7, 47)))
    with pytest.raises(InputError, match="another catalogue"):
        make_world("any", responder=trained, population=other)


def test_a_shift_names_the_features_of_users(trained: Path) -> None:
    log = load_responder(trained).initial_sessions
    names = tuple(f"user_{k}" for k in range(log.users.features.shape[1]))
    named = replace(log, users=replace(log.users, feature_names=names))
    np.testing.assert_array_equal(
        shift_weights(named, {"user_0": 1.0}), shift_weights(log, {"feature_0": 1.0})
    )
    with pytest.raises(InputError, match=r"shift by 'feature_0' is unknown; .*user_0"):
        shift_weights(named, {"feature_0": 1.0})


def test_a_shift_tilts_who_comes(trained: Path) -> None:
    contexts = load_responder(trained).initial_sessions
    weights = shift_weights(contexts, {"feature_0": 1.0})
    trait = contexts.users.features[contexts.user, 0]
    z = (trait - trait.mean()) / trait.std()
    np.testing.assert_allclose(np.log(weights), z - z.max(), atol=1e-5)
    plain, tilted = (
        make_world("any", responder=trained, num_users=2000, shift=shift)
        for shift in (None, {"feature_0": 1.5})
    )
    means = [float(world.features[world.episodes.user, 0].mean()) for world in (plain, tilted)]
    assert means[1] > means[0] + 0.5 * trait.std()
    expected = float((trait * shift_weights(contexts, {"feature_0": 1.5})).sum())
    expected /= float(shift_weights(contexts, {"feature_0": 1.5}).sum())
    assert means[1] == pytest.approx(expected, abs=0.15 * float(trait.std()))
    few = make_world("any", responder=trained, num_users=2000, shift={"click_rate": -2.0})
    rate = contexts.response.mean(1)[contexts.session_start[:-1]]
    assert rate[few.episodes.user.numpy()].mean() < rate.mean()
    with pytest.raises(
        InputError, match="shift by 'clickrate' is unknown; did you mean click_rate"
    ):
        make_world("any", responder=trained, shift={"clickrate": 1.0})


# Ensembles.


def test_an_ensemble_says_how_far_it_disagrees(trained: Path, second: Path) -> None:
    envs = make_vector_env(6, responder=[trained, second])
    envs.reset(seed=0)
    *_, info = envs.step(envs.action_space.sample())
    assert info["disagreement"].shape == (6, 5)
    assert (info["disagreement"] > 0).any()
    alone = make_vector_env(6, responder=[trained])
    alone.reset(seed=0)
    assert (alone.step(alone.action_space.sample())[-1]["disagreement"] == 0).all()


def test_one_member_answers_each_episode(trained: Path, second: Path) -> None:
    world = make_world(
        "any", responder=[trained, second], num_users=400, one_member=True, leaving=False, seed=1
    )
    assert world.episodes.member is not None
    member = world.episodes.member.clone()
    assert 0.4 < member.float().mean() < 0.6
    slate = random_slates(world)
    state = world.episodes.memory
    outcome = world.step(slate)
    with torch.inference_mode():
        both = torch.stack(
            [
                m.logits(state["members"][i], slate, outcome.click.float())  # type: ignore[operator]
                for i, m in enumerate(world.responder.members)
            ]
        ).sigmoid()
    expected = both[member, torch.arange(400)]
    torch.testing.assert_close(outcome.probability, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(world.episodes.member, member)
    world.reset(torch.arange(400) < 200)
    assert torch.equal(world.episodes.member[200:], member[200:])
    assert not torch.equal(world.episodes.member[:200], member[:200])
    envs = make_vector_env(8, responder=[trained, second], one_member=True)
    _, info = envs.reset(seed=0)
    assert set(np.unique(info["member"])) <= {0, 1}
    with pytest.raises(InputError, match="one_member needs an ensemble"):
        make_world("any", responder=trained, one_member=True)


def test_members_must_share_a_catalogue(trained: Path, small_log: SessionLog) -> None:
    with pytest.raises(InputError, match="another catalogue"):
        open_responder([trained, *[Path(__file__).parents[2] / "recsim_env/assets/contentwise"]])
    with pytest.raises(InputError, match="at least one responder"):
        open_responder([])


def test_disagreement_can_be_penalised(trained: Path, second: Path) -> None:
    options: dict[str, Any] = {"responder": [str(trained), str(second)]}
    envs = [gym.make_vec("RecSim-v0", num_envs=4, **options) for _ in range(2)]
    wrapped = VectorPenaliseDisagreement(envs[1], 2.0)
    one, two = (env.reset(seed=5) for env in (envs[0], wrapped))
    action = envs[0].action_space.sample()
    _, plain, *_, info = envs[0].step(action)
    _, reward, *_ = wrapped.step(action)
    np.testing.assert_allclose(reward, plain - 2 * info["disagreement"].sum(1))
    assert one[0].keys() == two[0].keys()
    single = PenaliseDisagreement(gym.make("RecSim-v0", **options), 2.0)
    single.reset(seed=0)
    single.step(single.action_space.sample())
    in_world = make_world("any", reward={"clicks": 1.0, "disagreement": -2.0}, **options)
    outcome = in_world.step(random_slates(in_world))
    expected = outcome.click.sum(1) - 2 * outcome.disagreement.sum(1)
    torch.testing.assert_close(outcome.reward, expected)
    with pytest.raises(InputError, match="give several responders"):
        PenaliseDisagreement(gym.make(SLATES))
    with pytest.raises(InputError, match="needs an ensemble"):
        make_world(reward="disagreement")


# New items.


def test_new_items_are_answered_by_their_features(small_log: SessionLog, tmp_path: Path) -> None:
    fit(small_log, "session_gru", tmp_path / "run", {"epochs": 1, "embedding": "content"},
        progress=False)  # fmt: skip
    users = load_responder(tmp_path / "run")
    old = users.initial_sessions.catalogue
    twin, opposite = old.features[3], -old.features[3]
    more = old.extended([1000, 1001], [twin, opposite])
    np.testing.assert_array_equal(more.features[-2:], [twin, opposite])
    with pytest.raises(InputError, match="features of new items has shape"):
        old.extended([1000], [[1.0]])
    world = make_world("any", responder=users, catalogue=more, num_users=1)
    assert world.n_items == len(old) + 2
    state = world.episodes.memory
    a, b = torch.full((1, 5), -1), torch.full((1, 5), -1)
    a[0, 0], b[0, 0] = len(old), len(old) + 1
    with torch.inference_mode():
        first, second = (world.responder.logits(state, slate)[0, 0] for slate in (a, b))
    assert first != second
    outcome = world.step(torch.tensor([[len(old), len(old) + 1, 0, 1, 2]]))
    assert torch.isfinite(outcome.probability).all()
    assert len(users.initial_sessions.catalogue) == len(old)  # the given users stay as they were
    assert with_items(users, old) is users
    with pytest.raises(InputError, match="another catalogue"):
        make_world("any", responder=users, catalogue=Catalogue(np.arange(3)))


def test_new_items_do_not_move_the_layers_of_the_others() -> None:
    users = open_responder(Path(__file__).parents[2] / "recsim_env/assets/rl4rs")
    old = users.initial_sessions.catalogue
    plain = make_world("rl4rs", responder=users).rules.allowed
    unknown = make_world("rl4rs", responder=users, catalogue=old.extended([10**6])).rules.allowed
    assert plain is not None
    assert unknown is not None
    assert torch.equal(unknown[:, :-1], plain)
    assert not unknown[:, -1].any()
    more = old.extended([10**6])
    layer = more.attributes["layer"].copy()
    layer[-1] = 3
    known = replace(more, attributes=more.attributes | {"layer": layer})
    allowed = make_world("rl4rs", responder=users, catalogue=known).rules.allowed
    assert allowed is not None
    assert allowed[:, -1].tolist() == [False] * 6 + [True] * 3


def test_true_users_know_their_own_items_alone(small_log_path: Path) -> None:
    users = open_responder(small_log_path)
    old = users.initial_sessions.catalogue
    more = old.extended([1000])
    with pytest.raises(InputError, match="true users"):
        with_items(users, more)


# Several rewards.


def test_vector_rewards_and_their_weighted_sum() -> None:
    names = ("clicks", "diversity", "novelty", "satisfaction")
    envs = gym.make_vec(SLATES, num_envs=8, reward=names)
    envs.reset(seed=0)
    assert envs.unwrapped.reward_space.shape == (4,)
    action = envs.action_space.sample()
    _, reward, *_, info = envs.step(action)
    assert reward.shape == (8, 4)
    np.testing.assert_array_equal(reward[:, 0], info["response"].sum(1))
    assert ((reward[:, 3] >= 0) & (reward[:, 3] <= 1)).all()
    weights = [1.0, 0.5, 0.1, 2.0]
    again = VectorScalariseReward(gym.make_vec(SLATES, num_envs=8, reward=names), weights)
    again.reset(seed=0)
    np.testing.assert_allclose(again.step(action)[1], reward @ weights, rtol=1e-6)
    mixed = gym.make_vec(SLATES, num_envs=8, reward=dict(zip(names, weights, strict=True)))
    mixed.reset(seed=0)
    np.testing.assert_allclose(mixed.step(action)[1], reward @ weights, rtol=1e-5)
    env = gym.make(SLATES, reward=names, disable_env_checker=True)  # it wants numbers
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[1].shape == (4,)
    one = ScalariseReward(env, weights)
    one.reset(seed=0)
    assert isinstance(one.step(one.action_space.sample())[1], float)
    for bad in ([1.0], [1.0, np.nan, 1, 1]):
        with pytest.raises(InputError, match="finite weights are needed"):
            ScalariseReward(env, bad)
    with pytest.raises(InputError, match="has a single reward"):
        ScalariseReward(gym.make(SLATES), weights)


def test_objectives_are_what_they_say() -> None:
    world = make_world(
        "contentwise", num_users=3, reward=("diversity", "novelty", "expected_clicks")
    )
    features = world.catalogue.features - world.catalogue.features.mean(0)
    slate = random_slates(world)
    slate[2, 1:] = -1
    outcome = world.step(slate)
    shown = world.catalogue.attributes["shown"] + 1.0
    bits = -np.log2(shown / shown.sum())
    for user in range(2):
        vectors = features[slate[user].numpy()]
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosine = (vectors @ vectors.T)[np.triu_indices(10, 1)]
        assert float(outcome.reward[user, 0]) == pytest.approx(float((1 - cosine).mean()), abs=1e-4)
        assert float(outcome.reward[user, 1]) == pytest.approx(bits[slate[user].numpy()].mean())
    assert float(outcome.reward[2, 0]) == 0
    assert outcome.reward[0, 2] > outcome.reward[2, 2] > 0  # ten items, and one


def test_rewards_can_be_weighted_by_whole_numbers_and_differentiated() -> None:
    world = make_world("contentwise", num_users=4, reward={"clicks": 1, "diversity": np.int64(2)})
    outcome = world.step(random_slates(world))
    policy = torch.ones(4, requires_grad=True)
    (policy * outcome.reward).sum().backward()  # as policy gradients do
    assert torch.equal(policy.grad, outcome.reward)  # type: ignore[arg-type]
    outcome.click[:] = True  # the caller's


@pytest.mark.parametrize(
    "function", [lambda s, c, p: c.sum(), lambda s, c, p: c, lambda s, c, p: 1.0]
)
def test_functions_must_return_one_number_a_user(function: Any) -> None:
    world = make_world("contentwise", num_users=4, reward=function)
    with pytest.raises(InputError, match="one number for each of 4 users"):
        world.step(random_slates(world))


def test_infos_are_the_callers(trained: Path) -> None:
    envs = make_vector_env(3, responder=[trained, trained], one_member=True)
    _, info = envs.reset(seed=0)
    user, member = envs.world.episodes.user.clone(), envs.world.episodes.member.clone()
    for name in ("user_index", "member"):
        info[name][:] = -7
    assert torch.equal(envs.world.episodes.user, user)
    assert torch.equal(envs.world.episodes.member, member)


def test_pages_can_be_penalised() -> None:
    asset = str(Path(__file__).parents[2] / "recsim_env/assets/rl4rs")
    envs = gym.make_vec("RecSim-RL4RS-v0", num_envs=2, responder=[asset, asset])
    wrapped = VectorPenaliseDisagreement(envs)
    wrapped.reset(seed=0)
    for _ in range(10):
        wrapped.step(wrapped.action_space.sample())


def test_what_cannot_be_rewarded_is_told(trained: Path, small_log: SessionLog) -> None:
    from recsim_env.adapters.sb3 import SB3VecEnv
    from recsim_env.rewards import RewardContext, make_reward

    bare = Catalogue(np.arange(4))
    context = RewardContext(bare, lambda slate: slate.float(), "cpu")
    for name, message in (("diversity", "item features"), ("novelty", "column `shown`")):
        with pytest.raises(InputError, match=message):
            make_reward(name, context)
    for nothing in ((), {}):
        with pytest.raises(InputError, match="names nothing"):
            make_reward(nothing, context)
    with pytest.raises(InputError, match="learns from one reward"):
        SB3VecEnv(make_vector_env(2, reward=("clicks",), autoreset_mode="SameStep"))
