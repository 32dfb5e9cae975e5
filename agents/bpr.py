"""Matrix factorisation trained to rank clicked items above others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
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
class BPRConfig(Config):
    """Settings of `BPRPolicy`."""

    factors: int = setting(32, "f, numbers in a vector.", ge=1, le=4096)
    learning_rate: float = setting(0.01, "Of the stochastic gradient steps.", gt=0)
    regularisation: float = setting(0.01, "λ of the squared vectors.", ge=0)
    iterations: int = setting(100, "Passes over the clicks.", ge=1)


class BPRPolicy(LogPolicy):
    """Bayesian personalised ranking (Rendle et al., UAI 2009) of the package implicit.

    The method has no vector for users who were not in the log. Here a user's vector is a linear
    function of the mean vector of the clicked items, fitted to the log's sessions by least squares.
    implicit draws the items that lose in proportion to their clicks, so that popular items gain
    little.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of the training and the log of random slates.

    Raises:
        InputError: implicit is not installed.
    """

    config_class: ClassVar[type[Config]] = BPRConfig
    config: BPRConfig

    def __init__(self, world: World | Site, config: BPRConfig | None = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        import_implicit("bpr")
        f = self.config.factors
        self.vectors = torch.zeros(self.n_items, f, device=self.device)
        self.bias = torch.zeros(self.n_items, device=self.device)
        self.to_user = torch.zeros(f, f, device=self.device)

    def fit_log(self, log: SessionLog) -> None:
        clicks = session_clicks(log).astype("float32")
        with threadpool_limits(1, "blas"):  # implicit warns of more threads
            model = import_implicit("bpr").BayesianPersonalizedRanking(
                factors=self.config.factors,
                learning_rate=self.config.learning_rate,
                regularization=self.config.regularisation,
                iterations=self.config.iterations,
                num_threads=1,
                random_state=self.seed,
            )
            model.fit(clicks, show_progress=False)
        vectors = model.item_factors[:, :-1]  # the last column is the item's bias
        n_clicks = np.asarray(clicks.sum(1))
        has_click = n_clicks[:, 0] > 0
        mean = (clicks @ vectors)[has_click] / n_clicks[has_click]
        to_user, *_ = np.linalg.lstsq(mean, model.user_factors[has_click, :-1], rcond=None)
        self.vectors, self.bias = self.tensor(vectors), self.tensor(model.item_factors[:, -1])
        self.to_user = self.tensor(to_user)

    def affinity(self, observation: dict[str, Tensor]) -> Tensor:
        clicked = clicked_items(observation, self.n_items)
        mean = clicked @ self.vectors / clicked.sum(1, keepdim=True).clamp(min=1)
        return mean @ self.to_user @ self.vectors.t() + self.bias
