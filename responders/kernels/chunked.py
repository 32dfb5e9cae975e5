"""The loss in plain PyTorch, a tile at a time: never N × V nor N × K × d numbers at once.

Where one upstream number scales the whole loss (`mean`, `sum`), the gradients are made in the
forward pass, tile by tile, from the softmax that is there anyway, and only scaled in the backward
pass; with one upstream number per position the backward pass computes the tiles again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from responders.kernels.negatives import Sampling

_TILE = 1 << 21  # numbers in a tile: 8 MB in float32
_SHARE = 0.15  # of the memory of inputs and gradients that a tile may take where that is more


@dataclass(frozen=True)
class _Inputs:
    """What the loss is of: hidden [N, d], items [V, d], bias [V] or None, target [N], softcap."""

    hidden: Tensor
    items: Tensor
    bias: Tensor | None
    target: Tensor
    softcap: float | None


@dataclass
class _Gradients:
    """Where a pass adds the gradients of inputs that need one; float32 or float64."""

    hidden: Tensor | None
    items: Tensor | None
    bias: Tensor | None


def accumulator(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which sums over `tensor` are kept."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


class ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of N positions over the catalogue or over sampled negatives.

    Inputs: hidden [N, d], items [V, d], bias [V] or None, target [N] (all valid), softcap, sampling
    (None = full), and `scale`: the result is `scale` times the sum, or each loss [N] where None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        items: Tensor,
        bias: Tensor | None,
        target: Tensor,
        softcap: float | None,
        sampling: Sampling | None,
        scale: float | None,
    ) -> Tensor:
        """Return the loss, float32 (float64 for double inputs)."""
        ctx.softcap, ctx.sampling, ctx.scale, ctx.stash = softcap, sampling, scale, None
        upstream, inputs = None, _Inputs(hidden, items, bias, target, softcap)
        if scale is not None and any(ctx.needs_input_grad[:3]):
            ctx.stash = _empty(ctx.needs_input_grad, inputs)
            upstream = torch.tensor(scale, dtype=accumulator(hidden)).expand(len(hidden))
            upstream = upstream.to(hidden.device)
        loss = _run(inputs, sampling, ctx.stash, upstream)
        ctx.save_for_backward(hidden, items, target, *([bias] if bias is not None else []))
        return loss if scale is None else loss.sum() * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of hidden, items and bias."""
        (up,) = upstream
        hidden, items, target, *rest = ctx.saved_tensors
        inputs = _Inputs(hidden, items, rest[0] if rest else None, target, ctx.softcap)
        # The stash is given away: a copy would double its memory. A second pass computes it anew.
        stash, ctx.stash = ctx.stash, None
        if stash is None:
            stash = _empty(ctx.needs_input_grad, inputs)
            if ctx.scale is not None:
                up = (up * ctx.scale).expand(len(hidden))
            _run(inputs, ctx.sampling, stash, up)
        elif not bool(up == 1):
            for gradient in (stash.hidden, stash.items, stash.bias):
                if gradient is not None:
                    gradient.mul_(up)
        found = (stash.hidden, stash.items, stash.bias)
        cast = [
            None if gradient is None or given is None else gradient.to(given.dtype)
            for gradient, given in zip(found, (hidden, items, inputs.bias), strict=True)
        ]
        return (*cast, None, None, None, None)


def _empty(wanted: tuple[bool, ...], inputs: _Inputs) -> _Gradients:
    made = [
        torch.zeros(t.shape, dtype=accumulator(t), device=t.device)
        if need and t is not None
        else None
        for need, t in zip(wanted, (inputs.hidden, inputs.items, inputs.bias), strict=False)
    ]
    return _Gradients(*made)


