"""One step of look-ahead with the responder: clicks now, and the chance to be there later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from agents.greedy import GreedyConfig, GreedyPolicy
from agents.site import Site
from agents.tracking import StateTracker
from recsim_env.world import World
from responders.config import Config, setting
from responders.models.base import Responder
from responders.models.state import State, take_rows

_AT_A_TIME = 100_000  # pairs of items and imagined users


@dataclass(frozen=True)
class LookAheadConfig(GreedyConfig):
    """Settings of `LookAheadPolicy`."""

    slates: int = setting(4, "M, slates that are compared for each user.", ge=1)
    draws: int = setting(2, "D, imagined answers to each of them.", ge=1)
    spread: float = setting(1.0, "Scale of the noise in the scores that makes them differ.", ge=0)
    next_candidates: int = setting(20, "Best items of each layer, for the slate after it.", ge=1)
    gamma: float = setting(0.9, "Discount.", ge=0, le=1)


class LookAheadPolicy(GreedyPolicy):
    """Compares slates by their clicks and those of the best next slate, if the user stays.

    For each user, the greedy slate and M - 1 slates by scores with Gumbel noise are imagined with D
    answers each. The value of a slate is the mean of clicks + γ · (1 - chance to leave) · clicks of
    the greedy slate in the state that follows. It is an upper reference like `greedy`, and as
    dependent on the responder's errors. A user who leaves counts as gone, also where users return.

    Args:
        world: its responder is the model, and its hazard says who leaves.
        config: the settings.
        seed: of the noise and of the imagined answers.

    Raises:
        InputError: there is no world.
    """

    config_class: ClassVar[type[Config]] = LookAheadConfig
    config: LookAheadConfig

    def __init__(
        self, world: World | Site, config: LookAheadConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(world, config, seed)
        assert isinstance(world, World)
        self._leave_chance = world.leave_chance
        self._counter = VisitCounter(world.responder)
        self._tracker = StateTracker(self._counter, self.n_positions)
        self._generator = torch.Generator(self.device).manual_seed(seed)

    @torch.inference_mode()
    def act(self, observation: dict[str, Tensor]) -> Tensor:
        state, config = self._tracker.state(observation), self.config
        each = config.slates * config.draws * config.next_candidates
        users = torch.arange(len(observation["item"]), device=self.device)
        parts = users.split(max(1, _AT_A_TIME // max(each, len(self._candidates))))
        return torch.cat([self._best(take_rows(state, rows), len(rows)) for rows in parts])

    def _best(self, state: State, b: int) -> Tensor:
        """Return the best slate [B, S] for the B users of `state`."""
        m, d = self.config.slates, self.config.draws
        score = self._scores(state["memory"], b)
        slate = self._imagined(score)
        state = tree_map(lambda value: value.repeat_interleave(m * d, 0), state)
        shown = slate.repeat_interleave(d, 0)
        # All slates are answered with the same numbers, so that chance does not decide.
        uniform = torch.rand(d, self.n_positions, generator=self._generator, device=self.device)
        response = self._responder.respond(state["memory"], shown, uniform.repeat(b * m, 1))
        after = self._counter.after(state, shown, response.click, response.state)
        leave = self._leave_chance(
            after["streak"], after["step"], response.click.sum(1), after["clicks"], response.state
        )
        item = self._best_of_layers(score).repeat_interleave(m * d, 0)
        later = self._next_clicks(response.state, item)
        value = response.probability.sum(1) + self.config.gamma * (1 - leave) * later
        best = value.view(b, m, d).mean(2).argmax(1)
        return slate.view(b, m, -1)[torch.arange(b, device=self.device), best]

    def _imagined(self, score: Tensor) -> Tensor:
        """Return M slates for each user, [B · M, S]; the first of each is the greedy one."""
        shape = (len(score), self.config.slates, score.shape[1])
        noise = torch.empty(shape, device=self.device).exponential_(generator=self._generator).log()
        noise[:, 0] = 0
        score = (score.unsqueeze(1) - self.config.spread * noise).flatten(0, 1)
        return self._candidates.items(self._candidates.rules.choose(score))

    def _best_of_layers(self, score: Tensor) -> Tensor:
        """Return the numbers [B, m] of the best candidates of each layer."""
        allowed = self._candidates.rules.allowed
        layers = torch.ones_like(score[:1]).bool() if allowed is None else allowed.unique(dim=0)
        n = [min(self.config.next_candidates, int(layer.sum())) for layer in layers]
        best = [
            score.masked_fill(~layer, -torch.inf).topk(k, 1).indices
            for layer, k in zip(layers, n, strict=True)
        ]
        return torch.cat(best, 1)

    def _next_clicks(self, memory: State, item: Tensor) -> Tensor:
        """Return the expected clicks [B] on the greedy slate of the candidates `item` [B, m]."""
        b, m = item.shape
        repeated = tree_map(lambda value: value.repeat_interleave(m, 0), memory)
        alone = self._candidates.item[item].view(-1, 1)
        score = self._responder.logits(repeated, alone).view(b, m)
        every = score.new_full((b, len(self._candidates)), -torch.inf)
        chosen = self._candidates.rules.choose(every.scatter(1, item, score))
        slate = self._candidates.items(chosen)
        return (self._responder.logits(memory, slate).sigmoid() * (slate >= 0)).sum(1)


class VisitCounter:
    """Tracks a responder's state and the counts of the visit that the hazard of leaving reads.

    Args:
        responder: its state is `memory`.
    """

    def __init__(self, responder: Responder) -> None:
        self._responder = responder

    def start(self, user: Tensor) -> State:
        """Return the state of new users with features `user` [B, F]."""
        zero = torch.zeros(len(user), dtype=torch.int64, device=user.device)
        memory = self._responder.start(user)
        return {"memory": memory, "streak": zero, "step": zero, "clicks": zero}

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the state after users saw `slate` [B, S] and answered `click` [B, S]."""
        memory = self._responder.observe(state["memory"], slate, click)
        return self.after(state, slate, click, memory)

    def after(self, state: State, slate: Tensor, click: Tensor, memory: State) -> State:
        """Return the state with `memory` after `slate` [B, S]; an empty one does not count."""
        clicks, shown = click.long().sum(1), (slate >= 0).any(1)
        return {
            "memory": memory,
            "streak": (state["streak"] + shown) * (clicks == 0),
            "step": state["step"] + shown,
            "clicks": state["clicks"] + clicks,
        }
