"""The loss in Triton: tiles of logits in registers, negatives drawn inside the kernel.

Forward: one program per block of positions walks the catalogue (or the negatives of its group),
keeps the running maximum and sum of the softmax and, where the gradient of the hidden states will
be needed, Σ p · C beside them (as flash attention does with values), so that this gradient is ready
when the forward pass ends. Backward: full catalogue, one program per tile of items walks the
positions again: no atomics, the same bits every time. Sampled: the programs of the forward pass
draw their negatives again and add to the items' gradient atomically, in float32, or, where equal
bits are asked for (SLOTS), write each product to a place of its own, to be summed in order.

Everything is accumulated in float32. TRITON_INTERPRET=1 runs it on the CPU, slowly, for tests.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether the kernels run in Triton's interpreter, on the CPU."""


# Values, not shapes of the code: a size of 1 must not be compiled in.
_NUMBERS = (
    "n_rows", "n_items", "n_negatives", "group_rows", "seed_low", "seed_high", "first_program",
)  # fmt: skip


@triton.jit
def _cap(logits, softcap: tl.constexpr):
    """Return c · tanh(x / c) and its slope, by exponentials that cannot overflow."""
    x = 2.0 * tl.abs(logits) / softcap
    e = tl.exp(-x)
    t = (1.0 - e) / (1.0 + e)
    t = tl.where(logits < 0, -t, t)
    return softcap * t, 1.0 - t * t


@triton.jit
def _draw(seed_low, seed_high, group, k, n_items, accept, alias, WEIGHTED: tl.constexpr):
    """Return the negatives `k` of `group` as `Proposal.draw` defines them."""
    zero = k * 0
    seed = (seed_high.to(tl.uint64) << 32) | seed_low.to(tl.uint64)
    first, second, _, _ = tl.philox(
        seed,
        k.to(tl.uint32),
        zero.to(tl.uint32) + group.to(tl.uint32),
        zero.to(tl.uint32),
        zero.to(tl.uint32),
    )
    item = ((first.to(tl.uint64) * n_items.to(tl.uint64)) >> 32).to(tl.int64)
    if WEIGHTED:
        u = second.to(tl.int64).to(tl.float32) * 2.3283064365386963e-10
        stays = u < tl.load(accept + item)
        item = tl.where(stays, item, tl.load(alias + item))
    return item


@triton.jit
def _vectors(table, place, row_stride, col_stride, d, there, wide, UPCAST: tl.constexpr):
    """Return the vectors at `place` [n] of `table`, zeros outside `there` [n] and `wide` [SIZE]."""
    vectors = tl.load(
        table + place[:, None] * row_stride + d[None, :] * col_stride,
        mask=there[:, None] & wide[None, :],
        other=0.0,
    )
    if UPCAST:
        vectors = vectors.to(tl.float32)
    return vectors


@triton.jit
def _log_kq(log_q, item, drawn, log_k, uniform_log_q, WEIGHTED: tl.constexpr):
    """Return log(K · q) of items [n], what the logQ correction subtracts."""
    value = tl.zeros(item.shape, tl.float32) + uniform_log_q
    if WEIGHTED:
        value = tl.load(log_q + item, mask=drawn, other=0.0)
    return value + log_k


@triton.jit
def _add(table, place, slot, size, d, value, mask, SLOTS: tl.constexpr):
    """Add rows `value` at `place` of `table`, or store them at their own `slot`."""
    if SLOTS:
        tl.store(table + slot[:, None] * size + d[None, :], value, mask=mask)
    else:
        tl.atomic_add(table + place[:, None] * size + d[None, :], value, mask=mask)


@triton.jit
def _add_numbers(table, place, slot, value, mask, SLOTS: tl.constexpr):
    """Add numbers `value` at `place` of `table`, or store them at their own `slot`."""
    if SLOTS:
        tl.store(table + slot, value, mask=mask)
    else:
        tl.atomic_add(table + place, value, mask=mask)