def _run(
    inputs: _Inputs,
    sampling: Sampling | None,
    gradients: _Gradients | None,
    upstream: Tensor | None,
) -> Tensor:
    """Return the loss of each position; add gradients where asked, times `upstream` [N]."""
    hidden, items = inputs.hidden, inputs.items
    dtype = accumulator(hidden)
    loss = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
    if sampling is None:
        # A tile holds whole rows. The taller it is, the less often the gradient of the catalogue is
        # read and written.
        given = 2 * (hidden.numel() + items.numel())
        step = max(1, max(_TILE, int(_SHARE * given)) // len(items))
        for first in range(0, len(hidden), step):
            rows = slice(first, first + step)
            up = None if upstream is None else upstream[rows]
            loss[rows] = _full(inputs, rows, gradients, up)
        return loss
    height = sampling.rows or max(len(hidden), 1)
    k, d = sampling.n_negatives, hidden.shape[1]
    # A tile holds whole groups while they are small, and a part of one group when they are not.
    tile = max(_TILE // 2, 1)  # some of them are there at a time: vectors, logits, probabilities
    groups = max(1, tile // max(k * max(d, height), 1))
    part = height if groups > 1 else max(1, min(height, tile // max(k, 1)))
    for first in range(0, len(hidden), height * groups):
        last = min(first + height * groups, len(hidden))
        for start in range(first, last, part if groups == 1 else height * groups):
            rows = slice(start, min(start + (part if groups == 1 else height * groups), last))
            up = None if upstream is None else upstream[rows]
            loss[rows] = _sampled(inputs, sampling, height, rows, gradients, up)
    return loss


def _capped(logits: Tensor, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Return the capped logits, in place, and the slope where there is a cap."""
    if softcap is None:
        return logits, None
    tanh = logits.div_(softcap).tanh_()
    slope = 1 - tanh * tanh
    return tanh.mul_(softcap), slope


def _full(
    inputs: _Inputs, rows: slice, gradients: _Gradients | None, upstream: Tensor | None
) -> Tensor:
    dtype, bias = accumulator(inputs.hidden), inputs.bias
    h, c = inputs.hidden[rows].to(dtype), inputs.items.to(dtype)
    logits = h @ c.t() if bias is None else torch.addmm(bias.to(dtype), h, c.t())
    logits, slope = _capped(logits, inputs.softcap)
    y = inputs.target[rows].unsqueeze(1)
    own = logits.gather(1, y)
    top = logits.amax(1, keepdim=True)
    p = logits.sub_(top).exp_()
    total = p.sum(1, keepdim=True)
    loss = total.log() + top - own
    if gradients is None:
        return loss.squeeze(1)
    p.div_(total).scatter_add_(1, y, torch.full_like(own, -1))
    if slope is not None:
        p.mul_(slope)
    if upstream is not None:
        p.mul_(upstream.to(dtype).unsqueeze(1))
    if gradients.hidden is not None:
        torch.mm(p, c, out=gradients.hidden[rows])
    if gradients.items is not None:
        gradients.items.addmm_(p.t(), h)
    if gradients.bias is not None:
        gradients.bias += p.sum(0)
    return loss.squeeze(1)


def _sampled(
    inputs: _Inputs,
    sampling: Sampling,
    height: int,
    rows: slice,
    gradients: _Gradients | None,
    upstream: Tensor | None,
) -> Tensor:
    """Whole groups of `height` positions (the last may be short), or a part of one group."""
    hidden, items, bias = inputs.hidden, inputs.items, inputs.bias
    dtype, device = accumulator(hidden), hidden.device
    n = rows.stop - rows.start
    group = torch.arange(rows.start // height, (rows.stop - 1) // height + 1, device=device)
    tall = min(height, n) if len(group) == 1 else height
    index = sampling.proposal.draw(sampling.seed, group, sampling.n_negatives)  # [G, K]
    h, y = _grouped(hidden[rows].to(dtype), len(group), tall), inputs.target[rows]
    ys = _grouped(y.unsqueeze(1), len(group), tall).squeeze(2)
    c = items[index].to(dtype)  # [G, K, d]
    own_items = items[y].to(dtype)
    logits = torch.bmm(h, c.transpose(1, 2))  # [G, T, K]
    own = (hidden[rows].to(dtype) * own_items).sum(1, keepdim=True)
    if bias is not None:
        logits += bias[index].to(dtype).unsqueeze(1)
        own = own + bias[y].to(dtype).unsqueeze(1)
    logits, slope = _capped(logits, inputs.softcap)
    own, own_slope = _capped(own, inputs.softcap)
    if sampling.correct:
        log_k = torch.log(torch.tensor(float(sampling.n_negatives), dtype=dtype))
        logits -= (log_k + sampling.proposal.log_probability(index).to(dtype)).unsqueeze(1)
    logits.masked_fill_(index.unsqueeze(1) == ys.unsqueeze(2), -torch.inf)
    flat = logits.flatten(0, 1)[:n]
    top = torch.maximum(flat.amax(1, keepdim=True), own)
    p, p_own = (flat - top).exp_(), (own - top).exp()
    total = p.sum(1, keepdim=True) + p_own
    loss = total.log() + top - own
    if gradients is None:
        return loss.squeeze(1)
    p.div_(total)
    g_own = p_own / total - 1
    if upstream is not None:
        up = upstream.to(dtype).unsqueeze(1)
        p.mul_(up)
        g_own = g_own * up
    if slope is not None and own_slope is not None:
        p.mul_(slope.flatten(0, 1)[:n])
        g_own = g_own * own_slope
    grouped = _grouped(p, len(group), tall)
    if gradients.hidden is not None:
        back = torch.bmm(grouped, c).flatten(0, 1)[:n]
        gradients.hidden[rows] = back + g_own * own_items
    if gradients.items is not None:
        gradients.items.index_add_(
            0, index.flatten(), torch.bmm(grouped.transpose(1, 2), h).flatten(0, 1)
        )
        gradients.items.index_add_(0, y, g_own * hidden[rows].to(dtype))
    if gradients.bias is not None:
        gradients.bias.index_add_(0, index.flatten(), grouped.sum(1).flatten())
        gradients.bias.index_add_(0, y, g_own.squeeze(1))
    return loss.squeeze(1)


def _grouped(x: Tensor, groups: int, height: int) -> Tensor:
    """Return x [n, m] as [groups, height, m], padded with zeros."""
    missing = groups * height - len(x)
    if missing:
        x = torch.cat([x, x.new_zeros(missing, x.shape[1])])
    return x.view(groups, height, -1)
