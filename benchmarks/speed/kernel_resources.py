"""Shared memory, registers and spills of the Triton kernels, found without a GPU.

    python -m benchmarks.speed.kernel_resources                    H100 and H200
    python -m benchmarks.speed.kernel_resources --capability 80    A100

Each kernel is compiled with the tiles of `Tiles.fitting`, for contiguous tensors. Spilled bytes are
registers of a thread that are kept in memory: a few dozen cost little, hundreds are a sign that the
tiles are too large.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import triton
import typer
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.harness import publish, run_script
from benchmarks.reports.tables import number, text
from responders.kernels import triton_kernels
from responders.kernels.triton_loss import Tiles
from responders.progress import progress_bar

ON_CHIP = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10}
"""Bytes of shared memory that a program may use, by compute capability."""

_TYPES = {"half": "bf16", "tf32": "fp32", "ieee": "fp32"}
_FLOATS = ("lse", "own", "upstream", "grad_hidden", "grad_items", "grad_bias", "log_q", "accept")
_ROUND = ("size", "h_row", "c_row")
"""Arguments that are multiples of 16 if the vector size is."""


@dataclass(frozen=True)
class Need:
    """Resources of a kernel: bytes of shared memory, and registers and spilled bytes per thread."""

    kernel: str
    shared: int
    registers: int
    spilled: int


def needs(wide: int, product: str, capability: int, tiles: Tiles) -> Iterator[Need]:
    """Compile the kernels for vectors of `wide` numbers and yield the resources of each."""
    precision = "ieee" if product == "ieee" else "tf32"
    rows, passing = {"ROWS": tiles.rows}, tiles.items  # held in registers, and streamed
    full = {"SOFTCAP": 0.0, "HAS_BIAS": False, "SIZE": wide, "bias": None}
    dots = {"PRECISION": precision, "UPCAST": product != "half", "num_warps": tiles.warps}
    yield _compile(
        "full_forward",
        product,
        capability,
        full | dots | rows | {"GRADIENT": True, "ITEMS": passing},
    )
    yield _compile(
        "full_backward", product, capability,
        full | dots | {"grad_bias": None, "ROWS": passing, "ITEMS": tiles.rows},
    )  # fmt: skip
    sampled = full | dict.fromkeys(("grad_bias", "log_q", "accept", "alias"))
    sampled |= {"WEIGHTED": False, "CORRECT": True, "SLOTS": False}
    for backward in (False, True):
        unused = ("own", "grad_hidden") if backward else ("upstream", "grad_items")
        options = sampled | dict.fromkeys(unused) | {"BACKWARD": backward, "GRADIENT": not backward}
        yield _compile("shared", product, capability, options | dots | rows | {"DRAWN": passing})
        yield _compile("by_row", product, capability, options | {"DRAWN": tiles.drawn})


def _compile(name: str, product: str, capability: int, constants: dict[str, Any]) -> Need:
    kernel: Any = getattr(triton_kernels, name)
    options = {"num_warps": constants.pop("num_warps")} if "num_warps" in constants else {}
    constants = constants | {"h_col": 1, "c_col": 1}  # contiguous
    dtype = _TYPES[product]
    types = {"hidden": f"*{dtype}", "items": f"*{dtype}", "bias": f"*{dtype}"}
    types |= dict.fromkeys(_FLOATS, "*fp32") | {"target": "*i64", "alias": "*i64"}
    types |= {"log_k": "fp32", "uniform_log_q": "fp32", "seed_low": "i64", "seed_high": "i64"}
    names = kernel.arg_names
    aligned = [
        n for n in names if n not in constants and (types.get(n, "")[:1] == "*" or n in _ROUND)
    ]
    source = ASTSource(
        fn=kernel,
        signature={n: "constexpr" if n in constants else types.get(n, "i32") for n in names},
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in aligned},
    )
    built: Any = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    registers, spilled = _usage(built.asm["cubin"])
    label = name + (" backward" if constants.get("BACKWARD") else "")
    return Need(label, built.metadata.shared, registers, spilled)


def _usage(cubin: bytes) -> tuple[int, int]:
    """Return registers and spilled bytes per thread, from Triton's cuobjdump."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        printed = subprocess.run(
            [tool, "-res-usage", path], capture_output=True, text=True, check=True
        ).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", printed)
    if match is None:
        raise RuntimeError(f"{tool} printed no registers: {printed}")
    return int(match[1]), int(match[2])


_COLUMNS = {
    "products": text("products"),
    "d": number("d"),
    "tiles": text("tiles"),
    "kernel": text("kernel"),
    "shared KB": number("shared", scale=1 / 1024),
    "registers": number("registers"),
    "spilled bytes": number("spilled"),
}


def main(
    capability: Annotated[int, typer.Option(help="80 (A100), 86, 89 (RTX), 90 (H100, H200).")] = 90,
    sizes: Annotated[str, typer.Option(help="Numbers in a vector.")] = "64,128,256,512",
    products: Annotated[str, typer.Option(help="Of half, tf32, ieee.")] = "half,tf32",
    out: Annotated[Path | None, typer.Option(help="Folder for the table.")] = None,
) -> None:
    """Show shared memory, registers and spilled bytes of every kernel."""
    if triton_kernels.INTERPRETED:
        raise typer.BadParameter("the interpreter compiles nothing: unset TRITON_INTERPRET")
    if capability not in ON_CHIP:
        raise typer.BadParameter(f"capability is one of {', '.join(map(str, ON_CHIP))}")
    cases = [(p, int(d)) for p in products.split(",") for d in sizes.split(",")]
    rows: list[dict[str, Any]] = []
    for product, wide in progress_bar(cases, unit="size"):
        case = {"products": product, "d": wide}
        width = 2 if product == "half" else 4
        tiles = Tiles.fitting(wide, width, product, ON_CHIP[capability])
        if tiles is None:
            rows.append({**case, "tiles": "too wide for shared memory", "kernel": ""})
            continue
        case["tiles"] = f"{tiles.rows} × {tiles.items}, {tiles.warps} warps"
        rows += [case | asdict(need) for need in needs(wide, product, capability, tiles)]
    title = f"compute capability {capability / 10}, {ON_CHIP[capability] >> 10} KB of shared memory"
    publish("kernel_resources", title, _COLUMNS, rows, out=out)


if __name__ == "__main__":
    run_script(main)
