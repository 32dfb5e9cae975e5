"""Where runs are done: processes and Ray give the same results, and leave nothing running."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.studies.compare import compare
from benchmarks.studies.leaderboard import run
from benchmarks.workers import Workers, run_cases
from responders import InputError
from responders.training.trainer import STATE
from tests.benchmarks.test_leaderboard import OPTIONS, values
from tests.commands import alive, wait_for


def test_every_case_has_a_process_of_its_own() -> None:
    found = dict(run_cases(os.getpid, {"a": (), "b": ()}, progress=False))
    assert found.keys() == {"a", "b"}
    assert len({*found.values(), os.getpid()}) == 3


def test_an_error_in_a_case_is_raised() -> None:
    with pytest.raises(ValueError, match="'x'"):
        list(run_cases(int, {"good": ("1",), "bad": ("x",)}, progress=False))


def test_impossible_workers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="jobs must be a whole number of at least 1"):
        Workers(0)
    with pytest.raises(InputError, match="leave out jobs"):
        Workers(2, ray="auto")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'recsim-env\[ray\]'"):
        Workers(ray="auto")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of two machines with a CPU each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    machines.add_node(num_cpus=1)
    yield machines.address
    machines.shutdown()


POLICY = """
import os, signal
from pathlib import Path
import torch
from agents import Policy

class Dies(Policy):
    def score(self, observation):
        died = Path(__file__).with_name("died")
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return -torch.arange(self.n_items).float()
"""


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_a_cluster_that_loses_a_process_gives_the_same_table(cluster: str, tmp_path: Path) -> None:
    file, died = tmp_path / "mine.py", tmp_path / "died"
    file.write_text(POLICY)
    options: Any = OPTIONS | {"seeds": 1}
    policies = [f"{file}:Dies", "random"]
    there = run("RecSim-v0", policies, workers=Workers(ray=cluster), **options)
    assert died.exists(), "a process was killed"
    here = run("RecSim-v0", policies, **options)
    assert values(there.rows) == values(here.rows)


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_a_training_whose_process_is_killed_goes_on_to_the_same_table(
    cluster: str, small_log_path: Path, tmp_path: Path
) -> None:
    settings = {"epochs": "4", "patience": "9", "hidden_size": "8", "batch_size": "16"}
    options: Any = {"splits": "user", "seeds": 1, "settings": settings, "progress": False}
    killed: list[int] = []

    def kill_one() -> None:
        wait_for(lambda: list((tmp_path / "there").rglob(STATE)), 180)
        [saved] = (tmp_path / "there").rglob(STATE)
        lock = saved.parent.with_name(f".{saved.parent.name}.lock")
        killed.append(int(lock.read_text()))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    workers = Workers(ray=cluster)
    there = compare(small_log_path, "slate_gru", out=tmp_path / "there", workers=workers, **options)
    killer.join()
    assert killed
    here = compare(small_log_path, "slate_gru", out=tmp_path / "here", **options)
    for name in ("log_loss", "auc", "auc_low", "unconditional_log_loss"):
        np.testing.assert_array_equal(there.table[name], here.table[name])


def test_bad_input_and_missing_clusters_are_one_clear_error(cluster: str) -> None:
    with pytest.raises(InputError, match="no machine of the Ray cluster has 64 CPUs and 0 GPUs"):
        Workers(ray=cluster, threads=64).pool()
    with pytest.raises(InputError, match="no Ray cluster at '127"):
        Workers(ray="127.0.0.1:9").pool()
    with pytest.raises(ValueError, match=r"^invalid literal for int.*'x'$"):
        list(run_cases(int, {"bad": ("x",)}, Workers(ray=cluster), progress=False))


DRIVER = """
import sys, time
from pathlib import Path
from benchmarks.errors import one_line_errors
from benchmarks.workers import Workers, run_cases

def work(folder):
    import os
    Path(folder, str(os.getpid())).touch()
    while True:
        time.sleep(0.05)

with one_line_errors():
    list(run_cases(work, {"only": (sys.argv[2],)}, Workers(ray=sys.argv[1]), progress=False))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux")
def test_tasks_end_with_the_process_that_asked_for_them(cluster: str, tmp_path: Path) -> None:
    numbers = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: -signal.SIGINT}
    drivers = {}
    for number in numbers:
        (tmp_path / number.name).mkdir()
        command = [sys.executable, "-c", DRIVER, cluster, str(tmp_path / number.name)]
        drivers[number] = subprocess.Popen(command)
    for number, driver in drivers.items():
        folder = tmp_path / number.name
        wait_for(lambda folder=folder: list(folder.iterdir()), 180)
        driver.send_signal(number)
        [task] = folder.iterdir()
        wait_for(lambda pid=int(task.name): not alive(pid), 180)
        assert driver.wait(180) == numbers[number]
