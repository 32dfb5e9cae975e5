"""Leaderboards: what the columns mean, processes, and continuing after a kill."""

import json
import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from agents import Policy
from agents.finding import find_policies, find_policy
from agents.registry import known_policies
from agents.rollout import rollout
from agents.transition import Transition
from agents.uniform import RandomPolicy
from benchmarks.studies.curves import budgets
from benchmarks.studies.leaderboard import find_entries, leaderboard, run
from benchmarks.studies.standings import summarise
from benchmarks.studies.stored import load_stored
from benchmarks.studies.trials import (
    Trial,
    concentration,
    exposure_parity,
    run_trial,
    separate_users,
)
from benchmarks.workers import Workers
from recsim_env import World, make_world
from recsim_env.make import ASSETS
from responders import Catalogue, InputError
from tests.commands import running
from tests.conftest import log_of, missing_policies

OPTIONS: dict[str, Any] = {"users": 20, "seeds": 2, "training_steps": 50, "progress": False}


def trial(policy: str, seed: int, reward: list[float], **changes: Any) -> Trial:
    facts: dict[str, Any] = {
        "clicks": [1, 3], "shown": [10, 10], "length": [2, 4], "diversity": None,
        "novelty": [1.0, 2.0], "coverage": 0.5, "gini": 0.25 + seed / 2, "training_steps": 0,
        "train_seconds": 1.0, "decision_ms": 0.1, "parity": None, "returns": None,
    }  # fmt: skip
    return Trial(policy=policy, seed=seed, reward=reward, **(facts | changes))


def test_rows_and_paired_differences_of_known_rewards() -> None:
    rng = np.random.default_rng(0)
    users = [rng.normal(size=50) * 10 for _ in range(2)]
    trials = [
        trial(name, seed, (own + gain).tolist())
        for name, gain in (("worse", -1.0), ("best", 1.0), ("same", 0.0))
        for seed, own in enumerate(users)
    ]
    rows, differences = summarise(trials)
    assert [row.policy for row in rows] == ["best", "same", "worse"]
    assert rows[0].behind is None
    # Users differ a lot, but each of them by the same amount between policies.
    assert rows[2].behind == pytest.approx(2)
    assert (rows[2].behind_low, rows[2].behind_high) == pytest.approx((2, 2))
    assert rows[0].reward_high - rows[0].reward_low > 2
    assert [(d.policy, d.other) for d in differences] == [
        ("best", "same"), ("best", "worse"), ("same", "worse")
    ]  # fmt: skip
    assert differences[2].difference == pytest.approx(1)
    row = rows[0]
    assert (row.ctr, row.length, row.diversity, row.novelty) == (0.2, 3, None, 1.5)
    assert (row.gini, row.coverage, row.coverage_low) == (0.5, 0.5, 0.5)
    assert row.gini_low == 0
    assert row.gini_high == 1


@pytest.mark.parametrize(
    ("items", "gini", "coverage"), [([0, 1, 2, 3], 0, 1), ([2, 2, 2, 2], 0.75, 0.25)]
)
def test_concentration(items: list[int], gini: float, coverage: float) -> None:
    log = log_of(np.array(items)[:, None], items=4)
    assert concentration(log) == pytest.approx({"gini": gini, "coverage": coverage})


def test_exposure_parity_of_known_exposure() -> None:
    def parity(slate: np.ndarray, **attributes: np.ndarray) -> float | None:
        return exposure_parity(log_of(slate, items=Catalogue(np.arange(20), attributes=attributes)))

    clicks = np.arange(20)[::-1].copy()
    assert parity(np.arange(20)[:, None]) is None
    assert parity(np.arange(20)[:, None], clicked=clicks) == pytest.approx(1)
    assert parity(np.array([[0], [1]]), clicked=clicks) == pytest.approx(0.1)
    # Items 0 and 2 are of different deciles; positions 1 and 3 have the exposures 1 and 1 / 2.
    slate = np.array([[0, -1, 2]])
    assert parity(slate, clicked=clicks) == pytest.approx(1 - (2 / 3 - 0.1 + 1 / 3 - 0.1 + 0.8) / 2)


