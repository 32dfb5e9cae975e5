"""The base class of policies whose networks score candidates, and the networks' common parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from agents.candidate_items import CandidateItems
from agents.policy import Policy
from agents.site import Site
from agents.user_features import ItemScores, UserFeatures
from recsim_env.outcome import Outcome
from recsim_env.world import World
from responders import InputError
from responders.config import Config, setting
from responders.device import seeded


@dataclass(frozen=True)
class NeuralConfig(Config):
    """Settings that policies with networks have in common."""

    candidates: int = setting(
        250, "Items to choose from: the most clicked ones, if the catalogue has click counts.", ge=1
    )
    size: int = setting(32, "Numbers in the vectors of users and items.", ge=1, le=8192)
    hidden_size: int = setting(128, "Units of each hidden layer.", ge=1, le=8192)
    learning_rate: float = setting(0.003, "Of Adam; it falls to a tenth.", gt=0)


class State(NamedTuple):
    """The features x [B, D] of B users, see `UserFeatures`, and tensors of their history.

    These are `shown` and `clicked` of `UserFeatures.repeats`, unless a subclass says otherwise.
    """

    x: Tensor
    history: dict[str, Tensor]


class ClickModel(ItemScores):
    """Log-odds of clicks: scores of items for users, and effects of the position and items above.

    An item changes the log-odds of one below it by the product of the first one's key and the
    second one's query, linear functions of their features; several items above by the mean.

    Args:
        features: of users and items.
        candidates: [C] int64, the items to score.
        n_positions: S.
        config: the settings.
        reads_above: whether there are effects of the items above.
        more: see `ItemScores`.
    """

    def __init__(
        self,
        features: UserFeatures,
        candidates: Tensor,
        n_positions: int,
        config: NeuralConfig,
        reads_above: bool = True,
        more: int = 0,
    ) -> None:
        super().__init__(features, candidates, config.size, config.hidden_size, more)
        nn.init.constant_(self.bias, -2.0)  # few items are clicked
        self.position = nn.Parameter(torch.zeros(n_positions))
        self.reads_above = reads_above
        if reads_above:
            self.key = nn.Linear(features.items.shape[1], config.size, bias=False)
            self.query = nn.Linear(features.items.shape[1], config.size, bias=False)
            nn.init.zeros_(self.query.weight)

    def log_odds(self, score: Tensor, slate: Tensor) -> Tensor:
        """Return the log-odds [B, S] for slates [B, S] from the scores of all candidates [B, C]."""
        item = slate.clamp(min=0)
        log_odds = score.gather(1, item) + self.position
        if not self.reads_above:
            return log_odds
        effects = self.effects()
        pair = item.unsqueeze(2) + len(effects) * item.unsqueeze(1)  # [B, below, above]
        effect = effects.flatten().gather(0, pair.flatten()).view_as(pair)
        above = (slate >= 0).to(score.dtype).unsqueeze(1).expand_as(pair).tril(-1)
        return log_odds + (effect * above).sum(2) / above.sum(2).clamp(min=1)

    def effects(self) -> Tensor:
        """Return [C, C], how the item of each row changes the log-odds of those below it."""
        return self.key(self.item_features) @ self.query(self.item_features).t()

    def loss(self, score: Tensor, slate: Tensor, click: Tensor) -> Tensor:
        """Return the mean cross-entropy of the clicks [B, S] on the items shown."""
        shown = (slate >= 0).to(score.dtype)
        log_odds = self.log_odds(score, slate)
        return nn.functional.binary_cross_entropy_with_logits(
            log_odds, click, shown, reduction="sum"
        ) / shown.sum().clamp(min=1)


class NeuralPolicy(Policy):
    """Shows the best of C candidates by the scores of its networks.

    A subclass implements `networks`, `rank` and `train`. Slates inside it are numbers of
    candidates.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights and exploration.

    Attributes:
        candidates: [C] int64, catalogue indices.
        net: the networks.
    """

    config_class: ClassVar[type[Config]] = NeuralConfig
    config: NeuralConfig

    def __init__(
        self, world: World | Site, config: NeuralConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(world, config, seed)
        self._candidates = CandidateItems.most_clicked(self.site, self.config.candidates)
        self.candidates, self._rules = self._candidates.item, self._candidates.rules
        self._features = UserFeatures(self.site)
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self.net = self.untrained()

    def untrained(self) -> Any:
        """Return the networks with the random weights of the seed, on the policy's device."""
        with seeded(self.seed):
            return self.networks(self._features).to(self.device)

    def networks(self, features: UserFeatures) -> nn.Module:
        """Return the networks with random weights."""
        raise NotImplementedError

    def rank(self, state: State) -> Tensor:
        """Return how good each candidate is for each user, [B, C]."""
        raise NotImplementedError

    @torch.no_grad()
    def score(self, observation: dict[str, Tensor]) -> Tensor:
        return self.among_all(self.rank(self.state(observation)), self.candidates)

    def state(self, observation: dict[str, Tensor]) -> State:
        """Return what the networks read of a batched `HistoryObservation`."""
        repeats = self._features.repeats(observation, self._candidates)
        return State(self._features(observation), repeats)

    def show(self, world: World, slate: Tensor) -> Outcome:
        """Show slates [B, S] of candidates, -1 = empty, to the users of `world`."""
        return world.step(self._candidates.items(slate))

    def check_reward(self, world: World) -> None:
        """Raise `InputError` unless the world has a single reward."""
        if world.n_objectives is not None:
            raise InputError(
                f"{type(self).__name__} learns from one reward, the world has "
                f"{world.n_objectives}: give a weight to each"
            )


def in_front(slate: Tensor, score: Tensor) -> Tensor:
    """Return scores [B, C] by which the items of slates [B, S] come first, in their order."""
    place = torch.arange(slate.shape[1], 0, -1, device=score.device).to(score.dtype)
    column = torch.where(slate >= 0, slate, score.shape[1])
    above = score.amax(1, keepdim=True) + place
    return nn.functional.pad(score, (0, 1)).scatter(1, column, above)[:, :-1]
