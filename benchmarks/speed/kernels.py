"""Speed and memory of cross-entropy over large catalogues, ours and others, in one run.

    python -m benchmarks.speed.kernels                 CPU or GPU, whichever there is
    python -m benchmarks.speed.kernels --device cuda   the shapes of published SASRec runs

First every way of ours is checked against the float64 reference. Then each way is timed, forward
and backward, in a process of its own, and its peak of memory taken beyond the inputs.
"""

from __future__ import annotations

import multiprocessing
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from benchmarks.reports.tables import console, show_table
from benchmarks.speed.memory import forget_peak, memory, peak_memory
from responders.kernels import Proposal, linear_cross_entropy
from responders.kernels.loss import implementation_for
from responders.kernels.reference import reference
from responders.progress import progress_bar

_LARGEST_CPU = 4 << 30  # bytes that a way may be expected to take on the CPU


@dataclass(frozen=True)
class Case:
    """One shape: N positions, V items, d numbers, K negatives."""

    name: str
    positions: int
    items: int
    size: int
    negatives: int


CPU_CASES = [
    *(Case("V", 1024, v, 64, 256) for v in (1_000, 10_000, 100_000)),
    *(Case("K", 1024, 100_000, 64, k) for k in (16, 64, 1024)),
    Case("large", 8192, 200_000, 64, 256),
]
GPU_CASES = [
    Case("Beauty", 1024 * 32, 176_450, 256, 511),
    Case("ML-20M", 256 * 512, 15_405, 256, 511),
    Case("Zvuk", 1024 * 128, 893_022, 256, 2047),
    Case("Megamarket", 5120 * 320 // 8, 1_661_327, 256, 1023),
    *(Case("V", 16_384, v, 256, 1023) for v in (10_000, 100_000, 1_000_000)),
    *(Case("K", 16_384, 1_000_000, 256, k) for k in (63, 255, 4095)),
]
"""Megamarket's positions are an eighth of the published batch of 5120 × 320."""


def _pytorch(h: Tensor, c: Tensor, y: Tensor, case: Case) -> Tensor:
    return F.cross_entropy(h @ c.t(), y)


def _pytorch_linear(h: Tensor, c: Tensor, y: Tensor, case: Case) -> Tensor:
    return F.linear_cross_entropy(h, c, y)


def _pytorch_sampled(h: Tensor, c: Tensor, y: Tensor, case: Case) -> Tensor:
    index = torch.randint(case.items, (case.positions, case.negatives), device=h.device)
    index = torch.cat([y.unsqueeze(1), index], 1)
    logits = torch.bmm(c[index], h.unsqueeze(2)).squeeze(2)
    shift = torch.full_like(logits[:1], np.log(case.negatives / case.items))
    shift[0, 0] = 0
    return F.cross_entropy(logits - shift, torch.zeros_like(y))


def _cut(h: Tensor, c: Tensor, y: Tensor, case: Case) -> Tensor:
    from cut_cross_entropy import linear_cross_entropy as cut

    return cut(h, c, y)


def _liger(h: Tensor, c: Tensor, y: Tensor, case: Case) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss()(c, h, y)


def _ours(**options: Any) -> Callable[[Tensor, Tensor, Tensor, Case], Tensor]:
    def loss(h: Tensor, c: Tensor, y: Tensor, case: Case) -> Tensor:
        more: dict[str, Any] = {"negatives": case.negatives} if "share" in options else {}
        return linear_cross_entropy(h, c, y, seed=0, **options, **more)

    return loss


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor, Case], Tensor]] = {
    "PyTorch, full": _pytorch,
    "PyTorch linear_cross_entropy, full": _pytorch_linear,
    "cut-cross-entropy, full": _cut,
    "Liger, full": _liger,
    "ours, full": _ours(),
    "PyTorch, sampled": _pytorch_sampled,
    "ours, row": _ours(share="row"),
    "ours, block": _ours(share="block"),
    "ours, batch": _ours(share="batch"),
}


def ways(device: str) -> list[str]:
    """Return the ways that can run here."""
    missing = set()
    if not hasattr(F, "linear_cross_entropy"):
        missing.add("PyTorch linear_cross_entropy, full")
    if device == "cpu" or not find_spec("cut_cross_entropy"):
        missing.add("cut-cross-entropy, full")
    if device == "cpu" or not find_spec("liger_kernel"):
        missing.add("Liger, full")
    return [name for name in WAYS if name not in missing]


