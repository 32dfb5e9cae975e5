"""The parameters of known-truth worlds, and presets of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from responders.config import Config, make_config, setting
from responders.errors import InputError


@dataclass(frozen=True)
class TruthConfig(Config):
    """The parameters of a known-truth world; 0 turns an effect off.

    P(click) = examination of the position × σ(attraction of the item), and the attraction is
    base + quality + allure + taste − price − competition − fatigue + repeat + clicks above.

    Raises:
        InputError: a parameter is out of range.
    """

    n_items: int = setting(1000, "N.", ge=1, le=10000000)
    n_positions: int = setting(10, "S.", ge=1, le=1000)
    base: float = setting(-2.25, "Log-odds of attraction of an average item.")
    quality: float = setting(0.7, "Deviation of the items' own log-odds.", ge=0)
    taste: float = setting(4.0, "Strength of tastes: log-odds per unit of taste · item.")
    drift: float = setting(
        0.2, "Share of the way that taste moves to the items clicked in a slate.", ge=0, le=1
    )
    fade: float = setting(
        0.1, "Share of the way that taste returns to its start after each slate.", ge=0, lt=1
    )
    turn: float = setting(
        0.0, "Angle in radians by which all tastes turn after each slate, in the same planes."
    )
    position_bias: float = setting(
        0.35, "Examination of position s (from 1) is s to the power of minus this."
    )
    competition: float = setting(1.0, "Loss of log-odds when all items above are identical.")
    click_effect: float = setting(-0.3, "Change of log-odds for each click above in the slate.")
    fatigue: float = setting(
        1.5, "Loss of log-odds for an item whose like filled a slate, by `fatigue_by`."
    )
    fatigue_by: Literal["cluster", "item", "similarity"] = setting(
        "cluster", "What tires: the item's cluster, the item alone, or items close to it in taste."
    )
    fatigue_decay: float = setting(
        0.8, "Share of fatigue left after each further slate.", ge=0, lt=1
    )
    fatigue_limit: float = setting(
        0.0, "Slates' worth of fatigue at which it saturates; 0 = it does not.", ge=0
    )
    repeat: float = setting(
        0.0, "Gain of log-odds of an item that was clicked once, in the slate before.", ge=0
    )
    repeat_decay: float = setting(
        0.8, "Share of a click that is remembered after each further slate.", ge=0, lt=1
    )
    price_effect: float = setting(0.0, "Loss of log-odds per deviation of price.")
    clickbait: float = setting(
        0.0,
        "Gain of log-odds of an item of allure 1; the items' allure is uniform from 0 to 1.",
        ge=0,
    )
    regret: float = setting(
        1.0, "Growth of the log-odds to leave with each click on an item of allure 1.", ge=0
    )
    regret_decay: float = setting(0.8, "Share of regret left after each further slate.", ge=0, lt=1)
    layers: int = setting(
        0, "Layers; each opens when all items above it are clicked (RL4RS). 0 = none.", ge=0
    )
    hidden: float = setting(
        0.0, "Share of the initial taste's variance that is not in the features.", ge=0, lt=1
    )
    draws: int = setting(
        1024, "Draws of the hidden part, by which answers are averaged (if hidden > 0).", ge=1
    )
    new_items: float = setting(
        0.0, "Share of the items that logging policies do not show.", ge=0, lt=1
    )
    leaving: float = setting(
        0.07, "Chance to leave after a slate with a click; 0 with impatience 0 = never.", ge=0, lt=1
    )
    impatience: float = setting(
        0.08, "Growth of the hazard with each slate in a row without a click.", ge=0
    )
    min_slates: int = setting(3, "Nobody leaves before this number of slates.", ge=1)
    max_slates: int = setting(100, "Everybody has left after this number of slates.", ge=1)
    clusters: int = setting(20, "K, clusters of items.", ge=1, le=100000)
    dimensions: int = setting(8, "d of taste.", ge=1, le=10000)
    zipf: float = setting(1.0, "Exponent of the clusters' popularity.")
    item_features: int = setting(
        16, "F, features of an item's location in taste space; 0 = none.", ge=0, le=10000
    )
    feature_noise: float = setting(0.3, "Deviation of the noise on them.", ge=0)
    seed: int = setting(0, "Fixes the items.", ge=0, lt=2**62)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_positions > self.n_items:
            raise InputError(f"n_positions {self.n_positions} exceeds n_items {self.n_items}")
        if self.n_items - self.n_new < self.n_positions:
            raise InputError(
                f"new_items {self.new_items} leaves {self.n_items - self.n_new} items to be "
                f"logged, fewer than the {self.n_positions} positions of a slate"
            )
        if self.n_new and self.layers:
            raise InputError("new_items must be 0 in a world with layers")
        if self.max_slates < self.min_slates:
            raise InputError(f"max_slates {self.max_slates} is below min_slates {self.min_slates}")

    @property
    def n_new(self) -> int:
        """Number of items that logging policies do not show."""
        return round(self.new_items * self.n_items)

    def changed(self, **values: Any) -> TruthConfig:
        """Return the configuration with `values` (numbers or text) changed.

        Raises:
            InputError: an unknown parameter, or a value out of range.
        """
        return make_config(TruthConfig, asdict(self) | values, "a known-truth world")


PRESETS: dict[str, TruthConfig] = {
    "contentwise": TruthConfig(),
    "rl4rs": TruthConfig(
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
    "pbm": TruthConfig(
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
