"""The study of optimism: policies in learned worlds and in the true one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies.optimism import measure, optimism
from benchmarks.studies.pessimism import pessimism
from benchmarks.studies.support import support
from recsim_env.loading import open_responder
from responders import InputError, SessionLog, fit
from responders.known_truth.logs import synthesize
from responders.known_truth.presets import TruthConfig


def test_the_truth_promises_what_it_gives(small_world: TruthConfig, tmp_path: Path) -> None:
    """The same users answer in both worlds, so a policy that draws nothing gets the same clicks."""
    synthesize(tmp_path / "log", small_world, 60, progress=False)
    values = measure(open_responder(tmp_path / "log"), ["popular", "greedy"], 20, 1, seed=3)
    for learned, true in values.values():
        np.testing.assert_array_equal(learned, true)
    assert values["greedy"][1].mean() > values["popular"][1].mean()


def test_finished_trainings_are_used_again(small_log: SessionLog, tmp_path: Path) -> None:
    first, again = (
        optimism(
            small_log, "mf", tmp_path, settings={"epochs": 1}, policies="random,popular", users=20,
            progress=False,
        )
        for _ in range(2)
    )  # fmt: skip
    assert first == again
    assert [row["policy"] for row in first] == ["random", "popular"]
    for row in first:
        assert row["ratio"] == pytest.approx(row["learned"] / row["true"])
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]


def test_a_real_log_has_no_true_answers(small_log: SessionLog, tmp_path: Path) -> None:
    checkpoint = fit(small_log, "item_ctr", tmp_path / "run", progress=False)
    del checkpoint.initial_sessions.card["truth"]
    with pytest.raises(InputError, match="real users"):
        measure(checkpoint, ["random"], 4, 1, seed=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"responders": "nope"}, "nope"), ({"policies": "nope"}, "nope"), ({}, "real users")],
)
def test_wrong_names_and_real_logs_are_refused_before_any_training(
    wrong: dict[str, str], message: str, small_log: SessionLog, tmp_path: Path
) -> None:
    log = small_log if wrong else replace(small_log, card={"name": "real"})
    with pytest.raises(InputError, match=message):
        optimism(log, out=tmp_path / "out", **({"responders": "mf"} | wrong), progress=False)
    assert not (tmp_path / "out").exists()


def test_repetition_tells_where_a_responder_without_fatigue_errs(
    small_log: SessionLog, tmp_path: Path
) -> None:
    """`mf` does not know that users tire, so its error grows as slates repeat."""
    rows = support(
        small_log, "mf,item_ctr", tmp_path, settings={"epochs": 3}, policies="popular", users=40,
        progress=False,
    )  # fmt: skip
    assert [(row["responder"], row["policy"]) for row in rows[:2]] == [
        ("mf", "popular"),
        ("mf", "all"),
    ]
    assert rows[0]["repetition"] > 0.3
    assert rows[0] == rows[1] | {"policy": "popular"}


def test_disagreement_needs_two_responders(small_log: SessionLog, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two or more responders"):
        support(small_log, "mf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_policy_learns_from_an_ensemble_with_each_pessimism(
    small_log: SessionLog, tmp_path: Path
) -> None:
    rows = pessimism(
        small_log, "item_ctr", tmp_path, members=2, penalties=[2], users=20, seeds=1, steps=40,
        progress=False,
    )  # fmt: skip
    names = ["clicks", "clicks - 2 × disagreement", "supported_clicks", "popular"]
    assert [row["reward"] for row in rows] == names
    assert rows[-1]["gain"] == rows[-1]["gain_low"] == 0
    for row in rows[:-1]:
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
        assert row["gain"] == pytest.approx(row["true"] - rows[-1]["true"])


def test_one_member_cannot_disagree(small_log: SessionLog, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two or more members"):
        pessimism(small_log, "mf", tmp_path / "out", members=1)
    assert not (tmp_path / "out").exists()
