"""`recsim rank`: splits without leaks, metrics with known values, and continuing after a kill."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from agents.item_knn import ItemKNNPolicy
from agents.site import Site
from benchmarks.studies.ranking.metrics import by_user, evaluate, metrics_at, ranks_of
from benchmarks.studies.ranking.splits import Events, SplitOptions, leaks, make_split
from benchmarks.studies.ranking.study import rank
from responders import InputError, SessionLog
from responders.evaluation.bootstrap import crossed_samples
from tests.agents.test_sequential import chains
from tests.commands import running
from tests.conftest import log_of


def sessions_of(users: list[list[tuple[int, list[int]]]], items: int = 30) -> SessionLog:
    """Return a log in which each user has one session of slates (time, clicked items)."""
    slates = [slate for user in users for slate in user]
    width = max(len(clicked) for _, clicked in slates) + 1
    slate = np.full((len(slates), width), -1)
    for row, (_, clicked) in enumerate(slates):
        slate[row, : len(clicked)] = clicked
        slate[row, -1] = items - 1  # is never clicked
    click = (slate >= 0) & (np.arange(width) < width - 1)
    time = np.array([time for time, _ in slates])
    return log_of(slate, click, [len(user) for user in users], items=items, time=time)


def random_log(seed: int, users: int = 40) -> SessionLog:
    """Return a log with users who come at any time, some of them for a single slate."""
    rng = np.random.default_rng(seed)
    walks = []
    for _ in range(users):
        times = np.sort(rng.choice(400, rng.integers(1, 9), replace=False)) + rng.integers(600)
        size = rng.integers(0, 3, len(times))
        slates = [
            (int(t), rng.choice(28, n, replace=False).tolist())
            for t, n in zip(times, size, strict=True)
        ]
        walks.append(slates)
    walks[0][0] = (walks[0][0][0], [1, 2])
    return sessions_of(walks)


OPTIONS = [
    SplitOptions("last", "time", 0.2, 0.1),
    SplitOptions("first", "users", 0.2, 0.3),
    SplitOptions("successive", "none", 0.2, 0.1),
    SplitOptions("all", "time", 0.2, 0.2),
    SplitOptions("random", "time", 0.2, 0.2),
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: o.targets)
@pytest.mark.parametrize("name", ["global", "leave_one_out"])
def test_the_leak_is_that_of_an_independent_count(name: Any, options: SplitOptions) -> None:
    for seed in range(4):
        split = make_split(random_log(seed), name, options)
        training, test = split.training, split.test
        leaking, shares = set(), []
        for case in range(len(test)):
            later = 0
            for slate in range(training.n_slates):
                later += int(training.time[slate]) > int(test.time[case])
            shares.append(later / training.n_slates)
            if later:
                leaking.add(int(test.user[case]))
        found = leaks(split)
        assert found["leaking_users"] == len(leaking) / len(set(test.user.tolist()))
        assert found["later_slates"] == pytest.approx(np.mean(shares))
        assert (found["leaking_users"] == 0) == (name == "global")


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: o.targets)
@pytest.mark.parametrize("name", ["global", "leave_one_out"])
def test_nothing_that_is_asked_is_learned(name: Any, options: SplitOptions) -> None:
    log = random_log(7)
    split = make_split(log, name, options)
    learned = {(int(log.users.ids[u]), int(t)) for u, t in _clicks(split.training)}
    for part in (split.validation, split.test):
        assert len(part) or options.validation == "none"
        for case in range(len(part)):
            user, time = int(part.user[case]), int(part.time[case])
            assert (user, time) not in learned
            rows = slice(*log.session_start[user : user + 2])
            mask = (log.response[rows] > 0) & (log.time[rows] < time)[:, None]
            assert part.history(case).tolist() == log.slate[rows][mask].tolist() != []
    if name == "global":
        assert split.moment is not None
        assert split.training.time.max() < split.moment <= split.test.time.min()
        assert (split.validation.time < split.moment).all()
    if options.validation == "users":
        assert not set(split.validation.user) & {user for user, _ in learned}


def _clicks(log: SessionLog) -> list[tuple[int, int]]:
    session = np.repeat(np.arange(log.n_sessions), log.session_length)
    row = np.flatnonzero(log.response.any(1))
    ids = log.users.ids[log.user[session[row]]]
    return list(zip(ids.tolist(), log.time[row].tolist(), strict=True))


def test_targets_of_a_log_by_hand() -> None:
    log = sessions_of(
        [
            [(1, [3]), (10, [4, 5]), (11, []), (12, [6])],
            [(2, [7]), (3, [8])],
            [(11, [9]), (13, [3])],  # comes after the moment
        ]
    )
    events = Events.of(log)
    after = events.time >= 10
    rng = np.random.default_rng(0)

    def asked(targets: Any) -> list[tuple[int, list[int], list[int]]]:
        cases = events.ask(after, targets, rng)
        rows = [(cases.history(c).tolist(), cases.targets(c).tolist()) for c in range(len(cases))]
        return [(int(u), *row) for u, row in zip(cases.user, rows, strict=True)]

    assert asked("first") == [(0, [3], [4, 5])]
    assert asked("last") == [(0, [3, 4, 5], [6]), (2, [9], [3])]
    assert asked("successive") == [(0, [3], [4, 5]), (0, [3, 4, 5], [6]), (2, [9], [3])]
    assert asked("all") == [(0, [3], [4, 5, 6])]
    assert events.ask(after, "first", rng).cold == 1
    last = make_split(log, "leave_one_out", SplitOptions(validation="time"))
    assert [last.test.targets(c).tolist() for c in range(3)] == [[6], [8], [3]]
    assert [last.validation.targets(c).tolist() for c in range(1)] == [[4, 5]]
    assert last.training.time.tolist() == [1, 2, 11]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 6))
def test_metrics_are_those_of_scikit_learn(seed: int, k: int, n_targets: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.permuted(np.tile(np.arange(12.0), (3, 1)), axis=1)
    target = np.argsort(rng.random((3, 12)), 1)[:, :n_targets]
    relevant = np.zeros((3, 12))
    np.put_along_axis(relevant, target, 1, 1)
    found = ranks_of(torch.from_numpy(score), torch.from_numpy(target))
    values = metrics_at(found, torch.full((3,), n_targets), k)
    assert values["ndcg"].mean().item() == pytest.approx(ndcg_score(relevant, score, k=k))
    top = np.argsort(-score, 1)[:, :k]
    hits = np.take_along_axis(relevant, top, 1)
    assert values["hit"].tolist() == hits.any(1).tolist()
    assert values["recall"].tolist() == pytest.approx((hits.sum(1) / n_targets).tolist())
    first = [1 / (1 + int(np.argmax(row))) if row.any() else 0.0 for row in hits]
    assert values["mrr"].tolist() == pytest.approx(first)
    whole = metrics_at(found, torch.full((3,), n_targets), 12)["map"].mean().item()
    assert whole == pytest.approx(label_ranking_average_precision_score(relevant, score))


def test_ties_are_ranked_in_the_middle() -> None:
    score = torch.tensor([[1.0, 1.0, 1.0, 1.0, 5.0], [3.0, 2.0, 2.0, 0.0, -torch.inf]])
    target = torch.tensor([[0, 1], [2, 4]])
    assert ranks_of(score, target).tolist() == [[3.0, 4.0], [2.5, torch.inf]]
    equal = ranks_of(torch.zeros(1, 9), torch.tensor([[4, -1]]))
    assert equal.tolist() == [[5.0, torch.inf]]
    values = metrics_at(equal, torch.tensor([1]), 5)
    assert {name: round(value.item(), 4) for name, value in values.items()} == {
        "ndcg": 0.3869,
        "hit": 1.0,
        "mrr": 0.2,
        "map": 0.2,
        "recall": 1.0,
    }


class Next(ItemKNNPolicy):
    """Ranks the item after the last one first, then the last one."""

    def score(self, observation: dict[str, torch.Tensor]) -> torch.Tensor:
        last = observation["item"][:, -1:]
        score = torch.zeros(len(last), self.n_items)
        return score.scatter(1, (last + 1) % self.n_items, 2).scatter(1, last, 1)


def test_seen_items_are_kept_or_filtered() -> None:
    log = sessions_of([[(t, [(u + t) % 10]) for t in range(1, 6)] for u in range(5)], 10)
    split = make_split(log, "leave_one_out", SplitOptions())
    policy = Next(Site(log.catalogue, 2))
    values, coverage = evaluate(policy, split.test, [1, 2])
    assert values["hit@1"].tolist() == [1.0] * 5
    assert coverage == {"coverage@1": 0.5, "coverage@2": 0.6}
    back = replace(split.test, item=np.where(split.test.item == 5, 1, split.test.item))
    assert evaluate(policy, back, [2])[0]["hit@2"][0] == 0  # 1 was clicked before, but ties
    filtered, _ = evaluate(policy, back, [9], keep_seen=False)
    assert filtered["hit@9"][0] == 0
    policy.score = lambda _: torch.full((5, 10), torch.nan)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="Next gave NaN"):
        evaluate(policy, split.test, [1])


def test_users_count_once_and_are_drawn_in_all_runs() -> None:
    user = np.array([4, 4, 9])
    assert by_user(user, {"a": np.array([0.0, 1.0, 3.0])})["a"].tolist() == [0.5, 3.0]
    values = np.random.default_rng(0).normal(size=400)
    one, three = (crossed_samples(np.tile(values, (n, 1))).std() for n in (1, 3))
    assert one == pytest.approx(values.std() / 20, rel=0.1)
    assert three == pytest.approx(one, rel=0.1)  # the same users again are no new ones


def timed_chains(path: Path) -> SessionLog:
    """Return chains whose users come one after another."""
    log = chains(300, seed=3)
    owner = np.repeat(np.arange(log.n_sessions), log.session_length)
    log = replace(log, time=log.time * 40 + owner)
    log.save(path)
    return log


def test_what_comes_next_is_ranked_first(tmp_path: Path) -> None:
    log = timed_chains(tmp_path / "log")
    knn = ItemKNNPolicy(Site(log.catalogue, 3))
    knn.fit(log)
    saved = knn.save(tmp_path / "saved")
    chosen = {"size": 32, "length": 4, "epochs": 40, "learning_rate": 0.01, "dropout": 0.0}
    found = rank(
        tmp_path / "log", ["recent_popular", "sasrec", saved], settings=chosen, progress=False
    )
    rows = {(row["split"], row["policy"]): row for row in found.rows}
    assert set(rows) == {
        (s, p) for s in ("global", "leave_one_out") for p in ("recent_popular", "sasrec", "saved")
    }
    for split in ("global", "leave_one_out"):
        best = rows[split, "sasrec"]
        assert best["ndcg@10"] > 0.9
        assert best["validation_ndcg@10"] > 0.9
        assert best["ndcg@10_above_low"] > 0.3
        assert best["ndcg@10_above"] == pytest.approx(
            best["ndcg@10"] - rows[split, "recent_popular"]["ndcg@10"]
        )
    assert [each["split"] for each in found.leaks] == ["global", "leave_one_out"]
    assert found.facts["agreement"]["leave_one_out: validation"] > 0.3
    assert found.files == []


POLICIES = """
import time
from pathlib import Path
import torch
from agents.from_log import LogPolicy

