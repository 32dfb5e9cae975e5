"""Cross-entropy over large catalogues."""

from responders.kernels.loss import (
    LinearCrossEntropy,
    choose_negatives,
    implementation_for,
    linear_cross_entropy,
)
from responders.kernels.negatives import Proposal

__all__ = [
    "LinearCrossEntropy",
    "Proposal",
    "choose_negatives",
    "implementation_for",
    "linear_cross_entropy",
]