def expected_bytes(name: str, case: Case) -> int:
    """Return roughly what a way of others keeps, to leave out on the CPU what cannot fit."""
    if name.startswith("PyTorch") and "full" in name:
        return 12 * case.positions * case.items
    if name == "PyTorch, sampled":
        return 12 * case.positions * case.negatives * case.size
    return 0


@dataclass(frozen=True)
class Limits:
    """What the device can do, measured in this run: bytes/s copied, operations/s of a product."""

    copy: float
    product: float

    @staticmethod
    def of(device: str, dtype: str) -> Limits:
        """Measure a large copy (read and write counted) and a large matrix product."""
        kind, cuda = getattr(torch, dtype), device != "cpu"
        n = 8192 if cuda else 2048
        a = torch.randn(n, n, device=device, dtype=kind)
        source = torch.empty(1 << (30 if cuda else 27), dtype=torch.uint8, device=device)
        target = torch.empty_like(source)

        def best(run: Callable[[], object]) -> float:
            taken = []
            for _ in range(7):
                began = time.perf_counter()
                run()
                if cuda:
                    torch.cuda.synchronize()
                taken.append(time.perf_counter() - began)
            return min(taken)

        copy = 2 * source.numel() / best(lambda: target.copy_(source))
        return Limits(copy, 2 * n**3 / best(lambda: a @ a))

    def floor(self, name: str, case: Case, device: str, dtype: str) -> tuple[float, str]:
        """Return the least seconds of forward and backward, and what binds: bytes or operations.

        Full: 8 N V d operations where dC has a pass of its own (GPU), 6 where one pass does both
        (CPU). Shared negatives: the same with K for V. By row each negative's vector is read twice.
        """
        n, v, d, k = case.positions, case.items, case.size, case.negatives
        width = torch.finfo(getattr(torch, dtype)).bits // 8
        work = (6 if device == "cpu" else 8) * n * (v if "full" in name else k) * d
        moved = 2 * width * (n + v) * d
        if name in ("ours, row", "PyTorch, sampled"):
            moved = 2 * width * n * k * d
        by = {"operations": work / self.product, "bytes": moved / self.copy}
        binds = max(by, key=lambda which: by[which])
        return by[binds], binds


def check(device: str, dtype: str) -> str:
    """Compare every way of ours with the reference, in float32; return what runs in `dtype`.

    Raises:
        AssertionError: the relative error of a loss is above 1e-5.
    """
    h, c = (torch.randn(n, 48, device=device) for n in (200, 300))
    y = torch.randint(300, (200,), device=device)
    runs = implementation_for(h.to(getattr(torch, dtype)))
    full = linear_cross_entropy(h, c, y, implementation=runs)
    assert abs(full - reference(h, c, y).mean()) < 1e-5 * full
    for share, rows in (("row", 1), ("block", 64), ("batch", 1 << 30)):
        proposal, group = Proposal(300), torch.arange(200, device=device) // rows
        index = proposal.draw(5, group, 64)
        shift = np.log(64) + proposal.log_probability(index)
        found = linear_cross_entropy(
            h, c, y, negatives=64, share=share, seed=5, implementation=runs
        )
        expected = reference(h, c, y, negatives=index, shift=shift).mean()
        assert abs(found - expected) < 1e-5 * expected, share
    return runs


def measure(name: str, case: Case, device: str, dtype: str, repeats: int) -> dict[str, Any]:
    """Time one way in this process; NaN where memory runs out."""
    kind = getattr(torch, dtype)
    h = torch.randn(case.positions, case.size, device=device, dtype=kind).requires_grad_()
    c = torch.randn(case.items, case.size, device=device, dtype=kind).div_(16).requires_grad_()
    y = torch.randint(case.items, (case.positions,), device=device)
    small = replace(case, positions=64, items=128, negatives=16)
    WAYS[name](h[:64], c[:128], y[:64] % 128, small).backward()  # loads and compiles
    h.grad = c.grad = None
    cuda = device != "cpu"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    forget_peak()
    before = torch.cuda.memory_allocated() if cuda else 1024 * memory()
    seconds = []
    try:
        for _ in range(repeats + 1):
            h.grad = c.grad = None
            began = time.perf_counter()
            WAYS[name](h, c, y, case).backward()
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    except (torch.OutOfMemoryError, MemoryError):
        return {"seconds": np.nan, "peak_mb": np.nan, "given_mb": np.nan}
    peak = torch.cuda.max_memory_allocated() if cuda else 1024 * peak_memory()
    given = (h.numel() + c.numel()) * h.element_size() / 2**20
    return {
        "seconds": float(np.median(seconds[1:])),
        "peak_mb": (peak - before) / 2**20,
        "given_mb": given,
    }


