"""Named scenarios: an embedded responder, and the default arguments of its environment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from recsim_env.registry import ENVIRONMENTS
from recsim_env.skills import SKILLS
from responders import InputError
from responders.config import Config, make_config, setting
from responders.errors import near_matches


@dataclass(frozen=True)
class EnvConfig(Config):
    """The arguments of `gym.make` and `gym.make_vec`, and their defaults.

    Those of type Any take names or objects; `recsim_env.make` says which, and checks them.
    """

    responder: Any = setting(
        None,
        "Folder of a trained responder or a synthetic log, or a `TruthConfig`; several = ensemble.",
    )
    steer: Any = setting(
        None,
        "Features of the responder's hidden state (`recsim interpret`) to add to its users, such "
        "as `{12: 3.0}`.",
    )
    catalogue: Any = setting(None, "The responder's catalogue with new (cold) items appended.")
    population: Any = setting(
        "held_out",
        "`held_out` users (all, if the responder was refitted), `cold` ones without known "
        "features, or another log.",
    )
    shift: Any = setting(None, 'Which users come more often, such as `{"click_rate": -1}`.')
    warm_start: Any = setting(
        None,
        "Logged slates that users have seen before the start; None = 0 if users have "
        "features or are cold, else 1.",
    )
    leaving: Any = setting(True, "As learned from the log (True), never (False), or a `Hazard`.")
    returns: Any = setting(
        None,
        "Users who leave come back: `learned` from the log, `rule`, or `Returns`; None = "
        "they do not.",
    )
    one_member: bool = setting(False, "Let a random member of the ensemble answer in each episode.")
    support: bool = setting(
        False, 'Say how common slates are in the log: `info["support"]`, reward `supported_clicks`.'
    )
    action: Any = setting("slate", "`slate`, `scores`, `proto` or `arm`; see `recsim_env.actions`.")
    candidates: Any = setting(None, "Choose from this number of items, or from these items.")
    retrieval: Any = setting(
        "popular", "Which candidates: `popular`, `random` at every step, or a function."
    )
    observe: Any = setting(
        "history", "`history` (Dict), `flat` or `state` (Box, the responder's memory)."
    )
    history: int = setting(10, "Number of slates in observations.", ge=1)
    reward: Any = setting("clicks", "Name, names, names with weights, or a function.")
    horizon: int = setting(100, "Slates (pages) after which an episode is truncated.", ge=1)
    paged: bool = setting(False, "Choose the slate item by item.")
    device: Any = setting("cpu", "Device of the world: auto, cpu or cuda.")


@dataclass(frozen=True)
class Scenario:
    """A named environment.

    Args:
        config: its arguments.
        asset: folder of its embedded responder in `recsim_env/assets`, used without another one.
        home: folder in `RECSIM_HOME` of a responder to use instead; None = not looked for.
        proto_features: number of item features, the last ones, that proto-items use; None = all.
    """

    config: EnvConfig
    asset: str = ""
    home: str | None = None
    proto_features: int | None = None


SCENARIOS = {
    "contentwise": Scenario(EnvConfig(), "contentwise", "contentwise"),
    "rl4rs": Scenario(
        EnvConfig(reward="expected_revenue", horizon=4, paged=True), "rl4rs", "rl4rs", 32
    ),
    "any": Scenario(EnvConfig(), "contentwise"),
    **{
        name: Scenario(EnvConfig(responder=skill.truth, horizon=skill.horizon))
        for name, skill in SKILLS.items()
    },
}
"""Scenarios by name; `recsim_env.registry.ENVIRONMENTS` names them by environment id."""


def find_scenario(name: str, **changes: Any) -> Scenario:
    """Return the scenario called `name` (or of the environment id `name`), with changed arguments.

    Args:
        name: a key of `SCENARIOS` or of `recsim_env.registry.ENVIRONMENTS`.
        changes: fields of `EnvConfig`; responder, reward, horizon and paged may be None for the
            scenario's.

    Raises:
        InputError: an unknown name or argument, or a value that an argument does not take.
    """
    scenario = ENVIRONMENTS.get(name, name) if isinstance(name, str) else name
    if not isinstance(scenario, str) or scenario not in SCENARIOS:
        known = [*ENVIRONMENTS, *SCENARIOS]
        raise InputError(f"environment {name!r} is unknown; {near_matches(str(name), known)}")
    optional = ("responder", "reward", "horizon", "paged")
    given = {k: v for k, v in changes.items() if v is not None or k not in optional}
    found = SCENARIOS[scenario]
    return replace(found, config=make_config(EnvConfig, vars(found.config) | given, "gym.make"))
