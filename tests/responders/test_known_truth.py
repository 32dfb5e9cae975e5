"""The known-truth world: its log is drawn from its probabilities; each effect can be off."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from responders import Catalogue, InputError, SessionLog
from responders.behaviour.slate_rules import SlateRules
from responders.evaluation.metrics import evaluate, log_loss
from responders.evaluation.predict import predict
from responders.known_truth.logs import POLICIES, first_slates, synthesize
from responders.known_truth.presets import PRESETS, TruthConfig
from responders.known_truth.world import make_truth, truth_of
from responders.log.batch import Part, make_batch
from responders.models.base import unroll

OFF = {"taste": 0.0, "competition": 0.0, "click_effect": 0.0, "fatigue": 0.0}


def test_the_log_is_drawn_from_the_stated_probabilities(small_log: SessionLog) -> None:
    """And no other probabilities fit better: the log-loss of a wrong world is higher."""
    truth = truth_of(small_log)
    assert truth is not None
    everyone = Part.of(small_log, np.arange(600))
    best = evaluate(predict(truth, small_log, everyone), 0.5, resamples=0)
    n = best["n_positions"]
    assert best["predicted_rate"] == pytest.approx(best["click_rate"], abs=4 * (0.1 / n) ** 0.5)
    assert best["ece"] < 0.02
    for effect in ("taste", "fatigue", "competition", "position_bias"):
        wrong = make_truth(truth.config.changed(**{effect: 0.0}))
        found = evaluate(predict(wrong, small_log, everyone), 0.5, resamples=0)
        assert found["log_loss"] > best["log_loss"], effect


def test_same_seed_same_log(tmp_path: Path, small_world: TruthConfig) -> None:
    logs = [
        synthesize(tmp_path / str(i), small_world, 50, seed=seed, progress=False)
        for i, seed in enumerate([1, 1, 2])
    ]
    assert np.array_equal(logs[0].slate, logs[1].slate)
    assert np.array_equal(logs[0].response, logs[1].response)
    assert not np.array_equal(logs[0].slate[:20], logs[2].slate[:20])
    assert logs[0].synthetic
    assert "synthetic" in logs[0].card["name"]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_give_valid_logs_of_the_published_shape(preset: str, tmp_path: Path) -> None:
    log = synthesize(tmp_path / "log", PRESETS[preset], 400, progress=False).validate()
    summary = log.summary()
    if preset == "contentwise":  # 272,907 slates of 20,216 sessions; 1.21 clicked series a slate
        assert summary["slates_per_session"]["mean"] == pytest.approx(13.5, abs=2)
        assert summary["clicks"] / summary["slates"] == pytest.approx(1.21, abs=0.25)
    if preset == "rl4rs":  # 147,368 slates of 45,942 sessions; 283 items in three layers
        assert summary["slates_per_session"]["mean"] == pytest.approx(3.2, abs=0.1)
        assert len(log.catalogue) == 283
        layers = np.bincount(log.catalogue.attributes["layer"])
        np.testing.assert_array_equal(layers, [0, 39, 108, 136])
        rules = SlateRules.of(log.catalogue, 9)
        assert not rules.broken(torch.from_numpy(log.slate.astype(np.int64))).any()


@pytest.mark.parametrize("policy", POLICIES)
def test_logging_policies_never_repeat_an_item(
    policy: str, tmp_path: Path, small_world: TruthConfig
) -> None:
    log = synthesize(tmp_path / "log", small_world, 200, policy=policy, progress=False)
    ordered = np.sort(log.slate, 1)
    assert (np.diff(ordered, axis=1) > 0).all()


def test_a_personal_logging_policy_earns_more_clicks(
    tmp_path: Path, small_world: TruthConfig
) -> None:
    rates = [
        synthesize(tmp_path / policy, small_world, 300, policy=policy, progress=False).summary()[
            "click_rate"
        ]
        for policy in ("uniform", "mixed", "personal")
    ]
    assert rates == sorted(rates)
    assert rates[2] > 1.2 * rates[0]


def test_a_pbm_world_is_examination_times_attraction() -> None:
    truth = make_truth(PRESETS["pbm"].changed(n_items=20, n_positions=4))
    slate = torch.randint(0, 20, (30, 4))
    click = torch.ones(30, 4)
    state = truth.start(torch.randn(30, 8))
    state = truth.observe(state, slate.flip(0), click)
    p = truth.logits(state, slate, click).sigmoid()
    expected = truth.examination * truth.item_log_odds[slate].sigmoid()
    torch.testing.assert_close(p, expected)


@pytest.mark.parametrize(
    ("effect", "value"), [("click_effect", -1.0), ("competition", 2.0), ("taste", 3.0)]
)
def test_each_effect_turns_on_alone(effect: str, value: float) -> None:
    base = TruthConfig(n_items=30, n_positions=4, **OFF)
    plain, with_effect = make_truth(base), make_truth(base.changed(**{effect: value}))
    slate = torch.arange(8).view(2, 4)
    user = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    click = torch.ones(2, 4)
    one, other = (t.logits(t.start(user), slate, click) for t in (plain, with_effect))
    first_same = torch.allclose(one[:, 0], other[:, 0])
    assert not torch.allclose(one, other)
    assert first_same == (effect != "taste"), "effects of what is above leave the first position"


def test_layers_open_only_when_the_one_above_was_bought() -> None:
    truth = make_truth(PRESETS["rl4rs"])
    slate = torch.tensor([[0, 1, 2, 50, 51, 52, 200, 201, 202]])
    state = truth.start(torch.zeros(1, 8))
    all_bought = truth.logits(state, slate, torch.ones(1, 9)).sigmoid()
    one_missed = torch.ones(1, 9)
    one_missed[0, 1] = 0
    shut = truth.logits(state, slate, one_missed).sigmoid()
    assert (all_bought > 0.1).all()
    assert (shut[0, :3] > 0.1).all()
    assert (shut[0, 3:] < 1e-5).all()


def test_hidden_taste_gives_an_estimated_ceiling_that_learns_from_clicks(tmp_path: Path) -> None:
    world = TruthConfig(n_items=60, n_positions=5, hidden=0.8, dimensions=2, max_slates=15)
    log = synthesize(tmp_path / "log", world, 500, progress=False)
    truth = truth_of(log)
    assert truth is not None
    found = evaluate(predict(truth, log, Part.of(log, np.arange(500))), 0.5, resamples=0)
    assert found["ece"] < 0.03
    blind = make_truth(world.changed(hidden=0.0))  # takes what is visible for the whole taste
    worse = evaluate(predict(blind, log, Part.of(log, np.arange(500))), 0.5, resamples=0)
    assert found["log_loss"] < worse["log_loss"]
    batch = make_batch(log, Part.of(log, np.arange(20)))
    with torch.no_grad():
        torch.testing.assert_close(truth(batch), unroll(truth, batch))


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match="has no setting 'tast'; did you mean taste"):
        TruthConfig().changed(tast=1)
    with pytest.raises(InputError, match="n_positions 10 exceeds n_items 5"):
        TruthConfig(n_items=5)
    with pytest.raises(InputError, match="hidden must be a number ≥ 0 and < 1, not 1"):
        TruthConfig(hidden=1)
    with pytest.raises(InputError, match="max_slates 2 is below min_slates 3"):
        TruthConfig(max_slates=2)


def test_bad_requests_leave_nothing_behind(tmp_path: Path, small_world: TruthConfig) -> None:
    with pytest.raises(InputError, match="sessions must be a whole number of at least 1"):
        synthesize(tmp_path / "log", small_world, 0)
    with pytest.raises(InputError, match="policy 'best' is unknown"):
        synthesize(tmp_path / "log", small_world, 5, policy="best")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("policy", ["mixed", "personal"])
def test_the_optimum_is_calibrated_where_taste_is_hidden(
    policy: str, small_world: TruthConfig, tmp_path: Path
) -> None:
    """The logging policy sees no more of the users than a model does."""
    world = small_world.changed(hidden=0.8, taste=6.0)
    log = synthesize(tmp_path / "log", world, 700, policy=policy, progress=False)
    truth = truth_of(log)
    assert truth is not None
    found = predict(truth, log, Part.of(log, np.arange(log.n_sessions)))
    residual = found.click - found.probability
    by_session = np.bincount(found.session, residual)
    z = by_session.sum() / np.sqrt((by_session**2).sum())
    assert abs(z) < 3
    best = log_loss(found.logit, found.click)
    assert best < log_loss(found.logit + 0.1, found.click)
    assert best < log_loss(found.logit - 0.1, found.click)


def test_the_slates_of_an_informed_policy_reveal_hidden_taste(
    small_world: TruthConfig, tmp_path: Path
) -> None:
    world = small_world.changed(hidden=0.9, taste=6.0, draws=32)
    clicks = {}
    for policy in ("personal", "informed"):
        log = synthesize(tmp_path / policy, world, 300, policy=policy, progress=False)
        clicks[policy] = log.response.mean()
        assert (truth_of(log) is None) == (policy == "informed")
    assert clicks["informed"] > 1.1 * clicks["personal"]


def test_the_items_may_be_given(small_log: SessionLog, tmp_path: Path) -> None:
    """Features, prices and, with layers, rules are theirs; what is true of them is repeatable."""
    n = 30
    rng = np.random.default_rng(0)
    layer = {"layer": np.repeat([1, 2, 3], n // 3).astype(np.int8)}
    items = Catalogue(np.arange(n), rng.normal(size=(n, 5)), 1 + rng.random(n), layer)
    world = TruthConfig(n_positions=3, dimensions=3, clusters=4, max_slates=5)
    free = synthesize(tmp_path / "free", world, 50, catalogue=items, progress=False).validate()
    ruled = synthesize(
        tmp_path / "ruled", world.changed(layers=3), 50, catalogue=items, progress=False
    )
    for log in (free, ruled):
        np.testing.assert_array_equal(log.catalogue.features, items.features)
        np.testing.assert_allclose(log.catalogue.price, items.price)  # type: ignore[arg-type]
        truth = truth_of(log)
        assert truth is not None
        assert truth.config.n_items == n
    assert not free.catalogue.attributes
    np.testing.assert_array_equal(layer["layer"][ruled.slate], [[1, 2, 3]] * ruled.n_slates)
    location = make_truth(world.changed(n_items=n), items).location
    assert location[:-1].norm(dim=1) == pytest.approx(torch.ones(n), abs=1e-5)
    for price in (None, np.full(n, 3.0), -np.arange(n)):
        features = None if price is None else items.features
        with pytest.raises(InputError, match="a known-truth world of given items needs"):
            make_truth(world.changed(n_items=n), Catalogue(np.arange(n), features, price))


def test_a_repeating_log_shows_half_of_its_slates_again(
    tmp_path: Path, small_world: TruthConfig
) -> None:
    log = synthesize(tmp_path / "log", small_world, 300, policy="repeating", progress=False)
    same_session = np.diff(np.repeat(np.arange(300), np.diff(log.session_start))) == 0
    again = (log.slate[1:] == log.slate[:-1]).all(1)[same_session]
    assert again.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("by", ["cluster", "item", "similarity"])
def test_fatigue_grows_with_repetition_fades_and_saturates(by: str) -> None:
    """One slate of an item again and again: the loss is fatigue · (1 + decay + decay² ...)."""
    config = TruthConfig(**{"n_items": 30, "n_positions": 1, "fatigue_by": by, "drift": 0.0})
    user, slate, nothing = torch.zeros(1, 8), torch.tensor([[3]]), torch.zeros(1, 1)

    def losses(config: TruthConfig) -> torch.Tensor:
        truth = make_truth(config)
        state, odds = truth.start(user), []
        for _ in range(4):
            odds.append(float(truth.attraction(state)[0, 3]))
            state = truth.observe(state, slate, nothing)
        return odds[0] - torch.tensor(odds)

    expected = 1.5 * torch.tensor([0, 1, 1 + 0.8, 1 + 0.8 + 0.64])
    torch.testing.assert_close(losses(config), expected)
    faster = losses(config.changed(fatigue_decay=0.5))
    torch.testing.assert_close(faster, 1.5 * torch.tensor([0, 1, 1.5, 1.75]))
    saturating = losses(config.changed(fatigue_limit=1.0))
    torch.testing.assert_close(saturating, 1.5 * (1 - (-expected / 1.5).exp()))


@pytest.mark.parametrize("truth", [[], "x", 1])
def test_a_truth_that_is_no_object_is_refused(truth: Any, small_log: SessionLog) -> None:
    with pytest.raises(InputError, match="truth that is not a JSON object"):
        truth_of(replace(small_log, card={"truth": truth}))


@pytest.mark.parametrize("name", ["clusters", "dimensions", "item_features"])
def test_worlds_too_large_for_memory_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"setting {name} must be"):
        TruthConfig().changed(**{name: 10**12})


CLICKBAIT = TruthConfig(
    n_items=60, n_positions=4, clickbait=2.0, regret=1.5, leaving=0.05, impatience=0.0, min_slates=1
)


def test_allure_draws_clicks_and_its_clicks_are_regretted() -> None:
    truth, plain = make_truth(CLICKBAIT), make_truth(CLICKBAIT.changed(clickbait=0))
    allure = truth.allure[:-1]
    assert 0 <= allure.min() < 0.1 < 0.9 < allure.max() <= 1
    user = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    gain = truth.attraction(truth.start(user)) - plain.attraction(plain.start(user))
    torch.testing.assert_close(gain, 2 * allure.expand(2, -1))
    assert truth.catalogue.feature_names[-1] == "allure"
    np.testing.assert_allclose(truth.catalogue.features[:, -1], allure)

    slate, click = torch.tensor([[3, 5, -1, 7]] * 2), torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0]])
    state = truth.observe(truth.start(user), slate, click)
    once = float(allure[3] + allure[7])
    torch.testing.assert_close(truth.leave_log_odds(state), torch.tensor([1.5 * once, 0.0]))
    state = truth.observe(state, slate, click)
    torch.testing.assert_close(truth.leave_log_odds(state)[0], torch.tensor(1.5 * 1.8 * once))
    nothing = truth.observe(state, torch.full((2, 4), -1), torch.zeros(2, 4))
    torch.testing.assert_close(truth.leave_log_odds(nothing), truth.leave_log_odds(state))


def test_without_clickbait_nothing_of_it_is_there() -> None:
    plain = make_truth(CLICKBAIT.changed(clickbait=0))
    state = plain.start(torch.zeros(1, 8))
    assert plain.leave_log_odds(state) is None
    assert "regret" not in state
    before = TruthConfig(n_items=60, n_positions=4)
    assert plain.catalogue.fingerprint() == make_truth(before).catalogue.fingerprint()


def test_regret_ends_sessions_as_stated(tmp_path: Path) -> None:
    """The share that leaves after each slate is the mean of the stated chances."""
    log = synthesize(tmp_path / "log", CLICKBAIT, 1500, progress=False)
    truth, batch = truth_of(log), make_batch(log, Part.of(log, np.arange(1500)))
    assert truth is not None
    state = truth.start(batch.user)
    length = torch.from_numpy(log.session_length)
    for step in range(1, 4):
        state = truth.observe(state, batch.slate[:, step - 1], batch.click[:, step - 1])
        here = length >= step
        odds = np.log(0.05 / 0.95) + truth.leave_log_odds(state)[here]  # type: ignore[index]
        chance = odds.sigmoid()
        left = (length[here] == step).double()
        error = (chance * (1 - chance)).sum().sqrt() / here.sum()
        assert left.mean() == pytest.approx(float(chance.mean()), abs=4 * float(error))
        assert chance.mean() > 0.07


def test_tastes_turn_by_the_angle() -> None:
    config = TruthConfig(n_items=30, n_positions=2, dimensions=3, drift=0.0, fade=0.0, turn=0.25)
    truth = make_truth(config)
    start = torch.tensor([[0.6, 0.8, 0.5]])
    state, slate = truth.start(start), torch.tensor([[1, 2]])
    for _ in range(4):
        state = truth.observe(state, slate, torch.ones(1, 2))
    taste = state["taste"][0, 0]
    assert float(taste[:2] @ start[0, :2]) == pytest.approx(np.cos(1.0), abs=1e-5)
    assert float(taste[:2].norm()) == pytest.approx(1, abs=1e-5)
    assert float(taste[2]) == 0.5
    unseen = truth.observe(state, torch.full((1, 2), -1), torch.zeros(1, 2))
    assert torch.equal(unseen["taste"], state["taste"])


@pytest.mark.parametrize("policy", POLICIES)
def test_logs_do_not_show_new_items(policy: str, tmp_path: Path, small_world: TruthConfig) -> None:
    world = small_world.changed(new_items=0.75)
    log = synthesize(tmp_path / "log", world, 200, policy=policy, progress=False)
    assert len(np.unique(log.slate)) == 10
    with pytest.raises(InputError, match=r"new_items 0\.9 leaves 4 items to be logged, fewer than"):
        small_world.changed(new_items=0.9)
    with pytest.raises(InputError, match="new_items must be 0 in a world with layers"):
        PRESETS["rl4rs"].changed(new_items=0.5)


def test_first_slates_are_a_log_in_memory(small_world: TruthConfig) -> None:
    log = first_slates(small_world, 50, 4).validate()
    assert log.n_sessions == 50
    assert log.session_length.max() == 4
    assert truth_of(log).config == small_world  # type: ignore[union-attr]
    assert log.fingerprint() == first_slates(small_world, 50, 4).fingerprint()
