"""The processes that train one responder together, each on its share of every batch.

`torchrun` starts them and sets the environment variables that describe them.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from responders.log.batch import Part, SessionBatch


@dataclass(frozen=True)
class Processes:
    """One of `count` processes that train together; alone, it does everything.

    Args:
        rank: of this process, from 0.
        count: of all of them.
        restarted: they were started again after one of them was lost.
    """

    rank: int = 0
    count: int = 1
    restarted: bool = False

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradients of `parameters` by their sums over all processes."""
        if self.count == 1:
            return
        # One message for all; the last numbers count the processes in which a parameter was used.
        used = parameters[0].new_tensor([p.grad is not None for p in parameters])
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        sums = torch.cat([*(g.flatten() for g in gradients), used])
        dist.all_reduce(sums)
        *parts, used = sums.split([*(p.numel() for p in parameters), len(parameters)])
        for parameter, part, n in zip(parameters, parts, used.tolist(), strict=True):
            parameter.grad = part.view_as(parameter) if n else None

    def share_of_batch(self, batch: SessionBatch) -> SessionBatch:
        """Return the sessions of this process; all of them if there is not one for each."""
        if self.count == 1 or len(batch.length) < self.count:
            return batch
        return batch.share(self.rank, self.count)

    def share_of_rows(self, rows: Tensor) -> Tensor:
        """Return the rows [n] of this process; all of them if there is not one for each."""
        return rows[self.rank :: self.count] if len(rows) >= self.count else rows

    def share_of_part(self, part: Part) -> Part:
        """Return the sessions of this process."""
        return part.take(slice(self.rank, None, self.count))

    def total(self, *values: float) -> list[float]:
        """Return the sums of the values of all processes."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=_device())
        dist.all_reduce(sums)
        return sums.tolist()

    def broadcast(self, value: Any) -> Any:
        """Return the `value` of the first process; all of them wait for it."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, device=_device())
        return values[0]


def end_with_parent() -> None:
    """Let this process end as soon as the one that started it does, even if that was killed."""

    def wait(parent: Any) -> None:
        parent.join()
        os._exit(1)

    parent = multiprocessing.parent_process()
    threading.Thread(target=wait, args=(parent,), daemon=True).start()


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the processes that `torchrun` has started with this one, if it has."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1 or dist.is_initialized():
        yield Processes()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, _ = next(dist.rendezvous("env://"))
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=dist.PrefixStore(restarts, store),  # it still holds addresses of lost processes
        rank=rank,
        world_size=count,
    )
    try:
        yield Processes(rank, count, restarts != "0")
    finally:
        dist.destroy_process_group()


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
