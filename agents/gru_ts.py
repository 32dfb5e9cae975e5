"""A GRU of users, item vectors with a posterior, and Thompson sampling (Eide et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from agents.neural import NeuralConfig, NeuralPolicy, State
from agents.user_features import UserFeatures
from recsim_env.observations import HistoryObservation
from recsim_env.world import World
from responders.config import Config, setting


@dataclass(frozen=True)
class GRUTSConfig(NeuralConfig):
    """Settings of `GRUTSPolicy`."""

    hidden_size: int = setting(64, "Units of the GRU.", ge=1, le=8192)
    prior: float = setting(0.3, "Standard deviation of item vectors before any click.", gt=0)
    exploration: float = setting(1.0, "Factor of the posterior's deviations in training.", ge=0)
    n_steps: int = setting(4, "Slates of each user in a round.", ge=1)
    buffer: int = setting(100, "Slates of each user that are kept to learn from.", ge=1)
    updates: int = setting(16, "Minibatches after each round.", ge=1)
    batch_size: int = setting(512, "Slates in a minibatch.", ge=1)


class Model(nn.Module):
    """The log-odds of clicks, normally distributed because the items' vectors are.

    Args:
        features: of users and items.
        candidates: [C] int64, the items to score.
        n_user: F, features of users.
        n_positions: S.
        config: the settings.
    """

    def __init__(
        self,
        features: UserFeatures,
        candidates: Tensor,
        n_user: int,
        n_positions: int,
        config: GRUTSConfig,
    ) -> None:
        super().__init__()
        self.n_user, self.n_positions, self.prior = n_user, n_positions, config.prior
        table = F.pad(features.items, (0, 0, 1, 0))  # row 0: the empty position
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("item_features", features.items[candidates], persistent=False)
        self.table: Tensor
        self.item_features: Tensor
        n_inputs = 2 * table.shape[1] + 1
        self.start = nn.Linear(n_user + 1, config.hidden_size, bias=False)
        self.gru = nn.GRU(n_inputs, config.hidden_size, batch_first=True)
        self.user = nn.Linear(config.hidden_size, config.size)
        self.centre = nn.Linear(table.shape[1], config.size + 1)
        self.vector = nn.Parameter(torch.zeros(len(candidates), config.size + 1))
        log_prior = torch.full_like(self.vector, config.prior).log()
        self.log_deviation = nn.Parameter(log_prior)
        self.position = nn.Parameter(torch.zeros(n_positions))
        nn.init.constant_(self.centre.bias[-1:], -2.0)  # few items are clicked

    def users(self, state: State) -> Tensor:
        """Return vectors [B, d] of users, of which the last number is 1."""
        item, click = (
            state.history[name].view(len(state.x), -1, self.n_positions)
            for name in ("item", "click")
        )
        vectors, clicked = self.table[item + 1], click.unsqueeze(2).to(self.table.dtype)
        shown = vectors.mean(2)
        clicks = (clicked @ vectors).squeeze(2)
        inputs = torch.cat([shown, clicks, clicked.sum(3)], 2)
        start = self.start(F.pad(state.x[:, : self.n_user], (0, 1), value=1.0)).tanh()
        last = self.gru(inputs, start.unsqueeze(0))[1][0]
        return F.pad(self.user(last), (0, 1), value=1.0)

    def forward(self, state: State) -> tuple[Tensor, Tensor]:
        """Return the means and the standard deviations of the log-odds, [B, C] each."""
        user = self.users(state)
        mean = user @ (self.centre(self.item_features) + self.vector).t()
        return mean, (user.square() @ (2 * self.log_deviation).exp().t()).sqrt()

    def divergence(self) -> Tensor:
        """Return KL(posterior ‖ prior) of the items' vectors; the prior's mean is their centre."""
        deviation = self.log_deviation.exp() / self.prior
        squares = deviation.square() + (self.vector / self.prior).square()
        return 0.5 * (squares - 1 - 2 * deviation.log()).sum()


class Step(NamedTuple):
    """A slate of each of B users.

    Args:
        state: before the slate.
        slate: [B, S] int64, numbers of candidates, -1 = empty.
        click: [B, S] float32.
    """

    state: State
    slate: Tensor
    click: Tensor


class GRUTSPolicy(NeuralPolicy):
    """Thompson sampling with a GRU and a posterior of item vectors (Eide et al., 2022).

    A GRU reads the slates and clicks of the history, from a start that the user's features give,
    and the log-odds of a click are its output times the item's vector. Vectors have independent
    normal posteriors around a linear function of the item's features, where the paper has a centre
    for each group of items; they are fitted by variational inference to the answers to the slates
    shown. In training, each position shows the best item by a draw of all vectors of its own
    (in-slate Thompson sampling); otherwise the items with the best means are shown. Users may click
    several items, so each answer has a likelihood of its own. See arXiv:2104.15046.

    Args:
        world: see `Policy`.
        config: the settings.
        seed: of weights and exploration.
    """

    config_class: ClassVar[type[Config]] = GRUTSConfig
    config: GRUTSConfig
    net: Model

    def networks(self, features: UserFeatures) -> Model:
        n_user = self.site.features.shape[1]
        return Model(features, self.candidates, n_user, self.n_positions, self.config)

    def state(self, observation: dict[str, Tensor]) -> State:
        """Return the features, and `item` and `click` of a batched `HistoryObservation`."""
        history = {name: observation[name] for name in ("item", "click")}
        return State(self._features(observation), history)

    def rank(self, state: State) -> Tensor:
        return self.net(state)[0]

    def draw(self, state: State) -> Tensor:
        """Return slates [B, S] of candidates, each position by its own draw of all vectors."""
        mean, deviation = self.net(state)
        slate = torch.full((len(mean), self.n_positions), -1, device=self.device)
        for position in range(self.n_positions):
            # Given a user, the log-odds of items are independent and normal, as their vectors are.
            noise = torch.randn(mean.shape, generator=self._generator, device=self.device)
            score = mean + self.config.exploration * deviation * noise
            slate[:, position] = self._rules.best(score, slate, position)
        return slate

    def train(self, world: World, steps: int, seed: int) -> int:
        config = self.config
        n_rounds = -(-steps // (world.num_users * config.n_steps))
        optimiser = torch.optim.Adam(self.net.parameters(), config.learning_rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, max(n_rounds, 1))
        observe = HistoryObservation(world)
        world.reset(seed=seed)
        rounds: list[Step] = []
        shown = 0.0
        for _ in range(n_rounds):
            rounds = [*rounds, self._act(world, observe)][
                -max(config.buffer // config.n_steps, 1) :
            ]
            shown += float((rounds[-1].slate >= 0).sum())
            data = tree_map(lambda *parts: torch.cat(parts), *rounds)
            for _ in range(config.updates):
                rows = torch.randint(
                    len(data.slate), (config.batch_size,), generator=self._generator,
                    device=self.device,
                )  # fmt: skip
                loss = self.loss(tree_map(lambda v, rows=rows: v[rows], data), shown)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            schedule.step()
        done = n_rounds * config.n_steps * world.num_users
        self.count_steps(done)
        return done

    @torch.no_grad()
    def _act(self, world: World, observe: HistoryObservation) -> Step:
        """Return a round of slates; users whose episodes end start new ones."""
        steps = []
        for _ in range(self.config.n_steps):
            state = self.state(observe(world))
            slate = self.draw(state)
            outcome = self.show(world, slate)
            world.reset(mask=outcome.left | outcome.truncated)
            steps.append(Step(state, slate, outcome.click.float()))
        return tree_map(lambda *parts: torch.cat(parts), *steps)

    def loss(self, step: Step, n_shown: float) -> Tensor:
        """Return the negative evidence bound per item shown.

        Args:
            step: slates [B, S].
            n_shown: items shown so far, among which the divergence is divided.
        """
        mean, deviation = self.net(step.state)
        item, shown = step.slate.clamp(min=0), step.slate >= 0
        noise = torch.randn(item.shape, generator=self._generator, device=self.device)
        drawn = mean.gather(1, item) + deviation.gather(1, item) * noise + self.net.position
        error = F.binary_cross_entropy_with_logits(drawn[shown], step.click[shown])
        return error + self.net.divergence() / n_shown
