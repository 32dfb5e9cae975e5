"""The studies of items that training never showed, of another policy, and of users' pasts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies.cold_items import cold_items, hold_out
from benchmarks.studies.other_policy import other_policy
from benchmarks.studies.profiles import profiles
from responders import EMPTY, Catalogue, InputError, SessionLog
from responders.known_truth.logs import synthesize
from responders.known_truth.presets import TruthConfig


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[SessionLog, SessionLog]:
    """A log that never shows a quarter of the items, and one that shows all of them."""
    world = TruthConfig(
        n_items=40, n_positions=5, clusters=6, item_features=4, dimensions=3, max_slates=6
    )
    out = tmp_path_factory.mktemp("logs")
    return (
        synthesize(out / "log", world.changed(new_items=0.25), 300, progress=False),
        synthesize(out / "test", world, 300, seed=1, policy="uniform", progress=False),
    )


def test_content_answers_for_cold_items_and_learned_vectors_do_not(
    logs: tuple[SessionLog, SessionLog], tmp_path: Path
) -> None:
    log, test = logs
    rows = cold_items(
        log, tmp_path, test=test, responder="mf",
        embeddings="explicit,learned,content_delta:delta=0",
        settings={"epochs": 6, "batch_size": 32, "learning_rate": 0.03}, seeds=1, resamples=50,
        progress=False,
    )  # fmt: skip
    explicit, learned, frozen = rows
    assert [row["embedding"] for row in rows] == ["explicit", "learned", "content_delta:delta=0"]
    assert explicit["cold_auc_gain"] == explicit["cold_auc_gain_low"] == 0
    assert explicit["cold_auc"] > learned["cold_auc"] + 0.02
    assert learned["cold_auc_gain_high"] < 0
    assert frozen["cold_auc_low"] <= frozen["cold_auc"] <= frozen["cold_auc_high"]
    shown = explicit["warm_positions"] + explicit["cold_positions"]
    assert shown == int((test.slate >= 0).sum())
    assert 0.2 < explicit["cold_positions"] / shown < 0.3


def test_items_are_held_out_of_the_slates_of_some_users(
    logs: tuple[SessionLog, SessionLog],
) -> None:
    log = logs[1]
    train, judge = (part.validate() for part in hold_out(log, 0.25))
    assert train.n_sessions == 210
    assert train.n_sessions + judge.n_sessions == log.n_sessions
    assert not np.intersect1d(train.users.ids, judge.users.ids).size
    shown = np.unique(train.slate[train.slate != EMPTY])
    assert len(shown) == 30
    assert len(np.unique(judge.slate)) == 40
    whole = log.select(np.isin(log.users.ids[log.user], train.users.ids))
    kept = np.isin(whole.slate, shown)
    assert train.response.sum() == (whole.response * kept).sum()
    rows = kept.any(1)
    assert not rows.all()
    np.testing.assert_array_equal(train.slate, np.where(kept, whole.slate, EMPTY)[rows])
    np.testing.assert_array_equal(train.time, whole.time[rows])
    with pytest.raises(InputError, match="must be within 0 and 1"):
        hold_out(log, 1.0)


def test_profiles_of_users_who_come_back_help_a_responder(tmp_path: Path) -> None:
    world = TruthConfig(
        n_items=30, n_positions=5, clusters=4, dimensions=2, hidden=0.95, base=-1.0, max_slates=5,
        fade=0.0, item_features=4,
    )  # fmt: skip
    log = synthesize(tmp_path / "log", world, 800, visits=4, progress=False)
    rows = profiles(
        log, tmp_path / "runs", kinds="none,counts", responder="mf",
        settings={"epochs": 5, "embedding": "explicit", "batch_size": 16, "learning_rate": 0.03},
        seeds=1, resamples=50, progress=False,
    )  # fmt: skip
    none, counts, truth = rows
    assert [row["profile"] for row in rows] == ["none", "counts", "Bayes optimum"]
    assert none["log_loss_gain_low"] == none["log_loss_gain_high"] == 0
    assert counts["log_loss_gain_high"] < 0
    assert truth["log_loss"] < none["log_loss"]


def test_what_cannot_be_compared_is_refused(
    logs: tuple[SessionLog, SessionLog], tmp_path: Path
) -> None:
    log, test = logs
    with pytest.raises(InputError, match="embedding 'nope' is unknown"):
        cold_items(log, tmp_path / "a", test=test, embeddings="nope")
    with pytest.raises(InputError, match="another catalogue"):
        cold_items(log, tmp_path / "a", test=replace(test, catalogue=Catalogue(np.arange(40))))
    assert not (tmp_path / "a").exists()
    with pytest.raises(InputError, match="no cold item"):
        cold_items(
            test, tmp_path / "b", test=test, responder="mf", embeddings="learned", seeds=1,
            settings={"epochs": 1}, progress=False,
        )  # fmt: skip


def test_responders_are_judged_on_the_slates_of_another_policy(
    logs: tuple[SessionLog, SessionLog], tmp_path: Path
) -> None:
    log, test = logs
    rows = other_policy(
        log, test, "mf,mf:learning_rate=0.0001,item_ctr", tmp_path, settings={"epochs": 2},
        seeds=1, resamples=20, progress=False,
    )  # fmt: skip
    assert [row["responder"] for row in rows] == ["mf", "mf:learning_rate=0.0001", "item_ctr"]
    assert rows[0]["log_loss_gain"] == 0
    for row in rows:
        assert row["top_low"] <= row["top"] <= row["top_high"]
        assert row["log_loss_gain"] == pytest.approx(row["log_loss"] - rows[0]["log_loss"])
        assert row["log_loss_low"] <= row["log_loss"] <= row["log_loss_high"]
    assert rows[2]["top_high"] < 1  # item_ctr knows no position
    with pytest.raises(InputError, match="setting 'nope' is unknown"):
        other_policy(log, test, "mf:nope=1", tmp_path)
