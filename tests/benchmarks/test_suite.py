"""The suite: scores, what cannot run, and continuing after a kill."""

import json
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from agents import Policy
from benchmarks.studies.suite import run, score_trials
from benchmarks.studies.trials import Trial
from recsim_env.skills import SKILLS
from responders import InputError
from tests.benchmarks.test_leaderboard import trial
from tests.commands import running


def trials(**rewards: list[list[float]]) -> list[Trial]:
    return [
        trial(name, seed, values)
        for name, seeds in rewards.items()
        for seed, values in enumerate(seeds)
    ]


def test_scores_lie_between_random_and_the_reference() -> None:
    found = score_trials(
        "explore",
        "oracle",
        trials(
            random=[[1.0, 2.0], [3.0, 4.0]],
            oracle=[[5.0, 6.0], [7.0, 8.0]],
            half=[[3.0, 4.0], [5.0, 6.0]],
            worse=[[0.0, 1.0], [2.0, 3.0]],
            better=[[9.0, 9.0], [9.0, 9.0]],
        ),
        {("explore", "failed"): "no memory"},
        ["half", "worse", "better", "random", "oracle", "failed"],
    )
    by_name = {score.policy: score for score in found}
    for name, score in [("half", 0.5), ("worse", 0), ("better", 1), ("random", 0), ("oracle", 1)]:
        each = by_name[name]
        assert (each.score, each.score_low, each.score_high) == pytest.approx((score,) * 3), name
    assert by_name["half"].reward == pytest.approx(4.5)
    assert by_name["half"].reward_low < 4.5 < by_name["half"].reward_high  # type: ignore[operator]
    assert (by_name["failed"].score, by_name["failed"].note) == (None, "no memory")


def test_without_random_slates_or_reference_there_is_no_score() -> None:
    failed = {("large", "oracle"): "no memory"}
    with pytest.raises(InputError, match="oracle failed in large, so there are no scores: no mem"):
        score_trials("large", "oracle", trials(random=[[1.0]]), failed, ["random"])


class Broken(Policy):
    """Cannot be made."""

    def __init__(self, world: Any, config: Any = None, seed: int = 0) -> None:
        raise KeyError("no such column")


def test_bad_requests_do_no_work(recsim: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="policy 'populer' is unknown; did you mean popular"):
        run("populer", out=tmp_path / "out")
    with pytest.raises(InputError, match="no policy given"):
        run([])
    with pytest.raises(
        InputError, match="policy Broken can run in no world of the suite: KeyError"
    ):
        run(["random", Broken], out=tmp_path / "out")
    done = recsim("bench", "suite", "--log", tmp_path, "--out", tmp_path / "out")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "has users of its own, and no learning curves: leave out --log" in done.err
    assert list(tmp_path.iterdir()) == []


POLICIES = """
import time
from pathlib import Path
import torch
from agents import Policy
from responders import InputError

HERE = Path(__file__).parent

class First(Policy):
    def reset(self):
        with (HERE / "rollouts.txt").open("a") as file:
            file.write("x" * (self.n_items == 50))

    def score(self, observation):
        return -torch.arange(self.n_items).float()

class Fragile(First):
    def score(self, observation):
        while (HERE / "stop").exists():
            time.sleep(0.05)
        if self.n_items == 100_000:
            raise MemoryError("too many items")
        return super().score(observation)
"""


def test_the_suite_goes_on_after_a_kill_and_past_failures(recsim: Any, tmp_path: Path) -> None:
    file, out = tmp_path / "mine.py", tmp_path / "runs" / "out"
    file.write_text(POLICIES)
    (tmp_path / "stop").touch()
    words = ["bench", "suite", "--policies", f"ease,{file}:First,{file}:Fragile", "--users", 10]
    words += ["--seeds", 1, "--train-steps", 50, "--out", out]
    finished = lambda: list(out.parent.glob(".out.trials/First-0-*.json"))  # noqa: E731
    with running(finished, *words, seconds=300) as process:  # it opens nine worlds first
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    (tmp_path / "stop").unlink()
    counted = (tmp_path / "rollouts.txt").read_text()
    done = recsim(*words)
    assert done.code == 0, done.err
    assert (tmp_path / "rollouts.txt").read_text() == counted + "x" * 2  # those of Fragile
    assert "ease does not run in RecSim-Large-v0: ease inverts a matrix" in done.err
    assert "Fragile failed in large: MemoryError: too many items" in done.err

    table = pd.read_csv(out / "suite.csv").set_index(["policy", "skill"])
    names = {"ease", "First", "Fragile", "random", "oracle", "far_sighted"}
    assert set(table.index) == {(policy, skill) for policy in names for skill in SKILLS}
    missing = table.index[table.score.isna()].tolist()
    assert missing == [("ease", "large"), ("Fragile", "large")]
    assert (table.score.dropna().between(0, 1)).all()
    assert (table.score_low.dropna() <= table.score.dropna()).all()
    for skill in SKILLS:
        assert table.score["random", skill] == 0
        assert table.score[SKILLS[skill].reference, skill] == 1
        assert (out / skill / "leaderboard.json").is_file()
    stored = json.loads((out / "suite.json").read_text())
    assert (stored["users"], stored["training_steps"]) == (10, 50)
    learned = json.loads((out / "gap" / "leaderboard.json").read_text())
    assert (learned["training_responder"], learned["responder"]) == ("min_gru", "known_truth")
    assert (out / "suite.png").stat().st_size > 10_000
    assert [path.name for path in out.parent.iterdir()] == ["out"]
