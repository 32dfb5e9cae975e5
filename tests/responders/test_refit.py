"""Refitting: the saved responder learns from all users, its metrics are those from before."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsim_env.loading import BY_ALL, open_responder
from responders import InputError, SessionLog, fit
from responders.behaviour.leaving import fit_hazard
from responders.behaviour.returns import fit_returns
from responders.log.batch import Part
from responders.log.counts import count
from responders.log.split import make_split
from responders.models.build import build_responder
from responders.training.checkpoint import Checkpoint, load_responder
from responders.training.config import TrainConfig
from responders.training.fit import configure
from responders.training.trainer import STATE, Interrupted, Trainer

SETTINGS: dict[str, Any] = {"epochs": 4, "hidden_size": 8, "batch_size": 32, "learning_rate": 0.1}


@pytest.fixture(scope="module")
def log(small_log: SessionLog) -> SessionLog:
    return small_log.select(range(120))


def refitted(log: SessionLog, name: str, out: Path, **options: Any) -> Checkpoint:
    return fit(log, name, out, refit=True, progress=False, **options)


def same_weights(one: Any, other: Any) -> bool:
    one, other = one.responder.state_dict(), other.responder.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["item_ctr", "position_ctr", "pbm"])
def test_a_counting_responder_counts_the_whole_log(
    name: str, small_log: SessionLog, tmp_path: Path
) -> None:
    users = refitted(small_log, name, tmp_path / "refit")
    whole, _ = build_responder(name, small_log, np.arange(small_log.n_sessions))
    for key, value in whole.state_dict().items():
        assert torch.equal(users.responder.state_dict()[key], value)
    shown, clicked = (c.sum(1) for c in count(small_log, np.arange(small_log.n_sessions)))
    attributes = users.initial_sessions.catalogue.attributes
    np.testing.assert_array_equal(attributes["shown"], shown)
    np.testing.assert_array_equal(attributes["clicked"], clicked)


def test_figures_come_from_where_the_card_says(small_log: SessionLog, tmp_path: Path) -> None:
    users = refitted(small_log, "pbm", tmp_path / "refit")
    before = fit(small_log, "pbm", tmp_path / "plain", progress=False)
    everything = np.arange(small_log.n_sessions)
    assert not same_weights(users, before)
    for field in ("metrics", "threshold", "training", "split"):
        assert users.card[field] == before.card[field]
    assert users.card["refit"]["from_training_part"] == ["metrics", "threshold", "training"]
    assert "weights" in users.card["refit"]["from_all_users"]
    assert before.card["refit"] is None
    assert users.hazard == fit_hazard(small_log, everything)
    assert users.returns == fit_returns(small_log, everything)
    assert users.card["initial_users"] == "users of the log, all of them trained on"
    assert len(users.initial_sessions.users) == small_log.n_sessions
    assert users.refitted
    assert not before.refitted


@pytest.mark.parametrize("name", ["slate_gru", "logistic_regression", "adv_ncm"])
def test_the_chosen_epochs_and_learning_rates_are_repeated(
    name: str, log: SessionLog, tmp_path: Path
) -> None:
    """The weights are those of a loop over the whole log written out here."""
    settings = SETTINGS | {"learning_rate": 0.3}
    if name == "adv_ncm":
        settings["epochs"] = 2
    if name == "logistic_regression":
        settings = {k: v for k, v in settings.items() if k != "hidden_size"}
    users = refitted(log, name, tmp_path / "refit", settings=settings, seed=2)
    chosen, again = users.card["training"], users.card["refit"]["training"]
    rates = [row["learning_rate"] for row in chosen["history"][: chosen["best_epoch"]]]
    assert [row["learning_rate"] for row in again["history"]] == rates
    assert again["epochs_run"] == chosen["best_epoch"]
    assert all("validation_log_loss" not in row for row in again["history"])

    everything = np.arange(log.n_sessions)
    config, training = configure(name, settings)
    responder, _ = build_responder(name, log, everything, config, seed=2)
    parts = {"train": Part.of(log, everything)}
    trainer = Trainer(
        responder, log, parts, training, tmp_path / "o", seed=2, progress=False, rates=rates
    )
    expected = trainer.run().state_dict()
    assert trainer.state.step == len(rates) * -(-log.n_sessions // 32)
    for key, value in users.responder.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_learning_rates_that_validation_halved_are_repeated(
    small_log: SessionLog, tmp_path: Path
) -> None:
    log = small_log.select(range(240))
    settings = SETTINGS | {"learning_rate": 0.5, "epochs": 12, "average": 0, "patience": 12}
    users = refitted(log, "slate_gru", tmp_path / "refit", settings=settings)
    rates = [row["learning_rate"] for row in users.card["refit"]["training"]["history"]]
    assert rates[0] == 0.5
    assert min(rates) < 0.5
    assert len(rates) == users.card["training"]["best_epoch"]


def test_the_batch_size_of_the_first_training_is_kept(
    small_log: SessionLog, tmp_path: Path
) -> None:
    """A fiftieth of the sessions would be another number on the whole log."""
    log = SessionLog.concat([small_log] * 2)
    users = refitted(log, "mf", tmp_path / "refit", settings={"epochs": 1})
    assert users.card["training"]["batch_size"] == 19
    assert users.card["refit"]["training"]["batch_size"] == 19


def test_the_seed_fixes_both_trainings(log: SessionLog, tmp_path: Path) -> None:
    settings = SETTINGS | {"epochs": 2}
    one, same, other = (
        refitted(log, "slate_gru", tmp_path / str(i), settings=settings, seed=seed)
        for i, seed in enumerate([3, 3, 4])
    )
    assert same_weights(one, same)
    assert not same_weights(one, other)


class Stop(Trainer):
    """Stops as Ctrl-C would after some batches of the training with or without validation."""

    refit, batches = False, 0

    def _step(self, batch: Any) -> None:
        super()._step(batch)
        self._stop = (self.rates is not None) == self.refit and self.state.step == self.batches


RESUMED = SETTINGS | {"epochs": 3, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def whole(log: SessionLog, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    out = tmp_path_factory.mktemp("refit") / "whole"
    checkpoint = refitted(log, "session_gru", out, settings=RESUMED)
    for training in (checkpoint.card["training"], checkpoint.card["refit"]["training"]):
        del training["seconds"]
    return checkpoint


@pytest.mark.parametrize(("refit", "batches"), [(False, 3), (True, 3), (True, 9)])
def test_an_interrupted_refit_resumes_to_the_same_responder(
    refit: bool,
    batches: int,
    whole: Checkpoint,
    log: SessionLog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, out = RESUMED, tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "refit", refit)
        patch.setattr(Stop, "batches", batches)
        patch.setattr("responders.training.fit.Trainer", Stop)
        with pytest.raises(Interrupted):
            refitted(log, "session_gru", out, settings=settings)
    with pytest.raises(InputError, match="not finished"):
        load_responder(out)
    with pytest.raises(InputError, match="has refit = True, not False"):
        fit(log, "session_gru", out, settings, resume=True)
    resumed = refitted(log, "session_gru", out, settings=settings, resume=True)
    assert same_weights(whole, resumed)
    for training in (resumed.card["training"], resumed.card["refit"]["training"]):
        del training["seconds"]
    assert whole.card == resumed.card
    assert not list(out.rglob(STATE))


def test_a_refit_that_fails_between_its_trainings_resumes(
    log: SessionLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    settings, out = SETTINGS | {"epochs": 1}, tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr("responders.training.fit.best_threshold", stop)
        with pytest.raises(KeyboardInterrupt):
            refitted(log, "slate_gru", out, settings=settings)
    resumed = refitted(log, "slate_gru", out, settings=settings, resume=True)
    assert same_weights(resumed, refitted(log, "slate_gru", tmp_path / "whole", settings=settings))


def test_a_finished_training_is_not_refitted_later(small_log: SessionLog, tmp_path: Path) -> None:
    fit(small_log, "pbm", tmp_path / "out", progress=False)
    with pytest.raises(InputError, match=r"run\.json has refit = False, not True: resume with"):
        refitted(small_log, "pbm", tmp_path / "out", resume=True)
    refitted(small_log, "pbm", tmp_path / "out", overwrite=True)


def test_overwriting_leaves_nothing_of_a_refit(small_log: SessionLog, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refitted(small_log, "mf", out, settings={"epochs": 1})
    assert list((out / "refit" / "tensorboard").iterdir())
    fit(small_log, "pbm", out, overwrite=True, progress=False)
    assert not (out / "refit").exists()


def test_a_split_by_time_is_refitted_on_all_slates(small_log: SessionLog, tmp_path: Path) -> None:
    users = refitted(small_log, "item_ctr", tmp_path / "out", split="time")
    by_user = refitted(small_log, "item_ctr", tmp_path / "user")
    assert same_weights(users, by_user)
    assert users.card["metrics"] != by_user.card["metrics"]


def test_an_ensemble_says_which_members_hold_its_users_out(
    small_log: SessionLog, tmp_path: Path
) -> None:
    one, two = (refitted(small_log, "pbm", tmp_path / f"r{s}", seed=s) for s in (0, 1))
    plain = fit(small_log, "item_ctr", tmp_path / "plain", progress=False)
    both = open_responder([one, two])
    assert both.card["initial_users"] == "users of the log, all of them trained on"
    assert len(both.initial_sessions.users) == small_log.n_sessions
    test = np.r_[
        *(make_split(small_log, "user", 0)[part].sessions for part in ("validation", "test"))
    ]
    assert open_responder([plain, [plain, plain]]).card["initial_users"] == BY_ALL
    for members in ([one, plain], [plain, one], [one, two, plain]):
        mixed = open_responder(members)
        assert mixed.card["initial_users"] == f"users held out by 1 of {len(members)} members"
        assert set(mixed.initial_sessions.users.ids) == set(
            small_log.users.ids[small_log.user[test]]
        )
        np.testing.assert_array_equal(  # popularity as the first member counts it
            mixed.initial_sessions.catalogue.attributes["shown"],
            members[0].initial_sessions.catalogue.attributes["shown"],
        )


def test_the_command_line_refits_and_refuses_to_test_it(
    recsim: Any, small_log_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = recsim("train", small_log_path, "--responder", "pbm", "--out", out, "--refit")
    assert done.code == 0, done.err
    assert "before the refit" in done.out
    assert json.loads((out / "card.json").read_text())["refit"] is not None
    done = recsim("evaluate", out, small_log_path)
    assert done.code == 1
    assert "was refitted on all users" in done.err
    done = recsim("evaluate", out, small_log_path, "--split", "all")
    assert done.code == 0
    assert "trained on all users of this log" in done.err


def test_if_no_epoch_was_chosen_none_is_trained(small_log: SessionLog, tmp_path: Path) -> None:
    responder, _ = build_responder("mf", small_log, np.arange(10))
    start = {name: value.clone() for name, value in responder.state_dict().items()}
    parts = {"train": Part.of(small_log, np.arange(10))}
    trainer = Trainer(responder, small_log, parts, TrainConfig(), tmp_path / "o", rates=[])
    for name, value in trainer.run().state_dict().items():
        assert torch.equal(value, start[name])
