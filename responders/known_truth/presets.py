"""The parameters of known-truth worlds, and presets of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field

from responders.config import Config, make_config
from responders.errors import InputError


@dataclass(frozen=True)
class TruthConfig(Config):
    """The parameters of a known-truth world; 0 turns an effect off.

    P(click) = examination of the position × σ(attraction of the item), and the attraction is
    base + quality + taste − price − competition − fatigue + clicks above.

    Raises:
        InputError: a parameter is out of range.
    """

    n_items: Annotated[int, Field(ge=1, le=10000000, description="N.")] = 1000
    n_positions: Annotated[int, Field(ge=1, le=1000, description="S.")] = 10
    base: Annotated[float, Field(description="Log-odds of attraction of an average item.")] = -2.25
    quality: Annotated[float, Field(ge=0, description="Deviation of the items' own log-odds.")] = (
        0.7
    )
    taste: Annotated[
        float, Field(description="Strength of tastes: log-odds per unit of taste · item.")
    ] = 4.0
    drift: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Share of the way that taste moves to the items clicked in a slate.",
        ),
    ] = 0.2
    fade: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Share of the way that taste returns to its start after each slate.",
        ),
    ] = 0.1
    position_bias: Annotated[
        float,
        Field(description="Examination of position s (from 1) is s to the power of minus this."),
    ] = 0.35
    competition: Annotated[
        float, Field(description="Loss of log-odds when all items above are identical.")
    ] = 1.0
    click_effect: Annotated[
        float, Field(description="Change of log-odds for each click above in the slate.")
    ] = -0.3
    fatigue: Annotated[
        float, Field(description="Loss of log-odds for a cluster that filled the recent slates.")
    ] = 1.5
    price_effect: Annotated[
        float, Field(description="Loss of log-odds per deviation of price.")
    ] = 0.0
    layers: Annotated[
        int,
        Field(
            ge=0,
            description="Layers; each opens when all items above it are clicked (RL4RS). 0 = none.",
        ),
    ] = 0
    hidden: Annotated[
        float,
        Field(ge=0, lt=1, description="Share of the initial taste's variance not in the features."),
    ] = 0.0
    leaving: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Chance to leave after a slate with a click; 0 with impatience 0 = never.",
        ),
    ] = 0.07
    impatience: Annotated[
        float,
        Field(
            ge=0,
            description="Growth of the hazard with each slate in a row without a click.",
        ),
    ] = 0.08
    min_slates: Annotated[
        int, Field(ge=1, description="Nobody leaves before this number of slates.")
    ] = 3
    max_slates: Annotated[
        int, Field(ge=1, description="Everybody has left after this number of slates.")
    ] = 100
    clusters: Annotated[int, Field(ge=1, description="K, clusters of items.")] = 20
    dimensions: Annotated[int, Field(ge=1, description="d of taste.")] = 8
    zipf: Annotated[float, Field(description="Exponent of the clusters' popularity.")] = 1.0
    item_features: Annotated[
        int,
        Field(ge=0, description="F, features of an item's location in taste space; 0 = none."),
    ] = 16
    feature_noise: Annotated[float, Field(ge=0, description="Deviation of the noise on them.")] = (
        0.3
    )
    seed: Annotated[int, Field(ge=0, description="Fixes the items.")] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_positions > self.n_items:
            raise InputError(f"n_positions {self.n_positions} exceeds n_items {self.n_items}")
        if self.max_slates < self.min_slates:
            raise InputError(f"max_slates {self.max_slates} is below min_slates {self.min_slates}")

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
"""`contentwise` and `rl4rs` match the published counts of those logs (positions, clicks per slate,
slates per session; items and layers of RL4RS); `pbm` is exactly a position-based model."""
