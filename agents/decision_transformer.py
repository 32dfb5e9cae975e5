"""Decision Transformer: slates as they were shown where sessions went well (Chen et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.candidate_items import CandidateItems
from agents.from_log import LogPolicy, check_form, minimise, observe_log
from agents.reinforce import later_clicks
from agents.site import Site
from agents.user_features import UserFeatures
from recsim_env.world import World
from responders import SessionLog
from responders.config import Config, setting
from responders.device import seeded
from responders.log import ragged
from responders.models.parts.attention import Block

Returns = Literal["clicks", "both", "none"]
"""What a slate is conditioned on: the clicks to come in the session; these and the slates to come;
or nothing, which is behaviour cloning."""

_FEWEST = 20  # sessions of which a quantile is taken


@dataclass(frozen=True)
class DecisionTransformerConfig(Config):
    """Settings of `DecisionTransformerPolicy`."""

    returns: Returns = setting("clicks", "What slates are conditioned on.")
    ask: float = setting(
        0.9, "Quantile of the log's returns that is asked for at each step.", ge=0, le=1
    )
    candidates: int = setting(
        250, "Items to choose from: the most clicked ones, if the catalogue has click counts.", ge=1
    )
    size: int = setting(64, "Numbers in the vectors of slates and items.", ge=4, le=8192)
    layers: int = setting(2, "Of the transformer.", ge=1, le=100)
    heads: int = setting(2, "Of attention; twice their number divides the size.", ge=1, le=1024)
    dropout: float = setting(0.1, "Share of the inputs dropped in training.", ge=0, lt=1)
    epochs: int = setting(10, "Passes over the log.", ge=1)
    batch_size: int = setting(64, "Histories in a minibatch.", ge=1)
    learning_rate: float = setting(0.001, "Of Adam; it falls to a tenth.", gt=0)


class Window(NamedTuple):
    """The last H slates of B users, and the slate to come.

    Args:
        slates: [B, H, E], features by `UserFeatures.by_slate`.
        shown: [B, H] bool, whether there was a slate.
        to_go: [B, H + 1, R], the returns from each slate on, in deviations of the log's.
        user: [B, F], standardised features.
        step: [B, H + 1] int64, slates of the session before each.
    """

    slates: Tensor
    shown: Tensor
    to_go: Tensor
    user: Tensor
    step: Tensor


class Network(nn.Module):
    """A causal transformer over returns to go and slates, in turn; scores of the next items.

    Args:
        features: of users and items.
        candidates: [C] int64, the items to score.
        n_returns: R.
        n_user: F.
        config: the settings.
    """

    def __init__(
        self,
        features: UserFeatures,
        candidates: Tensor,
        n_returns: int,
        n_user: int,
        config: DecisionTransformerConfig,
    ) -> None:
        super().__init__()
        self.register_buffer("item_features", features.items[candidates], persistent=False)
        self.item_features: Tensor
        self.ask = nn.Linear(n_returns + n_user + 1, config.size, bias=False)
        self.slate = nn.Linear(features.slate_size, config.size)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config.size, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.size)
        self.mix = nn.Linear(features.items.shape[1], config.size, bias=False)
        self.vector = nn.Parameter(torch.zeros(len(candidates), config.size))
        self.bias = nn.Parameter(torch.zeros(len(candidates)))

    def forward(self, window: Window) -> Tensor:
        """Return the scores [B, H + 1, C] of the items of each slate, given what was before."""
        h = window.shown.shape[1]
        user = window.user.unsqueeze(1).expand(-1, h + 1, -1)
        ask = self.ask(F.pad(torch.cat([window.to_go, user], 2), (0, 1), value=1.0))
        slate = F.pad(self.slate(window.slates), (0, 0, 0, 1))
        # ask 0, slate 0, ask 1, slate 1, …, ask H; what follows the last ask is cut off.
        x = self.drop(torch.stack([ask, slate], 2).flatten(1, 2)[:, :-1])
        exists = F.pad(window.shown, (0, 1), value=True).repeat_interleave(2, 1)[:, :-1]
        own = torch.eye(2 * h + 1, dtype=torch.bool, device=x.device)
        mask = (exists.unsqueeze(1) & torch.ones_like(own).tril()) | own
        number = window.step.repeat_interleave(2, 1)[:, :-1]
        for block in self.blocks:
            x = block(x, number, mask.unsqueeze(1))
        vectors = self.mix(self.item_features) + self.vector
        return self.norm(x[:, ::2]) @ vectors.t() + self.bias


class DecisionTransformerPolicy(LogPolicy):
    """A Decision Transformer over slates (Chen et al., NeurIPS 2021, arXiv:2106.01345).

    It learns which items the log shows, given the slates and clicks before and what the session
    went on to return; asked for a high return, it shows what was shown where that came true. It
    asks for a quantile of the returns of the log's sessions at the same step. `returns="both"` asks
    for two, after DT4IER (Liu et al., 2024, arXiv:2404.03637): the clicks to come, and the slates
    to come, how long the user is retained.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of the weights and of the order of the log.

    Attributes:
        goal: [horizon, R] float32, the returns asked for at each step.
        deviation: [R] float32, of the log's returns.
    """

    config_class: ClassVar[type[Config]] = DecisionTransformerConfig
    config: DecisionTransformerConfig

    def __init__(
        self, world: World | Site, config: DecisionTransformerConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(world, config, seed)
        n_returns = {"clicks": 1, "both": 2, "none": 0}[self.config.returns]
        self.goal = torch.zeros(self.site.horizon, n_returns, device=self.device)
        self.deviation = torch.ones(n_returns, device=self.device)
        self._candidates = CandidateItems.most_clicked(self.site, self.config.candidates)
        self._features = UserFeatures(self.site)
        self.net = self._untrained()

    def _untrained(self) -> Network:
        n_returns, n_user = len(self.deviation), self.site.features.shape[1]
        with seeded(self.seed):
            net = Network(self._features, self._candidates.item, n_returns, n_user, self.config)
        return net.to(self.device).eval()

    def window(self, observation: dict[str, Tensor]) -> Window:
        """Return what the network reads of a batched `HistoryObservation`.

        The returns to go of the slates before are the goal and what has come since.
        """
        slates = self._features.by_slate(observation)
        b, h, _ = slates.shape
        item, click = (observation[name].view(b, h, -1) for name in ("item", "click"))
        shown = (item >= 0).any(2)
        came = torch.stack([click.sum(2), shown.long()], 2).float()[:, :, : self.goal.shape[1]]
        goal = self.goal[observation["step"].clamp(max=len(self.goal) - 1)]  # [B, 1, R]
        to_go = torch.cat([goal + came.flip(1).cumsum(1).flip(1), goal], 1) / self.deviation
        user = self.site.standardised(observation.get("user", slates.new_zeros(b, 0)))
        step = observation["step"] + torch.arange(-h, 1, device=self.device)
        return Window(slates, shown, to_go, user, step.clamp(min=0))

    @torch.no_grad()
    def affinity(self, observation: dict[str, Tensor]) -> Tensor:
        return self.among_all(self.net(self.window(observation))[:, -1], self._candidates.item)

    def fit_log(self, log: SessionLog) -> None:
        check_form(log, self.site)
        to_go = self._returns(log)
        self.net = self._untrained()
        rows = _last_slates(log, self.site.history)
        self.net.train()
        with seeded(self.seed):
            minimise(
                lambda rows: self._loss(log, rows, to_go), self.net, rows, self.config, self.seed
            )
        self.net.eval()

    def _returns(self, log: SessionLog) -> Tensor:
        """Return the returns [T, R] from each slate of the log on, and set what is asked for."""
        place = ragged.place(log.session_length)
        clicks = log.response.sum(1) + later_clicks(log, gamma=1.0)
        slates = np.repeat(log.session_length, log.session_length) - place
        to_go = np.stack([clicks, slates], 1)[:, : self.goal.shape[1]]
        if not to_go.shape[1]:
            return self.tensor(to_go)
        goal = [np.quantile(to_go[place == 0], self.config.ask, axis=0)]
        for step in range(1, len(self.goal)):
            now = to_go[place == step]
            enough = len(now) >= _FEWEST
            goal.append(np.quantile(now, self.config.ask, axis=0) if enough else goal[-1])
        self.goal, self.deviation = self.tensor(np.stack(goal)), self.tensor(to_go.std(0) + 1e-6)
        return self.tensor(to_go)

    def _loss(self, log: SessionLog, rows: np.ndarray, to_go: Tensor) -> Tensor:
        """Return the cross-entropy of the items of the slates `rows` [B] and of those before."""
        window = self.window(observe_log(log, rows, self.site))
        h = window.shown.shape[1]
        row = torch.from_numpy(rows[:, None] + np.arange(-h, 1)).to(self.device).clamp(min=0)
        window = window._replace(to_go=to_go[row] / self.deviation)
        exists = F.pad(window.shown, (0, 1), value=True)[..., None]
        item = self._candidates.columns(log.slate[row.cpu().numpy()]).masked_fill(~exists, -1)
        log_chance = self.net(window).log_softmax(2).gather(2, item.clamp(min=0))
        return -log_chance[item >= 0].mean()


def _last_slates(log: SessionLog, history: int) -> np.ndarray:
    """Return slates [n] of a log such that they and the `history` ones before them are all."""
    place = ragged.place(log.session_length)
    to_end = np.repeat(log.session_length, log.session_length) - 1 - place
    return np.flatnonzero(to_end % (history + 1) == 0)
