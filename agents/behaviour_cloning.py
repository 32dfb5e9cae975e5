"""Behaviour cloning: choose what the log's policy would have chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from agents.from_log import LogPolicy, check_form, minimise, observe_log
from agents.neural import NeuralConfig, NeuralPolicy, State
from agents.plackett_luce import draw
from agents.user_features import ItemScores, UserFeatures
from responders import InputError, SessionLog
from responders.config import Config, setting


@dataclass(frozen=True)
class BehaviourCloningConfig(NeuralConfig):
    """Settings of `BehaviourCloningPolicy`."""

    imitate: Literal["slates", "clicked_slates", "clicks"] = setting(
        "clicks", "All slates, the slates with a click, or only the items that were clicked."
    )
    draw: bool = setting(False, "Draw slates, as the log's policy may have, instead of the best.")
    epochs: int = setting(10, "Passes over the log.", ge=1)
    batch_size: int = setting(512, "Slates in a minibatch.", ge=1)


class BehaviourCloningPolicy(LogPolicy, NeuralPolicy):
    """A softmax over candidates, fitted by maximum likelihood to what a log shows each user.

    The network reads the user's history before the slate, and each imitated item is one choice.
    Imitating `slates` gives the log's policy; with `clicks`, the items that users chose from what
    that policy showed them. A slate holds the likeliest items or, with `draw`, items drawn one
    after another without replacement.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of the weights, the order of the log, and draws.
    """

    config_class: ClassVar[type[Config]] = BehaviourCloningConfig
    config: BehaviourCloningConfig
    net: ItemScores

    def networks(self, features: UserFeatures) -> ItemScores:
        return ItemScores(features, self.candidates, self.config.size, self.config.hidden_size)

    def rank(self, state: State) -> Tensor:
        return self.net(*state)

    def affinity(self, observation: dict[str, Tensor]) -> Tensor:
        return NeuralPolicy.score(self, observation)

    def reset(self) -> None:
        self._generator.manual_seed(self.seed)

    @torch.no_grad()
    def act(self, observation: dict[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        if not self.config.draw:
            return super().act(observation)
        score = self.rank(self.state(observation))
        slate, _ = draw(score, self._rules, None, self._generator)
        return self._candidates.items(slate)

    def fit_log(self, log: SessionLog) -> None:
        check_form(log, self.site)
        column = self._candidates.columns(log.slate)
        chosen = column >= 0
        click = torch.from_numpy(log.response > 0).to(self.device)
        if self.config.imitate == "clicks":
            chosen &= click
        elif self.config.imitate == "clicked_slates":
            chosen &= click.any(1, keepdim=True)
        kept = chosen.any(1).nonzero().squeeze(1).cpu().numpy()
        if not len(kept):
            raise InputError(
                f"no slate of the log has {self.config.imitate.replace('_', ' ')} of the "
                f"{len(self.candidates)} candidates: set more candidates"
            )
        self.net = self.untrained()

        def loss(rows: np.ndarray) -> Tensor:
            score = self.rank(self.state(observe_log(log, rows, self.site)))
            log_chance = score.log_softmax(1).gather(1, column[rows].clamp(min=0))
            return -log_chance[chosen[rows]].mean()

        minimise(loss, self.net, kept, self.config, self.seed)
