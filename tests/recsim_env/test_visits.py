"""When users leave and come back."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsim_env.make import make_vector_env, make_world
from responders import InputError, SessionLog, Users
from responders.behaviour.leaving import Hazard, fit_hazard, leave_chance
from responders.behaviour.returns import Returns, draw_return, fit_returns
from responders.training.checkpoint import load_responder
from responders.training.fit import fit
from tests.conftest import log_of, random_slates


def logistic_log(sessions: int = 3000) -> SessionLog:
    """Users leave the sooner the more slates they have seen; clicks are tossed coins."""
    rng = np.random.default_rng(0)
    length = np.zeros(sessions, int)
    for i in range(sessions):
        while length[i] < 40:
            length[i] += 1
            if rng.random() < 1 / (1 + np.exp(4 - 1.5 * np.log1p(length[i]))):
                break
    slate = np.zeros((length.sum(), 1), int)
    return log_of(slate, rng.integers(0, 2, slate.shape), length)


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
    return log_of(
        np.zeros((len(rows), 1), int), click[:, None], [1] * len(rows), user=user, time=time,
        users=Users(np.arange(users)),
    )  # fmt: skip


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
