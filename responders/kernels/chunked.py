"""The loss in plain PyTorch, tile by tile, so that N × V or N × K × d numbers never exist at once.

For a scalar loss (`mean`, `sum`), the gradients are computed in the forward pass, while the softmax
of a tile is in memory, and only scaled in the backward pass. For one loss per position, the
backward pass computes the tiles again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from responders.kernels.negatives import Sampling

_TILE = 1 << 21  # numbers in a tile: 8 MB in float32
_SHARE = 0.15  # of the memory of inputs and gradients: a tile may take this if it is more


def refuse_second_derivative() -> None:
    """Raise `RuntimeError` in a backward pass with create_graph=True.

    PyTorch would treat the gradient as a constant, and its derivative would silently be missing.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "linear_cross_entropy has no second derivative: call backward without create_graph=True"
        )


@dataclass(frozen=True)
class _Inputs:
    """Inputs of the loss: hidden [N, d], items [V, d], bias [V] or None, target [N], softcap."""

    hidden: Tensor
    items: Tensor
    bias: Tensor | None
    target: Tensor
    softcap: float | None


@dataclass
class _Gradients:
    """Accumulated gradients of the inputs that need one, float32 or float64."""

    hidden: Tensor | None
    items: Tensor | None
    bias: Tensor | None


