"""A world whose truth is known: simulated users with every probability stated.

The truth is itself a responder, `KnownTruth`: its state is a function of what a model of the log
can see (user features, slates, clicks), so its probabilities are the Bayes optimum for that log.
Each effect has one parameter that turns it off. Everything made here is synthetic and says so.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from responders.errors import InputError
from responders.known_truth.presets import TruthSettings
from responders.log.catalogue import Catalogue
from responders.log.session_log import SessionLog
from responders.models.base import LogShape, Responder, Response, draw_uniform
from responders.models.state import State

PARTICLES = 64
"""Draws of the hidden taste by which the ceiling of a world with `hidden` > 0 is estimated."""


def make_catalogue(settings: TruthSettings) -> tuple[Catalogue, dict[str, np.ndarray]]:
    """Return the items of a world and what is true of them: place, cluster and quality."""
    rng = np.random.default_rng([settings.seed, 1])
    n, d, k = settings.n_items, settings.dimensions, settings.clusters
    weight = 1 / np.arange(1, k + 1) ** settings.zipf
    cluster = rng.choice(k, n, p=weight / weight.sum())
    centre = rng.normal(size=(k, d))
    place = centre[cluster] + 0.6 * rng.normal(size=(n, d))
    place /= np.linalg.norm(place, axis=1, keepdims=True)
    quality = rng.normal(size=n)
    price = np.exp(rng.normal(2.0, 0.6, n)).astype(np.float32)
    mix = rng.normal(size=(d, settings.item_features))
    features = place @ mix + settings.feature_noise * rng.normal(size=(n, settings.item_features))
    attributes: dict[str, np.ndarray] = {}
    ids = np.arange(n)
    if settings.layers:
        ids = ids + 1  # RL4RS counts from 1
        bounds = np.array([39, 147]) * n // 283
        attributes["layer"] = (1 + np.searchsorted(bounds, ids, side="left")).astype(np.int8)
        attributes["special"] = (attributes["layer"] > 1) & (rng.random(n) < 0.45)
        price = price * attributes["layer"] ** 2
    catalogue = Catalogue(ids, features, price, attributes)
    return catalogue, {"place": place, "cluster": cluster, "quality": quality}


class KnownTruth(Responder):
    """The users of a known-truth world, with P draws of what no feature tells of them.

    The state holds taste [B, P, d], where it returns to, the fatigue with each cluster [B, K] and
    the log-weight [B, P] of each draw given the clicks so far. P is 1 unless `hidden` > 0; then
    the answers are estimates by importance-weighted draws.

    Args:
        shape: sizes of the log.
        settings: as keywords, see `TruthSettings`.
    """

    reads_clicks_above = True
    trained_by_gradient = False

    def __init__(self, shape: LogShape, **settings: Any) -> None:
        super().__init__(shape)
        self.place: Tensor
        self.own: Tensor
        self.cluster: Tensor
        self.examination: Tensor
        self.layer: Tensor
        self.draws: Tensor
        self.settings = s = TruthSettings(**settings)
        self.catalogue, items = make_catalogue(s)
        price = np.log(self.catalogue.price)  # type: ignore[arg-type]
        price = (price - price.mean()) / price.std()
        own = s.base + s.quality * items["quality"] - s.price_effect * price
        n_layer = s.n_positions // s.layers if s.layers else 0
        layer = np.arange(s.n_positions) // n_layer if s.layers else np.zeros(s.n_positions)
        tensors = {
            # A last row for the empty position: no place, cluster 0.
            "place": F.pad(torch.tensor(items["place"], dtype=torch.float32), (0, 0, 0, 1)),
            "own": F.pad(torch.tensor(own, dtype=torch.float32), (0, 1)),
            "cluster": F.pad(torch.tensor(items["cluster"]), (0, 1)),
            "examination": torch.arange(1, s.n_positions + 1.0) ** -s.position_bias,
            "layer": torch.tensor(layer, dtype=torch.int64),
            "draws": self._draws(),
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def _draws(self) -> Tensor:
        s = self.settings
        if not s.hidden:
            return torch.zeros(1, s.dimensions)
        rng = np.random.default_rng([s.seed, 2])
        draws = rng.normal(size=(PARTICLES, s.dimensions)) * np.sqrt(s.hidden / s.dimensions)
        return torch.tensor(draws, dtype=torch.float32)

    @property
    def hazard(self) -> np.ndarray:
        """[K] float64, chance to leave after a slate by the number of fruitless slates in a row.

        The last value holds for all longer rows; it counts from `settings.min_slates` on.
        """
        s = self.settings
        return 1 - (1 - s.leaving) * np.exp(-s.impatience * np.arange(21))

    def start(self, user: Tensor) -> State:
        """Return the state of new users; their features [B, d] are what is visible of taste."""
        return self.start_at(user[:, None] + self.draws)

    def start_at(self, taste: Tensor) -> State:
        """Return the state of users with initial tastes `taste` [B, P, d]."""
        b, p = taste.shape[:2]
        return {
            "taste": taste,
            "home": taste,
            "fatigue": taste.new_zeros(b, self.settings.clusters),
            "log_weight": taste.new_zeros(b, p),
        }

    def attraction(self, state: State) -> Tensor:
        """Return the log-odds [B, N] of attraction of every item, alone in a slate (mean draw)."""
        weight = state["log_weight"].softmax(1)
        taste = torch.einsum("bp,bpd->bd", weight, state["taste"])
        score = self.settings.taste * taste @ self.place[:-1].t() + self.own[:-1]
        return score - self.settings.fatigue * state["fatigue"][:, self.cluster[:-1]]

    def _before_clicks(self, state: State, slate: Tensor) -> Tensor:
        """Return log-odds of attraction [B, P, S], clicks in the slate not yet counted."""
        s = self.settings
        rows = torch.where(slate >= 0, slate, self.own.shape[0] - 1)
        place = self.place[rows]
        score = s.taste * torch.einsum("bpd,bsd->bps", state["taste"], place)
        score = score + self.own[rows][:, None]
        shown = (slate >= 0).to(place.dtype)
        above = place.cumsum(1) - place
        number = (shown.cumsum(1) - shown).clamp(min=1)
        alike = torch.einsum("bsd,bsd->bs", above, place) / number
        tired = state["fatigue"].gather(1, self.cluster[rows])
        return score - (s.competition * alike.clamp(min=0) + s.fatigue * tired)[:, None]

    def _walk(
        self, state: State, slate: Tensor, click: Tensor | None, uniform: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Walk down the positions; return log-odds [B, S], clicks [B, S] and log-weights [B, P]."""
        score = self._before_clicks(state, slate)
        log_weight, above = state["log_weight"], slate.new_zeros(len(slate)).float()
        open_, missed = torch.ones_like(above), torch.zeros_like(above)
        logits, clicks = [], []
        for s in range(slate.shape[1]):
            shown = slate[:, s] >= 0
            if s and self.settings.layers and self.layer[s] != self.layer[s - 1]:
                open_, missed = open_ * (1 - missed), torch.zeros_like(missed)
            odds = score[:, :, s] + (self.settings.click_effect * above)[:, None]
            p = self.examination[s] * odds.sigmoid() * open_[:, None]
            mixed = (log_weight.softmax(1) * p).sum(1)
            logits.append(torch.logit(mixed, eps=1e-7))
            if click is not None:
                clicked = click[:, s].float()
            elif uniform is not None:
                clicked = (uniform[:, s] < mixed).float()
            else:
                clicked = mixed  # soft: the clicks above are their own probabilities
            clicked = clicked * shown
            above = above + clicked
            missed = torch.maximum(missed, (1 - clicked) * shown)
            if p.shape[1] > 1:
                likelihood = clicked[:, None] * p + (1 - clicked)[:, None] * (1 - p)
                log_weight = log_weight + likelihood.clamp(min=1e-9).log() * shown[:, None]
            clicks.append(clicked)
        return torch.stack(logits, 1), torch.stack(clicks, 1), log_weight

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        """Return true log-odds [B, S]; see `Responder.logits`."""
        return self._walk(state, slate, click, None)[0]

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        """Return the state after the slate; see `Responder.observe`."""
        log_weight = state["log_weight"]
        if log_weight.shape[1] > 1:
            log_weight = self._walk(state, slate, click, None)[2]
        return self._moved(state, slate, click, log_weight)

    def _moved(self, state: State, slate: Tensor, click: Tensor, log_weight: Tensor) -> State:
        s = self.settings
        seen = (slate >= 0).any(1).view(-1, 1, 1)
        rows = torch.where(slate >= 0, slate, self.own.shape[0] - 1)
        click = click.to(self.place.dtype)
        clicks = click.sum(1)
        liked = torch.einsum("bs,bsd->bd", click, self.place[rows])
        liked = liked / clicks.clamp(min=1)[:, None]
        taste = state["taste"]
        moved = taste + (s.drift * (clicks > 0))[:, None, None] * (liked[:, None] - taste)
        moved = moved + s.fade * (state["home"] - moved)
        share = (slate >= 0).to(taste.dtype) / max(slate.shape[1], 1)
        filled = torch.zeros_like(state["fatigue"]).scatter_add(1, self.cluster[rows], share)
        tired = 0.8 * state["fatigue"] + filled
        return {
            "taste": torch.where(seen, moved, taste),
            "home": state["home"],
            "fatigue": torch.where(seen[:, 0], tired, state["fatigue"]),
            "log_weight": log_weight,
        }

    def respond(
        self,
        state: State,
        slate: Tensor,
        generator: torch.Generator | None = None,
        *,
        uniform: Tensor | None = None,
    ) -> Response:
        """Draw clicks position by position, each given those above; see `Responder.respond`."""
        uniform = draw_uniform(slate, generator, uniform)
        logits, click, log_weight = self._walk(state, slate, None, uniform)
        probability = torch.where(slate >= 0, logits.sigmoid(), 0.0)
        clicked = click > 0
        return Response(clicked, probability, self._moved(state, slate, clicked, log_weight))


def make_truth(settings: TruthSettings) -> KnownTruth:
    """Return the users of the world with `settings`."""
    shape = LogShape(settings.n_items, settings.n_positions, settings.dimensions)
    return KnownTruth(shape, **asdict(settings)).eval()


def truth_of(log: SessionLog) -> KnownTruth | None:
    """Return the users that answered a synthetic log, None for a log of real users."""
    settings = log.card.get("truth")
    if settings is None:
        return None
    truth = make_truth(TruthSettings().changed(**settings))
    if truth.catalogue.fingerprint() != log.catalogue.fingerprint(len(truth.catalogue)):
        raise InputError("the log's card states a known-truth world of another catalogue")
    return truth
