"""Named environments, and how they are built from a scenario.

    RecSim-ContentWise-v0   video on demand: slates of series, reward = clicks
    RecSim-RL4RS-v0         bundle shop: pages of 9 chosen item by item, reward = price × P(click)
    RecSim-v0               any trained responder: gym.make("RecSim-v0", responder="path")

Without a `responder` they use small embedded ones, trained on known-truth worlds that resemble the
published logs: their users are synthetic, and a line on stderr says so.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from gymnasium.vector import AutoresetMode
from pydantic import Field

from recsim_env.actions import Actions, ProtoActions, item_vectors
from recsim_env.candidates import make_candidates
from recsim_env.loading import (
    choose_hazard,
    choose_returns,
    open_population,
    open_responder,
    with_items,
)
from recsim_env.pages import PageVectorEnv
from recsim_env.registry import ACTIONS, ENVIRONMENTS, OBSERVATIONS
from recsim_env.single import RecSimEnv
from recsim_env.vector import RecSimVectorEnv, WorldVectorEnv
from recsim_env.world import World
from responders import InputError
from responders.config import Config
from responders.errors import near_matches
from responders.registry import load

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Scenario(Config):
    """The configuration of an environment: the arguments of `gym.make` and their defaults.

    Without a `responder`, that in the folder `home` of `RECSIM_HOME` is used or, if there is none,
    the embedded one in the folder `asset` of `recsim_env/assets`.
    """

    asset: str = "contentwise"
    home: str | None = None
    responder: Annotated[
        Any,
        Field(description="Folder of a trained responder or a synthetic log; several = ensemble."),
    ] = None
    catalogue: Annotated[
        Any, Field(description="The responder's catalogue with new (cold) items appended.")
    ] = None
    population: Annotated[
        Any,
        Field(description="`held_out` users, `cold` ones without known features, or another log."),
    ] = "held_out"
    shift: Annotated[
        Any, Field(description='Which users are drawn more often, such as `{"click_rate": -1}`.')
    ] = None
    warm_start: Annotated[
        Any,
        Field(
            description="Logged slates that users have seen before the start; None = 0 if "
            "users have features or are cold, else 1."
        ),
    ] = None
    leaving: Annotated[
        Any, Field(description="As learned from the log (True), never (False), or a `Hazard`.")
    ] = True
    returns: Annotated[
        Any,
        Field(
            description="Users who leave come back: `learned` from the log, `rule`, or `Returns`; "
            "None = they do not."
        ),
    ] = None
    one_member: Annotated[
        Any, Field(description="Let a random member of the ensemble answer in each episode.")
    ] = False
    action: Annotated[
        Any, Field(description="`slate`, `scores`, `proto` or `arm`; see `recsim_env.actions`.")
    ] = "slate"
    candidates: Annotated[
        Any, Field(description="Choose from this number of items, or from these items.")
    ] = None
    retrieval: Annotated[
        Any,
        Field(description="Which candidates: `popular`, `random` at every step, or a function."),
    ] = "popular"
    observe: Annotated[
        Any,
        Field(description="`history` (Dict), `flat` or `state` (Box, the responder's memory)."),
    ] = "history"
    history: Annotated[Any, Field(description="Number of slates in observations.")] = 10
    reward: Annotated[Any, Field(description="Name, names, names with weights, or a function.")] = (
        "clicks"
    )
    horizon: Annotated[
        Any, Field(description="Slates (pages) after which an episode is truncated.")
    ] = 100
    paged: Annotated[Any, Field(description="Choose the slate item by item.")] = False
    proto_features: Annotated[
        int | None, Field(description="Last item features that proto-items use; None = all.")
    ] = None
    device: Annotated[Any, Field(description="Device of the world: auto, cpu or cuda.")] = "cpu"


SCENARIOS = {
    "contentwise": Scenario(home="contentwise"),
    "rl4rs": Scenario(
        asset="rl4rs",
        home="rl4rs",
        reward="expected_revenue",
        horizon=4,
        paged=True,
        proto_features=32,
    ),
    "any": Scenario(),
}


def find_scenario(name: str, **changes: Any) -> Scenario:
    """Return the scenario called `name` (or of the environment id `name`), with changes.

    Args:
        name: a key of `SCENARIOS` or of `recsim_env.registry.ENVIRONMENTS`.
        changes: fields of `Scenario`; None leaves the scenario's reward, horizon or paged.

    Raises:
        InputError: an unknown name or field.
    """
    scenario = ENVIRONMENTS.get(name, name)
    if scenario not in SCENARIOS:
        known = [*ENVIRONMENTS, *SCENARIOS]
        raise InputError(f"environment {name!r} is unknown; {near_matches(name, known)}")
    known = [field.name for field in fields(Scenario)]
    for key in changes:
        if key not in known:
            raise InputError(f"environments have no argument {key!r}; {near_matches(key, known)}")
    optional = ("reward", "horizon", "paged")
    chosen = {k: v for k, v in changes.items() if v is not None or k not in optional}
    return replace(SCENARIOS[scenario], **chosen)


def find_responder(scenario: Scenario) -> Path:
    """Return the folder of the scenario's responder: in RECSIM_HOME if it exists, else embedded."""
    home = os.environ.get("RECSIM_HOME")
    if home and scenario.home:
        folder = Path(home).expanduser() / scenario.home
        if folder.exists():
            return folder
    return ASSETS / scenario.asset


