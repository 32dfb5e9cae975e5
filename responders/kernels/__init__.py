"""Cross-entropy over large catalogues."""

from responders.kernels.loss import linear_cross_entropy

__all__ = ["linear_cross_entropy"]
