"""Known-truth worlds: simulated users whose click probabilities are known exactly.

The truth is a responder, `KnownTruth`: its state is a function of what a model of the log can see
(user features, slates, clicks), so its probabilities are the Bayes optimum for that log. Each
effect has one parameter that turns it off. Everything generated here is marked as synthetic.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from responders.config import Config
from responders.device import in_float32
from responders.errors import InputError
from responders.known_truth.presets import TruthConfig
from responders.log.catalogue import Catalogue
from responders.log.session_log import SessionLog
from responders.models.base import LogShape, Responder, Response, click_probability
from responders.models.state import State


def make_catalogue(config: TruthConfig) -> tuple[Catalogue, dict[str, np.ndarray]]:
    """Return the items of a world and their true location in taste space, cluster and quality.

    With clickbait, also their allure, which is the last feature.
    """
    rng = np.random.default_rng([config.seed, 1])
    n, d, k = config.n_items, config.dimensions, config.clusters
    weight = 1 / np.arange(1, k + 1) ** config.zipf
    cluster = rng.choice(k, n, p=weight / weight.sum())
    centre = rng.normal(size=(k, d))
    location = centre[cluster] + 0.6 * rng.normal(size=(n, d))
    location /= np.linalg.norm(location, axis=1, keepdims=True)
    quality = rng.normal(size=n)
    price = np.exp(rng.normal(2.0, 0.6, n)).astype(np.float32)
    mix = rng.normal(size=(d, config.item_features))
    features = location @ mix + config.feature_noise * rng.normal(size=(n, config.item_features))
    attributes: dict[str, np.ndarray] = {}
    ids = np.arange(n)
    if config.layers:
        ids = ids + 1  # ids start at 1, as in RL4RS
        bounds = np.array([39, 147]) * n // 283
        attributes["layer"] = (1 + np.searchsorted(bounds, ids, side="left")).astype(np.int8)
        attributes["special"] = (attributes["layer"] > 1) & (rng.random(n) < 0.45)
        price = price * attributes["layer"] ** 2
    truth = {"location": location, "cluster": cluster, "quality": quality}
    names: Any = None
    if config.clickbait:
        truth["allure"] = np.random.default_rng([config.seed, 4]).random(n)
        features = np.column_stack([features, truth["allure"]])
        names = (*(f"feature_{i}" for i in range(config.item_features)), "allure")
    return Catalogue(ids, features, price, attributes, names), truth


def place_items(config: TruthConfig, items: Catalogue) -> tuple[Catalogue, dict[str, np.ndarray]]:
    """Return given items and what `make_catalogue` returns of them.

    Locations are a random projection of the standardised features, and clusters are of the items
    closest to K random ones. Without layers the items lose their attributes, with rules for slates.

    Raises:
        InputError: other than `config.n_items` items, no features, prices that are not above 0 or
            all alike, or clickbait, which has its own feature.
    """
    priced = items.price is None or (items.price.min() > 0 and items.price.std() > 0)
    fits = len(items) == config.n_items and items.features.shape[1] and priced
    if not fits or config.clickbait:
        raise InputError(
            "a known-truth world of given items needs features, different prices above 0 or none, "
            f"clickbait 0 and n_items {len(items)}, not {config.n_items}"
        )
    rng = np.random.default_rng([config.seed, 1])
    features = items.features.astype(np.float64)
    features = (features - features.mean(0)) / features.std(0).clip(min=1e-6)
    location = features @ rng.normal(size=(features.shape[1], config.dimensions))
    location /= np.linalg.norm(location, axis=1, keepdims=True).clip(min=1e-9)
    centre = location[rng.choice(len(items), config.clusters)]
    truth = {"location": location, "cluster": (location @ centre.T).argmax(1)}
    truth["quality"] = rng.normal(size=len(items))
    price = np.exp(rng.normal(2.0, 0.6, len(items))) if items.price is None else items.price
    attributes = items.attributes if config.layers else {}
    return replace(items, price=price, attributes=attributes), truth


class KnownTruth(Responder):
    """The users of a known-truth world, with P draws of the part of taste not in their features.

    The state holds taste [B, P, d], the taste it returns to (home), the log-weight [B, P] of each
    draw given the clicks so far, the fatigue: with each cluster [B, K], each item [B, N] or each
    direction of taste space [B, d], by `fatigue_by`; with `repeat`, the decaying number of clicks
    on each item [B, N]; and, with clickbait, the regret [B]: the decaying sum of the allure of the
    items clicked. P is 1 unless `hidden` > 0; then responses are estimated with importance-weighted
    draws.

    Args:
        shape: sizes of the log.
        config: the parameters of the world.
        given: its items; None = those of `make_catalogue`.
    """

    config_class: ClassVar[type[Config]] = TruthConfig
    reads_clicks_above = True
    trained_by_gradient = False

    def __init__(
        self, shape: LogShape, config: TruthConfig, given: Catalogue | None = None
    ) -> None:
        super().__init__(shape, config)
        self.config: TruthConfig
        self.location: Tensor
        self.item_log_odds: Tensor
        self.cluster: Tensor
        self.examination: Tensor
        self.layer: Tensor
        self.draws: Tensor
        self.allure: Tensor
        self.rotation: Tensor
        s = config
        self.catalogue, items = make_catalogue(s) if given is None else place_items(s, given)
        self.clusters = items["cluster"]
        price = np.log(self.catalogue.price)  # type: ignore[arg-type]
        price = (price - price.mean()) / price.std()
        item_log_odds = s.base + s.quality * items["quality"] - s.price_effect * price
        allure = items.get("allure", np.zeros(s.n_items))
        item_log_odds = item_log_odds + s.clickbait * allure
        n_layer = s.n_positions // s.layers if s.layers else 0
        layer = np.arange(s.n_positions) // n_layer if s.layers else np.zeros(s.n_positions)
        cluster = np.arange(s.n_items) if s.fatigue_by == "item" else items["cluster"]
        tensors = {
            # The last row is the empty position: location 0, cluster 0.
            "location": F.pad(torch.tensor(items["location"], dtype=torch.float32), (0, 0, 0, 1)),
            "item_log_odds": F.pad(torch.tensor(item_log_odds, dtype=torch.float32), (0, 1)),
            "cluster": F.pad(torch.tensor(cluster), (0, 1)),
            "examination": torch.arange(1, s.n_positions + 1.0) ** -s.position_bias,
            "layer": torch.tensor(layer, dtype=torch.int64),
            "draws": self._draws(),
            "allure": F.pad(torch.tensor(allure, dtype=torch.float32), (0, 1)),
            "rotation": _rotation(s.turn, s.dimensions),
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def _draws(self) -> Tensor:
        s = self.config
        if not s.hidden:
            return torch.zeros(1, s.dimensions)
        rng = np.random.default_rng([s.seed, 2])
        draws = rng.normal(size=(s.draws, s.dimensions)) * np.sqrt(s.hidden / s.dimensions)
        return torch.tensor(draws, dtype=torch.float32)

    @property
    def hazard(self) -> np.ndarray:
        """[K] float64, chance to leave by the number of slates in a row without a click.

        The last value holds for all longer streaks; it applies from slate `config.min_slates` on.
        """
        s = self.config
        return 1 - (1 - s.leaving) * np.exp(-s.impatience * np.arange(21))

    def start(self, user: Tensor) -> State:
        """Return the state of new users; their features [B, d] are the visible part of taste."""
        return self.start_at(user[:, None] + self.draws)

    def start_at(self, taste: Tensor) -> State:
        """Return the state of users with initial tastes `taste` [B, P, d]."""
        b, p = taste.shape[:2]
        state = {
            "taste": taste,
            "home": taste,
            "fatigue": taste.new_zeros(b, self._fatigue_size),
            "log_weight": taste.new_zeros(b, p),
        }
        if self.config.repeat:
            state["clicked"] = taste.new_zeros(b, self.config.n_items)
        return state | {"regret": taste.new_zeros(b)} if self.config.clickbait else state

    def attraction(self, state: State) -> Tensor:
        """Return log-odds [B, N] of attraction of each item alone in a slate (mean over draws)."""
        weight = state["log_weight"].softmax(1)
        taste = torch.einsum("bp,bpd->bd", weight, state["taste"])
        score = self.config.taste * taste @ self.location[:-1].t() + self.item_log_odds[:-1]
        if self.config.repeat:
            score = score + self.config.repeat * torch.log2(1 + state["clicked"])
        if not self.config.fatigue:
            return score
        every_item = torch.arange(len(self.cluster) - 1).expand(len(score), -1)
        return score - self.config.fatigue * self._tired_of(state["fatigue"], every_item)

    @property
    def _fatigue_size(self) -> int:
        s = self.config
        return {"cluster": s.clusters, "item": s.n_items, "similarity": s.dimensions}[s.fatigue_by]

    def _tired_of(self, fatigue: Tensor, item: Tensor) -> Tensor:
        """Return the fatigue [B, L] with items [B, L]: 1 = one slate full of their like."""
        if self.config.fatigue_by == "similarity":
            tired = torch.einsum("bld,bd->bl", self.location[item], fatigue).clamp(min=0)
        else:
            tired = fatigue.gather(1, self.cluster[item])
        limit = self.config.fatigue_limit
        return -limit * torch.expm1(-tired / limit) if limit else tired

    def _after_slate(self, fatigue: Tensor, item: Tensor, shown: Tensor) -> Tensor:
        """Return the fatigue after a slate of `item` [B, S], of which `shown` [B, S] are filled."""
        weight = shown.to(fatigue.dtype)
        if self.config.fatigue_by != "item":  # an item fills a slate of its like alone
            weight = weight / max(item.shape[1], 1)
        if self.config.fatigue_by == "similarity":
            new = torch.einsum("bs,bsd->bd", weight, self.location[item])
        else:
            new = torch.zeros_like(fatigue).scatter_add(1, self.cluster[item], weight)
        return self.config.fatigue_decay * fatigue + new

    def _before_clicks(self, state: State, slate: Tensor) -> Tensor:
        """Return log-odds of attraction [B, P, S], without the effect of clicks in the slate."""
        s = self.config
        item = torch.where(slate >= 0, slate, self.item_log_odds.shape[0] - 1)
        location = self.location[item]
        score = s.taste * torch.einsum("bpd,bsd->bps", state["taste"], location)
        score = score + self.item_log_odds[item][:, None]
        shown = (slate >= 0).to(location.dtype)
        above = location.cumsum(1) - location
        n_above = (shown.cumsum(1) - shown).clamp(min=1)
        similarity = torch.einsum("bsd,bsd->bs", above, location) / n_above
        fatigue = self._tired_of(state["fatigue"], item)
        if s.repeat:
            clicked = state["clicked"].gather(1, item.clamp(max=s.n_items - 1))
            score = score + s.repeat * torch.log2(1 + clicked)[:, None]
        return score - (s.competition * similarity.clamp(min=0) + s.fatigue * fatigue)[:, None]

    def _read(
        self, state: State, slate: Tensor, click: Tensor | None, uniform: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read from the top; return log-odds [B, S], clicks [B, S] and log-weights [B, P]."""
        score = self._before_clicks(state, slate)
        log_weight, clicks_above = state["log_weight"], slate.new_zeros(len(slate)).float()
        is_open, missed = torch.ones_like(clicks_above), torch.zeros_like(clicks_above)
        logits, clicks = [], []
        for s in range(slate.shape[1]):
            shown = slate[:, s] >= 0
            if s and self.config.layers and self.layer[s] != self.layer[s - 1]:
                is_open, missed = is_open * (1 - missed), torch.zeros_like(missed)
            attraction = score[:, :, s] + (self.config.click_effect * clicks_above)[:, None]
            p = self.examination[s] * attraction.sigmoid() * is_open[:, None]
            probability = (log_weight.softmax(1) * p).sum(1)
            logits.append(torch.logit(probability, eps=1e-7))
            if click is not None:
                clicked = click[:, s].float()
            elif uniform is not None:
                clicked = (uniform[:, s] < probability).float()
            else:
                clicked = probability  # probabilities take the place of the clicks above
            clicked = clicked * shown
            clicks_above = clicks_above + clicked
            missed = torch.maximum(missed, (1 - clicked) * shown)
            if p.shape[1] > 1:
                likelihood = clicked[:, None] * p + (1 - clicked)[:, None] * (1 - p)
                log_weight = log_weight + likelihood.clamp(min=1e-9).log() * shown[:, None]
            clicks.append(clicked)
        return torch.stack(logits, 1), torch.stack(clicks, 1), log_weight

    def logits(self, state: State, slate: Tensor, click: Tensor | None = None) -> Tensor:
        return self._read(state, slate, click, None)[0]

    def observe(self, state: State, slate: Tensor, click: Tensor) -> State:
        log_weight = state["log_weight"]
        if log_weight.shape[1] > 1:
            log_weight = self._read(state, slate, click, None)[2]
        return self._moved(state, slate, click, log_weight)

    def _moved(self, state: State, slate: Tensor, click: Tensor, log_weight: Tensor) -> State:
        s = self.config
        has_items = (slate >= 0).any(1).view(-1, 1, 1)
        item = torch.where(slate >= 0, slate, self.item_log_odds.shape[0] - 1)
        click = click.to(self.location.dtype)
        clicks = click.sum(1)
        liked = torch.einsum("bs,bsd->bd", click, self.location[item])
        liked = liked / clicks.clamp(min=1)[:, None]
        taste = state["taste"]
        moved = taste + (s.drift * (clicks > 0))[:, None, None] * (liked[:, None] - taste)
        moved = moved + s.fade * (state["home"] - moved)
        if s.turn:
            moved = moved @ self.rotation
        fatigue = self._after_slate(state["fatigue"], item, slate >= 0)
        new = {
            "taste": torch.where(has_items, moved, taste),
            "home": state["home"],
            "fatigue": torch.where(has_items[:, 0], fatigue, state["fatigue"]),
            "log_weight": log_weight,
        }
        if s.repeat:
            times = s.repeat_decay * state["clicked"]
            times = times.scatter_add(1, item.clamp(max=s.n_items - 1), click * (slate >= 0))
            new["clicked"] = torch.where(has_items[:, 0], times, state["clicked"])
        if s.clickbait:
            regret = s.regret_decay * state["regret"] + (click * self.allure[item]).sum(1)
            new["regret"] = torch.where(has_items[:, 0, 0], regret, state["regret"])
        return new

    def leave_log_odds(self, state: State) -> Tensor | None:
        return self.config.regret * state["regret"] if self.config.clickbait else None

    def respond(self, state: State, slate: Tensor, uniform: Tensor) -> Response:
        logits, click, log_weight = self._read(state, slate, None, uniform)
        probability = click_probability(logits, slate)
        clicked = click > 0
        return Response(clicked, probability, self._moved(state, slate, clicked, log_weight))


