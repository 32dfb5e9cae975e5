"""The fidelity report on known truth: the truth passes, damage is found and put in order."""

import copy
import json
import pickle
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.studies.fidelity import parts
from benchmarks.studies.fidelity.cases import find_cases, held_out
from benchmarks.studies.fidelity.replay import LoggedSlates, simulate, without_copies
from benchmarks.studies.fidelity.study import Fidelity, fidelity
from benchmarks.workers import Workers
from recsim_env.loading import open_responder
from responders import InputError, SessionLog, fit
from responders.behaviour.leaving import Hazard
from responders.known_truth.logs import synthesize
from responders.known_truth.presets import TruthConfig
from responders.models.state import State
from responders.training.checkpoint import Checkpoint

KEYS = [
    "responder", "auc", "log_loss", "ece", "c2st_auc", "c2st_low", "c2st_high", "length_distance",
    "length_floor", "kendall_tau", "tau_low", "tau_high", "value_error", "exploitability",
    "exploitability_low", "exploitability_high",
]  # fmt: skip
NOISE = (0.5, 1.0, 2.0)


@pytest.fixture(scope="module")
def log_path(small_world: TruthConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fidelity") / "log"
    synthesize(path, small_world, 1000, seed=1, progress=False)
    return path


def damaged(path: Path, name: str, change: Callable[[Any], None]) -> Checkpoint:
    """The truth of a log, changed."""
    checkpoint = open_responder(path)
    truth = copy.deepcopy(checkpoint.responder)
    change(truth)
    return replace(
        checkpoint, responder=truth, card=checkpoint.card | {"responder": {"name": name}}
    )


def noisy(deviation: float) -> Callable[[Any], None]:
    def change(truth: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(truth.item_log_odds.shape, generator=generator)
        truth.item_log_odds += deviation * noise

    return change


def without_position_bias(truth: Any) -> None:
    truth.examination[:] = truth.examination.mean()


def without_memory(truth: Any) -> None:
    def forget(state: State, *_: Any) -> State:
        return state

    truth._moved = forget


def doubled(truth: Any) -> None:
    truth.item_log_odds += 1.0


@pytest.fixture(scope="module")
def report(log_path: Path) -> dict[str, dict[str, Any]]:
    """The row and the details of the truth and of damaged ones, by name."""
    impatient = damaged(log_path, "wrong leaving", lambda truth: None)
    cases = [
        damaged(log_path, "truth", lambda truth: None),
        *(damaged(log_path, f"noise {d}", noisy(d)) for d in NOISE),
        damaged(log_path, "no position bias", without_position_bias),
        damaged(log_path, "no memory", without_memory),
        damaged(log_path, "doubled clicks", doubled),
        replace(impatient, hazard=Hazard((0.4,))),
    ]
    found = fidelity(cases, log_path, users=80, progress=False)
    assert isinstance(found, Fidelity)
    assert not found.files
    return {
        row["responder"]: row | facts  # type: ignore[misc]
        for row, facts in zip(found.rows, found.details["responders"], strict=True)
    }


def test_the_truth_passes_every_part(report: dict[str, dict[str, Any]]) -> None:
    truth = report["truth"]
    assert abs(truth["c2st_auc"] - 0.5) <= 0.02
    assert truth["c2st_low"] < 0.5 < truth["c2st_high"]
    assert truth["ece"] < 0.01
    assert truth["kendall_tau"] == truth["tau_low"] == 1
    assert truth["value_error"] == truth["exploitability"] == 0
    assert truth["exploitability_low"] <= 0 <= truth["exploitability_high"]
    assert len(truth["counterfactual"]["policies"]) >= 12
    assert truth["generation"]["mmd"]["p"] > 0.01
    for statistic in truth["generation"]["statistics"].values():
        assert statistic.get("distance_low", 0) <= statistic.get("floor_high", 0)
    assert {sentence["level"] for sentence in truth["verdict"]} <= {"good", "unknown"}
    assert truth["generation"]["statistics"].keys() >= {"ctr_by_position", "after_click"}


def test_more_damage_is_worse_in_every_part(report: dict[str, dict[str, Any]]) -> None:
    order = [report[name] for name in ("truth", *(f"noise {d}" for d in NOISE))]
    for name in ("log_loss", "c2st_auc", "value_error", "exploitability"):
        values = [row[name] for row in order]
        assert values == sorted(values), name
        assert len(set(values)) == len(values), name
    for name in ("auc", "kendall_tau"):
        values = [row[name] for row in order]
        assert values == sorted(values, reverse=True), name


def off(facts: dict[str, Any], statistic: str) -> bool:
    """Whether a statistic is off by more than two halves of the log."""
    found = facts["generation"]["statistics"][statistic]
    return found["distance_low"] > found["floor_high"]


def test_each_damage_is_found_where_it_is(report: dict[str, dict[str, Any]]) -> None:
    assert off(report["no position bias"], "ctr_by_position")
    assert not off(report["no position bias"], "session_length")
    assert off(report["wrong leaving"], "session_length")
    assert report["wrong leaving"]["length_distance"] > 3 * report["truth"]["length_distance"]
    assert report["wrong leaving"]["log_loss"] == report["truth"]["log_loss"]  # of single answers
    assert off(report["doubled clicks"], "clicks_per_slate")
    assert off(report["no memory"], "ctr_by_slate")
    for name in ("no position bias", "no memory", "doubled clicks", "wrong leaving"):
        assert report[name]["c2st_low"] > 0.52, name
        assert any(sentence["level"] == "bad" for sentence in report[name]["verdict"])
    telling = [
        row["feature"] for row in report["no position bias"]["generation"]["c2st"]["telling"]
    ]
    assert any("position" in feature for feature in telling)


def test_position_ctr_is_caught_by_every_part(log_path: Path, tmp_path: Path) -> None:
    log = SessionLog.load(log_path)
    fit(log, "position_ctr", tmp_path / "run", progress=False)
    out = tmp_path / "out"
    found = fidelity(tmp_path / "run", log_path, out, users=40, progress=False)
    (row,), (facts,) = found.rows, found.details["responders"]
    assert list(row) == KEYS
    assert json.loads((out / "fidelity.json").read_text()) == found.rows
    assert facts["prediction"]["baseline"]["gain_low"] <= 0
    assert row["c2st_low"] > 0.55  # type: ignore[operator]
    assert row["kendall_tau"] == 0
    assert row["exploitability_low"] > 0.1 or row["exploitability_high"] < -0.1  # type: ignore[operator]
    texts = " ".join(sentence["text"] for sentence in facts["verdict"])
    for words in ("no better than by", "A classifier tells", "it ranks none"):
        assert words in texts
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["fidelity"]["c2st_auc"] == row["c2st_auc"]
    assert card["fidelity"]["verdict"] == [sentence["text"] for sentence in facts["verdict"]]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "position_ctr" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # nothing is fetched
    _no_errors_in_a_browser(out / "report.html", tmp_path)


def _no_errors_in_a_browser(page: Path, tmp_path: Path) -> None:
    """Open the page, play the gallery once, and read what the console says."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        return
    probe = (
        "<script>const errors = []; onerror = text => errors.push(text);"
        "onload = () => { document.getElementById('real').click();"
        "document.querySelector('[data-show]').click();"
        "const wide = document.documentElement.scrollWidth > innerWidth;"
        "document.title = JSON.stringify([errors, wide,"
        "document.getElementById('score').textContent]); }</script>"
    )
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text("utf-8").replace("<style>", probe + "<style>", 1), "utf-8")
    run = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=390,800",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", probed.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    title = re.search(r"<title>(\[.*?)</title>", run.stdout)
    assert title is not None, run.stderr
    errors, wide, score = json.loads(title[1].replace("&quot;", '"'))
    assert errors == []
    assert not wide
    assert score.startswith("It was")


def test_an_interrupted_report_continues(
    small_world: TruthConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_path = tmp_path / "log"
    synthesize(log_path, small_world, 120, progress=False)
    small = {"sessions": 150, "users": 5, "progress": False}
    whole = fidelity(log_path, log_path, tmp_path / "whole", **small)
    with monkeypatch.context() as patch:
        stop: Any = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
        patch.setitem(parts.MEASURES, "exploit", stop)
        with pytest.raises(KeyboardInterrupt):
            fidelity(log_path, log_path, tmp_path / "cut", **small)
    assert not (tmp_path / "cut" / "fidelity.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut" / "parts").iterdir()}
    assert len(before) == 5
    again = fidelity(log_path, log_path, tmp_path / "cut", workers=Workers(2), **small)
    assert again.rows == whole.rows
    for path, changed in before.items():
        assert path.stat().st_mtime_ns == changed
    assert len(list((tmp_path / "cut" / "parts").iterdir())) == 6


def test_replayed_slates_are_those_of_the_log_and_nobody_is_cut(
    small_world: TruthConfig, tmp_path: Path
) -> None:
    log = synthesize(tmp_path / "log", small_world, 300, policy="uniform", progress=False)
    checkpoint = open_responder(tmp_path / "log")
    unknown = replace(log, card={k: v for k, v in log.card.items() if k != "policy"})
    sessions = np.arange(0, 300, 2)
    other = simulate(checkpoint, unknown, sessions)
    both = np.minimum(other.session_length, log.session_length[sessions])
    for i, e in enumerate(sessions):
        mine, theirs = other.session_start[i], log.session_start[e]
        np.testing.assert_array_equal(
            other.slate[mine : mine + both[i]], log.slate[theirs : theirs + both[i]]
        )
    assert (other.session_length > log.session_length[sessions]).any()
    assert other.session_length.mean() == pytest.approx(log.session_length.mean(), rel=0.15)
    source = LoggedSlates(unknown, sessions, seed=0)
    last = int(log.session_length.max()) - 1
    longest = log.slate[log.session_start[:-1][log.session_length > last] + last]
    for slate in source.at(last, np.ones(len(sessions), bool)).numpy():
        assert (longest == slate).all(1).any()


def test_repeated_items_are_blanked_on_both_sides(small_log: SessionLog) -> None:
    slate, click = small_log.slate.copy(), small_log.response.copy()
    slate[:, 2], click[:, 2] = slate[:, 0], 1
    blanked = without_copies(replace(small_log, slate=slate, response=click))
    assert (blanked.slate[:, 2] == -1).all()
    assert not blanked.response[:, 2].any()
    assert without_copies(small_log) is small_log


def test_all_responders_are_judged_on_what_all_hold_out(
    small_log: SessionLog, tmp_path: Path
) -> None:
    for split in ("user", "time"):
        fit(small_log, "item_ctr", tmp_path / split, split=split, progress=False)
    small_log.save(tmp_path / "log")
    by_user, by_time, truth = (
        held_out(find_cases([tmp_path / name], small_log), small_log, "test")
        for name in ("user", "time", "log")
    )
    assert len(by_user.part) == 60
    assert not by_user.later
    assert by_time.later
    assert len(truth.part) == len(truth.known) == small_log.n_sessions
    cases = find_cases([tmp_path / name for name in ("user", "time", "log")], small_log)
    common = held_out(cases, small_log, "test")
    assert set(common.part.sessions) == set(by_user.part.sessions) & set(by_time.part.sessions)
    ensemble = find_cases([open_responder([tmp_path / "user", tmp_path / "time"])], small_log)
    np.testing.assert_array_equal(
        held_out(ensemble, small_log, "test").part.first, common.part.first
    )
    everything = held_out(cases, small_log, "all")
    assert len(everything.part) == small_log.n_sessions


def test_values_from_propensities(small_world: TruthConfig, tmp_path: Path) -> None:
    """The log's own policy is uniform; so is the target, and all estimates agree."""
    log = synthesize(tmp_path / "log", small_world, 400, policy="uniform", progress=False)
    propensity = np.full(log.slate.shape, 1 / 40, np.float32)
    logged = replace(log, propensity=propensity)
    found = fidelity(
        open_responder(tmp_path / "log"), logged, target=log, sessions=150, users=5, progress=False
    )
    target, uniform = found.details["responders"][0]["estimates"]
    mean = log.response.sum(1).mean()
    assert target["real"] == pytest.approx(mean)
    for row in uniform["estimates"]:
        assert row["value"] == pytest.approx(mean, rel=0.05), row["name"]
        assert row["low"] < mean < row["high"] or row["name"] == "the responder"
    assert [row["name"] for row in uniform["estimates"]][-1] == "cascade DR"


def test_a_tiny_log_has_nulls_and_words_instead_of_numbers(
    small_log: SessionLog, tmp_path: Path, recsim: Callable[..., Any]
) -> None:
    few = replace(small_log.select(np.arange(40)), card={"name": "few"})
    few.save(tmp_path / "few")
    fit(small_log, "pbm", tmp_path / "pbm", progress=False)
    done = recsim("fidelity", tmp_path / "pbm", tmp_path / "few", "--out", tmp_path / "out",
                  "--users", 5)  # fmt: skip
    assert done.code == 0, done.err
    (row,) = json.loads((tmp_path / "out" / "fidelity.json").read_text())
    assert row == dict.fromkeys(KEYS) | {"responder": "pbm"}
    assert "too small to say" in done.out
    assert "40 users" in (tmp_path / "out" / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"responders": []}, "no responder"),
        ({"responders": ["nowhere"]}, "no responder at nowhere"),
        ({"exploit": "nope"}, "nope"),
        ({"split": "nope"}, "nope"),
        ({"users": 1}, "users"),
        ({"thresholds": {"nope": 1}}, "nope"),
        ({"thresholds": {"c2st": 2}}, "c2st"),
        ({"target": "LOG"}, "no propensities"),
        ({"responders": ["LOG", "LOG"]}, "given twice"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    change: dict[str, Any], message: str, log_path: Path, tmp_path: Path
) -> None:
    named = {"responders": [log_path]} | change
    for key, value in named.items():
        named[key] = log_path if value == "LOG" else value
    named["responders"] = [log_path if r == "LOG" else r for r in named["responders"]]
    with pytest.raises(InputError, match=message):
        fidelity(log=log_path, out=tmp_path / "out", progress=False, **named)
    assert not (tmp_path / "out").exists()


def test_other_files_and_refitted_responders_are_refused(
    small_log: SessionLog, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    fit(small_log, "pbm", tmp_path / "pbm", refit=True, progress=False)
    with pytest.raises(InputError, match="refitted"):
        fidelity(tmp_path / "pbm", small_log, progress=False)
    with pytest.raises(InputError, match="not empty"):
        fidelity(tmp_path / "pbm", small_log, tmp_path / "out", split="all", progress=False)


def test_another_process_opens_the_same_report(log_path: Path, tmp_path: Path) -> None:
    options = parts.Options(150, 5, "greedy", 1000, 0, torch.device("cpu"))
    inputs = parts.ReportInputs((log_path,), log_path, None, "test", options)
    name, sessions = inputs.cases[0].name, inputs.data.part.sessions
    copied = pickle.loads(pickle.dumps(inputs))
    assert not {"cases", "data"} & vars(copied).keys(), "they are not sent, but opened again"
    parts.run_part(tmp_path / "part.json", copied, name, "prediction")
    found = json.loads((tmp_path / "part.json").read_text())["content"]
    assert found == json.loads(json.dumps(parts.MEASURES["prediction"](inputs, inputs.cases[0])))
    assert copied.data.part.sessions.tolist() == sessions.tolist()
