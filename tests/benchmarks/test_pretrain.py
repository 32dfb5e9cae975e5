"""`recsim pretrain`: simulated logs, going on from weights, and what is gained, with true users."""

import json
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from agents.sequences import sequences_of
from agents.sequential import gains
from agents.slate_ppo import SlatePPOConfig
from agents.slateq import SlateQConfig, SlateQPolicy
from benchmarks.studies.pretraining import reinforcement, sequences
from benchmarks.studies.pretraining.behaviour import repeats_clicks, simulate
from benchmarks.studies.pretraining.source import SimulatedUsers, open_source
from recsim_env import make_world
from recsim_env.observations import HistoryObservation
from recsim_env.outcome import Outcome
from recsim_env.world import World
from responders import EMPTY, InputError, SessionLog
from tests.agents.test_sequential import chains, make
from tests.commands import running

SMALL = {"size": 16, "epochs": 6, "length": 8, "batch_size": 32, "learning_rate": 0.005}


def test_fine_tuning_goes_on_from_the_weights() -> None:
    few, unseen = chains(4, seed=5), sequences_of(chains(200, seed=1), length=4, leave_out=1)
    scores = {}
    for warm in (True, False):
        policy = make("sasrec", few, epochs=30)
        policy.fit(chains(400))
        steps = policy.steps
        (policy.fine_tune if warm else policy.fit)(few)
        assert policy.steps == (steps if warm else 0) + few.n_slates
        scores[warm] = gains(policy.net, unseen.history, unseen.target).mean()
    assert scores[True] > 0.95
    assert scores[False] < 0.5


def test_weights_are_kept_if_fine_tuning_makes_them_worse() -> None:
    policy = make("gru4rec", chains(400), epochs=30)
    policy.fit(chains(400))
    before = {name: weight.clone() for name, weight in policy.net.state_dict().items()}
    policy.config = replace(policy.config, learning_rate=5.0, epochs=2)  # ruins them
    policy.fine_tune(chains(50, seed=2))
    assert all(torch.equal(before[k], v) for k, v in policy.net.state_dict().items())
    two = chains(30)
    two = two.select(np.arange(30), first_slates=2)  # nothing to judge by
    policy.fine_tune(two)
    assert not torch.equal(before["items.weight"], policy.net.items.weight)


@pytest.fixture(scope="module")
def source(small_log_path: Path) -> SimulatedUsers:
    """The true users of the small log as the simulator."""
    return open_source(small_log_path, small_log_path)


def test_behaviour_policies_leave_logs(source: SimulatedUsers) -> None:
    log = source.training
    made = {
        name: simulate(source.world, log, name, 700, seed=0)  # more than are simulated at once
        for name in ("random", "popular", "mixed", "logged")
    }
    clicked = np.bincount(log.slate[log.response > 0], minlength=40) + 1.0
    shown = {}
    for name, each in made.items():
        each.validate()
        assert each.n_sessions == len(each.users) == 700
        shown[name] = np.bincount(each.slate[each.slate != EMPTY], minlength=40)
        shown[name] = shown[name] / shown[name].sum()
    assert shown["random"].max() / shown["random"].min() < 1.4
    popularity = {k: np.corrcoef(v, clicked)[0, 1] for k, v in shown.items()}
    assert popularity["popular"] > 0.9
    assert popularity["popular"] > popularity["mixed"] - 0.05 > popularity["random"]
    np.testing.assert_allclose(
        shown["mixed"], (shown["random"] + shown["popular"]) / 2, atol=0.01
    )  # fmt: skip
    known = {tuple(row) for row in log.slate.tolist()}
    assert {tuple(row) for row in made["logged"].slate.tolist()} <= known
    again = simulate(source.world, log, "mixed", 700, seed=0)
    assert again.fingerprint() == made["mixed"].fingerprint()


def test_drawn_by_the_responder_items_are_clicked_and_differ_between_users(
    source: SimulatedUsers,
) -> None:
    rate, items = {}, {}
    for name in ("popular", "responder"):
        log = simulate(source.world, source.training, name, 200, seed=0)
        rate[name] = log.response.mean()
        items[name] = [np.unique(log.slate[a:b]).size for a, b in pairwise(log.session_start)]
    assert rate["responder"] > 1.1 * rate["popular"]
    assert np.mean(items["responder"]) > 15  # of 40: drawn, not the best ones again and again


def test_nothing_is_clicked_twice_where_the_log_has_no_such_click(source: SimulatedUsers) -> None:
    log = source.training
    slate, position = np.nonzero(log.response)
    session = np.repeat(np.arange(log.n_sessions), log.session_length)[slate]
    first = np.unique(session * 40 + log.slate[slate, position], return_index=True)[1]
    response = np.zeros_like(log.response)
    response[slate[first], position[first]] = 1
    once, short = replace(log, response=response), replace(source, horizon=4)
    assert repeats_clicks(log)
    assert repeats_clicks(simulate(short.world, log, "popular", 100, seed=0))
    for name in ("popular", "responder"):
        made = simulate(short.world, once, name, 100, seed=0)
        assert not repeats_clicks(made)
        assert made.session_length.max() <= 4
    assert short.key != source.key