def accumulator(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which sums over `tensor` are accumulated."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


class ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of N positions over the catalogue or over sampled negatives.

    Inputs: hidden [N, d], items [V, d], bias [V] or None, target [N] (all valid), softcap, sampling
    (None = full), and `scale`: the result is `scale` times the sum, or the losses [N] if None.
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
        """Return the loss, float32 (float64 for float64 inputs)."""
        ctx.softcap, ctx.sampling, ctx.scale, ctx.stash = softcap, sampling, scale, None
        upstream, inputs = None, _Inputs(hidden, items, bias, target, softcap)
        if scale is not None and any(ctx.needs_input_grad[:3]):
            ctx.stash = _zeros(ctx.needs_input_grad, inputs)
            upstream = torch.tensor(scale, dtype=accumulator(hidden)).expand(len(hidden))
            upstream = upstream.to(hidden.device)
        loss = _run(inputs, sampling, ctx.stash, upstream)
        ctx.save_for_backward(hidden, items, target, *([bias] if bias is not None else []))
        return loss if scale is None else loss.sum() * scale

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of hidden, items and bias."""
        refuse_second_derivative()
        (up,) = upstream
        hidden, items, target, *rest = ctx.saved_tensors
        inputs = _Inputs(hidden, items, rest[0] if rest else None, target, ctx.softcap)
        # The gradients are returned without a copy, which would double their memory; if backward
        # is called again, they are computed again.
        stash, ctx.stash = ctx.stash, None
        if stash is None:
            stash = _zeros(ctx.needs_input_grad, inputs)
            if ctx.scale is not None:
                up = (up * ctx.scale).expand(len(hidden))
            _run(inputs, ctx.sampling, stash, up)
        elif not bool(up == 1):
            for gradient in (stash.hidden, stash.items, stash.bias):
                if gradient is not None:
                    gradient.mul_(up)
        gradients = (stash.hidden, stash.items, stash.bias)
        cast = [
            None if gradient is None or tensor is None else gradient.to(tensor.dtype)
            for gradient, tensor in zip(gradients, (hidden, items, inputs.bias), strict=True)
        ]
        return (*cast, None, None, None, None)


def _zeros(needed: tuple[bool, ...], inputs: _Inputs) -> _Gradients:
    gradients = [
        torch.zeros(t.shape, dtype=accumulator(t), device=t.device)
        if need and t is not None
        else None
        for need, t in zip(needed, (inputs.hidden, inputs.items, inputs.bias), strict=False)
    ]
    return _Gradients(*gradients)


def _run(
    inputs: _Inputs,
    sampling: Sampling | None,
    gradients: _Gradients | None,
    upstream: Tensor | None,
) -> Tensor:
    """Return the loss of each position; add gradients, times `upstream` [N], if given."""
    hidden, items = inputs.hidden, inputs.items
    dtype = accumulator(hidden)
    loss = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
    if sampling is None:
        # With more positions in a tile, the items' gradient is read and written less often.
        memory = 2 * (hidden.numel() + items.numel())
        step = max(1, max(_TILE, int(_SHARE * memory)) // len(items))
        for first in range(0, len(hidden), step):
            rows = slice(first, first + step)
            up = None if upstream is None else upstream[rows]
            loss[rows] = _full(inputs, rows, gradients, up)
        return loss
    group_size = sampling.rows or max(len(hidden), 1)
    k, d = sampling.n_negatives, hidden.shape[1]
    # A tile holds several groups if they are small, and a part of one group if they are large.
    tile = max(_TILE // 2, 1)  # vectors, logits and probabilities exist at the same time
    n_groups = max(1, tile // max(k * max(d, group_size), 1))
    span = group_size * n_groups
    step = span if n_groups > 1 else max(1, min(group_size, tile // max(k, 1)))
    for first in range(0, len(hidden), span):
        last = min(first + span, len(hidden))
        for start in range(first, last, step):
            rows = slice(start, min(start + step, last))
            up = None if upstream is None else upstream[rows]
            loss[rows] = _sampled(inputs, sampling, group_size, rows, gradients, up)
    return loss


def _capped(logits: Tensor, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Cap the logits in place; return them and the slope of the cap (None without a cap)."""
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
    target_logit = logits.gather(1, y)
    row_max = logits.amax(1, keepdim=True)
    p = logits.sub_(row_max).exp_()
    total = p.sum(1, keepdim=True)
    loss = total.log() + row_max - target_logit
    if gradients is None:
        return loss.squeeze(1)
    p.div_(total).scatter_add_(1, y, torch.full_like(target_logit, -1))
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
    group_size: int,
    rows: slice,
    gradients: _Gradients | None,
    upstream: Tensor | None,
) -> Tensor:
    """Handle whole groups of `group_size` positions (the last may be short) or part of a group."""
    hidden, items, bias = inputs.hidden, inputs.items, inputs.bias
    dtype, device = accumulator(hidden), hidden.device
    n = rows.stop - rows.start
    group = torch.arange(rows.start // group_size, (rows.stop - 1) // group_size + 1, device=device)
    height = min(group_size, n) if len(group) == 1 else group_size
    index = sampling.proposal.draw(sampling.seed, group, sampling.n_negatives)  # [G, K]
    h, y = _grouped(hidden[rows].to(dtype), len(group), height), inputs.target[rows]
    grouped_y = _grouped(y.unsqueeze(1), len(group), height).squeeze(2)
    c = items[index].to(dtype)  # [G, K, d]
    target_items = items[y].to(dtype)
    logits = torch.bmm(h, c.transpose(1, 2))  # [G, T, K]
    target_logit = (hidden[rows].to(dtype) * target_items).sum(1, keepdim=True)
    if bias is not None:
        logits += bias[index].to(dtype).unsqueeze(1)
        target_logit = target_logit + bias[y].to(dtype).unsqueeze(1)
    logits, slope = _capped(logits, inputs.softcap)
    target_logit, target_slope = _capped(target_logit, inputs.softcap)
    if sampling.correct:
        log_k = torch.log(torch.tensor(float(sampling.n_negatives), dtype=dtype))
        logits -= (log_k + sampling.proposal.log_probability(index).to(dtype)).unsqueeze(1)
    logits.masked_fill_(index.unsqueeze(1) == grouped_y.unsqueeze(2), -torch.inf)
    flat = logits.flatten(0, 1)[:n]
    row_max = torch.maximum(flat.amax(1, keepdim=True), target_logit)
    p, target_p = (flat - row_max).exp_(), (target_logit - row_max).exp()
    total = p.sum(1, keepdim=True) + target_p
    loss = total.log() + row_max - target_logit
    if gradients is None:
        return loss.squeeze(1)
    p.div_(total)
    target_gradient = target_p / total - 1
    if upstream is not None:
        up = upstream.to(dtype).unsqueeze(1)
        p.mul_(up)
        target_gradient = target_gradient * up
    if slope is not None and target_slope is not None:
        p.mul_(slope.flatten(0, 1)[:n])
        target_gradient = target_gradient * target_slope
    grouped = _grouped(p, len(group), height)
    if gradients.hidden is not None:
        from_negatives = torch.bmm(grouped, c).flatten(0, 1)[:n]
        gradients.hidden[rows] = from_negatives + target_gradient * target_items
    if gradients.items is not None:
        gradients.items.index_add_(
            0, index.flatten(), torch.bmm(grouped.transpose(1, 2), h).flatten(0, 1)
        )
        gradients.items.index_add_(0, y, target_gradient * hidden[rows].to(dtype))
    if gradients.bias is not None:
        gradients.bias.index_add_(0, index.flatten(), grouped.sum(1).flatten())
        gradients.bias.index_add_(0, y, target_gradient.squeeze(1))
    return loss.squeeze(1)


def _grouped(x: Tensor, groups: int, height: int) -> Tensor:
    """Return x [n, m] as [groups, height, m], padded with zeros."""
    missing = groups * height - len(x)
    if missing:
        x = torch.cat([x, x.new_zeros(missing, x.shape[1])])
    return x.view(groups, height, -1)