def test_return_visits_are_counted(small_log_path: Path) -> None:
    def new_world(users: int) -> World:
        return make_world("any", num_users=users, responder=small_log_path, returns="rule")

    found = run_trial(find_policy("random"), new_world, 20, seed=0, steps=0)
    assert found.returns is not None
    assert max(found.returns) > 0
    rows, _ = summarise([found])
    assert rows[0].returns == pytest.approx(np.mean(found.returns))
    assert run_trial(
        find_policy("random"),
        lambda n: make_world("any", num_users=n, responder=small_log_path),
        2, seed=0, steps=0,
    ).returns is None  # fmt: skip


@pytest.mark.parametrize("name", ["diversity", "novelty"])
def test_lists_are_measured_as_rewards_measure_them(name: str, trained: Path) -> None:
    def new_world(users: int, reward: Any = "clicks") -> World:
        return make_world("any", num_users=users, responder=trained, reward=reward)

    found = run_trial(find_policy("random"), new_world, 30, seed=0, steps=0)
    world = new_world(30, name)
    separate_users(new_world(1), world)
    expected = rollout(world, RandomPolicy(world), seed=0)
    np.testing.assert_allclose(
        getattr(found, name), expected.reward / expected.log.session_length, rtol=1e-5
    )
    assert found.decision_ms > 0


