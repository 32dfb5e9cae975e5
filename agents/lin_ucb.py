"""LinUCB: a linear regression of clicks on the user's state for each item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agents.candidate_items import CandidateItems
from agents.linear_features import impressions, item_components, user_state
from agents.policy import Policy
from agents.site import Site
from agents.transition import Transition
from recsim_env.candidates import most_clicked
from recsim_env.world import World
from responders.config import Config, setting


@dataclass(frozen=True)
class LinUCBConfig(Config):
    """Settings of `LinUCBPolicy`."""

    exploration: float = setting(0.3, "α, standard errors added to the estimate.", ge=0)
    regularisation: float = setting(1.0, "λ, initial diagonal of the matrices.", gt=0)
    components: int = setting(8, "Principal components of the item features.", ge=1, le=256)
    candidates: int = setting(
        250, "Items to choose from: the most clicked ones, if the catalogue has click counts.", ge=1
    )


class LinUCBPolicy(Policy):
    """LinUCB with disjoint models (Li et al., WWW 2010, algorithm 1).

    The state x of a user is a constant, the user's features and the mean of the items clicked in
    the history. For each item, θ = A⁻¹b with A = λI + Σ xxᵀ over its impressions and b = Σ x over
    its clicks; the items with the highest xᵀθ + α √(xᵀA⁻¹x) are shown. The impressions of a step
    are added at once, and only the matrices of items that were shown are inverted again. It takes
    C × d² numbers for C candidates. A candidate that was never shown has the same bound for all
    users and comes before most others, so a world of B users tries S new ones in a step.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: not used.
    """

    config_class: ClassVar[type[Config]] = LinUCBConfig
    config: LinUCBConfig

    def __init__(
        self, world: World | Site, config: LinUCBConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(world, config, seed)
        self.exploration = self.config.exploration
        self.items = item_components(self.site, self.config.components)
        d = 1 + self.site.features.shape[1] + self.items.shape[1]
        items = most_clicked(self.catalogue)[: self.config.candidates].sort().values
        self._candidates, c = CandidateItems(self.site, items), len(items)
        eye = torch.eye(d, device=self.device)
        self.gram = (self.config.regularisation * eye).repeat(c, 1, 1)
        self.inverse = (eye / self.config.regularisation).repeat(c, 1, 1)
        self.target = torch.zeros(c, d, device=self.device)
        self.weight = torch.zeros(c, d, device=self.device)

    def act(self, observation: dict[str, Tensor]) -> Tensor:
        x = user_state(self.site, self.items, observation)
        outer = (x.unsqueeze(2) * x.unsqueeze(1)).flatten(1)
        variance = outer @ self.inverse.flatten(1).t()  # xᵀA⁻¹x of all users and candidates
        bound = x @ self.weight.t() + self.exploration * variance.clamp(min=0).sqrt()
        return self._candidates.items(self._candidates.rules.choose(bound))

    def score(self, observation: dict[str, Tensor]) -> Tensor:
        value = user_state(self.site, self.items, observation) @ self.weight.t()
        return self.among_all(value, self._candidates.item)

    def learn(self, transition: Transition) -> None:
        state = user_state(self.site, self.items, transition.observation)
        item, click, x = impressions(transition, state)
        item = self._candidates.columns(item)
        known = item >= 0
        item, click, x = item[known], click[known], x[known]
        self.gram.index_add_(0, item, x.unsqueeze(2) * x.unsqueeze(1))
        self.target.index_add_(0, item, x * click.unsqueeze(1))
        shown = item.unique()
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(self.gram[shown]))
        self.inverse[shown] = inverse
        self.weight[shown] = (inverse @ self.target[shown].unsqueeze(2)).squeeze(2)
