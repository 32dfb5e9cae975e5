"""A world whose truth is known: simulated users with every probability stated.

The truth is itself a responder, `KnownTruth`: its state is a function of what a model of the log
can see (user features, slates, clicks), so its probabilities are the Bayes optimum for that log.
Each effect has one parameter that turns it off. Everything made here is synthetic and says so.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from responders.errors import InputError, near_matches


@dataclass(frozen=True)
class TruthSettings:
    """The parameters of a known-truth world; 0 turns an effect off.

    P(click) = examination of the position × σ(attraction of the item), and the attraction is
    base + quality + taste − price − competition − fatigue + clicks above.

    Args:
        n_items: N.
        n_positions: S.
        base: log-odds of attraction of an average item.
        quality: deviation of the items' own log-odds.
        taste: how strongly tastes matter: log-odds per unit of taste · item.
        drift: share of the way that taste moves to the items clicked in a slate.
        fade: share of the way that taste returns home after each slate.
        position_bias: examination of position s (from 1) is s to the power of minus this.
        competition: loss of log-odds when all items above are alike.
        click_effect: change of log-odds for each click above in the slate.
        fatigue: loss of log-odds for a cluster that filled the recent slates.
        price_effect: loss of log-odds per deviation of price.
        layers: the page has so many layers; each opens when all items of the one before are
            clicked (RL4RS). 0 = no layers.
        hidden: share of the initial taste's variance that no feature tells.
        leaving: chance to leave after a slate with a click; 0 with `impatience` 0 = never.
        impatience: how much each fruitless slate in a row adds to the hazard of leaving.
        min_slates: nobody leaves before so many slates.
        max_slates: everybody has left after so many.
        clusters: K.
        dimensions: d of taste.
        zipf: exponent of the clusters' popularity.
        item_features: F, features that tell an item's place; 0 = none.
        feature_noise: deviation of the noise on them.
        seed: fixes the items.
    """

    n_items: int = 1000
    n_positions: int = 10
    base: float = -2.25
    quality: float = 0.7
    taste: float = 4.0
    drift: float = 0.2
    fade: float = 0.1
    position_bias: float = 0.35
    competition: float = 1.0
    click_effect: float = -0.3
    fatigue: float = 1.5
    price_effect: float = 0.0
    layers: int = 0
    hidden: float = 0.0
    leaving: float = 0.07
    impatience: float = 0.08
    min_slates: int = 3
    max_slates: int = 100
    clusters: int = 20
    dimensions: int = 8
    zipf: float = 1.0
    item_features: int = 16
    feature_noise: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_items", "n_positions", "clusters", "dimensions", "min_slates"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("hidden", "fade", "leaving"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if self.n_positions > self.n_items:
            raise InputError(f"n_positions {self.n_positions} exceeds n_items {self.n_items}")
        if self.max_slates < self.min_slates:
            raise InputError(f"max_slates {self.max_slates} is below min_slates {self.min_slates}")

    def changed(self, **values: Any) -> TruthSettings:
        """Return the settings with `values` changed; unknown names raise `InputError`."""
        known = [f.name for f in fields(self)]
        for name in values:
            if name not in known:
                raise InputError(f"setting {name!r} is unknown; {near_matches(name, known)}")
        return replace(self, **values)


PRESETS: dict[str, TruthSettings] = {
    "contentwise": TruthSettings(),
    "rl4rs": TruthSettings(
        n_items=283,
        n_positions=9,
        base=1.9,
        position_bias=0.0,
        click_effect=0.0,
        price_effect=0.4,
        layers=3,
        leaving=0.8,
        max_slates=4,
        item_features=40,
    ),
    "pbm": TruthSettings(
        base=-1.0,
        quality=1.0,
        taste=0.0,
        competition=0.0,
        click_effect=0.0,
        fatigue=0.0,
        position_bias=0.7,
    ),
}
"""`contentwise` and `rl4rs` have the published counts of those logs (positions, clicks per slate,
slates per session; items and layers of RL4RS); `pbm` is exactly a position-based model."""
