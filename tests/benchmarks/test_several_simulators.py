"""The study of policies that learn with several simulators."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.studies.several_simulators import several_simulators
from responders import InputError, SessionLog


def test_all_simulators_are_compared_with_one(small_log: SessionLog, tmp_path: Path) -> None:
    first, again = (
        several_simulators(
            small_log, "mf", tmp_path, trainings=2, settings={"epochs": 1},
            policy={"n_steps": 1, "n_epochs": 1, "size": 4, "hidden_size": 4}, memories=(0, 4),
            users=12, seeds=2, steps=1, progress=False,
        )
        for _ in range(2)
    )  # fmt: skip
    assert first == again, "finished trainings are used again"
    cases = [(row["simulators"], row["memory"]) for row in first]
    trained = [(name, memory) for name in ("all", "mf-0") for memory in (0, 4)]
    assert cases == [*trained, ("popular", 0), ("oracle", 0)]
    best = first[1]["true"]
    for row in first:
        assert row["true_low"] <= row["true"] <= row["true_high"]
        assert row["gain"] == pytest.approx(best - row["true"])
    assert first[1]["gain_low"] == first[1]["gain_high"] == 0


@pytest.mark.parametrize(
    ("responders", "log", "message"),
    [("nope", "known", "nope"), ("mf", "real", "real users"), ("mf", "known", "two or more")],
)
def test_what_cannot_be_compared_is_refused_before_any_training(
    responders: str, log: str, message: str, small_log: SessionLog, tmp_path: Path
) -> None:
    trainings = 1 if message == "two or more" else 2
    chosen = small_log if log == "known" else replace(small_log, card={"name": "real"})
    with pytest.raises(InputError, match=message):
        several_simulators(chosen, responders, tmp_path / "out", trainings=trainings)
    assert not (tmp_path / "out").exists()
