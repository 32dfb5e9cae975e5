"""Training, resuming, checkpoints: what is learned, and what is refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from responders import InputError, SessionLog, Users
from responders.evaluation.metrics import log_loss
from responders.evaluation.predict import predict
from responders.known_truth.logs import synthesize
from responders.known_truth.presets import PRESETS
from responders.known_truth.world import truth_of
from responders.log.batch import Part
from responders.log.split import make_split, split_users
from responders.models.build import build_responder
from responders.models.counting import PBM
from responders.models.neural import NeuralConfig
from responders.models.parts.items import given_item_vectors
from responders.models.recurrent import SlateGRUConfig
from responders.training import trainer as trainer_module
from responders.training.checkpoint import load_responder
from responders.training.config import TrainConfig
from responders.training.fit import configure, fit
from responders.training.trainer import STATE, Interrupted, Trainer


def loss(responder: Any, log: SessionLog, sessions: np.ndarray) -> float:
    found = predict(responder, log, Part.of(log, sessions))
    return log_loss(found.logit, found.click)


def test_history_responders_refuse_one_slate_sessions(small_log: SessionLog) -> None:
    short = small_log.select(np.arange(100), first_slates=1)
    with pytest.raises(InputError, match="one slate: session_gru has no history"):
        build_responder("session_gru", short, np.arange(80))
    responder, _ = build_responder("pbm", short, np.arange(80))
    assert np.isfinite(loss(responder, short, np.arange(80, 100)))


def test_some_one_slate_sessions_are_fine(small_log: SessionLog, tmp_path: Path) -> None:
    mixed = SessionLog.concat(
        [small_log.select(np.arange(50), first_slates=1), small_log.select(np.arange(50, 150))]
    )
    users = fit(mixed, "slate_gru", tmp_path / "out", {"epochs": 1}, progress=False)
    assert users.card["metrics"]["n_sessions"] == 15


def test_training_beats_the_start_and_the_counts(small_log: SessionLog, trained: Path) -> None:
    split = split_users(small_log)
    untrained, _ = build_responder(
        "session_gru",
        small_log,
        split["train"].sessions,
        NeuralConfig(hidden_size=16),
    )
    learned = load_responder(trained).responder
    assert loss(learned, small_log, split["test"].sessions) < loss(
        untrained, small_log, split["test"].sessions
    )


def test_pbm_recovers_the_true_examination(tmp_path: Path) -> None:
    """To within 5 % at every position, on a world that is PBM."""
    world = PRESETS["pbm"].changed(n_items=200)
    log = synthesize(tmp_path / "log", world, 2500, progress=False)
    responder, _ = build_responder("pbm", log, np.arange(log.n_sessions))
    truth = truth_of(log)
    assert isinstance(responder, PBM)
    assert truth is not None
    ratio = responder.examination / truth.examination
    assert (ratio - 1).abs().max() < 0.05
    sessions = np.arange(log.n_sessions)
    assert loss(responder, log, sessions) < loss(truth, log, sessions) + 5e-4


def test_svd_reads_the_training_users_alone(small_log: SessionLog) -> None:
    train = split_users(small_log)["train"].sessions
    found = given_item_vectors(small_log, train, "svd", 4)
    blind = np.array(small_log.response)
    others = np.setdiff1d(np.arange(small_log.n_sessions), train)
    blind[small_log.rows(others)] = 0
    again = given_item_vectors(replace(small_log, response=blind), train, "svd", 4)
    assert found is not None
    assert again is not None
    np.testing.assert_allclose(np.abs(found), np.abs(again), atol=1e-5)


@pytest.mark.parametrize("embedding", ["learned", "svd", "explicit", "content"])
def test_every_embedding_trains_saves_and_loads(
    embedding: str, small_log: SessionLog, tmp_path: Path
) -> None:
    settings = {"epochs": 1, "embedding": embedding, "embedding_size": 8}
    users = fit(small_log, "mf", tmp_path / "out", settings, progress=False)
    assert users.card["responder"]["options"]["embedding"] == embedding
    assert users.card["metrics"]["auc"] > 0.5


def test_the_scale_of_user_features_does_not_matter(small_log: SessionLog, tmp_path: Path) -> None:
    """Raw features of real logs are of any size; a responder sees them standardised."""
    users = Users(small_log.users.ids, small_log.users.features * 1000 + 5000)
    for name in ("mf", "slate_gru", "session_gru"):
        metrics = [
            fit(log, name, tmp_path / f"{name}{i}", {"epochs": 1}, progress=False).card["metrics"]
            for i, log in enumerate([small_log, replace(small_log, users=users)])
        ]
        assert metrics[0]["log_loss"] == pytest.approx(metrics[1]["log_loss"], abs=1e-3)


class StopAfter(Trainer):
    """Stops as Ctrl-C would, after a number of batches."""

    batches = 7

    def _step(self, batch: Any) -> None:
        super()._step(batch)
        self._stop = self.state.step == self.batches


@pytest.mark.parametrize("batches", [1, 4, 7])
def test_an_interrupted_run_resumes_to_the_same_weights(
    batches: int, small_log: SessionLog, tmp_path: Path
) -> None:
    split = split_users(small_log)
    config = TrainConfig(epochs=3, batch_size=128)

    def trainer(kind: type[Trainer], name: str) -> Trainer:
        responder, _ = build_responder(
            "session_gru",
            small_log,
            split["train"].sessions,
            configure("session_gru", {"hidden_size": 8})[0],
        )
        return kind(responder, small_log, split, config, tmp_path / name, progress=False)

    whole = trainer(Trainer, "whole").run().state_dict()
    stopped = trainer(StopAfter, "parts")
    stopped.batches = batches  # type: ignore[attr-defined]
    with pytest.raises(Interrupted):
        stopped.run()
    resumed = trainer(Trainer, "parts")
    resumed.resume()
    assert resumed.state.step == batches
    for name, value in resumed.run().state_dict().items():
        assert torch.equal(value, whole[name]), name


def damaged_states(path: Path) -> Iterator[tuple[str, bytes]]:
    """Contents that a resumable state may have come to."""
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["state"])
    tensors = load_file(path)

    def edited(facts: Any = facts, **changed: torch.Tensor) -> bytes:
        return save(tensors | changed, metadata={"state": json.dumps(facts)})

    yield "empty", b""
    yield "truncated", path.read_bytes()[:-100]
    yield "no facts", save(tensors)
    yield "other facts", edited({"progress": 1})
    yield "text for a number", edited(facts | {"progress": facts["progress"] | {"step": "x"}})
    yield "unknown progress", edited(facts | {"progress": facts["progress"] | {"steps": 1}})
    yield "other tensor", edited(rubbish=torch.zeros(1))
    for part in ("model", "best", "averaged", "adam"):
        name = next(k for k, v in tensors.items() if k.startswith(part) and v.ndim == 2)
        yield f"shape in {part}", edited(**{name: torch.zeros(3, 2)})


def test_a_damaged_state_is_one_error(small_log: SessionLog, tmp_path: Path) -> None:
    split = split_users(small_log)
    config = TrainConfig(epochs=3, batch_size=128)

    def trainer(kind: type[Trainer]) -> Trainer:
        responder, _ = build_responder("mf", small_log, split["train"].sessions)
        return kind(responder, small_log, split, config, tmp_path, progress=False)

    with pytest.raises(Interrupted):
        trainer(StopAfter).run()
    path = tmp_path / STATE
    for what, content in list(damaged_states(path)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"resume.safetensors cannot be read") as error:
            trainer(Trainer).resume()
        assert "--overwrite" in str(error.value), what


def test_the_same_seed_gives_the_same_weights(small_log: SessionLog, tmp_path: Path) -> None:
    settings = {"epochs": 1, "hidden_size": 8}
    runs = [
        fit(small_log, "slate_gru", tmp_path / str(i), settings, seed=seed, progress=False)
        for i, seed in enumerate([5, 5, 6])
    ]
    one, same, other = (run.responder.state_dict() for run in runs)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_training_does_not_touch_the_global_random_state(
    small_log: SessionLog, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    fit(small_log, "slate_gru", tmp_path / "out", {"epochs": 1}, progress=False)
    assert torch.equal(before, torch.get_rng_state())


def test_validation_in_blocks_gives_the_loss_of_all(
    small_log: SessionLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = split_users(small_log)
    responder, _ = build_responder("mf", small_log, split["train"].sessions)
    trainer = Trainer(responder, small_log, split, TrainConfig(), tmp_path / "o", progress=False)
    whole = trainer._validation_loss()
    monkeypatch.setattr(trainer_module, "_VALIDATED", 7)
    assert trainer._validation_loss() == pytest.approx(whole, rel=1e-12)


def test_a_loss_that_explodes_is_named(small_log: SessionLog, tmp_path: Path) -> None:
    split = split_users(small_log)
    responder, _ = build_responder("mf", small_log, split["train"].sessions)
    with torch.no_grad():
        responder.bias.fill_(float("nan"))
    trainer = Trainer(responder, small_log, split, TrainConfig(), tmp_path / "o", progress=False)
    with pytest.raises(
        InputError, match="loss became nan in epoch 0, batch 0: lower learning_rate"
    ):
        trainer.run()


def test_options_are_checked_by_name_and_type(small_log: SessionLog) -> None:
    config, training = configure("slate_gru", {"hidden_size": "32", "learning_rate": "0.01"})
    assert config == SlateGRUConfig(hidden_size=32)
    assert training.learning_rate == 0.01
    with pytest.raises(InputError, match="'hiden_size' is unknown to slate_gru; did you mean hidd"):
        configure("slate_gru", {"hiden_size": "32"})
    with pytest.raises(InputError, match=r"hidden_size must be a whole number.*, not 'many'"):
        configure("slate_gru", {"hidden_size": "many"})
    with pytest.raises(InputError, match=r"hidden_size must be a whole number.*, not True"):
        configure("slate_gru", {"hidden_size": True})
    with pytest.raises(InputError, match="batch_size must be a whole number ≥ 0, not '-1'"):
        configure("slate_gru", {"batch_size": "-1"})
    with pytest.raises(InputError, match="'sesion_gru' is unknown; did you mean session_gru"):
        configure("sesion_gru", {})
    with pytest.raises(InputError, match="embedding 'learnt' is unknown; did you mean learned"):
        build_responder("mf", small_log, np.arange(1), configure("mf", {"embedding": "learnt"})[0])


@pytest.mark.parametrize("seed", [-1, 1.5, True, 1 << 62])
def test_seeds_follow_one_rule(seed: Any, small_log: SessionLog, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for call in (
        lambda: fit(small_log, "position_ctr", out, seed=seed, progress=False),
        lambda: synthesize(out, PRESETS["pbm"], 3, seed=seed, progress=False),
        lambda: make_split(small_log, "user", seed),
        lambda: PRESETS["pbm"].changed(seed=seed),
    ):
        with pytest.raises(InputError, match="seed must be"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["1e300", "9" * 20])
@pytest.mark.parametrize("name", ["learning_rate", "prior", "min_shown", "patience"])
def test_settings_too_large_to_compute_with_are_refused(name: str, value: str) -> None:
    with pytest.raises(InputError, match=f"setting {name} must"):
        configure("session_gru", {name: value})


def test_training_is_in_float32_whatever_the_default(small_log: SessionLog, tmp_path: Path) -> None:
    few = small_log.select(np.arange(60))
    torch.set_default_dtype(torch.float64)
    try:
        found = fit(few, "mf", tmp_path / "double", {"epochs": 1}, progress=False)
    finally:
        torch.set_default_dtype(torch.float32)
    expected = fit(few, "mf", tmp_path / "plain", {"epochs": 1}, progress=False)
    for name, weight in expected.responder.state_dict().items():
        assert torch.equal(weight, found.responder.state_dict()[name])


def test_fit_refuses_a_folder_that_holds_something_else(
    trained: Path, small_log: SessionLog, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="holds a finished training: use --overwrite"):
        fit(small_log, "session_gru", trained)
    with pytest.raises(InputError, match=r"run\.json has responder = 'session_gru'"):
        fit(small_log, "mf", trained, resume=True)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="is not empty and holds no training"):
        fit(small_log, "mf", tmp_path, resume=True)


def test_a_wrong_split_leaves_the_training_that_it_was_to_replace(
    trained: Path, small_log: SessionLog
) -> None:
    before = (trained / "card.json").read_bytes()
    with pytest.raises(InputError):
        fit(small_log, "session_gru", trained, fractions=(0.5, 0.5, 0.5), overwrite=True)
    assert (trained / "card.json").read_bytes() == before
