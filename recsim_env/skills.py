"""Skills of a policy, each with a small known-truth world in which little else matters.

After bsuite (Osband et al., 2020): the score of a policy in each world says what it can do and what
it cannot. The users need no training: the truth answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from responders.known_truth.presets import PRESETS, TruthConfig


@dataclass(frozen=True)
class Skill:
    """A world with one difficulty.

    Args:
        truth: its parameters.
        off: the parameters that turn the difficulty off.
        reference: the policy whose reward counts as 1.
        horizon: slates of an episode.
        learned: folder in `recsim_env/assets` of the users with whom policies learn; None = with
            those of the world.
    """

    truth: TruthConfig
    off: dict[str, Any]
    reference: str = "oracle"
    horizon: int = 20
    learned: str | None = None

    @property
    def easy(self) -> TruthConfig:
        """The world without the difficulty."""
        return self.truth.changed(**self.off)


_PLAIN = TruthConfig(
    n_items=200,
    n_positions=5,
    base=-2.5,
    quality=0.5,
    taste=3.0,
    drift=0.0,
    fade=0.0,
    position_bias=0.0,
    competition=0.0,
    click_effect=0.0,
    fatigue=0.0,
    leaving=0.0,
    impatience=0.0,
    clusters=10,
    dimensions=4,
)
"""Users with tastes, which their features show; every other effect is off, and nobody leaves."""

SKILLS = {
    "position": Skill(
        _PLAIN.changed(n_items=50, base=-1.5, position_bias=1.0), {"position_bias": 0.0}
    ),
    "compete": Skill(_PLAIN.changed(base=-1.0, competition=5.0), {"competition": 0.0}),
    "clickbait": Skill(
        _PLAIN.changed(clickbait=2.0, regret=1.0, leaving=0.02, min_slates=1),
        {"regret": 0.0},
        reference="far_sighted",
        horizon=30,
    ),
    "fatigue": Skill(_PLAIN.changed(fatigue=3.0, fatigue_decay=0.9), {"fatigue": 0.0}),
    "drift": Skill(_PLAIN.changed(turn=0.15), {"turn": 0.0}),
    "cold": Skill(
        _PLAIN.changed(hidden=0.9, draws=128, new_items=0.5), {"hidden": 0.0, "new_items": 0.0}
    ),
    "explore": Skill(
        _PLAIN.changed(base=-3.0, quality=1.5, taste=0.0, item_features=0, new_items=0.8),
        {"new_items": 0.0},
    ),
    "large": Skill(
        _PLAIN.changed(n_items=100_000, clusters=100, dimensions=8, base=-3.0, taste=4.0),
        {"n_items": 200},
        horizon=10,
    ),
    "gap": Skill(PRESETS["contentwise"], {}, horizon=30, learned="contentwise"),
}
"""Skills by name; each is the scenario of an environment (`recsim_env.registry.ENVIRONMENTS`)."""
