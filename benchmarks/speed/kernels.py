"""Speed and memory of implementations of cross-entropy over large catalogues.

    python -m benchmarks.speed.kernels                 on the GPU if there is one
    python -m benchmarks.speed.kernels --device cuda   the shapes of published SASRec runs

First our ways are checked against the float64 reference. Then each way is timed, forward and
backward, in a separate process, and its peak memory beyond the inputs is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import PeakMemory, describe, publish, run_script, time_calls
from benchmarks.reports.plots import Panel, plot_lines
from benchmarks.reports.tables import Cell, console, number, text
from benchmarks.speed.limits import Limits
from benchmarks.workers import run_cases
from responders.device import pick_device
from responders.kernels import Proposal, linear_cross_entropy
from responders.kernels.loss import implementation_for
from responders.kernels.reference import reference

_LARGEST_CPU = 4 << 30  # bytes of expected memory above which a way is skipped on the CPU
_TOO_LARGE = {"seconds": np.nan, "peak_mb": np.nan, "inputs_mb": np.nan}


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
"""Megamarket has an eighth of the positions of the published batch of 5120 × 320."""


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
    """Return an estimate of the memory of a way that is not ours."""
    if name.startswith("PyTorch") and "full" in name:
        return 12 * case.positions * case.items
    if name == "PyTorch, sampled":
        return 12 * case.positions * case.negatives * case.size
    return 0


def demand(name: str, case: Case, device: str, dtype: str) -> tuple[float, float]:
    """Return the minimum of operations and of bytes moved, forward and backward.

    Full: 8 N V d operations if dC has its own pass (GPU), 6 if one pass does both (CPU).
    Shared negatives: the same with K for V. By row, each negative's vector is read twice.
    """
    n, v, d, k = case.positions, case.items, case.size, case.negatives
    width = torch.finfo(getattr(torch, dtype)).bits // 8
    work = (6 if device == "cpu" else 8) * n * (v if "full" in name else k) * d
    by_row = name in ("ours, row", "PyTorch, sampled")
    return work, 2 * width * (n * k if by_row else n + v) * d


def check(device: str, dtype: str) -> str:
    """Check our ways against the reference in float32; return the implementation for `dtype`.

    Raises:
        AssertionError: a relative error is above 1e-5.
    """
    h, c = (torch.randn(n, 48, device=device) for n in (200, 300))
    y = torch.randint(300, (200,), device=device)
    implementation = implementation_for(h.to(getattr(torch, dtype)))
    full = linear_cross_entropy(h, c, y, implementation=implementation)
    assert abs(full - reference(h, c, y).mean()) < 1e-5 * full
    for share, rows in (("row", 1), ("block", 64), ("batch", 1 << 30)):
        proposal, group = Proposal(300), torch.arange(200, device=device) // rows
        index = proposal.draw(5, group, 64)
        shift = np.log(64) + proposal.log_probability(index)
        loss = linear_cross_entropy(
            h, c, y, negatives=64, share=share, seed=5, implementation=implementation
        )
        expected = reference(h, c, y, negatives=index, shift=shift).mean()
        assert abs(loss - expected) < 1e-5 * expected, share
    return implementation


def measure(name: str, case: Case, device: str, dtype: str, repeats: int) -> dict[str, float]:
    """Time one way in this process; return NaN if it runs out of memory."""
    kind = getattr(torch, dtype)
    h = torch.randn(case.positions, case.size, device=device, dtype=kind).requires_grad_()
    c = torch.randn(case.items, case.size, device=device, dtype=kind).div_(16).requires_grad_()
    y = torch.randint(case.items, (case.positions,), device=device)
    small = replace(case, positions=64, items=128, negatives=16)
    WAYS[name](h[:64], c[:128], y[:64] % 128, small).backward()  # warm up: load and compile

    def step() -> None:
        h.grad = c.grad = None
        WAYS[name](h, c, y, case).backward()

    h.grad = c.grad = None
    peak = PeakMemory(device)
    try:
        (times,) = time_calls([step], rounds=repeats, device=device)
    except (torch.OutOfMemoryError, MemoryError):
        return _TOO_LARGE
    inputs_mb = (h.numel() + c.numel()) * h.element_size() / 2**20
    return {"seconds": float(np.median(times)), "peak_mb": peak.mb, "inputs_mb": inputs_mb}


def measure_all(
    cases: Sequence[Case], device: str, dtype: str, repeats: int, limits: Limits
) -> list[dict[str, Any]]:
    """Return a row per case and way, each measured in a separate process."""
    pairs = [(name, case) for case in cases for name in ways(device)]
    fitting = {
        (name, case): (name, case, device, dtype, repeats)
        for name, case in pairs
        if device != "cpu" or expected_bytes(name, case) <= _LARGEST_CPU
    }
    results = dict(run_cases(measure, fitting, label="kernels"))
    rows = []
    for name, case in pairs:
        row: dict[str, Any] = {"way": name, "case": case.name, **asdict(case)}
        del row["name"]
        row |= results.get((name, case), _TOO_LARGE)
        floor, binds = limits.floor(*demand(name, case, device, dtype))
        rows.append(row | {"floor_share": floor / row["seconds"], "binds": binds})
    return rows


_COLUMNS: dict[str, Cell] = {
    "case": text("case"),
    "way": text("way"),
    "N × V × d": lambda row: f"{row['positions']:,} × {row['items']:,} × {row['size']}",
    "negatives": lambda row: "all" if "full" in row["way"] else number("negatives")(row),
    "ms": number("seconds", 1, scale=1000, missing="too large"),
    "peak MB beyond inputs": number("peak_mb", missing="too large"),
    "share of the floor": lambda row: (
        "" if np.isnan(row["seconds"]) else f"{row['floor_share']:.0%} ({row['binds']})"
    ),
}


def main(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto: bfloat16 on a GPU, else float32.")] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Only the first case.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for table and plot.")] = Path("runs/kernels"),
) -> None:
    """Compare implementations of cross-entropy over a catalogue."""
    device = str(pick_device(device))
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    hardware = describe(device)
    console().print(
        f"checked against the float64 reference; ours is: {check(device, dtype)}, {hardware}"
    )
    if device == "cpu":
        console().print("no GPU is used: these are results of the CPU implementation")
    limits = Limits.of(device, dtype)
    console().print(
        f"limits measured here: copy {limits.copy / 1e9:,.0f} GB/s, {dtype} product "
        f"{limits.product / 1e9:,.0f} GFLOP/s"
    )
    cases = (CPU_CASES if device == "cpu" else GPU_CASES)[: 1 if quick else None]
    rows = measure_all(cases, device, dtype, repeats, limits)
    title = f"forward and backward, {dtype}, {hardware}"
    publish("kernels", title, _COLUMNS, rows, out=out, plot=partial(_plot, hardware=hardware))


def _plot(table: pd.DataFrame, path: Path, hardware: str) -> None:
    base = table[table.case == "V"]
    widest = base[base["items"] == base["items"].max()]
    tables = {"items": base, "negatives": pd.concat([widest, table[table.case == "K"]])}
    labels = {"seconds": "seconds, forward and backward", "peak_mb": "peak MB beyond the inputs"}
    panels = []
    for metric, label in labels.items():
        for x, rows in tables.items():
            ways = rows.sort_values(x).groupby("way", sort=False)
            lines = {str(way): (list(each[x]), list(each[metric])) for way, each in ways}
            panels.append(Panel({"items": "items V", "negatives": "negatives K"}[x], label, lines))
    others = [name for name in WAYS if not name.startswith("ours")]
    title = f"cross-entropy over a catalogue – {hardware}"
    plot_lines(path, title, panels, columns=2, dashed=others)


if __name__ == "__main__":
    run_script(main)