@triton.jit(do_not_specialize=_NUMBERS)
def full_forward(
    hidden, items, bias, target, lse, own, grad_hidden,
    n_rows, n_items, size, h_row, h_col, c_row, c_col,
    SOFTCAP: tl.constexpr, HAS_BIAS: tl.constexpr, GRADIENT: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    ROWS: tl.constexpr, ITEMS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, SIZE)
    here = row < n_rows
    wide = d < size
    h = _vectors(hidden, row, h_row, h_col, d, here, wide, UPCAST)
    y = tl.load(target + row, mask=here, other=-1)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mine = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, SIZE], tl.float32)
    for first in range(0, n_items, ITEMS):
        item = first + tl.arange(0, ITEMS).to(tl.int64)
        inside = item < n_items
        c = _vectors(items, item, c_row, c_col, d, inside, wide, UPCAST)
        logits = tl.dot(h, tl.trans(c), input_precision=PRECISION)
        if HAS_BIAS:
            logits += tl.load(bias + item, mask=inside, other=0.0).to(tl.float32)[None, :]
        slope = logits
        if SOFTCAP > 0:
            logits, slope = _cap(logits, SOFTCAP)
        is_own = item[None, :] == y[:, None]
        mine += tl.sum(tl.where(is_own, logits, 0.0), 1)
        logits = tl.where(inside[None, :], logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 1))
        scale = tl.exp(top - higher)
        p = tl.exp(logits - higher[:, None])
        total = total * scale + tl.sum(p, 1)
        if GRADIENT:
            if SOFTCAP > 0:
                p = p * slope
            found = found * scale[:, None] + tl.dot(p.to(c.dtype), c, input_precision=PRECISION)
        top = higher
    tl.store(lse + row, top + tl.log(total), mask=here)
    tl.store(own + row, mine, mask=here)
    if GRADIENT:
        own_c = _vectors(items, y, c_row, c_col, d, here & (y >= 0), wide, True)
        if SOFTCAP > 0:
            share = mine / SOFTCAP
            own_c = own_c * (1.0 - share * share)[:, None]
        tl.store(
            grad_hidden + row[:, None] * size + d[None, :],
            found / total[:, None] - own_c,
            mask=here[:, None] & wide[None, :],
        )


