"""Launches the Triton kernels: the loss as a differentiable function."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from responders.errors import InputError
from responders.kernels.chunked import refuse_second_derivative
from responders.kernels.negatives import Sampling
from responders.kernels.triton_kernels import (
    INTERPRETED,
    by_row,
    full_backward,
    full_forward,
    shared,
)

_SLOT_NUMBERS = 1 << 24
"""Numbers in the slots of `deterministic` at a time: 64 MB."""

_HELD = {"half": 16_384, "tf32": 8_192, "ieee": 2_048}
"""Numbers of a tile that a program accumulates in registers, by the precision of products; with
more, the compiler spills them to memory."""


@dataclass(frozen=True)
class Tiles:
    """Sizes of the tiles, powers of two, at least 16 rows and items; and the warps of a program.

    Args:
        rows: positions held in registers (items, in the backward pass of the full catalogue).
        items: items streamed at a time (there: positions).
        drawn: negatives drawn at a time by `by_row`.
        warps: of 32 threads each.
    """

    rows: int = 64
    items: int = 64
    drawn: int = 16
    warps: int = 4

    @staticmethod
    def fitting(wide: int, itemsize: int, product: str, on_chip: int) -> Tiles | None:
        """Return the largest tiles that fit into registers and shared memory, None if none do.

        Compiled for compute capability 8.0, 8.9 and 9.0 (`python -m
        benchmarks.speed.kernel_resources`), no kernel takes more shared memory than two tiles of
        what it holds, four of what it streams (loads are prefetched), and 4 KB.

        Args:
            wide: numbers in a vector, a power of two.
            itemsize: bytes of a number in products.
            product: precision of products: half, tf32 or ieee.
            on_chip: bytes of shared memory that a program may use.
        """
        rows = min(64, max(16, _HELD[product] // wide))
        items = min(64, max(16, _HELD[product] // 2 // wide))
        while (2 * rows + 4 * items) * wide * itemsize + 4096 > on_chip:
            if rows == items == 16:
                return None
            rows, items = (rows, items // 2) if items > 16 else (rows // 2, items)
        return Tiles(rows, items, max(2, min(16, 4096 // wide)), 8 if rows * wide >= 8192 else 4)

    @staticmethod
    def of(hidden: Tensor) -> Tiles | None:
        """Return the tiles for vectors like `hidden` [N, d] on its device, or None."""
        on_chip = 1 << 40 if INTERPRETED else _shared_memory(hidden.device.index)
        product = product_of(hidden)
        width = hidden.element_size() if product == "half" and not INTERPRETED else 4
        return Tiles.fitting(_wide(hidden.shape[1]), width, product, on_chip)


@lru_cache
def _shared_memory(device: int) -> int:
    """Return the bytes of shared memory that a program may use on CUDA device number `device`."""
    find = triton.runtime.driver.active.utils.get_device_properties
    return int(find(device)["max_shared_mem"])


def product_of(hidden: Tensor) -> str:
    """Return the precision of products of tensors like `hidden`: half, tf32 or ieee.

    TF32 only if `torch.set_float32_matmul_precision("high")` was set.
    """
    if hidden.dtype in (torch.float16, torch.bfloat16):
        return "half"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _wide(size: int) -> int:
    return max(16, int(triton.next_power_of_2(size)))


@dataclass
class Problem:
    """The inputs and options of one loss, and the kernel launches for it.

    Args:
        hidden: [N, d].
        items: [V, d].
        bias: [V] or None.
        target: [N] int64, all valid.
        softcap: c or None.
        sampling: how negatives are drawn; None = the full catalogue.
        deterministic: sum the items' gradient in a fixed order.
        tiles: None = chosen by the size of the vectors.
    """

    hidden: Tensor
    items: Tensor
    bias: Tensor | None
    target: Tensor
    softcap: float | None = None
    sampling: Sampling | None = None
    deterministic: bool = False
    tiles: Tiles | None = None

    def __post_init__(self) -> None:
        self.size = self.hidden.shape[1]
        self.wide = _wide(self.size)
        product = product_of(self.hidden)
        self.precision = "ieee" if product == "ieee" else "tf32"
        # Tensor cores take half-precision operands directly. The interpreter does not multiply
        # bfloat16 correctly, so there everything is converted to float32.
        self.upcast = product != "half" or INTERPRETED
        tile = self.tiles or Tiles.of(self.hidden)
        if tile is None:
            raise InputError(
                f"vectors of {self.size} numbers ({self.hidden.dtype}) do not fit into this "
                "GPU's shared memory: use implementation='chunked'"
            )
        self.tile = tile

    def forward(self, gradient: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return loss [N], log-sum-exp [N] and, if `gradient`, the gradient of hidden [N, d]."""
        n, device = len(self.hidden), self.hidden.device
        lse, own = torch.empty((2, n), device=device)
        grad = torch.empty((n, self.size), device=device) if gradient else None
        if n:
            if self.sampling is None:
                full_forward[(triton.cdiv(n, self.tile.rows),)](
                    self.hidden, self.items, self.bias, self.target, lse, own, grad,
                    n, len(self.items), self.size, *self._strides,
                    SOFTCAP=self.softcap or 0.0, HAS_BIAS=self.bias is not None, GRADIENT=gradient,
                    PRECISION=self.precision, UPCAST=self.upcast,
                    ROWS=self.tile.rows, ITEMS=self.tile.items,
                    SIZE=self.wide, num_warps=self.tile.warps,
                )  # fmt: skip
            else:
                self._sampled(lse, own, None, grad, None, None)
        return lse - own, lse, grad

    def backward(self, lse: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the gradients of items [V, d] and bias [V], float32, for upstream [N]."""
        device, v = self.items.device, len(self.items)
        grad_items = torch.zeros((v, self.size), device=device)
        grad_bias = None if self.bias is None else torch.zeros(v, device=device)
        if len(self.hidden):
            upstream = upstream.float().contiguous()
            if self.sampling is None:
                full_backward[(triton.cdiv(v, self.tile.rows),)](
                    self.hidden, self.items, self.bias, self.target, lse, upstream, grad_items,
                    grad_bias, len(self.hidden), v, self.size, *self._strides,
                    SOFTCAP=self.softcap or 0.0, HAS_BIAS=self.bias is not None,
                    PRECISION=self.precision, UPCAST=self.upcast,
                    ROWS=self.tile.items, ITEMS=self.tile.rows,
                    SIZE=self.wide, num_warps=self.tile.warps,
                )  # fmt: skip
            elif self.deterministic:
                self._sampled_in_order(lse, upstream, grad_items, grad_bias)
            else:
                self._sampled(lse, None, upstream, None, grad_items, grad_bias)
        return grad_items, grad_bias

    @property
    def _strides(self) -> tuple[int, ...]:
        return (*self.hidden.stride(), *self.items.stride())

    @property
    def _drawn(self) -> Sampling:
        assert self.sampling is not None
        return self.sampling

    @property
    def _rows(self) -> int:
        """Positions per program of the sampled kernels."""
        return 1 if self._drawn.rows == 1 else self.tile.rows

    @property
    def _programs(self) -> int:
        return int(triton.cdiv(len(self.hidden), self._rows))

    @property
    def _group_rows(self) -> int:
        return self._drawn.rows or self._programs * self._rows

    def _sampled_in_order(
        self, lse: Tensor, upstream: Tensor, grad_items: Tensor, grad_bias: Tensor | None
    ) -> None:
        """Add the gradients of items and bias in a fixed order, for the same bits in every run.

        A range of programs at a time writes the product of each negative and target to a separate
        slot; then the slots of each item are summed in order.
        """
        k, rows, device = self._drawn.n_negatives, self._rows, self.hidden.device
        n_programs = max(1, _SLOT_NUMBERS // ((k + rows) * self.size))
        for first in range(0, self._programs, n_programs):
            programs = range(first, min(first + n_programs, self._programs))
            n_slots = len(programs) * (k + rows)
            slots = torch.zeros((n_slots, self.size), device=device)
            bias_slots = None if grad_bias is None else torch.zeros((n_slots, 1), device=device)
            self._sampled(lse, None, upstream, None, slots, bias_slots, programs)
            group = torch.arange(programs.start, programs.stop, device=device)
            group = group * rows // self._group_rows
            negatives = self._drawn.proposal.draw(self._drawn.seed, group, k)
            targets = self.target[programs.start * rows : programs.stop * rows]
            missing = len(programs) * rows - len(targets)  # zero slots of the last program
            item = torch.cat([negatives.flatten(), targets, targets[:1].expand(missing)])
            order = torch.sort(item, stable=True).indices
            unique_item, counts = torch.unique_consecutive(item[order], return_counts=True)
            for table, table_slots in ((grad_items, slots), (grad_bias, bias_slots)):
                if table is not None and table_slots is not None:
                    sums = torch.segment_reduce(table_slots[order], "sum", lengths=counts, axis=0)
                    table[unique_item] += sums.view(-1, *table.shape[1:])

    def _sampled(
        self,
        lse: Tensor,
        own: Tensor | None,
        upstream: Tensor | None,
        grad: Tensor | None,
        grad_items: Tensor | None,
        grad_bias: Tensor | None,
        programs: range | None = None,
    ) -> None:
        """Run all programs, or only `programs`, which then write their gradients to slots."""
        n, sampling, proposal = len(self.hidden), self._drawn, self._drawn.proposal
        log_q = None if proposal.log_q is None else proposal.log_q.float()
        log_k = float(torch.log(torch.tensor(float(sampling.n_negatives), dtype=torch.float64)))
        uniform_log_q = -float(torch.log(torch.tensor(float(len(self.items)), dtype=torch.float64)))
        tensors = (
            self.hidden, self.items, self.bias, self.target, lse, own, upstream, grad, grad_items,
            grad_bias, log_q, proposal.accept, proposal.alias,
        )  # fmt: skip
        numbers = (n, len(self.items), self.size, sampling.n_negatives)
        seed = (sampling.seed & 0xFFFFFFFF, (sampling.seed >> 32) & 0xFFFFFFFF)
        launched = range(self._programs) if programs is None else programs
        scalars = (log_k, uniform_log_q, *seed, launched.start)
        options = {
            "SOFTCAP": self.softcap or 0.0,
            "HAS_BIAS": self.bias is not None,
            "WEIGHTED": proposal.accept is not None,
            "CORRECT": sampling.correct,
            "BACKWARD": upstream is not None,
            "SLOTS": programs is not None,
            "GRADIENT": grad is not None,
            "SIZE": self.wide,
        }
        if sampling.rows == 1:
            by_row[(len(launched),)](
                *tensors,
                *numbers,
                *scalars,
                *self._strides,
                DRAWN=self.tile.drawn,
                **options,
            )
            return
        rows, group_rows = self.tile.rows, self._group_rows
        if group_rows % rows:
            raise InputError(f"groups of {group_rows} positions are not whole tiles of {rows}")
        shared[(len(launched),)](
            *tensors, *numbers, group_rows, *scalars, *self._strides,
            PRECISION=self.precision, UPCAST=self.upcast,
            ROWS=rows, DRAWN=self.tile.items, num_warps=self.tile.warps, **options,
        )  # fmt: skip


class TritonCrossEntropy(torch.autograd.Function):
    """The loss [N] as a differentiable function of hidden, items and bias."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, items: Tensor, bias: Tensor | None, problem: Problem
    ) -> Tensor:
        """Return the loss of each position, float32."""
        loss, lse, grad = problem.forward(ctx.needs_input_grad[0])
        ctx.save_for_backward(hidden, items, bias, lse, grad)
        ctx.problem = problem
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients; that of hidden was computed in the forward pass."""
        refuse_second_derivative()
        (up,) = upstream
        hidden, items, bias, lse, grad = ctx.saved_tensors
        hidden_gradient = items_gradient = bias_gradient = None
        if grad is not None:
            hidden_gradient = (grad * up.unsqueeze(1)).to(hidden.dtype)
        if any(ctx.needs_input_grad[1:3]):
            items_gradient, bias_gradient = ctx.problem.backward(lse, up)
            items_gradient = items_gradient.to(items.dtype)
            bias_gradient = None if bias_gradient is None else bias_gradient.to(bias.dtype)
        return hidden_gradient, items_gradient, bias_gradient, None
