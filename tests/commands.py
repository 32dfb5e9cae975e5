"""Commands in processes of their own, forked from a server that has imported what they need.

A fresh interpreter would import for seconds before each command.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.cli.main import main

if sys.platform != "win32":
    SERVER = multiprocessing.get_context("forkserver")
    SERVER.set_forkserver_preload(["tests.commands_imports"])


def _run(
    words: list[str], limit: int, out: Connection, err: Connection, environment: dict[str, str]
) -> None:
    """Run the command line; what it prints goes to `out` and `err`."""
    import resource

    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    out.close()
    err.close()
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["recsim", *words]
    main()


class Command:
    """A running command, with the methods of `subprocess.Popen`.

    Args:
        words: of the command line, after `recsim`.
        limit: no file that the command writes can be larger (bytes); 0 = any size.
    """

    def __init__(self, *words: object, limit: int = 0) -> None:
        self._out, out = SERVER.Pipe(duplex=False)
        self._err, err = SERVER.Pipe(duplex=False)
        args = ([*map(str, words)], limit, out, err, dict(os.environ))
        self._process = SERVER.Process(target=_run, args=args)
        self._process.start()
        out.close()
        err.close()
        self.pid = self._process.pid
        assert self.pid is not None

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float = 60) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("recsim", timeout)
        return self.returncode

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        """Wait until the command has ended; return what it printed to stdout and to stderr."""
        self.wait(timeout)
        texts = []
        for stream in (self._out, self._err):
            with open(os.dup(stream.fileno()), encoding="utf-8") as file:
                texts.append(file.read())
            stream.close()
        return texts[0], texts[1]


@contextmanager
def running(ready: Callable[[], Any], *words: object, seconds: float = 60) -> Iterator[Command]:
    """A command that has come so far that `ready()` is true; it is killed at the end."""
    process = Command(*words)
    try:
        wait_for(lambda: ready() or process.poll() is not None, seconds)
        assert process.poll() is None, process.communicate()[1]
        yield process
    finally:
        process.kill()
        process.wait()


def run_together(target: Callable[..., None], *jobs: tuple[Any, ...]) -> None:
    """Call `target` with each of the arguments, each in a process of its own, all at once."""
    workers = [SERVER.Process(target=target, args=job) for job in jobs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)
        assert worker.exitcode == 0


def two_ranks() -> list[dict[str, str]]:
    """The environments of two processes that find each other at a free port."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    return [where | {"RANK": rank, "WORLD_SIZE": "2"} for rank in "01"]


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
