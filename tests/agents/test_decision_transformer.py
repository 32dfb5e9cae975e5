"""The Decision Transformer, where a log's good sessions show other items than its usual ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import load_policy
from agents.decision_transformer import DecisionTransformerConfig, DecisionTransformerPolicy
from agents.from_log import observe_log
from agents.rollout import rollout
from agents.site import Site
from recsim_env.make import make_world
from responders import InputError, SessionLog
from tests.conftest import log_of

QUICK = DecisionTransformerConfig(
    candidates=40, size=16, layers=1, dropout=0.0, epochs=8, batch_size=32, learning_rate=0.01
)


@pytest.fixture(scope="module")
def two_kinds(small_log: SessionLog) -> SessionLog:
    """Three of ten sessions show items 0 to 4, most of which are clicked; the others 5 to 9."""
    rng, sessions, slates, n = np.random.default_rng(0), 120, 4, small_log.n_positions
    good = np.repeat(rng.random(sessions) < 0.3, slates)
    chance = np.where(good, 0.8, 0.1)[:, None]
    slate = np.where(good[:, None], 0, n)
    slate = slate + rng.permuted(np.tile(np.arange(n), (len(good), 1)), axis=1)
    return log_of(
        slate, rng.random(slate.shape) < chance, [slates] * sessions, items=small_log.catalogue,
        card=small_log.card,
    )  # fmt: skip


def fitted(log: SessionLog, **settings: Any) -> DecisionTransformerPolicy:
    site = Site(log.catalogue, log.n_positions, horizon=6, history=2)
    policy = DecisionTransformerPolicy(site, replace(QUICK, **settings), seed=0)
    policy.fit(log)
    return policy


@pytest.mark.parametrize(
    ("settings", "good"),
    [
        ({"returns": "clicks"}, True),
        ({"returns": "both"}, True),
        ({"returns": "clicks", "ask": 0.2}, False),
        ({"returns": "none"}, False),  # behaviour cloning shows what is usual
    ],
)
def test_it_shows_what_led_to_the_return_asked_for(
    settings: dict[str, Any], good: bool, two_kinds: SessionLog
) -> None:
    policy = fitted(two_kinds, **settings)
    slate = policy.act(observe_log(two_kinds, np.zeros(1, np.int64), policy.site))
    assert (slate < 5 if good else (slate >= 5) & (slate < 10)).all()


def test_it_asks_for_a_quantile_of_the_returns_of_the_step(two_kinds: SessionLog) -> None:
    policy = fitted(two_kinds, returns="both", epochs=1)
    clicks = two_kinds.response.reshape(120, 4, 5).sum(2)
    for step in range(4):
        to_go = clicks[:, step:].sum(1)
        assert policy.goal[step].tolist() == pytest.approx([np.quantile(to_go, 0.9), 4 - step])
    assert policy.goal[5].equal(policy.goal[3]), "the log has no later step"
    observation = observe_log(two_kinds, np.array([3]), policy.site)
    window = policy.window(observation)
    came = np.array([clicks[0, 1:3].sum(), clicks[0, 2], 0])
    asked = window.to_go[0] * policy.deviation - policy.goal[3]
    np.testing.assert_allclose(asked.numpy(), np.stack([came, [2, 1, 0]], 1), atol=1e-4)
    assert window.step.tolist() == [[1, 2, 3]]


def test_the_scores_of_a_slate_know_nothing_of_it_and_of_later_ones(two_kinds: SessionLog) -> None:
    policy = fitted(two_kinds, epochs=1)
    window = policy.window(observe_log(two_kinds, np.array([2, 1]), policy.site))
    with torch.no_grad():
        scores = policy.net(window)
        changed = policy.net(window._replace(slates=window.slates + torch.tensor([[0.0], [1.0]])))
        padded = policy.net(
            window._replace(slates=window.slates + ~window.shown.unsqueeze(2) * 9.0)
        )
    assert scores[:, :2].equal(changed[:, :2])
    assert not scores[:, 2].equal(changed[:, 2])
    assert scores[1, 1:].allclose(padded[1, 1:]), "slates before the first are not read"


def test_it_learns_in_a_world_and_is_loaded_as_it_was_saved(
    small_log_path: Path, tmp_path: Path
) -> None:
    world = make_world("any", num_users=40, responder=small_log_path)
    policy = DecisionTransformerPolicy(world, replace(QUICK, epochs=2), seed=3)
    used = policy.train(world, 500, seed=1)
    assert policy.steps == used >= 500
    policy.save(tmp_path / "p")
    loaded = load_policy(tmp_path / "p", world)
    slates = [rollout(world, each, seed=9).log.slate for each in (policy, loaded)]
    np.testing.assert_array_equal(*slates)
    assert len(loaded.recommend([[0, 1], []], k=7)[1]) == 7


def test_the_log_must_have_the_form_of_the_policy(two_kinds: SessionLog) -> None:
    with pytest.raises(InputError, match="the log has 5 positions, the policy was made for 4"):
        DecisionTransformerPolicy(Site(two_kinds.catalogue, 4), QUICK).fit(two_kinds)
