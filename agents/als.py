"""Matrix factorisation of clicks by alternating least squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from agents.from_log import LogPolicy, clicked_items, session_clicks
from agents.implicit_package import import_implicit
from agents.site import Site
from recsim_env.world import World
from responders import SessionLog
from responders.config import Config, setting


@dataclass(frozen=True)
class ALSConfig(Config):
    """Settings of `ALSPolicy`."""

    factors: int = setting(32, "f, numbers in a vector.", ge=1, le=4096)
    confidence: float = setting(40.0, "α, weight of a click; what was not clicked has 1.", gt=1)
    regularisation: float = setting(0.1, "λ of the squared vectors.", gt=0)
    iterations: int = setting(15, "Alternations.", ge=1)


class ALSPolicy(LogPolicy):
    """Weighted matrix factorisation (Hu, Koren and Volinsky, ICDM 2008) of the package implicit.

    A user's vector is the least-squares solution for the clicks of the history, so that users who
    were not in the log have one as well; an item's affinity is its product with the item's vector.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of the initial vectors and the log of random slates.

    Raises:
        InputError: implicit is not installed.
    """

    config_class: ClassVar[type[Config]] = ALSConfig
    config: ALSConfig

    def __init__(self, world: World | Site, config: ALSConfig | None = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        import_implicit("als")
        self.vectors = torch.zeros(self.n_items, self.config.factors, device=self.device)

    def fit_log(self, log: SessionLog) -> None:
        with threadpool_limits(1, "blas"):  # implicit warns of more threads
            model = import_implicit("als").AlternatingLeastSquares(
                factors=self.config.factors,
                regularization=self.config.regularisation,
                alpha=self.config.confidence,
                iterations=self.config.iterations,
                num_threads=1,
                random_state=self.seed,
            )
            model.fit(session_clicks(log).astype("float32"), show_progress=False)
        self.vectors = self.tensor(model.item_factors)

    def user_vectors(self, clicked: Tensor) -> Tensor:
        """Return the vectors [B, f] of users with clicks [B, N]."""
        y, alpha = self.vectors, self.config.confidence
        regular = self.config.regularisation * torch.eye(y.shape[1], device=self.device)
        used = clicked.any(0)  # the products of all items may not fit into memory
        outer = (y[used].unsqueeze(2) * y[used].unsqueeze(1)).flatten(1)
        more = (clicked[:, used] @ outer).view(-1, *regular.shape)
        gram = y.t() @ y + regular + (alpha - 1) * more
        return torch.linalg.solve(gram, alpha * clicked @ y)

    def affinity(self, observation: dict[str, Tensor]) -> Tensor:
        return self.user_vectors(clicked_items(observation, self.n_items)) @ self.vectors.t()
