"""Top-k sparse autoencoders of hidden states.

A hidden state is written as a sum of a few directions out of many (Klenitskiy et al.,
arXiv 2507.12202, for recommenders; the top-k form of Gao et al., arXiv 2406.04093).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from responders.config import Config, setting
from responders.device import seeded
from responders.progress import progress_bar


@dataclass(frozen=True)
class AutoencoderConfig(Config):
    """Settings of `SparseAutoencoder` and of its training."""

    features: int = setting(64, "M, features.", ge=1, le=65_536)
    active: int = setting(6, "k, features that are active at a time, at most.", ge=1, le=65_536)
    tied: bool = setting(False, "Encode with the directions of the decoder.")
    epochs: int = setting(10, "Passes over the hidden states.", ge=1)
    batch_size: int = setting(512, "Hidden states in a batch.", ge=1)
    learning_rate: float = setting(0.005, "Of Adam.", gt=0)


class SparseAutoencoder(nn.Module):
    """Writes vectors as a centre plus at most k of M directions of length 1.

    The activation of a feature is never negative and has the unit of the vectors: it is how far
    the feature moves the vector.

    Args:
        size: D of the vectors.
        config: the settings.
    """

    def __init__(self, size: int, config: AutoencoderConfig) -> None:
        super().__init__()
        self.scale: Tensor
        self.config, self.active = config, min(config.active, config.features)
        self.decoder = nn.Parameter(F.normalize(torch.randn(config.features, size), dim=1))
        self.encoder = None if config.tied else nn.Parameter(self.decoder.detach().clone())
        self.threshold = nn.Parameter(torch.zeros(config.features))
        self.centre = nn.Parameter(torch.zeros(size))
        self.register_buffer("scale", torch.ones(()))

    @property
    def directions(self) -> Tensor:
        """[M, D], rows of length 1."""
        return F.normalize(self.decoder.detach(), dim=1)

    def encode(self, vector: Tensor) -> Tensor:
        """Return the activations [..., M] of vectors [..., D]; at most k are not 0."""
        encoder = self.decoder if self.encoder is None else self.encoder
        vector = (vector - self.centre) / self.scale
        top = F.linear(vector, encoder, -self.threshold).topk(self.active, dim=-1)
        code = vector.new_zeros(*vector.shape[:-1], len(self.threshold))
        return self.scale * code.scatter(-1, top.indices, top.values.relu())

    def decode(self, code: Tensor) -> Tensor:
        """Return the vectors [..., D] of activations [..., M]."""
        return code @ self.decoder + self.centre

    def forward(self, vector: Tensor) -> Tensor:
        """Return the reconstruction of vectors [..., D]."""
        return self.decode(self.encode(vector))


def fit_autoencoder(
    vectors: np.ndarray, config: AutoencoderConfig, seed: int = 0, *, progress: bool = False
) -> SparseAutoencoder:
    """Train an autoencoder to reconstruct vectors with the least mean squared error.

    In the first half of the epochs, features that no vector of an epoch activated start again in
    the direction of the error of a badly reconstructed vector (Bricken et al., 2023).

    Args:
        vectors: [n, D] float32.
        config: the settings.
        seed: of the weights and the order of the vectors.
        progress: show a progress bar.
    """
    data = torch.from_numpy(vectors)
    with seeded(seed):
        net = SparseAutoencoder(data.shape[1], config)
        with torch.no_grad():
            net.centre.copy_(data.mean(0))
            net.scale.copy_((data - net.centre).square().sum(1).mean().sqrt().clamp(min=1e-6))
        optimiser = torch.optim.Adam(net.parameters(), config.learning_rate)
        epochs = range(config.epochs)
        for epoch in progress_bar(epochs, desc="features", unit="epoch", disable=not progress):
            fired = _train_epoch(net, optimiser, data)
            if epoch < config.epochs // 2 and not fired.all():
                _revive(net, optimiser, ~fired, data)
    return net.eval()


def _train_epoch(net: SparseAutoencoder, optimiser: torch.optim.Adam, data: Tensor) -> Tensor:
    """Train on all vectors once; return which features were active, [M] bool."""
    fired = torch.zeros(len(net.threshold), dtype=torch.bool)
    for rows in torch.randperm(len(data)).split(net.config.batch_size):
        code = net.encode(data[rows])
        loss = (net.decode(code) - data[rows]).square().sum(1).mean() / net.scale.square()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            net.decoder.copy_(F.normalize(net.decoder, dim=1))
            fired |= (code > 0).any(0)
    return fired


@torch.no_grad()
def _revive(
    net: SparseAutoencoder, optimiser: torch.optim.Adam, dead: Tensor, data: Tensor
) -> None:
    """Point the `dead` [M] features at errors of vectors drawn by their squared error."""
    error = data - net(data)
    chosen = torch.multinomial(error.square().sum(1) + 1e-12, int(dead.sum()), replacement=True)
    net.decoder[dead] = F.normalize(error[chosen], dim=1)
    net.threshold[dead] = 0.0
    if net.encoder is not None:
        net.encoder[dead] = net.decoder[dead]
    for weight in (net.decoder, net.threshold, net.encoder):
        if weight is not None:
            for moment in ("exp_avg", "exp_avg_sq"):
                optimiser.state[weight][moment][dead] = 0.0