@lru_cache(maxsize=8)
def _warn_synthetic(name: str) -> None:
    """Print once per process that the users of an environment are synthetic."""
    print(
        f"recsim-env: the users of {name} are SYNTHETIC (learned from a known-truth log); pass "
        "responder=… or set RECSIM_HOME to use your own",
        file=sys.stderr,
    )


def make_world(
    scenario: str = "any",
    *,
    num_users: int = 1,
    seed: int = 0,
    first_user: int = 0,
    **changes: Any,
) -> World:
    """Return the world of a scenario (or environment id).

    Args:
        scenario: `contentwise`, `rl4rs`, `any`, or an id such as `RecSim-ContentWise-v0`.
        num_users: B.
        seed: of the users' random streams.
        first_user: number of the first user's stream, see `World`.
        changes: fields of `Scenario`: responder, reward, horizon, …

    Raises:
        InputError: an unknown scenario or an unusable argument.
    """
    return _world(find_scenario(scenario, **changes), scenario, num_users, seed, first_user)


def _world(
    scenario: Scenario, name: str, num_users: int, seed: int = 0, first_user: int = 0
) -> World:
    responder = scenario.responder
    checkpoint = open_responder(find_responder(scenario) if responder is None else responder)
    if checkpoint.synthetic:
        _warn_synthetic(name)
    if scenario.catalogue is not None:
        checkpoint = with_items(checkpoint, scenario.catalogue)
    users = open_population(scenario.population, checkpoint)
    warm_start = scenario.warm_start
    if warm_start is None:
        cold = isinstance(scenario.population, str) and scenario.population == "cold"
        warm_start = 0 if users.users.features.shape[1] or cold else 1
    return World(
        checkpoint.responder,
        users,
        choose_hazard(scenario.leaving, checkpoint),
        num_users=num_users,
        horizon=scenario.horizon,
        history=scenario.history,
        reward=scenario.reward,
        warm_start=warm_start,
        shift=scenario.shift,
        returns=choose_returns(scenario.returns, checkpoint),
        one_member=scenario.one_member,
        seed=seed,
        first_user=first_user,
        device=scenario.device,
    )


def make_vector_env(
    num_envs: int = 1,
    scenario: str = "any",
    *,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    users: str | None = None,
    **changes: Any,
) -> WorldVectorEnv:
    """Return the vector environment of a scenario; called by `gym.make_vec(id, num_envs=…)`.

    Args:
        num_envs: B.
        scenario: see `make_world`.
        autoreset_mode: see `recsim_env.vector.WorldVectorEnv`.
        render_mode: None, "ansi" or "rgb_array".
        max_episode_steps: alias of `horizon` for `gym.make_vec`; `gym.make` wraps a TimeLimit
            instead of passing it on.
        users: ignored; it shows in `env.spec` that embedded users are synthetic.
        changes: fields of `Scenario`: responder, action, observe, reward, horizon, …

    Raises:
        InputError: an unknown scenario or an unusable argument.
    """
    if "seed" in changes:
        raise InputError("pass the seed to reset(seed=…), not when making the environment")
    if max_episode_steps is not None:
        changes.setdefault("horizon", max_episode_steps)
    parts = find_scenario(scenario, **changes)
    if not isinstance(parts.paged, bool):
        raise InputError(f"paged is True, False or None, not {parts.paged!r}")
    world = _world(parts, scenario, num_envs)
    if parts.paged:
        return _make_pages(parts, world, autoreset_mode, render_mode)
    encoder = load(OBSERVATIONS, parts.observe, "observe")(world)
    return RecSimVectorEnv(world, make_actions(parts, world), encoder, autoreset_mode, render_mode)


def make_actions(scenario: Scenario, world: World) -> Actions:
    """Return the action space and how actions become slates.

    Raises:
        InputError: an unknown name, or a combination that makes no sense.
    """
    action_class = load(ACTIONS, scenario.action, "action")
    candidates = make_candidates(world, scenario.candidates, scenario.retrieval)
    if action_class is ProtoActions and candidates.is_catalogue:
        return ProtoActions(world, vectors=item_vectors(world, scenario.proto_features))
    return action_class(world, candidates)


def _make_pages(
    scenario: Scenario, world: World, autoreset_mode: AutoresetMode | str, render_mode: str | None
) -> PageVectorEnv:
    all_items = scenario.candidates is None and scenario.retrieval == "popular"
    if not all_items or scenario.observe != "history" or scenario.action not in ("slate", "proto"):
        raise InputError(
            "paged environments choose among all items (or action='proto') and observe the "
            "history: leave out candidates, or give paged=False"
        )
    vectors = None
    if scenario.action == "proto":
        vectors = item_vectors(world, scenario.proto_features)
    return PageVectorEnv(world, autoreset_mode, render_mode, vectors)


def make_env(scenario: str = "any", **changes: Any) -> RecSimEnv:
    """Return the environment of one user; called by `gym.make(id)`.

    Args:
        scenario: see `make_world`.
        changes: those of `make_vector_env`, without `num_envs` and `autoreset_mode`.
    """
    return RecSimEnv(make_vector_env(1, scenario, autoreset_mode=AutoresetMode.DISABLED, **changes))
