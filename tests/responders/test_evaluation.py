"""Metrics against scikit-learn and against definitions written out."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.metrics import log_loss as sk_log_loss

from responders import InputError, SessionLog
from responders.evaluation.metrics import best_threshold, evaluate, sparse_auc
from responders.evaluation.predict import Predictions, predict
from responders.log.batch import Part
from tests.conftest import random_responder


def predictions(seed: int, n: int = 400, levels: int = 30) -> Predictions:
    rng = np.random.default_rng(seed)
    logit = np.round(rng.normal(size=n) * levels / 6) / (levels / 6)  # many ties
    click = rng.random(n) < 1 / (1 + np.exp(-logit))
    user = rng.integers(0, 40, n)
    return Predictions(logit, click, rng.integers(0, 5, n), user, user, rng.integers(0, 9, n))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_metrics_equal_scikit_learn(seed: int) -> None:
    p = predictions(seed)
    got = evaluate(p, 0.4, resamples=0)
    called = p.probability >= 0.4
    assert got["auc"] == pytest.approx(roc_auc_score(p.click, p.probability))
    assert got["f1"] == pytest.approx(f1_score(p.click, called))
    assert got["accuracy"] == pytest.approx(accuracy_score(p.click, called))
    assert got["log_loss"] == pytest.approx(sk_log_loss(p.click, p.probability))
    by_position = [
        np.exp(sk_log_loss(p.click[p.position == s], p.probability[p.position == s], labels=[0, 1]))
        for s in range(5)
    ]
    assert got["perplexity"] == pytest.approx(np.mean(by_position))


@pytest.mark.parametrize("metric", ["auc", "f1", "accuracy", "log_loss", "perplexity", "ece"])
def test_intervals_surround_the_value(metric: str) -> None:
    got = evaluate(predictions(1, 2000), 0.4)
    assert got[f"{metric}_low"] < got[f"{metric}_high"]
    assert got[f"{metric}_low"] <= got[metric] <= got[f"{metric}_high"]


def test_the_auc_interval_covers_as_often_as_it_says() -> None:
    """About 95 % of the intervals of clicks drawn from the same probabilities hold the mean AUC."""
    drawn = [evaluate(predictions(seed, 300), 0.5, resamples=100) for seed in range(60)]
    mean = np.mean([d["auc"] for d in drawn])
    covered = np.mean([d["auc_low"] <= mean <= d["auc_high"] for d in drawn])
    assert covered > 0.85


def test_calibration_error_is_small_for_the_truth_and_large_for_a_liar() -> None:
    p = predictions(2, 20_000)
    liar = replace(p, logit=p.logit + 2)
    assert evaluate(p, 0.5, resamples=0)["ece"] < 0.02
    assert evaluate(liar, 0.5, resamples=0)["ece"] > 0.2


def test_the_threshold_has_the_best_f1() -> None:
    p = predictions(3)
    best = best_threshold(p)
    scores = [f1_score(p.click, p.probability >= t) for t in np.unique(p.probability)]
    assert f1_score(p.click, p.probability >= best) == pytest.approx(max(scores))


def test_undefined_metrics_are_none() -> None:
    p = predictions(4)
    silent = replace(p, click=np.zeros_like(p.click))
    got = evaluate(silent, 0.5)
    assert got["auc"] is None
    assert got["auc_low"] is None
    assert got["log_loss"] > 0


def test_the_auc_of_sparse_items_counts_them_alone() -> None:
    p = predictions(5)
    shown = np.arange(9) * 10  # items 0 and 1 are sparse
    few = p.item < 2
    assert sparse_auc(p, shown) == pytest.approx(roc_auc_score(p.click[few], p.logit[few]))
    assert sparse_auc(p, shown + 100) is None


def test_nothing_to_evaluate_is_refused() -> None:
    none = Predictions(*(np.zeros(0) for _ in range(6)))
    with pytest.raises(InputError, match="no position is left"):
        evaluate(none, 0.5)


def test_context_is_the_papers(small_log: SessionLog) -> None:
    """⌊0.8 R⌋ slates are history."""
    part = Part.of(small_log, np.arange(small_log.n_sessions), 0.8)
    first = dict(zip(part.end.tolist(), part.first.tolist(), strict=True))
    assert [first[r] for r in (3, 4, 5, 10, 12)] == [2, 3, 4, 8, 9]


def test_only_real_positions_after_the_context_count(small_log: SessionLog) -> None:
    responder = random_responder("pbm", len(small_log.catalogue), small_log.n_positions, 3)
    sessions = np.arange(0, 100)
    found = predict(responder, small_log, Part.of(small_log, sessions, 0.8))
    expected = sum(
        int((small_log.slate[small_log.rows([e])][int(0.8 * n + 1e-9) :] >= 0).sum())
        for e, n in zip(sessions, small_log.session_length[sessions], strict=True)
    )
    assert len(found.click) == expected
    whole = predict(responder, small_log, Part.of(small_log, sessions))
    assert len(whole.click) == (small_log.slate[small_log.rows(sessions)] >= 0).sum()
    assert whole.click.sum() == small_log.response[small_log.rows(sessions)].sum()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_without_an_order_are_not_evaluated(value: float) -> None:
    p = predictions(0)
    with pytest.raises(InputError, match="log-odds are NaN or infinite"):
        replace(p, logit=np.full_like(p.logit, value))
