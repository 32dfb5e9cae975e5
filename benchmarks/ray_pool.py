"""Runs as tasks of a Ray cluster. Imported only when Ray is asked for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Executor, Future
from typing import Any

import ray
import torch

from recsim_env.adapters.ray import connect
from responders import InputError

_PATIENCE = 30.0
"""Seconds that interrupted tasks have to save and stop."""


class RayPool(Executor):
    """An executor whose calls are Ray tasks, each with a process of its own.

    A task whose process or machine dies is started again, up to three times. All tasks end with
    this process, even if it is killed.

    Args:
        address: see `ray.init`.
        cpus: of each task, which PyTorch may use as threads.
        gpus: of each task.

    Raises:
        InputError: there is no cluster at `address`, or no machine of it has these resources.
    """

    def __init__(self, address: str, cpus: int, gpus: float) -> None:
        self._owner = not ray.is_initialized()
        if self._owner:
            connect(address)
        self._cpus = cpus
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_calls": 1, "max_retries": 3}
        self._task = ray.remote(**options)(_call)
        self._running: dict[Future[Any], Any] = {}
        wanted = {"CPU": cpus, "GPU": gpus}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(has.get(k, 0) >= n for k, n in wanted.items()) for has in nodes):
            self.shutdown()
            raise InputError(f"no machine of the Ray cluster has {cpus} CPUs and {gpus:g} GPUs")

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a task; the future has its result, or its exception as it was raised."""
        task = self._task.remote(self._cpus, function, args, kwargs)
        future: Future[Any] = Future()
        self._running[future] = task
        task.future().add_done_callback(lambda done: _copy(done, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster; with `cancel_futures`, after interrupting what runs or waits."""
        if cancel_futures:
            for task in self._running.values():
                ray.cancel(task)
        futures.wait(self._running, _PATIENCE if cancel_futures else None)
        self._running.clear()
        if self._owner and ray.is_initialized():
            ray.shutdown()


def _call(
    threads: int, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    torch.set_num_threads(threads)
    return function(*args, **kwargs)


def _copy(done: Future[Any], future: Future[Any]) -> None:
    """Give `future` the outcome of Ray's, with the exception that Ray wraps."""
    error = done.exception()
    if error is None:
        future.set_result(done.result())
    else:
        future.set_exception(getattr(error, "cause", None) or error)
