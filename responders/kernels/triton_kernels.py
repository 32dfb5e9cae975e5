"""The loss in Triton: tiles of logits stay in registers, negatives are drawn inside the kernel.

Forward: one program per block of positions loops over the catalogue (or the negatives of its
group). It keeps the running maximum and sum of the softmax and, if the gradient of the hidden
states is needed, Σ p · C, as flash attention does with values, so that this gradient is complete at
the end of the forward pass.

Backward, full catalogue: one program per tile of items loops over the positions, without atomics,
so the result is deterministic. Backward, sampled: the programs of the forward pass draw their
negatives again and add to the items' gradient atomically; with SLOTS (deterministic), they write
each product to a separate slot, and the slots are then summed in a fixed order.

h are hidden states, c item vectors, y targets; x_y is the value x of the target. Everything is
accumulated in float32. TRITON_INTERPRET=1 runs the kernels on the CPU, for tests.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether the kernels run in Triton's interpreter, on the CPU."""


# These vary between calls: specialising on values such as 1 would compile the kernels again.
_NUMBERS = (
    "n_rows", "n_items", "n_negatives", "group_rows", "seed_low", "seed_high", "first_program",
)  # fmt: skip


@triton.jit
def _cap(logits, softcap: tl.constexpr):
    """Return c · tanh(x / c) and its slope, from exponentials that cannot overflow."""
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
        accepted = u < tl.load(accept + item)
        item = tl.where(accepted, item, tl.load(alias + item))
    return item


@triton.jit
def _vectors(table, index, row_stride, col_stride, d, valid, wide, UPCAST: tl.constexpr):
    """Return the vectors at `index` [n] of `table`, zeros outside `valid` [n] and `wide` [SIZE]."""
    vectors = tl.load(
        table + index[:, None] * row_stride + d[None, :] * col_stride,
        mask=valid[:, None] & wide[None, :],
        other=0.0,
    )
    if UPCAST:
        vectors = vectors.to(tl.float32)
    return vectors


@triton.jit
def _log_kq(log_q, item, drawn, log_k, uniform_log_q, WEIGHTED: tl.constexpr):
    """Return log(K · q) of items [n], which the logQ correction subtracts."""
    value = tl.zeros(item.shape, tl.float32) + uniform_log_q
    if WEIGHTED:
        value = tl.load(log_q + item, mask=drawn, other=0.0)
    return value + log_k


@triton.jit
def _add(table, index, slot, size, d, value, mask, SLOTS: tl.constexpr):
    """Add rows `value` at `index` of `table`, or store them at `slot`."""
    if SLOTS:
        tl.store(table + slot[:, None] * size + d[None, :], value, mask=mask)
    else:
        tl.atomic_add(table + index[:, None] * size + d[None, :], value, mask=mask)


