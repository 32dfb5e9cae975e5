"""Tuning: what is searched, that it finds what is better, and that it continues."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from agents.sequential import SequentialConfig
from agents.slateq import SlateQConfig
from benchmarks.studies.tuning import DEFAULT, ranges, tune
from responders import InputError

pytest.importorskip("optuna")

POLICY = """
from dataclasses import dataclass
import torch
from agents import Policy
from responders import InputError
from responders.config import Config, setting

@dataclass(frozen=True)
class BlindConfig(Config):
    blind: float = setting(0.9, "Share of the items that are shown last.", ge=0, le=1)
    even: bool = setting(True, "Fail.")

class Blind(Policy):
    config_class = BlindConfig

    def __init__(self, world, config=None, seed=0):
        super().__init__(world, config, seed)
        if not self.config.even:
            raise InputError("even must be true")

    def score(self, observation):
        clicked = torch.from_numpy(self.catalogue.attributes["clicked"]).float()
        return torch.where(clicked.argsort().argsort() < (1 - self.config.blind) * self.n_items,
                           clicked, -clicked - 1)
"""


def test_ranges_are_those_of_the_settings() -> None:
    sequential, slateq = ranges(SequentialConfig), ranges(SlateQConfig)
    assert sequential["learning_rate"] == (0.00025, 0.004)
    assert sequential["length"] == (12, 200)
    assert sequential["share"] == ["row", "block", "batch"]
    assert sequential["dropout"] == pytest.approx((0, 0.999))
    assert "negatives" not in sequential, "0 turns them off"
    assert slateq["gamma"] == (0, 1)
    assert slateq["target_rate"] == pytest.approx((0.001, 1))


def test_a_study_finds_better_settings_and_continues(tmp_path: Path) -> None:
    file, out = tmp_path / "mine.py", tmp_path / "out"
    file.write_text(POLICY)
    options: Any = {"out": out, "users": 10, "seeds": 1, "training_steps": 0, "progress": False}
    tune("RecSim-v0", f"{file}:Blind", 2, **options)
    first = {path: path.stat().st_mtime_ns for path in (out / "trials").glob("*-[01].json")}
    first = {path: changed for path, changed in first.items() if path.stem.count("-") == 1}
    assert len(first) == 2
    found = tune("RecSim-v0", f"{file}:Blind", 5, **options)
    assert all(path.stat().st_mtime_ns == changed for path, changed in first.items())
    table = pd.read_csv(out / "trials.csv")
    assert len(table) == 5
    assert table["settings.blind"][0] == 0.9, "the defaults come first"
    assert ((table.error == "even must be true") == ~table["settings.even"]).all()
    best = table.loc[table.reward.idxmax()]
    assert found.facts["settings"] == {"blind": best["settings.blind"], "even": True}
    assert {row.policy for row in found.rows} == {DEFAULT, f"trial {best.trial}"}
    assert found.rows[0].policy == f"trial {best.trial}"
    assert json.loads((out / "leaderboard.json").read_text())["settings"] == found.facts["settings"]
    for words, message in (
        ({"search": {"blnd": ""}}, "no range of 'blnd'; did you mean blind"),
        ({"search": {"blind": "low:high"}}, "the range of blind is LOW:HIGH"),
        ({"settings": {"blind": 2}}, "setting blind must be a number ≥ 0 and ≤ 1"),
    ):
        with pytest.raises(InputError, match=message):
            tune("RecSim-v0", f"{file}:Blind", 1, **options | words)
