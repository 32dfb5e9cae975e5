"""The `recsim` command as its users call it: results, exit codes, messages."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import typer
from safetensors.torch import load_file

from agents.registry import POLICIES
from benchmarks.cli import main as cli
from benchmarks.studies import demo, leaderboard
from responders import SessionLog
from responders.known_truth.presets import PRESETS
from responders.models.registry import RESPONDERS
from responders.sources.registry import SOURCES
from tests.commands import Command


def test_the_chain_from_log_to_leaderboard(recsim: Any, tmp_path: Path) -> None:
    log, run, metrics = tmp_path / "log", tmp_path / "run", tmp_path / "metrics.json"
    changes = ["--set", "n_items=50", "--set", "n_positions=4"]
    done = recsim("data", "synthesize", log, "--sessions", 300, "--seed", 1, *changes)
    assert done.code == 0, done.err
    assert "SYNTHETIC users" in done.out
    assert SessionLog.load(log).n_positions == 4
    shown = recsim("data", "show", log)
    assert "300 of 300 users" in shown.out

    train = ["train", log, "--responder", "slate_gru", "--out", run, "--epochs", 2]
    assert recsim(*train, "--set", "hidden_size=8").code == 0
    assert json.loads((run / "card.json").read_text())["command"].startswith("recsim train")
    assert recsim(*train, "--set", "hidden_size=8", "--resume").code == 0

    done = recsim("evaluate", run, log, "--json", metrics)
    assert done.code == 0, done.err
    assert "Bayes optimum" in done.out
    found = json.loads(metrics.read_text())
    wanted = (
        "auc f1 accuracy log_loss perplexity ece n_positions n_sessions bayes_log_loss bayes_auc"
    )
    assert set(wanted.split()) | {"auc_low", "auc_high", "log_loss_at_1"} <= found.keys()
    assert all(not isinstance(value, dict | list) for value in found.values())
    assert found["n_sessions"] == 30
    assert found["bayes_log_loss"] < found["log_loss"]
    assert recsim("evaluate", run, log, "--split", "all", "--json", metrics).code == 0
    assert json.loads(metrics.read_text())["n_sessions"] == 300

    out = tmp_path / "bench"
    bench = ["bench", "RecSim-v0", "--responder", run, "--users", 20, "--seeds", 1, "--out", out]
    done = recsim(*bench, "--policies", "random,popular,slateq,oracle", "--train-steps", 100)
    assert done.code == 0, done.err
    assert "SYNTHETIC" in done.out
    table = pd.read_csv(out / "leaderboard.csv")
    assert set(table.policy) == {"random", "popular", "slateq", "oracle"}
    assert (table.reward_low <= table.reward).all()
    assert (table.reward <= table.reward_high).all()
    stored = json.loads((out / "leaderboard.json").read_text())
    assert stored["synthetic"] is True
    assert [row["policy"] for row in stored["rows"]] == table.policy.tolist()
    assert {p.name for p in out.iterdir()} >= {"leaderboard.png", "tensorboard"}


def test_convert_reads_a_file_of_ones_own(recsim: Any, tmp_path: Path) -> None:
    path = tmp_path / "shown.csv"
    path.write_text("u,visit,item,click,at,age\n1,1,7,1,2024-05-01 10:00,3\n2,1,8,0,2024-05-01,4\n")
    words = [
        "data",
        "convert",
        "csv",
        path,
        tmp_path / "log",
        "--session",
        "u",
        "--session",
        "visit",
    ]
    done = recsim(*words, "--time", "at", "--user", "u", "--item-feature", "age")
    assert done.code == 0, done.err
    log = SessionLog.load(tmp_path / "log")
    assert log.users.ids.tolist() == [1, 2]
    assert log.time.tolist() == [1_714_557_600, 1_714_521_600]
    assert log.catalogue.feature_names == ("age",)
    done = recsim("data", "convert", "movielens", path, tmp_path / "other", "--user", "u")
    assert done.code == 1
    assert "movielens has no option 'user'" in done.err


def test_the_demo_runs_the_whole_chain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    demo.run(out, scale=0.05)
    printed = capsys.readouterr().out
    for word in ("Bayes optimum", "P(click)", "oracle", "the same way", "leaderboard_truth"):
        assert word in printed
    assert (out / "leaderboard_truth" / "leaderboard.csv").exists()
    with pytest.raises(ValueError, match="is not empty"):
        demo.run(out)


def test_help_teaches(recsim: Any) -> None:
    for words in ([], ["data"], ["train"], ["evaluate"], ["bench"], ["demo"], ["data", "convert"]):
        done = recsim(*words, "--help")
        assert done.code == 0
        assert "Usage" in done.out
    assert "Example" in recsim("train", "--help").out


def test_help_names_everything_that_the_registries_hold(recsim: Any) -> None:
    for words, registry in (
        (["train"], RESPONDERS),
        (["compare"], RESPONDERS),
        (["bench"], POLICIES),
        (["data", "convert"], SOURCES),
        (["data", "synthesize"], PRESETS),
    ):
        printed = recsim(*words, "--help").out
        assert all(name in printed for name in registry), words


@pytest.mark.parametrize("words", [["--help"], ["data", "--help"], ["bench", "--help"]])
def test_help_does_not_import_pytorch(words: list[str]) -> None:
    code = (
        "import atexit, sys; from benchmarks.cli.main import main; "
        "atexit.register(lambda: print('torch' in sys.modules)); main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "False"


COMPUTING = [
    "train", "evaluate", "compare", "bench", "demo", "data synthesize", "data profile",
    "data content",
]  # fmt: skip


@pytest.mark.parametrize("command", COMPUTING)
def test_every_command_that_computes_has_the_same_device_and_threads(command: str) -> None:
    found: Any = typer.main.get_command(cli.app)
    for name in command.split():
        found = found.commands[name]
    defaults = {option.name: option.default for option in found.params}
    assert (defaults["device"], defaults["threads"]) == ("auto", None)


def test_threads_are_set(recsim: Any, trained: Path, small_log_path: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    commands = [
        ["evaluate", trained, small_log_path],
        ["data", "synthesize", tmp_path / "log", "--sessions", 5],
    ]
    for words in commands:
        try:
            assert recsim(*words, "--threads", before + 1).code == 0
            assert torch.get_num_threads() == before + 1
        finally:
            torch.set_num_threads(before)


def test_bench_checks_its_folder_before_any_work(
    recsim: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr(leaderboard, "leaderboard", never)
    monkeypatch.setattr(leaderboard, "open_responder", never)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        done = recsim("bench", "RecSim-v0", "--responder", trained, "--out", out)
        assert done.code == 1
        assert "exists already" in done.err or "cannot write to" in done.err


@pytest.mark.parametrize(
    "words",
    [
        ["train"],
        ["no-such-command"],
        ["data", "synthesize", "x", "--sessions", "many"],
        ["data", "synthesize", "x", "--sessions", "0"],
        ["evaluate", "a", "b", "--split", "half"],
        ["bench", "RecSim-v0", "--seeds", "-1"],
    ],
)
def test_bad_usage_exits_2(words: list[str], recsim: Any) -> None:
    assert recsim(*words).code == 2


def bad_input(log: Path, run: Path, tmp: Path) -> list[tuple[list[Any], str]]:
    return [
        (["data", "show", tmp / "no"], "there is no log at"),
        (["data", "convert", "rl4r", tmp, tmp / "o"], "did you mean rl4rs"),
        (["data", "convert", "rl4rs", tmp / "no", tmp / "o"], "no"),
        (["data", "synthesize", tmp / "o", "--preset", "contentwize"], "did you mean contentwise"),
        (["data", "synthesize", tmp / "o", "--set", "tast=1"], "did you mean taste"),
        (
            ["data", "synthesize", tmp / "o", "--set", "taste=much"],
            "taste must be a number, not 'much'",
        ),
        (["data", "synthesize", tmp / "o", "--set", "taste"], "a setting has the form KEY=VALUE"),
        (["data", "synthesize", tmp / "o", "--policy", "best"], "policy 'best' is unknown"),
        (["data", "synthesize", log], "exists already"),
        (
            ["train", log, "--responder", "sesion_gru", "--out", tmp / "o"],
            "did you mean session_gru",
        ),
        (
            ["train", log, "--responder", "pbm", "--out", tmp / "o", "--set", "x=1"],
            "unknown to pbm",
        ),
        (["train", log, "--responder", "pbm", "--out", run], "holds a finished training"),
        (
            ["train", log, "--responder", "pbm", "--out", tmp / "o", "--device", "gpu"],
            "device 'gpu'",
        ),
        (["data", "synthesize", tmp / "o", "--device", "gpu"], "device 'gpu'"),
        (["demo", "--out", tmp / "o", "--device", "gpu"], "device 'gpu'"),
        (["bench", "RecSim-v0", "--out", tmp / "o", "--device", "gpu"], "device 'gpu'"),
        (["evaluate", run, log, "--device", "gpu"], "device 'gpu'"),
        (["evaluate", tmp / "no", log], "there is no responder at"),
        (["evaluate", log, log], "is not a responder"),
        (
            ["bench", "RecSim-v1", "--out", tmp / "o"],
            "environment 'RecSim-v1' is unknown; did you mean RecSim-v0",
        ),
        (["bench", "RecSim-v0", "--policies", "randon", "--out", tmp / "o"], "did you mean random"),
        (
            ["bench", "RecSim-v0", "--responder", tmp / "no", "--out", tmp / "o"],
            "there is no responder at",
        ),
    ]


def test_bad_input_exits_1_with_one_line_and_leaves_nothing(
    recsim: Any, small_log_path: Path, trained: Path, tmp_path: Path
) -> None:
    for words, message in bad_input(small_log_path, trained, tmp_path):
        done = recsim(*words)
        assert done.code == 1, words
        lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, done.err
        assert message in lines[0]
        assert "Traceback" not in done.err
        assert list(tmp_path.iterdir()) == [], words


def test_debug_shows_the_traceback(recsim: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no log at"):
        recsim("data", "show", tmp_path / "no", "--debug")


def test_a_log_of_another_catalogue_is_refused(recsim: Any, trained: Path, tmp_path: Path) -> None:
    recsim("data", "synthesize", tmp_path / "other", "--sessions", 30)
    done = recsim("evaluate", trained, tmp_path / "other")
    assert done.code == 1
    assert "was trained on another catalogue" in done.err


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_a_killed_or_interrupted_training_resumes_bit_exact(
    recsim: Any, small_log_path: Path, tmp_path: Path
) -> None:
    def words(out: Path) -> list[Any]:
        small = ["--set", "batch_size=16", "--set", "hidden_size=32", "--set", "patience=99"]
        return [
            "train",
            small_log_path,
            "--responder",
            "session_gru",
            "--out",
            out,
            "--epochs",
            8,
            *small,
        ]

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert recsim(*words(whole)).code == 0
    for number, expected in ((signal.SIGINT, 130), (signal.SIGKILL, -9), (signal.SIGTERM, 130)):
        resume = ["--resume"] if parts.exists() else []
        running = Command(*words(parts), *resume)
        state = parts / "resume.safetensors"
        before = state.stat().st_mtime_ns if state.exists() else 0
        for _ in range(600):
            if state.exists() and state.stat().st_mtime_ns != before:
                break
            time.sleep(0.05)
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
        assert running.returncode == expected, err
        if expected == 130:
            assert "--resume" in err
        assert not (parts / "card.json").exists()
    done = recsim("evaluate", parts, small_log_path)
    assert "is not finished" in done.err
    assert recsim(*words(parts), "--resume").code == 0
    one, other = (load_file(folder / "responder.safetensors") for folder in (whole, parts))
    assert all(bool((one[name] == other[name]).all()) for name in one)