@triton.jit(do_not_specialize=_NUMBERS)
def full_backward(
    hidden, items, bias, target, lse, upstream, grad_items, grad_bias,
    n_rows, n_items, size, h_row, h_col, c_row, c_col,
    SOFTCAP: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    ROWS: tl.constexpr, ITEMS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(0).to(tl.int64) * ITEMS + tl.arange(0, ITEMS)
    d = tl.arange(0, SIZE)
    inside = item < n_items
    wide = d < size
    c = _vectors(items, item, c_row, c_col, d, inside, wide, UPCAST)
    b = tl.zeros([ITEMS], tl.float32)
    if HAS_BIAS:
        b = tl.load(bias + item, mask=inside, other=0.0).to(tl.float32)
    found = tl.zeros([ITEMS, SIZE], tl.float32)
    of_bias = tl.zeros([ITEMS], tl.float32)
    for first in range(0, n_rows, ROWS):
        row = first + tl.arange(0, ROWS).to(tl.int64)
        here = row < n_rows
        h = _vectors(hidden, row, h_row, h_col, d, here, wide, UPCAST)
        y = tl.load(target + row, mask=here, other=-1)
        up = tl.load(upstream + row, mask=here, other=0.0)
        normal = tl.load(lse + row, mask=here, other=0.0)
        logits = tl.dot(c, tl.trans(h), input_precision=PRECISION) + b[:, None]
        slope = logits
        if SOFTCAP > 0:
            logits, slope = _cap(logits, SOFTCAP)
        p = tl.exp(logits - normal[None, :])
        g = tl.where(item[:, None] == y[None, :], p - 1.0, p)
        if SOFTCAP > 0:
            g = g * slope
        g = tl.where(here[None, :], g * up[None, :], 0.0)
        found += tl.dot(g.to(h.dtype), h, input_precision=PRECISION)
        of_bias += tl.sum(g, 1)
    tl.store(
        grad_items + item[:, None] * size + d[None, :], found, mask=inside[:, None] & wide[None, :]
    )
    if HAS_BIAS:
        tl.store(grad_bias + item, of_bias, mask=inside)


@triton.jit(do_not_specialize=_NUMBERS)
def shared(
    hidden, items, bias, target, lse, own, upstream, grad_hidden, grad_items, grad_bias, log_q,
    accept, alias,
    n_rows, n_items, size, n_negatives, group_rows, log_k, uniform_log_q, seed_low, seed_high,
    first_program, h_row, h_col, c_row, c_col,
    SOFTCAP: tl.constexpr, HAS_BIAS: tl.constexpr, WEIGHTED: tl.constexpr, CORRECT: tl.constexpr,
    BACKWARD: tl.constexpr, SLOTS: tl.constexpr, GRADIENT: tl.constexpr, PRECISION: tl.constexpr,
    UPCAST: tl.constexpr, ROWS: tl.constexpr, DRAWN: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """A block of positions of one group and its negatives, forward or backward."""
    program = tl.program_id(0).to(tl.int64)
    first_row = (first_program + program) * ROWS
    own_slot = tl.num_programs(0).to(tl.int64) * n_negatives + program * ROWS + tl.arange(0, ROWS)
    row = first_row + tl.arange(0, ROWS)
    group = first_row // group_rows
    d = tl.arange(0, SIZE)
    here = row < n_rows
    wide = d < size
    h = _vectors(hidden, row, h_row, h_col, d, here, wide, UPCAST)
    y = tl.load(target + row, mask=here, other=0)
    own_c = _vectors(items, y, c_row, c_col, d, here, wide, True)
    mine = tl.sum(h.to(tl.float32) * own_c, 1)
    if HAS_BIAS:
        mine += tl.load(bias + y, mask=here, other=0.0).to(tl.float32)
    own_slope = mine * 0 + 1.0
    if SOFTCAP > 0:
        mine, own_slope = _cap(mine, SOFTCAP)
    top = mine
    total = tl.full([ROWS], 1.0, tl.float32)
    found = own_c * own_slope[:, None]
    if BACKWARD:
        top = tl.load(lse + row, mask=here, other=0.0)
        up = tl.load(upstream + row, mask=here, other=0.0)
        g_own = (tl.exp(mine - top) - 1.0) * own_slope * up
        _add(
            grad_items, y, own_slot, size, d, g_own[:, None] * h,
            here[:, None] & wide[None, :], SLOTS,
        )  # fmt: skip
        if HAS_BIAS:
            _add_numbers(grad_bias, y, own_slot, g_own, here, SLOTS)
    for first in range(0, n_negatives, DRAWN):
        k = first + tl.arange(0, DRAWN)
        drawn = k < n_negatives
        item = _draw(seed_low, seed_high, group, k, n_items, accept, alias, WEIGHTED)
        c = _vectors(items, item, c_row, c_col, d, drawn, wide, UPCAST)
        logits = tl.dot(h, tl.trans(c), input_precision=PRECISION)
        if HAS_BIAS:
            logits += tl.load(bias + item, mask=drawn, other=0.0).to(tl.float32)[None, :]
        slope = logits
        if SOFTCAP > 0:
            logits, slope = _cap(logits, SOFTCAP)
        if CORRECT:
            logits -= _log_kq(log_q, item, drawn, log_k, uniform_log_q, WEIGHTED)[None, :]
        counts = drawn[None, :] & (item[None, :] != y[:, None])
        logits = tl.where(counts, logits, float("-inf"))
        if BACKWARD:
            g = tl.where(here[:, None], tl.exp(logits - top[:, None]) * up[:, None], 0.0)
            if SOFTCAP > 0:
                g = g * slope
            slot = program * n_negatives + k
            _add(
                grad_items, item, slot, size, d,
                tl.dot(tl.trans(g).to(h.dtype), h, input_precision=PRECISION),
                drawn[:, None] & wide[None, :], SLOTS,
            )  # fmt: skip
            if HAS_BIAS:
                _add_numbers(grad_bias, item, slot, tl.sum(g, 0), drawn, SLOTS)
        else:
            higher = tl.maximum(top, tl.max(logits, 1))
            scale = tl.exp(top - higher)
            p = tl.exp(logits - higher[:, None])
            total = total * scale + tl.sum(p, 1)
            if GRADIENT:
                if SOFTCAP > 0:
                    p = p * slope
                found = found * scale[:, None] + tl.dot(p.to(c.dtype), c, input_precision=PRECISION)
            top = higher
    if not BACKWARD:
        tl.store(lse + row, top + tl.log(total), mask=here)
        tl.store(own + row, mine, mask=here)
        if GRADIENT:
            gradient = found / total[:, None] - own_c * own_slope[:, None]
            tl.store(
                grad_hidden + row[:, None] * size + d[None, :],
                gradient,
                mask=here[:, None] & wide[None, :],
            )


@triton.jit(do_not_specialize=_NUMBERS)
def by_row(
    hidden, items, bias, target, lse, own, upstream, grad_hidden, grad_items, grad_bias, log_q,
    accept, alias,
    n_rows, n_items, size, n_negatives, log_k, uniform_log_q, seed_low, seed_high,
    first_program, h_row, h_col, c_row, c_col,
    SOFTCAP: tl.constexpr, HAS_BIAS: tl.constexpr, WEIGHTED: tl.constexpr, CORRECT: tl.constexpr,
    BACKWARD: tl.constexpr, SLOTS: tl.constexpr, GRADIENT: tl.constexpr,
    DRAWN: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """One position and its own negatives, several at a time, forward or backward."""
    program = tl.program_id(0).to(tl.int64)
    row = first_program + program
    own_slot = tl.num_programs(0).to(tl.int64) * n_negatives + program + tl.arange(0, 1)
    d = tl.arange(0, SIZE)
    wide = d < size
    h = tl.load(hidden + row * h_row + d * h_col, mask=wide, other=0.0).to(tl.float32)
    y = tl.load(target + row)
    own_c = tl.load(items + y * c_row + d * c_col, mask=wide, other=0.0).to(tl.float32)
    mine = tl.sum(h * own_c, 0)
    if HAS_BIAS:
        mine += tl.load(bias + y).to(tl.float32)
    own_slope = mine * 0 + 1.0
    if SOFTCAP > 0:
        mine, own_slope = _cap(mine, SOFTCAP)
    top = mine
    total = mine * 0 + 1.0
    found = own_c * own_slope
    if BACKWARD:
        top = tl.load(lse + row)
        up = tl.load(upstream + row)
        g_own = (tl.exp(mine - top) - 1.0) * own_slope * up
        own_place = own_slot * 0 + y
        _add(grad_items, own_place, own_slot, size, d, (g_own * h)[None, :], wide[None, :], SLOTS)
        if HAS_BIAS:
            one = own_slot >= 0
            _add_numbers(grad_bias, own_place, own_slot, g_own + own_slot * 0.0, one, SLOTS)
    for first in range(0, n_negatives, DRAWN):
        k = first + tl.arange(0, DRAWN)
        drawn = k < n_negatives
        item = _draw(seed_low, seed_high, row, k, n_items, accept, alias, WEIGHTED)
        c = _vectors(items, item, c_row, c_col, d, drawn, wide, True)
        logits = tl.sum(c * h[None, :], 1)
        if HAS_BIAS:
            logits += tl.load(bias + item, mask=drawn, other=0.0).to(tl.float32)
        slope = logits
        if SOFTCAP > 0:
            logits, slope = _cap(logits, SOFTCAP)
        if CORRECT:
            logits -= _log_kq(log_q, item, drawn, log_k, uniform_log_q, WEIGHTED)
        logits = tl.where(drawn & (item != y), logits, float("-inf"))
        if BACKWARD:
            g = tl.exp(logits - top) * up
            if SOFTCAP > 0:
                g = g * slope
            slot = program * n_negatives + k
            _add(
                grad_items, item, slot, size, d, g[:, None] * h[None, :],
                drawn[:, None] & wide[None, :], SLOTS,
            )  # fmt: skip
            if HAS_BIAS:
                _add_numbers(grad_bias, item, slot, g, drawn, SLOTS)
        else:
            higher = tl.maximum(top, tl.max(logits, 0))
            scale = tl.exp(top - higher)
            p = tl.exp(logits - higher)
            total = total * scale + tl.sum(p, 0)
            if GRADIENT:
                if SOFTCAP > 0:
                    p = p * slope
                found = found * scale + tl.sum(p[:, None] * c, 0)
            top = higher
    if not BACKWARD:
        tl.store(lse + row, top + tl.log(total))
        tl.store(own + row, mine)
        if GRADIENT:
            tl.store(grad_hidden + row * size + d, found / total - own_c * own_slope, mask=wide)
