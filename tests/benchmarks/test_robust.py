"""Runs that are killed, run at once or fail: nothing of them stays in the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Command, alive, running, wait_for

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")

TRAIN = ["--responder", "session_gru", "--set", "batch_size=2", "--set", "save_minutes=60"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(number: int, small_log_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["compare", small_log_path, "--responders", "session_gru", "--seeds", 1, "--out", out]
    training = lambda: list(out.glob("*/run.json"))  # noqa: E731
    with running(training, *words, "--set", "batch_size=2") as parent:
        task = Path(f"/proc/{parent.pid}/task")
        workers = [int(pid) for file in task.glob("*/children") for pid in file.read_text().split()]
        assert workers
        parent.send_signal(number)
        wait_for(lambda: not any(map(alive, workers)), 10)
        assert parent.wait(10) == (-9 if number == signal.SIGKILL else 130)


def test_one_process_at_a_time_writes_to_a_folder(
    recsim: Any, small_log_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["train", small_log_path, *TRAIN, "--out", out]
    others = [
        words,
        ["compare", small_log_path, "--responders", "pbm", "--out", out],
        ["bench", "RecSim-v0", "--out", out, "--overwrite"],
        ["data", "synthesize", out, "--overwrite"],
    ]
    with running((out / "run.json").exists, *words) as first:
        for other in others:
            done = recsim(*other)
            assert done.code == 1
            assert f"error: another process (pid {first.pid}) is writing to {out}" in done.err
    done = recsim(*words, "--epochs", 1, "--set", "batch_size=128")  # after SIGKILL
    assert done.code == 0, done.err
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGKILL, getattr(signal, "SIGHUP", signal.SIGTERM)]
)
def test_a_stopped_synthesis_leaves_nothing_in_the_way(
    number: int, recsim: Any, tmp_path: Path
) -> None:
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("the signal is ignored here, as under nohup, and programs inherit that")
    out = tmp_path / "new" / "out"
    words = ["data", "synthesize", out, "--sessions"]
    begun = lambda: list(tmp_path.glob("new/.out.tmp/slates.parquet"))  # noqa: E731
    with running(begun, *words, 1_000_000) as process:
        process.send_signal(number)
        assert process.wait(20) == (-9 if number == signal.SIGKILL else 130)
    assert (list(tmp_path.iterdir()) == []) == (number != signal.SIGKILL)
    assert recsim(*words, 50).code == 0
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_failed_training_does_not_block_its_folder(
    recsim: Any, small_log_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["train", small_log_path, "--responder", "mf", "--epochs", 1, "--out", out]
    done = recsim(*words, "--set", "learning_rate=10")
    assert done.code == 1
    assert "lower learning_rate" in done.err
    assert not list(tmp_path.iterdir())
    assert recsim(*words).code == 0
    assert "--overwrite" in recsim(*words).err
    assert recsim(*words, "--overwrite").code == 0


def test_overwrite_spares_other_folders(recsim: Any, small_log_path: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for words in (
        ["data", "synthesize", tmp_path],
        ["bench", "RecSim-v0", "--out", tmp_path],
        ["train", small_log_path, "--responder", "pbm", "--out", tmp_path],
    ):
        assert recsim(*words, "--overwrite").code == 1
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_interrupted_training_names_resume(
    recsim: Any, small_log_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["train", small_log_path, *TRAIN, "--out", out]
    with running(lambda: list(out.glob("tensorboard/*")), *words) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    done = recsim(*words)
    assert done.code == 1
    assert "holds an unfinished training: use --resume" in done.err


@pytest.mark.parametrize("command", ["train", "synthesize", "compare", "bench", "evaluate"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    command: str, small_log_path: Path, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = {
        "train": ["train", small_log_path, "--responder", "session_gru", "--epochs", 1],
        "synthesize": ["data", "synthesize", out, "--sessions", 2000],
        "compare": ["compare", small_log_path, "--responders", "pbm", "--seeds", 1],
        "bench": ["bench", "RecSim-v0", "--users", 5, "--policies", "random", "--seeds", 1],
        "evaluate": ["evaluate", trained, small_log_path, "--draws", 0, "--json", out],
    }[command]
    extra = [] if command in ("synthesize", "evaluate") else ["--out", out]
    process = Command(*words, *extra, limit=1000 if command == "evaluate" else 4000)
    _, err = process.communicate(timeout=60)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert process.returncode == 1, err
    assert len(errors) == 1, err
    assert "Traceback" not in err
    assert str(tmp_path) in errors[0]
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]
    assert command != "evaluate" or not list(tmp_path.iterdir())


def writing(log: Path, run: Path) -> list[list[Any]]:
    """Every command that writes, but for where to."""
    raw = Path(__file__).parents[1] / "cases" / "trec_session"
    return [
        ["data", "convert", "trec-session", raw],
        ["data", "synthesize", "--sessions", 5],
        ["train", log, "--responder", "pbm", "--out"],
        ["train", log, "--responder", "mf", "--epochs", 1, "--refit", "--out"],
        ["evaluate", run, log, "--draws", 0, "--json"],
        ["compare", log, "--responders", "pbm", "--seeds", 1, "--out"],
        ["bench", "RecSim-v0", "--users", 5, "--policies", "random", "--seeds", 1, "--out"],
        ["demo", "--out"],
    ]


def check_refused(words: list[Any], code: int, err: str, path: Path) -> None:
    """The command said in one line that it cannot write to `path`, without having worked."""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 1, words
    assert len(errors) == 1, err
    assert str(path) in errors[0], words
    assert "Traceback" not in err


def test_a_file_in_place_of_a_folder_is_one_line(
    recsim: Any, small_log_path: Path, trained: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for words in writing(small_log_path, trained):
        outs = [file / "below", file / "further" / "below"]
        if words[0] == "evaluate":  # --json names a file, which is replaced
            folder = tmp_path / "folder"
            folder.mkdir()
            outs.append(folder)
        else:
            outs.append(file)
        for out in outs:
            done = recsim(*words, out)
            check_refused(words, done.code, done.err, file if out.is_relative_to(file) else out)
    assert file.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


CALLS = """
import json, sys
from tests.conftest import call_recsim
for words in json.loads(sys.argv[1]):
    done = call_recsim(*words)
    print(json.dumps([words, done.code, done.err]), file=sys.__stdout__)
"""

CLOSED = {
    # mounted in a namespace that ends with the command
    "read-only": ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro none "$0" && exec "$@"'],
    # without the capabilities by which root may write everywhere
    "no permission": ["setpriv", "--bounding-set=-dac_override,-dac_read_search"],
}


@pytest.mark.parametrize("reason", CLOSED)
def test_a_folder_that_cannot_be_written_is_one_line(
    reason: str, small_log_path: Path, trained: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    inside = [*CLOSED[reason], str(closed)] if reason == "read-only" else CLOSED[reason]
    if reason == "no permission" and os.geteuid() != 0:
        inside = []  # it has no such capabilities
    elif not shutil.which(inside[0]) or subprocess.run([*inside, "true"], check=False).returncode:
        pytest.skip(f"{inside[0]} is not permitted here")
    calls = [
        [*map(str, words), str(out)]
        for words in writing(small_log_path, trained)
        for out in (closed / "out", closed / "new" / "out")
    ]
    if reason == "read-only":  # a mount point cannot be replaced
        calls.append(["data", "synthesize", "--sessions", "5", str(closed)])
    command = [*inside, sys.executable, "-c", CALLS, json.dumps(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(results) == len(calls)
    for words, code, err in results:
        check_refused(words, code, err, closed)
    assert not list(closed.iterdir())