def _rotation(angle: float, dimensions: int) -> Tensor:
    """Return the matrix [d, d] that turns each pair of dimensions; an odd last one stays."""
    matrix = torch.eye(dimensions)
    for i in range(0, dimensions - 1, 2):
        cos, sin = np.cos(angle), np.sin(angle)
        matrix[i : i + 2, i : i + 2] = torch.tensor([[cos, sin], [-sin, cos]])
    return matrix


@in_float32
def make_truth(config: TruthConfig, given: Catalogue | None = None) -> KnownTruth:
    """Return the users of the world with parameters `config`, and with the items `given`."""
    shape = LogShape(config.n_items, config.n_positions, config.dimensions)
    return KnownTruth(shape, config, given).eval()


def truth_of(log: SessionLog) -> KnownTruth | None:
    """Return the users of a synthetic log, None for a log of real users."""
    settings = log.card.get("truth")
    if settings is None:
        return None
    if not isinstance(settings, dict):
        raise InputError(f"the log's card has a truth that is not a JSON object: {settings!r}")
    config = TruthConfig().changed(**settings)
    given = log.catalogue.first(config.n_items) if log.card.get("given_items") else None
    truth = make_truth(config, given)
    if truth.catalogue.fingerprint() != log.catalogue.fingerprint(len(truth.catalogue)):
        raise InputError("the log's card describes a known-truth world with another catalogue")
    return truth
