"""REINFORCE from a log, where the right answer is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.from_log import observe_log
from agents.reinforce import ReinforceConfig, ReinforcePolicy, correction, later_clicks
from agents.rollout import rollout
from agents.site import Site
from agents.uniform import RandomPolicy
from recsim_env.adapters.logged import log_episodes
from recsim_env.make import make_world
from responders import InputError, SessionLog

QUICK = ReinforceConfig(candidates=40, size=8, hidden_size=16, epochs=8, batch_size=128)


def test_the_correction_of_known_chances() -> None:
    chance, behaviour = torch.tensor([0.1, 0.5, 1.0, 0.9]), torch.tensor([0.2, 0.5, 0.5, 0.01])
    found = correction(chance, behaviour, k=3, cap=10)
    expected = [0.5 * 3 * 0.9**2, 3 * 0.5**2, 0, 10 * 3 * 0.1**2]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert correction(chance, behaviour, k=1, cap=10).tolist() == pytest.approx([0.5, 1, 2, 10])


def test_later_clicks_are_discounted_within_sessions(small_log: SessionLog) -> None:
    later, clicks = later_clicks(small_log, 0.5), small_log.response.sum(1)
    for session in range(20):
        rows = range(*small_log.session_start[session : session + 2])
        for row in rows:
            expected = sum(0.5 ** (r - row) * clicks[r] for r in rows if r > row)
            assert later[row] == pytest.approx(expected)


def test_logged_slates_are_observed_as_an_environment_observes_them(small_log: SessionLog) -> None:
    site = Site(small_log.catalogue, small_log.n_positions, torch.zeros(2, 3), history=3)
    found = observe_log(small_log, np.arange(200), site)
    first = 0
    for episode in log_episodes(small_log, history=3)[:10]:
        rows = slice(first, first + len(episode))
        for name, values in found.items():
            np.testing.assert_allclose(values[rows], episode.observation[name][:-1], rtol=1e-6)
        first += len(episode)
    assert found.keys() == episode.observation.keys()


@pytest.mark.parametrize("known", [True, False])
def test_it_learns_more_than_random_slates_earn(small_log_path: Path, known: bool) -> None:
    world = make_world("any", num_users=200, responder=small_log_path)
    run = rollout(world, RandomPolicy(world), seed=5)
    log = run.log if known else replace(run.log, propensity=None)
    policy = ReinforcePolicy(world, QUICK)
    policy.fit(log)
    assert rollout(world, policy, seed=0).reward.mean() > 1.4 * run.reward.mean()
    if not known:  # the log's policy is found: random slates show all items alike
        state = policy.state(observe_log(log, np.arange(200), policy.site))
        chance = policy.net.behaviour(*state).softmax(1).detach()
        assert (chance - 1 / 40).abs().max() < 0.02


def test_it_learns_the_same_weights_again(small_log: SessionLog) -> None:
    site = Site(small_log.catalogue, small_log.n_positions, torch.zeros(2, 3))
    weights = []
    for _ in range(2):
        policy = ReinforcePolicy(site, QUICK, seed=3)
        policy.fit(small_log.select(np.arange(100)))
        weights.append(policy.net.state_dict())
    for name, value in weights[0].items():
        assert torch.isfinite(value).all()
        assert torch.equal(value, weights[1][name]), name


def test_the_log_must_have_the_form_of_the_policy(small_log: SessionLog) -> None:
    with pytest.raises(InputError, match="the log has 5 positions, the policy was made for 4"):
        ReinforcePolicy(Site(small_log.catalogue, 4, torch.zeros(2, 3)), QUICK).fit(small_log)
    with pytest.raises(InputError, match="the log has 3 user features, the policy was made for 0"):
        ReinforcePolicy(Site(small_log.catalogue, 5), QUICK).fit(small_log)