def test_nobody_who_is_asked_was_simulated_or_learned_from(
    source: SimulatedUsers, trained: Path, small_log_path: Path
) -> None:
    asked = set(source.test.users.ids.tolist())
    assert not asked & set(source.training.users.ids.tolist())
    world = source.world(50)
    population = world.initial_sessions
    assert not asked & set(population.users.ids[population.user].tolist())
    learned = open_source(trained, small_log_path)
    assert learned.test.fingerprint() == source.test.fingerprint()
    nested = [set(sequences.share_of(source.training, p, 3).users.ids) for p in (1, 20, 100)]
    assert nested[0] < nested[1] < nested[2] == set(source.training.users.ids)
    assert len(nested[1]) == round(0.2 * len(nested[2]))


def test_true_users_teach_what_few_real_ones_cannot(small_log_path: Path) -> None:
    result = sequences.pretrain(
        small_log_path, small_log_path, "sasrec", behaviours="mixed", shares=[0, 2],
        sessions=400, seeds=2, settings=SMALL, progress=False,
    )  # fmt: skip
    rows = {(row["arm"], row["share"]): row for row in result.rows}
    assert set(rows) == {
        (sequences.NONE, 0.0), ("mixed", 0.0), (sequences.NONE, 2.0), (sequences.REAL, 2.0),
        (sequences.POPULAR, 2.0), ("mixed", 2.0),
    }  # fmt: skip
    for share in (0.0, 2.0):
        row, none = rows["mixed", share], rows[sequences.NONE, share]
        assert row["above_low"] > 0
        assert row["above"] == pytest.approx(row["ndcg"] - none["ndcg"])
        assert row["gain"] == pytest.approx(row["ndcg"] / none["ndcg"] - 1)
    assert rows["mixed", 2.0]["users"] == round(0.02 * 480)
    assert result.files == []