def main(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto: bfloat16 on a GPU, float32 else.")] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Only the first case.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for table and plot.")] = Path("runs/kernels"),
) -> None:
    """Compare ways to compute cross-entropy over a catalogue."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    where = torch.cuda.get_device_name() if device != "cpu" else f"{platform.machine()} CPU"
    console().print(
        f"checked against the float64 reference; ours runs as: {check(device, dtype)}, on {where}"
    )
    if device == "cpu":
        console().print("no GPU is used: these are the figures of the CPU path")
    limits = Limits.of(device, dtype)
    console().print(
        f"limits measured here: copy {limits.copy / 1e9:,.0f} GB/s, {dtype} product "
        f"{limits.product / 1e9:,.0f} GFLOP/s"
    )
    cases = (CPU_CASES if device == "cpu" else GPU_CASES)[: 1 if quick else None]
    todo = [(name, case) for case in cases for name in ways(device)]
    context, rows = multiprocessing.get_context("spawn"), []
    for name, case in progress_bar(todo, unit="run"):
        row = {"way": name, **asdict(case), "case": case.name}
        if device == "cpu" and expected_bytes(name, case) > _LARGEST_CPU:
            found = {"seconds": np.nan, "peak_mb": np.nan, "given_mb": np.nan}
        else:
            with ProcessPoolExecutor(1, context) as pool:
                found = pool.submit(measure, name, case, device, dtype, repeats).result()
        floor, binds = limits.floor(name, case, device, dtype)
        rows.append(row | found | {"floor_share": floor / found["seconds"], "binds": binds})
    table = pd.DataFrame(rows).drop(columns="name")
    _show(table, f"forward and backward, {dtype}, {where}, torch {torch.__version__}")
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "kernels.csv", index=False)
    (out / "kernels.md").write_text(_markdown(table, where, dtype))
    _plot(table, out / "kernels.png", where)
    console().print(f"wrote {out}/kernels.csv, .md and .png")


def _cells(row: pd.Series) -> list[str]:
    shape = f"{row.positions:,} × {row['items']:,} × {row['size']}"
    fits = not np.isnan(row.seconds)
    return [
        row.case,
        row.way,
        shape,
        "all" if "full" in row.way else f"{row.negatives:,}",
        f"{1000 * row.seconds:,.1f}" if fits else "too large",
        f"{row.peak_mb:,.0f}" if fits else "too large",
        f"{row.floor_share:.0%} ({row.binds})" if fits else "",
    ]


_HEADS = [
    "case",
    "way",
    "N × V × d",
    "negatives",
    "ms",
    "peak MB beyond inputs",
    "share of the floor",
]


def _show(table: pd.DataFrame, title: str) -> None:
    show_table(title, _HEADS, [_cells(row) for _, row in table.iterrows()])


def _markdown(table: pd.DataFrame, where: str, dtype: str) -> str:
    lines = [_HEADS, ["---"] * len(_HEADS), *(_cells(row) for _, row in table.iterrows())]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"`python -m benchmarks.speed.kernels`, {where}, {dtype}, torch {torch.__version__}\n\n{text}\n"


def _plot(table: pd.DataFrame, path: Path, where: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    panels = figure.subplots(2, 2)
    base = table[table.case == "V"]
    widest = base["items"].max() if len(base) else None
    for j, (name, column, label) in enumerate(
        [("V", "items", "items V"), ("K", "negatives", "negatives K")]
    ):
        rows = table[table.case == name]
        if name == "K":
            rows = pd.concat([base[base["items"] == widest], rows])
        for i, (metric, text) in enumerate(
            [("seconds", "seconds, forward and backward"), ("peak_mb", "peak MB beyond the inputs")]
        ):
            axes = panels[i, j]
            for way, each in rows.groupby("way", sort=False):
                each = each.sort_values(column)
                style = "-" if str(way).startswith("ours") else "--"
                axes.plot(each[column], each[metric], style, marker="o", label=way)
            axes.set(xscale="log", yscale="log", xlabel=label, ylabel=text)
            axes.grid(alpha=0.3)
    lines, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=4)
    figure.suptitle(f"cross-entropy over a catalogue – {where}")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    typer.run(main)
