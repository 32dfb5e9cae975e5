"""What the commands call: the functions that a notebook calls as well."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.speed.end_to_end import measure_one_user
from benchmarks.studies import leaderboard
from benchmarks.studies.evaluate import evaluate_responder
from benchmarks.studies.sequential import compare
from benchmarks.studies.synthesize import synthesize
from responders import InputError, SessionLog
from responders.evaluation.metrics import METRICS
from responders.evaluation.report import make_report
from responders.known_truth.world import truth_of
from responders.log.batch import Part
from responders.models.registry import RESPONDERS
from responders.registry import load
from responders.training.checkpoint import load_responder


def test_evaluate_responder_is_the_command(
    recsim: Any, trained: Path, small_log: SessionLog, small_log_path: Path, tmp_path: Path
) -> None:
    found = evaluate_responder(trained, small_log, device="cpu", draws=4)
    found.save(tmp_path / "ours.json")
    words = ["--json", tmp_path / "theirs.json", "--draws", 4, "--device", "cpu"]
    assert recsim("evaluate", trained, small_log_path, *words).code == 0
    assert (tmp_path / "ours.json").read_text() == (tmp_path / "theirs.json").read_text()
    assert found.responder == "session_gru"
    assert found.same_log
    assert found.flat()["log_loss_at_1"] == found.metrics["by_position"][0]["log_loss"]
    assert not evaluate_responder(trained, small_log.select(np.arange(90)), draws=0).same_log


def test_evaluate_responder_refuses_a_log_that_does_not_fit(
    trained: Path, small_log: SessionLog
) -> None:
    with pytest.raises(InputError, match="split 'half' is unknown"):
        evaluate_responder(trained, small_log, split="half")


def test_unconditional_metrics_are_those_of_responders_that_read_clicks_above(
    trained: Path, small_log: SessionLog
) -> None:
    part = Part.of(small_log, np.arange(40), 0.5)
    reads = load_responder(trained).responder
    assert reads.reads_clicks_above
    report = make_report(reads, small_log, part, 0.2, draws=2, resamples=0)
    assert report.unconditional is not None
    assert report.metrics["unconditional_log_loss"] != report.metrics["log_loss"]
    assert report.metrics["bayes_log_loss"] < report.metrics["log_loss"]
    assert "auc_low" not in report.metrics
    assert report.points()["unconditional_auc"] == report.metrics["unconditional_auc"]

    pbm = load(RESPONDERS, "pbm", "responder")(reads.shape)
    report = make_report(pbm, small_log, part, 0.2, bayes=False)
    assert report.unconditional is None
    assert not [name for name in report.metrics if name.startswith(("unconditional", "bayes"))]
    points = report.points()
    assert all(points[name] == points[f"unconditional_{name}"] for name in METRICS)


def test_a_leaderboard_in_one_call(trained: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"users": 20, "seeds": 1, "training_steps": 100, "progress": False}
    found = leaderboard.run(
        "RecSim-v0", ["random", "popular"], responder=trained, out=tmp_path / "o", **options
    )
    assert {row.policy for row in found.rows} == {"random", "popular"}
    assert found.facts["synthetic"] is True
    assert all(path.exists() for path in found.files)
    again = leaderboard.run("RecSim-v0", "random,popular", responder=trained, **options)
    assert again.files == []
    assert [row.reward for row in again.rows] == [row.reward for row in found.rows]


def test_each_sequential_model_is_trained_with_each_loss(small_log: SessionLog) -> None:
    models = "sasrec,gru4rec,bert4rec,pnfrec"
    rows = compare(small_log, models, "full,block:8", seeds=2, epochs=1, device="cpu")
    found = [(row["model"], row["loss"]) for row in rows]
    assert found[:3] == [("sasrec", "full"), ("sasrec", "block:8"), ("gru4rec", "full")]
    assert len(found) == 8
    assert rows[0]["ndcg"] == pytest.approx((rows[0]["ndcg_0"] + rows[0]["ndcg_1"]) / 2)
    assert rows[1]["above_low"] <= rows[1]["ndcg"] - rows[0]["ndcg"] <= rows[1]["above_high"]
    with pytest.raises(InputError, match="loss 'half' is not"):
        compare(small_log, losses="half")
    with pytest.raises(InputError, match="popular is not sequential"):
        compare(small_log, "popular")


def test_synthesize_takes_settings_as_text_or_numbers(tmp_path: Path) -> None:
    for i, value in enumerate((30, "30")):
        log = synthesize(tmp_path / str(i), sessions=5, settings={"n_items": value})
        assert len(log.catalogue) == 30
        truth = truth_of(log)
        assert truth is not None
        assert truth.config.n_items == 30
    with pytest.raises(InputError, match="did you mean contentwise"):
        synthesize(tmp_path / "o", "contentwize")


def test_one_user_through_gym_make_is_measured() -> None:
    bare, whole = measure_one_user(0.05)
    assert min(bare, whole) > 0