def test_a_killed_run_gives_the_same_table(
    recsim: Any, small_log_path: Path, trained: Path, tmp_path: Path
) -> None:
    words = ["pretrain", trained, small_log_path, "--behaviour", "random", "--shares", "0,5"]
    words += ["--sessions", 100, "--seeds", 1, "--device", "cpu", "--set", "epochs=2"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert recsim(*words, "--out", whole).code == 0
    finished = lambda: len(list(tmp_path.glob(".out.trials/sasrec-0-*.json"))) > 2  # noqa: E731
    with running(finished, *words, "--out", out, seconds=300) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    done = recsim(*words, "--out", out, "--jobs", 2)
    assert done.code == 0, done.err
    pd.testing.assert_frame_equal(
        pd.read_csv(out / "pretrain.csv"), pd.read_csv(whole / "pretrain.csv")
    )
    assert (out / "pretrain.png").stat().st_size > 5_000
    stored = json.loads((out / "pretrain.json").read_text())
    assert (stored["policy"], stored["responder"], stored["sessions"]) == (
        "sasrec", "session_gru", 100
    )  # fmt: skip
    assert "SYNTHETIC users" in done.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_simulated_users_can_differ_and_answer_at_random_by_several(
    small_log_path: Path, trained: Path
) -> None:
    several = open_source(f"{trained},{small_log_path}", small_log_path)
    assert several.world(20).n_members == 2
    alone = open_source(trained, small_log_path)
    assert several.test.fingerprint() == alone.test.fingerprint()
    eager, lazy = (
        open_source(small_log_path, small_log_path, shift={"click_rate": strength})
        for strength in (2.0, -2.0)
    )
    clicks = [
        simulate(s.world, s.training, "popular", 300, 1).response.mean() for s in (eager, lazy)
    ]
    assert clicks[0] > 1.1 * clicks[1]
    assert len({s.key for s in (eager, lazy, several, alone)}) == 4


def test_there_is_no_gain_over_nothing() -> None:
    def trial(arm: str, ndcg: list[float]) -> sequences.SequenceTrial:
        return sequences.SequenceTrial(arm=arm, seed=0, ndcg={"5": ndcg})

    rows = sequences._rows([trial(sequences.NONE, [0.0, 0.0]), trial("mixed", [1.0, 0.0])], 40)
    assert rows[1]["above"] == 0.5
    assert "gain" not in rows[1]


class Recording(SlateQPolicy):
    """Keeps what it shows."""

    def show(self, world: World, slate: torch.Tensor) -> Outcome:
        self.shown = slate
        return super().show(world, slate)


def test_training_can_start_without_exploration(small_log_path: Path) -> None:
    world = make_world(responder=small_log_path, num_users=20)
    greedy = {}
    for start in (0.0, 1.0):
        config = SlateQConfig(start_epsilon=start, epsilon=0.0, hidden_size=8, size=4)
        policy = Recording(world, config)
        policy.train(world, 200, seed=1)
        world.reset(seed=3)
        best = policy.act(HistoryObservation(world)(world))
        policy.train(world, 20, seed=3)
        greedy[start] = torch.equal(policy.candidates[policy.shown], best)
    assert greedy == {0.0: True, 1.0: False}


def test_fine_tuning_ends_the_schedules_of_pretraining() -> None:
    tuned: Any = reinforcement.gentle(SlateQConfig(epsilon=0.2, learning_rate=0.01, size=7))
    assert (tuned.start_epsilon, tuned.learning_rate, tuned.size) == (0.2, 0.001, 7)
    ppo: Any = reinforcement.gentle(SlatePPOConfig())
    assert (ppo.learning_rate, ppo.actor_rate) == pytest.approx((0.0003, 0.00002))


@pytest.mark.parametrize("policy", ["slateq", "slate_ppo"])
def test_pretraining_with_the_true_users_saves_interactions(
    policy: str, small_log_path: Path
) -> None:
    result = reinforcement.pretrain(
        small_log_path, small_log_path, policy, interactions=[0, 64], steps=10_000, users=60,
        seeds=2, settings={"hidden_size": 16, "size": 8}, progress=False,
    )  # fmt: skip
    rows = {(row["arm"], row["interactions"]): row for row in result.rows}
    assert len(rows) == 6
    ready, new = rows["pretrained", 0], rows["from scratch", 64]
    assert ready["reward_low"] > new["reward_high"]
    assert ready["reward"] > rows["popular", 0]["reward"]
    assert rows["popular", 0]["reward"] == rows["popular", 64]["reward"]
    assert new["above"] == pytest.approx(new["reward"] - rows["popular", 0]["reward"])
    assert set(result.facts["needed"]) == {"from scratch", "pretrained"}


def test_interactions_needed_are_those_after_which_it_stays_better() -> None:
    def row(arm: str, n: int, above: float) -> dict[str, Any]:
        return {"arm": arm, "interactions": n, "above": above}

    scratch = [row("from scratch", n, a) for n, a in ((0, -5), (10, 1), (20, -1), (30, 0), (40, 2))]
    never = [row("pretrained", 0, 1), row("pretrained", 40, -1)]
    assert reinforcement._needed([*scratch, *never]) == {"from scratch": 30, "pretrained": None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "populr"], "policy 'populr' is unknown; did you mean popular"),
        (["--policy", "popular"], "neither is sequential nor learns as slateq does"),
        (["--behaviour", "greedy"], "behaviour 'greedy' is unknown"),
        (["--shares", "1,x"], "shares are numbers such as 0,1,5"),
        (["--shares", "1,101"], "percent of the users, 0 to 100"),
        (["--shift", "click_rate=low"], "shift by click_rate is a number"),
        (["--shift", "taste=1"], "shift by 'taste' is unknown"),
        (["--set", "sizes=3"], "sasrec has no setting 'sizes'; did you mean size"),
        (
            ["--policy", "slateq", "--set", "sizes=3"],
            "slateq has no setting 'sizes'; did you mean size",
        ),
        (["--policy", "slateq", "--interactions", "-1"], "whole number of at least 0"),
        (["--policy", "slateq", "--interactions", "0.5"], "interactions are numbers such as"),
    ],
)
def test_bad_requests_are_one_line(
    words: list[str], message: str, recsim: Any, small_log_path: Path, tmp_path: Path
) -> None:
    done = recsim("pretrain", small_log_path, small_log_path, *words, "--out", tmp_path / "out")
    errors = [line for line in done.err.splitlines() if "are SYNTHETIC" not in line]
    assert (done.code, len(errors)) == (1, 1)
    assert message in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_the_log_must_fit_the_simulator(
    small_log: SessionLog, small_log_path: Path, tmp_path: Path
) -> None:
    log = chains(40).save(tmp_path / "log")
    with pytest.raises(InputError, match=r"answer 40 items, the log .* has another catalogue"):
        sequences.pretrain(small_log_path, log)
    real = replace(small_log, card={"name": "real"}).save(tmp_path / "real")
    with pytest.raises(InputError, match="is a log of real users, who cannot be asked"):
        reinforcement.pretrain(small_log_path, real)
    with pytest.raises(InputError, match="cannot answer new slates"):
        sequences.pretrain(real, real)
    few = small_log.select(np.arange(600), first_slates=1)
    single = replace(few, response=few.response * (np.cumsum(few.response, 1) == 1))
    single.save(tmp_path / "single")
    with pytest.raises(InputError, match="no test session of the log has two clicks"):
        sequences.pretrain(small_log_path, tmp_path / "single", shares=[1])
