"""Backward passes that cannot be differentiated again."""

import torch


def refuse_second_derivative() -> None:
    """Raise `RuntimeError` in a backward pass with create_graph=True.

    PyTorch would treat the gradient as a constant, and its derivative would silently be missing.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "linear_cross_entropy has no second derivative: call backward without create_graph=True"
        )
