"""Measured limits of a device, from which a lower bound for the time of a loss follows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.harness import time_calls


@dataclass(frozen=True)
class Limits:
    """Limits of a device: bytes per second copied, operations per second of a matrix product."""

    copy: float
    product: float

    @staticmethod
    def of(device: str, dtype: str) -> Limits:
        """Measure a large copy (read and write counted) and a large matrix product."""
        cuda = device != "cpu"
        n = 8192 if cuda else 2048
        a = torch.randn(n, n, device=device, dtype=getattr(torch, dtype))
        source = torch.empty(1 << (30 if cuda else 27), dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        calls = [lambda: target.copy_(source), lambda: a @ a]
        copy, product = (min(times) for times in time_calls(calls, rounds=6, device=device))
        return Limits(2 * source.numel() / copy, 2 * n**3 / product)

    def floor(self, work: float, moved: float) -> tuple[float, str]:
        """Return the minimum seconds for `work` operations and `moved` bytes, and which binds."""
        by = {"operations": work / self.product, "bytes": moved / self.copy}
        binds = max(by, key=lambda which: by[which])
        return by[binds], binds