def test_curves_train_with_ever_fewer_steps(small_log_path: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"responder": small_log_path, "training_steps": 8_000, "seeds": 1}
    board = run(
        "RecSim-v0", "random,epsilon_greedy,oracle", curve=True, out=tmp_path / "out", **options
    )
    assert {point.policy for point in board.curves} == {"epsilon_greedy"}
    steps = [point.training_steps for point in board.curves]
    assert 2 < len(steps) <= 10
    assert steps == sorted(set(steps))
    rewards = {row.policy: row.reward for row in board.rows}
    last = board.curves[-1]
    assert last.reward == rewards["epsilon_greedy"]
    assert last.reward > board.curves[0].reward, "it learns"
    assert last.regret == pytest.approx(rewards["oracle"] - last.reward)
    table = pd.read_csv(tmp_path / "out" / "curves.csv")
    assert table.training_steps.tolist() == steps
    assert (table.reward_low <= table.reward).all()
    assert (tmp_path / "out" / "curves.png").exists()
    assert any((tmp_path / "out" / "tensorboard" / "curves").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert budgets(90) == [2, 3, 5, 7, 11, 17, 26, 40, 60]
    assert budgets(3) == [1, 2]
    assert budgets(0) == []


class Meets(Policy):
    """Notes the users from whom it learns."""

    users: ClassVar[set[int]] = set()

    def train(self, world: World, steps: int, seed: int) -> int:
        self._world = world
        return super().train(world, steps, seed)

    def score(self, observation: dict[str, Tensor]) -> Tensor:
        return torch.zeros(self.n_items)

    def learn(self, transition: Transition) -> None:
        self.users.update(self._world.episodes.user.tolist())


def test_policies_are_evaluated_with_users_whom_they_did_not_meet(trained: Path) -> None:
    worlds: list[World] = []

    def new_world(users: int) -> World:
        worlds.append(make_world("any", num_users=users, responder=trained))
        return worlds[-1]

    run_trial(find_policies([Meets])[0], new_world, 40, seed=0, steps=500)
    evaluated = set(worlds[1].episodes.user.tolist())
    assert min(len(Meets.users), len(evaluated)) > 2
    assert not Meets.users & evaluated


class Fixed(Policy):
    """Shows the first items."""

    def score(self, observation: dict[str, Tensor]) -> Tensor:
        return -torch.arange(self.n_items).float()


def values(rows: list[Any]) -> list[dict[str, Any]]:
    timed = ("train_seconds", "decision_ms")
    return [{k: v for k, v in asdict(row).items() if k not in timed} for row in rows]


def test_processes_and_python_give_the_same_rows(small_log_path: Path, tmp_path: Path) -> None:
    words: list[Any] = ["random", Fixed]
    options = OPTIONS | {"responder": small_log_path}
    boards = [
        run("RecSim-v0", words, workers=Workers(n), out=tmp_path / str(n), **options)
        for n in (1, 2)
    ]
    rows = leaderboard(
        lambda users: make_world("any", num_users=users, responder=small_log_path), words, **OPTIONS
    )
    assert values(boards[0].rows) == values(boards[1].rows) == values(rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
    stored = json.loads((tmp_path / "1" / "leaderboard.json").read_text())
    assert stored["users"] == 20
    assert stored["differences"] == [asdict(boards[0].differences[0])]
    table = pd.read_csv(tmp_path / "1" / "differences.csv")
    assert table.columns.tolist() == ["policy", "other", "difference", "low", "high"]

    class Local(Fixed):
        pass

    with pytest.raises(InputError, match="cannot be sent to other processes"):
        run("RecSim-v0", [Local], workers=Workers(2), **options)


def test_policies_learn_with_one_responder_and_are_judged_by_another(
    small_log_path: Path, trained: Path
) -> None:
    options = OPTIONS | {"responder": small_log_path, "users": 60}
    judged, own = (
        run("RecSim-v0", ["greedy"], training_responder=each, **options) for each in (trained, None)
    )
    names = [(b.facts["training_responder"], b.facts["responder"]) for b in (judged, own)]
    assert names == [("session_gru", "known_truth"), ("known_truth", "known_truth")]
    assert judged.rows[0].reward < own.rows[0].reward, "it exploits what was learned wrongly"
    with pytest.raises(InputError, match=r"another catalogue \(283 items\) than they are judged"):
        run("RecSim-v0", ["random"], training_responder=ASSETS / "rl4rs", **options)


POLICIES = """
import time
from pathlib import Path
import torch
from agents import Policy
from agents.finding import find_policies, find_policy

HERE = Path(__file__).parent

class Fast(Policy):
    def reset(self):
        with (HERE / "rollouts.txt").open("a") as file:
            file.write("x")

    def score(self, observation):
        return torch.ones(self.n_items)

class Slow(Policy):
    def score(self, observation):
        while (HERE / "stop").exists():
            time.sleep(0.05)
        return torch.ones(self.n_items)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_leaderboard_continues(number: int, recsim: Any, tmp_path: Path) -> None:
    file, out = tmp_path / "mine.py", tmp_path / "runs" / "out"
    file.write_text(POLICIES)
    (tmp_path / "stop").touch()
    words = ["bench", "RecSim-v0", "--policies", f"{file}:Fast,{file}:Slow", "--users", 5]
    words += ["--seeds", 1, "--out", out]
    finished = lambda: list(out.parent.glob(".out.trials/Fast-0-*.json"))  # noqa: E731
    with running(finished, *words) as process:
        process.send_signal(number)
        assert process.wait(20) == (130 if number == signal.SIGTERM else -9)
    assert not out.exists()
    (tmp_path / "stop").unlink()
    counted = (tmp_path / "rollouts.txt").read_text()
    assert recsim(*words).code == 0
    assert (tmp_path / "rollouts.txt").read_text() == counted
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert set(pd.read_csv(out / "leaderboard.csv").policy) == {"Fast", "Slow"}


def test_all_policies_are_those_that_can_run(small_log_path: Path) -> None:
    world = make_world("any", num_users=1, responder=small_log_path)
    names = {entry.name for entry in find_entries("all", world)}
    assert names == set(known_policies()) - missing_policies()


def test_a_damaged_trial_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "trial.json"
    path.write_text(trial("a", 0, [1.0]).model_dump_json())
    assert load_stored(path, Trial).reward == [1.0]
    path.write_text(path.read_text().replace('"gini":0.25', '"gini":"much"'))
    with pytest.raises(InputError, match=r"trial.json, field gini: .*it is damaged"):
        load_stored(path, Trial)
