"""The loss over a catalogue that is split among processes."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from responders.kernels.parallel import sharded_cross_entropy
from tests.commands import SERVER
from tests.responders.kernels.losses import inputs

pytestmark = pytest.mark.skipif(os.name == "nt", reason="forks")


def check(rank: int, count: int, store: str) -> None:
    """Compare process `rank` with PyTorch's loss over the whole catalogue."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count
    )
    hidden, items, target = inputs(20, 25, 8, scale=4.0)
    target[3] = -100
    bounds = [25 * r // count for r in range(count + 1)]  # 25 is no multiple of 2 or 3
    shard = items[bounds[rank] : bounds[rank + 1]].detach().requires_grad_()
    for reduction in ("mean", "sum", "none"):
        loss = sharded_cross_entropy(hidden, shard, target, bounds[rank], reduction=reduction)
        expected = F.cross_entropy(hidden @ items.t(), target, reduction=reduction)
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
        upstream = torch.linspace(1, 2, loss.numel()).view_as(loss)
        got = torch.autograd.grad(loss, (hidden, shard), upstream)
        wanted = torch.autograd.grad(expected, (hidden, items), upstream)
        torch.testing.assert_close(got[0], wanted[0], atol=1e-5, rtol=1e-5)
        mine = wanted[1][bounds[rank] : bounds[rank + 1]]
        torch.testing.assert_close(got[1], mine, atol=1e-5, rtol=1e-5)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("count", [2, 3])
def test_shards_give_the_loss_and_gradients_of_the_whole(count: int, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    workers = [SERVER.Process(target=check, args=(rank, count, store)) for rank in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)
    assert [worker.exitcode for worker in workers] == [0] * count
