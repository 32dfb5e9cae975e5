"""Where the runs of a study are done: in this process, in child processes, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

import torch

from responders import InputError
from responders.errors import check_whole
from responders.progress import progress_bar
from responders.training.processes import end_with_parent

Key = TypeVar("Key")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """What does the runs of a study.

    Args:
        jobs: processes of this machine at a time; with 1, leaderboards, rankings, studies of
            pretraining and fidelity reports use no process but this one.
        threads: CPU threads of PyTorch in each process; by default the cores are divided among
            several jobs. On Ray, the CPUs of a run, by default 1.
        ray: address of a Ray cluster, auto for the one that this machine belongs to, or local for
            a new one on this machine only; each run is a task with a process of its own, which is
            started again up to three times if it dies. None = no Ray.
        gpus: of a run on Ray.

    Raises:
        InputError: `jobs` or `threads` below 1, several jobs beside Ray, or Ray is not installed.
    """

    jobs: int = 1
    threads: int | None = None
    ray: str | None = None
    gpus: float = 0.0

    def __post_init__(self) -> None:
        check_whole("jobs", self.jobs, 1)
        if self.threads is not None:
            check_whole("threads", self.threads, 1)
        if self.ray is None:
            return
        if self.jobs > 1:
            raise InputError("the resources of a Ray cluster limit its tasks: leave out jobs")
        if find_spec("ray") is None:
            raise InputError("Ray is not installed: pip install 'recsim-env[ray]'")

    @property
    def here(self) -> bool:
        """Whether this process does the runs, unless each is to have one of its own."""
        return self.jobs == 1 and self.ray is None

    def pool(self) -> Executor:
        """Return an executor that gives each run a new process."""
        if self.ray is not None:
            from benchmarks.ray_pool import RayPool

            return RayPool(self.ray, self.threads or 1, self.gpus)
        threads = self.threads
        if threads is None and self.jobs > 1:
            threads = max((os.cpu_count() or 1) // self.jobs, 1)
        return ProcessPoolExecutor(
            self.jobs,
            new_processes(),
            initializer=_begin,
            initargs=(threads,),
            max_tasks_per_child=1,
        )


def new_processes() -> BaseContext:
    """Return how processes start: on Linux, from a server that imports PyTorch once for all."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["benchmarks.studies.runs", "torch._dynamo", "sklearn"])
    return server


def _begin(threads: int | None) -> None:
    """Limit PyTorch, and let this worker end as soon as its parent does, even if killed."""
    if threads is not None:
        torch.set_num_threads(threads)
    end_with_parent()


def run_cases(
    function: Callable[..., Result],
    cases: Mapping[Key, Sequence[Any]],
    workers: Workers = Workers(),
    *,
    label: str = "run",
    done: int = 0,
    progress: bool = True,
) -> Iterator[tuple[Key, Result]]:
    """Call `function` for every case, each in a new process to measure its own peak memory.

    Args:
        function: importable from a module, as its arguments and result are sent between processes.
        cases: positional arguments by case.
        workers: where.
        label: of the progress bar.
        done: number of cases already finished, for the progress bar.
        progress: show a progress bar.

    Yields:
        Every case and its result, in order of completion.

    Raises:
        Exception: any exception of `function`; cases that have not started are cancelled.
    """
    with (
        workers.pool() as pool,
        progress_bar(
            total=done + len(cases), initial=done, desc=label, unit="run", disable=not progress
        ) as bar,
    ):
        futures = {pool.submit(function, *values): case for case, values in cases.items()}
        try:
            for future in as_completed(futures):
                bar.update()
                yield futures[future], future.result()
        except BaseException as error:
            if not isinstance(error, Exception) and isinstance(pool, ProcessPoolExecutor):
                _interrupt(futures)
            pool.shutdown(cancel_futures=True)  # running processes finish, Ray's are interrupted
            raise


def _interrupt(futures: Collection[Future[Any]]) -> None:
    """Send SIGTERM once to every worker, also to those that start later, until all are done."""
    for future in futures:
        future.cancel()
    told: set[int | None] = set()
    while not all(future.done() for future in futures):
        for worker in multiprocessing.active_children():
            if worker.pid not in told:
                worker.terminate()  # a training saves and stops
                told.add(worker.pid)
        time.sleep(0.1)
