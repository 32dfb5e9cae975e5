"""Processes that train one responder together."""

import os
import signal
from pathlib import Path

import pytest
import torch

from responders import InputError, SessionLog, fit
from responders.models.parts import items
from responders.training.checkpoint import load_responder
from responders.training.launch import fit_on_devices
from responders.training.trainer import STATE
from tests.commands import Command, alive, run_together, running, two_ranks, wait_for

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


def fit_all(log: SessionLog, out: Path, environment: dict[str, str]) -> None:
    os.environ |= environment
    items.UNKNOWN_RATE = 0.0  # nothing else is random without dropout
    torch.set_num_threads(1)
    settings = {"epochs": 2, "hidden_size": 8, "dropout": 0, "batch_size": 58}
    for name in ("slate_gru", "scot"):
        fit(log, name, out / name, settings, refit=name == "scot", progress=False)


def test_two_processes_learn_what_one_does(small_log: SessionLog, tmp_path: Path) -> None:
    log = small_log.select(range(581))
    assert 465 % 58 == 1, "the last batch has too few sessions to share"
    two = ((log, tmp_path / "two", environment) for environment in two_ranks())
    run_together(fit_all, (log, tmp_path / "one", {}), *two)
    for name in ("slate_gru", "scot"):
        one, two = (load_responder(tmp_path / folder / name) for folder in ("one", "two"))
        assert one.card["training"]["epochs_run"] == two.card["training"]["epochs_run"]
        for before, after in zip(
            one.card["training"]["history"], two.card["training"]["history"], strict=True
        ):
            assert after == pytest.approx(before, abs=1e-5)
        weights = two.responder.state_dict()
        for key, value in one.responder.state_dict().items():
            torch.testing.assert_close(weights[key], value, atol=1e-4, rtol=1e-3)


def test_training_survives_the_loss_of_a_process(small_log_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["train", small_log_path, "--responder", "slate_gru", "--out", out, "--devices", 2]
    words += ["--epochs", 4, "--set", "batch_size=16", "--set", "patience=9"]
    with running((out / STATE).exists, *words) as training:
        lost = children(training.pid)[-1]
        os.kill(lost, signal.SIGKILL)
        assert training.wait(100) == 0
    assert load_responder(out).card["training"]["epochs_run"] == 4


def test_processes_end_with_the_one_that_started_them(small_log_path: Path, tmp_path: Path) -> None:
    words = ["train", small_log_path, "--responder", "mf", "--out", tmp_path / "out"]
    training = Command(*words, "--devices", 2)
    wait_for(lambda: len(children(training.pid)) == 2)
    started = children(training.pid)
    training.kill()
    wait_for(lambda: not any(map(alive, started)))
    assert training.wait() == -signal.SIGKILL


def children(pid: int) -> list[int]:
    """Return the processes that train for the process `pid`."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    pids = [int(child) for file in files for child in file.read_text().split()]
    return [child for child in pids if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_bad_input_is_one_error(small_log_path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="devices must be a whole number of at least 1"):
        fit_on_devices(0, small_log_path, "mf", tmp_path / "out")