@triton.jit
def _add_numbers(table, index, slot, value, mask, SLOTS: tl.constexpr):
    """Add numbers `value` at `index` of `table`, or store them at `slot`."""
    if SLOTS:
        tl.store(table + slot, value, mask=mask)
    else:
        tl.atomic_add(table + index, value, mask=mask)


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
    in_rows = row < n_rows
    wide = d < size
    h = _vectors(hidden, row, h_row, h_col, d, in_rows, wide, UPCAST)
    y = tl.load(target + row, mask=in_rows, other=-1)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    logit_y = tl.zeros([ROWS], tl.float32)
    sum_pc = tl.zeros([ROWS, SIZE], tl.float32)
    for first in range(0, n_items, ITEMS):
        item = first + tl.arange(0, ITEMS).to(tl.int64)
        in_items = item < n_items
        c = _vectors(items, item, c_row, c_col, d, in_items, wide, UPCAST)
        logits = tl.dot(h, tl.trans(c), input_precision=PRECISION)
        if HAS_BIAS:
            logits += tl.load(bias + item, mask=in_items, other=0.0).to(tl.float32)[None, :]
        slope = logits
        if SOFTCAP > 0:
            logits, slope = _cap(logits, SOFTCAP)
        is_target = item[None, :] == y[:, None]
        logit_y += tl.sum(tl.where(is_target, logits, 0.0), 1)
        logits = tl.where(in_items[None, :], logits, float("-inf"))
        # Online softmax: when the maximum grows, the sums so far are rescaled.
        new_top = tl.maximum(top, tl.max(logits, 1))
        scale = tl.exp(top - new_top)
        p = tl.exp(logits - new_top[:, None])
        total = total * scale + tl.sum(p, 1)
        if GRADIENT:
            if SOFTCAP > 0:
                p = p * slope
            sum_pc = sum_pc * scale[:, None] + tl.dot(p.to(c.dtype), c, input_precision=PRECISION)
        top = new_top
    tl.store(lse + row, top + tl.log(total), mask=in_rows)
    tl.store(own + row, logit_y, mask=in_rows)
    if GRADIENT:
        c_y = _vectors(items, y, c_row, c_col, d, in_rows & (y >= 0), wide, True)
        if SOFTCAP > 0:
            tanh = logit_y / SOFTCAP
            c_y = c_y * (1.0 - tanh * tanh)[:, None]
        tl.store(
            grad_hidden + row[:, None] * size + d[None, :],
            sum_pc / total[:, None] - c_y,
            mask=in_rows[:, None] & wide[None, :],
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
    in_items = item < n_items
    wide = d < size
    c = _vectors(items, item, c_row, c_col, d, in_items, wide, UPCAST)
    b = tl.zeros([ITEMS], tl.float32)
    if HAS_BIAS:
        b = tl.load(bias + item, mask=in_items, other=0.0).to(tl.float32)
    grad_c = tl.zeros([ITEMS, SIZE], tl.float32)
    grad_b = tl.zeros([ITEMS], tl.float32)
    for first in range(0, n_rows, ROWS):
        row = first + tl.arange(0, ROWS).to(tl.int64)
        in_rows = row < n_rows
        h = _vectors(hidden, row, h_row, h_col, d, in_rows, wide, UPCAST)
        y = tl.load(target + row, mask=in_rows, other=-1)
        up = tl.load(upstream + row, mask=in_rows, other=0.0)
        row_lse = tl.load(lse + row, mask=in_rows, other=0.0)
        logits = tl.dot(c, tl.trans(h), input_precision=PRECISION) + b[:, None]
        slope = logits
        if SOFTCAP > 0:
            logits, slope = _cap(logits, SOFTCAP)
        p = tl.exp(logits - row_lse[None, :])
        g = tl.where(item[:, None] == y[None, :], p - 1.0, p)
        if SOFTCAP > 0:
            g = g * slope
        g = tl.where(in_rows[None, :], g * up[None, :], 0.0)
        grad_c += tl.dot(g.to(h.dtype), h, input_precision=PRECISION)
        grad_b += tl.sum(g, 1)
    tl.store(
        grad_items + item[:, None] * size + d[None, :],
        grad_c,
        mask=in_items[:, None] & wide[None, :],
    )
    if HAS_BIAS:
        tl.store(grad_bias + item, grad_b, mask=in_items)


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
    """Forward or backward pass of a block of positions of one group and its negatives."""
    program = tl.program_id(0).to(tl.int64)
    first_row = (first_program + program) * ROWS
    slot_y = tl.num_programs(0).to(tl.int64) * n_negatives + program * ROWS + tl.arange(0, ROWS)
    row = first_row + tl.arange(0, ROWS)
    group = first_row // group_rows
    d = tl.arange(0, SIZE)
    in_rows = row < n_rows
    wide = d < size
    h = _vectors(hidden, row, h_row, h_col, d, in_rows, wide, UPCAST)
    y = tl.load(target + row, mask=in_rows, other=0)
    c_y = _vectors(items, y, c_row, c_col, d, in_rows, wide, True)
    logit_y = tl.sum(h.to(tl.float32) * c_y, 1)
    if HAS_BIAS:
        logit_y += tl.load(bias + y, mask=in_rows, other=0.0).to(tl.float32)
    slope_y = logit_y * 0 + 1.0
    if SOFTCAP > 0:
        logit_y, slope_y = _cap(logit_y, SOFTCAP)
    top = logit_y
    total = tl.full([ROWS], 1.0, tl.float32)
    sum_pc = c_y * slope_y[:, None]
    if BACKWARD:
        top = tl.load(lse + row, mask=in_rows, other=0.0)
        up = tl.load(upstream + row, mask=in_rows, other=0.0)
        g_y = (tl.exp(logit_y - top) - 1.0) * slope_y * up
        _add(
            grad_items, y, slot_y, size, d, g_y[:, None] * h,
            in_rows[:, None] & wide[None, :], SLOTS,
        )  # fmt: skip
        if HAS_BIAS:
            _add_numbers(grad_bias, y, slot_y, g_y, in_rows, SLOTS)
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
            g = tl.where(in_rows[:, None], tl.exp(logits - top[:, None]) * up[:, None], 0.0)
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
            new_top = tl.maximum(top, tl.max(logits, 1))
            scale = tl.exp(top - new_top)
            p = tl.exp(logits - new_top[:, None])
            total = total * scale + tl.sum(p, 1)
            if GRADIENT:
                if SOFTCAP > 0:
                    p = p * slope
                sum_pc = sum_pc * scale[:, None] + tl.dot(
                    p.to(c.dtype), c, input_precision=PRECISION
                )
            top = new_top
    if not BACKWARD:
        tl.store(lse + row, top + tl.log(total), mask=in_rows)
        tl.store(own + row, logit_y, mask=in_rows)
        if GRADIENT:
            gradient = sum_pc / total[:, None] - c_y * slope_y[:, None]
            tl.store(
                grad_hidden + row[:, None] * size + d[None, :],
                gradient,
                mask=in_rows[:, None] & wide[None, :],
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
    """Forward or backward pass of one position and its own negatives."""
    program = tl.program_id(0).to(tl.int64)
    row = first_program + program
    slot_y = tl.num_programs(0).to(tl.int64) * n_negatives + program + tl.arange(0, 1)
    d = tl.arange(0, SIZE)
    wide = d < size
    h = tl.load(hidden + row * h_row + d * h_col, mask=wide, other=0.0).to(tl.float32)
    y = tl.load(target + row)
    c_y = tl.load(items + y * c_row + d * c_col, mask=wide, other=0.0).to(tl.float32)
    logit_y = tl.sum(h * c_y, 0)
    if HAS_BIAS:
        logit_y += tl.load(bias + y).to(tl.float32)
    slope_y = logit_y * 0 + 1.0
    if SOFTCAP > 0:
        logit_y, slope_y = _cap(logit_y, SOFTCAP)
    top = logit_y
    total = logit_y * 0 + 1.0
    sum_pc = c_y * slope_y
    if BACKWARD:
        top = tl.load(lse + row)
        up = tl.load(upstream + row)
        g_y = (tl.exp(logit_y - top) - 1.0) * slope_y * up
        index_y = slot_y * 0 + y
        _add(grad_items, index_y, slot_y, size, d, (g_y * h)[None, :], wide[None, :], SLOTS)
        if HAS_BIAS:
            always = slot_y >= 0
            _add_numbers(grad_bias, index_y, slot_y, g_y + slot_y * 0.0, always, SLOTS)
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
            new_top = tl.maximum(top, tl.max(logits, 0))
            scale = tl.exp(top - new_top)
            p = tl.exp(logits - new_top)
            total = total * scale + tl.sum(p, 0)
            if GRADIENT:
                if SOFTCAP > 0:
                    p = p * slope
                sum_pc = sum_pc * scale + tl.sum(p[:, None] * c, 0)
            top = new_top
    if not BACKWARD:
        tl.store(lse + row, top + tl.log(total))
        tl.store(own + row, logit_y)
        if GRADIENT:
            tl.store(grad_hidden + row * size + d, sum_pc / total - c_y * slope_y, mask=wide)
