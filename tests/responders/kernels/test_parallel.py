"""The loss over a catalogue that is split among processes."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from responders.kernels.parallel import sharded_cross_entropy
from tests.commands import run_together
from tests.responders.kernels.losses import inputs
from tests.test_docs import ROOT, blocks

PAGE = ROOT / "docs" / "training.md"

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
    run_together(check, *((rank, count, store) for rank in range(count)))


def learn_a_table(rank: int, count: int, out: Path) -> None:
    """Follow the documentation's recipe; write the losses, the vectors and the other weights."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(out / f"store{count}"), count)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=count)
    [text] = [text for _, _, text in blocks(PAGE) if "RowwiseParallel" in text]
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(compile(text.replace("10_000_001, 32", "11, 8"), PAGE, "exec"), names)
    clicks, vectors = torch.randint(11, (5, 4, 6)), torch.randn(11, 8)
    table = names["table"].weight
    shard = table.to_local()
    assert len(shard) == (11 if count == 1 else 6 - rank)
    with torch.no_grad():
        shard.copy_(vectors[names["first"] :][: len(shard)])
    losses = [names["learn"](batch) for batch in clicks]
    learned = [torch.tensor(losses), table.full_tensor().detach()]
    torch.save([*learned, *names["encoder"].parameters()], out / f"{rank} of {count}")
    torch.distributed.destroy_process_group()


def test_a_table_over_several_processes_learns_as_one(tmp_path: Path) -> None:
    jobs = [(0, 1), (0, 2), (1, 2)]
    run_together(learn_a_table, *((*job, tmp_path) for job in jobs))
    whole, *shared = (torch.load(tmp_path / f"{rank} of {count}") for rank, count in jobs)
    assert whole[0][-1] < whole[0][0]
    for learned in shared:
        torch.testing.assert_close(learned, whole, atol=1e-5, rtol=1e-4)
