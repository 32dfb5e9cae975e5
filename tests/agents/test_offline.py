"""Policies that imitate a log or learn values from it, where the right answer is known."""

import builtins
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import load_policy
from agents.behaviour_cloning import BehaviourCloningConfig, BehaviourCloningPolicy
from agents.d3rlpy_package import OfflinePolicy
from agents.finding import find_policy
from agents.from_log import LogPolicy, observe_log
from agents.rollout import rollout
from agents.saving import learned_tensors
from agents.site import Site
from agents.uniform import RandomPolicy
from benchmarks.studies.offline import estimated_clicks, offline
from benchmarks.studies.pretraining.behaviour import simulate
from benchmarks.studies.pretraining.source import open_source
from recsim_env.make import make_world
from recsim_env.world import World
from responders import Catalogue, InputError, SessionLog
from responders.known_truth.logs import synthesize
from tests.conftest import OPTIONAL, log_of
from tests.conftest import SMALL as SMALL_WORLD

SMALL: dict[str, Any] = {"candidates": 40, "hidden_size": 16, "batch_size": 128}
FEATURES = torch.tensor([[-1.0] * 3, [1.0] * 3])
NAMES = sorted(OPTIONAL["d3rlpy"])
needs_d3rlpy = pytest.mark.skipif(find_spec("d3rlpy") is None, reason="needs d3rlpy")


def make(name: str, world: World | Site, seed: int = 0, **settings: Any) -> LogPolicy:
    kind: Any = find_policy(name).source
    return kind(world, kind.config_class(**{**SMALL, **settings}), seed)


def two_armed(leaves: bool) -> SessionLog:
    """Single items in two slates: item 0 is clicked at once; after item 1, item 2 is clicked."""
    slate = np.array([0, 3, 1, 2] * 60)[:, None]
    click = np.array([1, 0, 0, 1] * 60)[:, None] if leaves else slate == 0
    items = Catalogue(np.arange(4), attributes={"clicked": np.array([3, 0, 3, 1])})
    time = np.arange(240) // 2 * 1000 + np.arange(240) % 2 * 10
    return log_of(slate, click, [2] * 120, items=items, time=time)


def test_a_clone_of_slates_shows_each_item_as_often_as_the_log(small_log: SessionLog) -> None:
    site = Site(small_log.catalogue, small_log.n_positions, FEATURES)
    config = {"imitate": "slates", "size": 8, "epochs": 8, "learning_rate": 0.01}
    policy = make("behaviour_cloning", site, **config)
    log = small_log.select(np.arange(300))
    policy.fit(log)
    with torch.no_grad():
        observation = observe_log(log, np.arange(log.n_slates), site)
        chance = policy.affinity(observation).softmax(1).mean(0).numpy()
    shown = np.bincount(log.slate.ravel(), minlength=40) / log.slate.size
    assert np.abs(chance - shown).max() < 0.01
    assert np.corrcoef(chance, shown)[0, 1] > 0.98


@pytest.mark.parametrize(
    "name", ["behaviour_cloning", *(pytest.param(n, marks=needs_d3rlpy) for n in NAMES)]
)
def test_it_earns_more_than_the_random_slates_it_learned_from(
    name: str, small_log_path: Path
) -> None:
    world = make_world("any", num_users=200, responder=small_log_path)
    run = rollout(world, RandomPolicy(world), seed=5)
    policy = make(name, world, epochs=15)
    policy.fit(run.log)
    assert rollout(world, policy, seed=0).reward.mean() > 1.3 * run.reward.mean()


@pytest.mark.parametrize(
    "name", ["behaviour_cloning", *(pytest.param(n, marks=needs_d3rlpy) for n in NAMES)]
)
def test_it_is_saved_and_learns_the_same_again(
    name: str, small_log: SessionLog, tmp_path: Path
) -> None:
    site = Site(small_log.catalogue, small_log.n_positions, FEATURES)
    log, policies = small_log.select(np.arange(60)), []
    for _ in range(2):
        policies.append(make(name, site, seed=3, epochs=1))
        policies[-1].fit(log)
    policies[0].save(tmp_path / "p")
    assert {path.name for path in (tmp_path / "p").iterdir()} == {"card.json", "policy.safetensors"}
    tensors = [learned_tensors(p) for p in (*policies, load_policy(tmp_path / "p"))]
    assert len(tensors[0]) > 4
    for each in tensors[1:]:
        assert each.keys() == tensors[0].keys()
        assert all(torch.equal(value, each[key]) for key, value in tensors[0].items())
    observation = observe_log(log, np.arange(50), site)
    loaded = load_policy(tmp_path / "p")
    assert torch.equal(loaded.score(observation), policies[0].score(observation))


@needs_d3rlpy
def test_values_are_those_of_the_logged_steps() -> None:
    log = two_armed(leaves=True)
    site = Site(log.catalogue, 1)
    first, second = (observe_log(log, np.array(rows), site) for rows in ([0], [3]))
    policy = make("bcq", site, epochs=100, gamma=0.5, target_update=20, learning_rate=0.003)
    policy.fit(log)
    start, after_item_1 = policy.affinity(first)[0], policy.affinity(second)[0]
    assert start[0] == pytest.approx(1, abs=0.1)  # the click, and nothing after it
    assert start[1] == pytest.approx(0.5, abs=0.1)  # half of the click on item 2
    assert after_item_1[2] == pytest.approx(1, abs=0.1)