HERE = Path(__file__).parent

class First(LogPolicy):
    def fit_log(self, log):
        with (HERE / "fits.txt").open("a") as file:
            file.write(type(self).__name__[0])
        while type(self) is Slow and (HERE / "stop").exists():
            time.sleep(0.05)

    def affinity(self, observation):
        return -torch.arange(self.n_items).float().expand(len(observation["item"]), -1)

class Slow(First):
    pass
"""


def test_a_killed_run_continues(recsim: Any, tmp_path: Path) -> None:
    timed_chains(tmp_path / "log")
    file, out = tmp_path / "mine.py", tmp_path / "runs" / "out"
    file.write_text(POLICIES)
    (tmp_path / "stop").touch()
    words = ["rank", tmp_path / "log", "--policies", f"{file}:First,{file}:Slow,popular"]
    words += ["--out", out, "--splits", "global", "--validation", "none", "--cutoffs", "3"]
    finished = lambda: list(out.parent.glob(".out.trials/First-0-*.json"))  # noqa: E731
    with running(finished, *words) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    (tmp_path / "stop").unlink()
    done = recsim(*words)
    assert done.code == 0, done.err
    fits = (tmp_path / "fits.txt").read_text()
    assert fits.count("F") == 1
    table = pd.read_csv(out / "rank.csv")
    assert table.policy.tolist() == ["First", "Slow", "popular"]
    assert table["ndcg@3"][0] == table["ndcg@3"][1]
    stored = json.loads((out / "rank.json").read_text())
    assert (stored["seen"], stored["main"], stored["command"][:11]) == (
        "keep", "ndcg@3", "recsim rank"
    )  # fmt: skip
    assert (out / "rank.png").stat().st_size > 5_000
    assert "are ranked as well" in " ".join(done.out.split())
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    again = recsim(*words)
    assert (again.code, "exists already" in again.err) == (1, True)
    assert recsim(*words, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policies", "populr"], "policy 'populr' is unknown; did you mean popular"),
        (["--policies", "slateq"], "learns by acting, not from a log"),
        (["--policies", "random"], "has no scores"),
        (["--policies", "oracle"], "the oracle needs"),
        (["--policies", "popular", "--splits", "locl"], "split 'locl' is unknown"),
        (["--policies", "popular", "--targets", "next"], "targets 'next' is unknown"),
        (["--policies", "popular", "--seen", "no"], "seen 'no' is unknown"),
        (["--policies", "popular", "--cutoffs", "5,x"], "cut-offs are whole numbers"),
        (["--policies", "popular", "--test-share", "0.95"], "with a sum below 1"),
        (["--policies", "sasrec", "--set", "sizes=3"], "no policy has a setting 'sizes'"),
        (["--policies", "sasrec", "--set", "size=big"], "size"),
    ],
)
def test_bad_requests_are_one_line(
    words: list[str], message: str, recsim: Any, tmp_path: Path
) -> None:
    timed_chains(tmp_path / "log")
    done = recsim("rank", tmp_path / "log", *words, "--out", tmp_path / "out")
    assert done.code == 1
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_log_without_times_has_no_moment(tmp_path: Path) -> None:
    log = chains(50)
    log = replace(log, card={"time": "the number of the item; the source has no times"})
    with pytest.raises(InputError, match="no times to split at a moment: use --splits leave_one"):
        make_split(log, "global", SplitOptions())
    assert len(make_split(log, "leave_one_out", SplitOptions()).test) == 50
