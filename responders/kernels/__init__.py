"""Cross-entropy over large catalogues."""

from responders.kernels.loss import LinearCrossEntropy, linear_cross_entropy

__all__ = ["LinearCrossEntropy", "linear_cross_entropy"]