def test_draws_start_again_with_the_seed(small_log: SessionLog) -> None:
    site = Site(small_log.catalogue, small_log.n_positions, FEATURES)
    policy = BehaviourCloningPolicy(site, BehaviourCloningConfig(draw=True, size=8, candidates=20))
    observation = observe_log(small_log, np.arange(300), site)
    slates = []
    for _ in range(2):
        policy.reset()
        slates.append(policy.act(observation))
    assert torch.equal(slates[0], slates[1])
    assert not torch.equal(slates[0], policy.act(observation))
    assert torch.isin(slates[0], policy.candidates).all()
    assert (slates[0].sort(1).values.diff(dim=1) > 0).all()
    assert len(slates[0].unique()) == 20


def test_estimates_from_a_log_are_the_clicks_of_the_policy(tmp_path: Path) -> None:
    # A click depends on the user and the item alone, as the estimate takes it to.
    settings = SMALL_WORLD.changed(fatigue=0, competition=0, click_effect=0, drift=0)
    synthesize(tmp_path / "log", settings, 400, progress=False)
    rows = offline(
        tmp_path / "log", "popular,behaviour_cloning", sessions=1500, users=400, seeds=1,
        settings={"epochs": 3, "size": 8}, progress=False,
    )  # fmt: skip
    assert [row["policy"] for row in rows] == [
        "popular (the log's)", "popular", "behaviour_cloning"
    ]  # fmt: skip
    assert rows[0]["same"] == 1
    for row in rows:
        assert row["estimate_low"] < row["estimate"] < row["estimate_high"]
        assert row["estimate"] == pytest.approx(row["slate"], rel=0.1)
        assert row["slate_low"] < row["slate"] < row["slate_high"]
    for row in rows[1:]:
        assert 0 < row["same"] < 0.5
        assert row["slate"] > 1.1 * rows[0]["slate"]


def test_behaviour_policies_leave_propensities(small_log_path: Path) -> None:
    source = open_source(small_log_path, small_log_path)
    for name in ("random", "popular", "mixed"):
        log = simulate(source.world, source.training, name, 1500, 1)  # type: ignore[arg-type]
        assert log.propensity is not None
        weight = 1 / log.propensity[:, 0]  # the chance of the first item depends on no other
        mean = np.bincount(log.slate[:, 0], weight, 40) / log.n_slates
        error = np.sqrt(np.bincount(log.slate[:, 0], weight**2, 40)) / log.n_slates
        assert (np.abs(mean - 1) < 5 * error + 0.05).all(), name
    assert simulate(source.world, source.training, "logged", 20, 1).propensity is None


def test_a_log_without_propensities_says_nothing(small_log: SessionLog) -> None:
    site = Site(small_log.catalogue, small_log.n_positions, FEATURES)
    with pytest.raises(InputError, match="the log has no propensities"):
        estimated_clicks(BehaviourCloningPolicy(site), replace(small_log, propensity=None))


@pytest.mark.parametrize(
    ("policies", "message"),
    [("slateq", "slateq does not learn from a log"), ("popular,nobody", "policy 'nobody' is")],
)
def test_policies_of_the_study_learn_from_logs(
    policies: str, message: str, small_log_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        offline(small_log_path, policies, sessions=10, users=5, seeds=1, progress=False)


def test_candidates_that_nobody_was_shown_are_an_error() -> None:
    log = two_armed(leaves=False)
    counted = replace(log.catalogue, attributes={"clicked": np.array([0, 9, 0, 0])})
    site = Site(counted, 1)
    policy = make("behaviour_cloning", site, candidates=1)
    with pytest.raises(InputError, match="no slate of the log has clicks of the 1 candidates"):
        policy.fit(log)


def test_without_d3rlpy_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("d3rlpy"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setitem(sys.modules, "d3rlpy", None)
    monkeypatch.setattr(builtins, "__import__", without)
    site = Site(Catalogue(np.arange(4)), 1)
    with pytest.raises(InputError, match=r"pip install 'recsim-env\[offline\]'"):
        find_policy("cql").source(site)  # type: ignore[operator]
    assert issubclass(find_policy("cql").source, OfflinePolicy)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["behaviour_cloning", "reinforce", "decision_transformer"])
def test_fit_begins_anew(name: str, small_log: SessionLog) -> None:
    few = small_log.select(np.arange(60))
    kind: Any = find_policy(name).source
    policy, fresh = (kind(Site.of_log(few), kind.config_class(epochs=1), 0) for _ in range(2))
    policy.fit(small_log.select(np.arange(60, 200)))
    for each in (policy, fresh):
        each.fit(few)
    assert policy.steps == fresh.steps == few.n_slates
    for key, value in learned_tensors(fresh).items():
        assert torch.equal(learned_tensors(policy)[key], value), key


def test_users_of_several_rollouts_are_different(small_log_path: Path) -> None:
    world = make_world("any", num_users=3, responder=small_log_path, horizon=4)
    seen: list[SessionLog] = []

    class Recorder(LogPolicy):
        def fit_log(self, log: SessionLog) -> None:
            seen.append(log)

    Recorder(world).train(world, 30, seed=0)
    assert seen[0].n_sessions == len(seen[0].users) > 3
    logs = [rollout(world, RandomPolicy(world), seed=s).log for s in (0, seen[0].session_start[3])]
    features = np.concatenate([log.users.features[log.user] for log in logs])
    np.testing.assert_array_equal(seen[0].users.features[seen[0].user][:6], features)
