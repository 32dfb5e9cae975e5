"""Cross-entropy over large catalogues."""

from responders.kernels.loss import (
    LinearCrossEntropy,
    choose_negatives,
    implementation_for,
    linear_cross_entropy,
)
from responders.kernels.negatives import Proposal
from responders.kernels.parallel import sharded_cross_entropy

__all__ = [
    "LinearCrossEntropy",
    "Proposal",
    "choose_negatives",
    "implementation_for",
    "linear_cross_entropy",
    "sharded_cross_entropy",
]
