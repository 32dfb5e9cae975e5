"""Named environments, and how they are built from a scenario.

    RecSim-ContentWise-v0   video on demand: slates of series, reward = clicks
    RecSim-RL4RS-v0         bundle shop: pages of 9 chosen item by item, reward = price × P(click)
    RecSim-v0               any trained responder: gym.make("RecSim-v0", responder="path")
    RecSim-Position-v0 …    worlds of known truth with one difficulty each: `recsim_env.skills`

Without a `responder` the first three use small embedded ones, trained on known-truth worlds that
resemble the published logs: their users are synthetic, and a line on stderr says so.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from gymnasium.vector import AutoresetMode

from recsim_env.actions import Actions, ProtoActions, item_vectors
from recsim_env.candidates import make_candidates
from recsim_env.loading import (
    choose_hazard,
    choose_returns,
    open_population,
    open_responder,
    steered,
    with_items,
)
from recsim_env.pages import PageVectorEnv
from recsim_env.registry import ACTIONS, OBSERVATIONS
from recsim_env.scenarios import Scenario, find_scenario
from recsim_env.single import RecSimEnv
from recsim_env.vector import RecSimVectorEnv, WorldVectorEnv
from recsim_env.world import World
from responders import InputError
from responders.behaviour.support import Support
from responders.device import in_float32
from responders.known_truth.world import KnownTruth
from responders.registry import load
from responders.training.checkpoint import Checkpoint

ASSETS = Path(__file__).parent / "assets"


def find_responder(scenario: Scenario) -> Any:
    """Return the scenario's responder for `open_responder`.

    It is the one in its arguments, else the folder in RECSIM_HOME, else the embedded one.
    """
    if scenario.config.responder is not None:
        return scenario.config.responder
    home = os.environ.get("RECSIM_HOME")
    if home and scenario.home:
        folder = Path(home).expanduser() / scenario.home
        if folder.exists():
            return folder
    return ASSETS / scenario.asset


@lru_cache(maxsize=32)
def _warn_synthetic(name: str, is_truth: bool) -> None:
    """Print once per process that the users of an environment are synthetic."""
    origin = (
        "those of a known-truth world)"
        if is_truth
        else "learned from a known-truth log); pass responder=… or set RECSIM_HOME to use your own"
    )
    print(f"recsim-env: the users of {name} are SYNTHETIC ({origin}", file=sys.stderr)


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
        scenario: `contentwise`, `rl4rs`, `any`, `position`, …, or an id such as `RecSim-v0`.
        num_users: B.
        seed: of the users' random streams.
        first_user: number of the first user's stream, see `World`.
        changes: fields of `EnvConfig`: responder, reward, horizon, …

    Raises:
        InputError: an unknown scenario or an unusable argument.
    """
    return _world(find_scenario(scenario, **changes), scenario, num_users, seed, first_user)


def _world(
    scenario: Scenario, name: str, num_users: int, seed: int = 0, first_user: int = 0
) -> World:
    config, source = scenario.config, find_responder(scenario)
    checkpoint = open_responder(source)
    if checkpoint.synthetic:
        _warn_synthetic(name, isinstance(checkpoint.responder, KnownTruth))
    if config.catalogue is not None:
        checkpoint = with_items(checkpoint, config.catalogue)
    if config.steer:
        checkpoint = steered(checkpoint, source, config.steer)
    users = open_population(config.population, checkpoint)
    warm_start = config.warm_start
    if warm_start is None:
        cold = isinstance(config.population, str) and config.population == "cold"
        warm_start = 0 if users.users.features.shape[1] or cold else 1
    return World(
        checkpoint.responder,
        users,
        choose_hazard(config.leaving, checkpoint),
        num_users=num_users,
        horizon=config.horizon,
        history=config.history,
        reward=config.reward,
        warm_start=warm_start,
        shift=config.shift,
        returns=choose_returns(config.returns, checkpoint),
        one_member=config.one_member,
        support=_choose_support(config.support, checkpoint),
        seed=seed,
        first_user=first_user,
        device=config.device,
    )


def _choose_support(support: bool, checkpoint: Checkpoint) -> Support | None:
    if support and checkpoint.support is None:
        raise InputError(
            "support=True needs a responder that knows the log's slates: train one with "
            "`recsim train` (of this version)"
        )
    return checkpoint.support if support else None


@in_float32
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
        changes: fields of `EnvConfig`: responder, action, observe, reward, horizon, …

    Raises:
        InputError: an unknown scenario or an unusable argument.
    """
    if "seed" in changes:
        raise InputError("pass the seed to reset(seed=…), not when making the environment")
    if max_episode_steps is not None and changes.get("horizon") is None:
        changes["horizon"] = max_episode_steps
    parts = find_scenario(scenario, **changes)
    world = _world(parts, scenario, num_envs)
    if parts.config.paged:
        return _make_pages(parts, world, autoreset_mode, render_mode)
    encoder = load(OBSERVATIONS, parts.config.observe, "observe")(world)
    return RecSimVectorEnv(world, make_actions(parts, world), encoder, autoreset_mode, render_mode)


def make_actions(scenario: Scenario, world: World) -> Actions:
    """Return the action space and how actions become slates.

    Raises:
        InputError: an unknown name, or a combination that makes no sense.
    """
    config = scenario.config
    action_class = load(ACTIONS, config.action, "action")
    candidates = make_candidates(world, config.candidates, config.retrieval)
    if action_class is ProtoActions and candidates.is_catalogue:
        return ProtoActions(world, vectors=item_vectors(world, scenario.proto_features))
    return action_class(world, candidates)


def _make_pages(
    scenario: Scenario, world: World, autoreset_mode: AutoresetMode | str, render_mode: str | None
) -> PageVectorEnv:
    config = scenario.config
    all_items = config.candidates is None and config.retrieval == "popular"
    if (
        not all_items
        or config.observe != "history"
        or config.action not in ("slate", "arm", "proto")
    ):
        raise InputError(
            "paged environments choose among all items (or action='proto') and observe the "
            "history: leave out candidates, or give paged=False"
        )
    vectors = None
    if config.action == "proto":
        vectors = item_vectors(world, scenario.proto_features)
    return PageVectorEnv(world, autoreset_mode, render_mode, vectors)


def make_env(scenario: str = "any", **changes: Any) -> RecSimEnv:
    """Return the environment of one user; called by `gym.make(id)`.

    Args:
        scenario: see `make_world`.
        changes: those of `make_vector_env`, without `num_envs` and `autoreset_mode`.
    """
    return RecSimEnv(make_vector_env(1, scenario, autoreset_mode=AutoresetMode.DISABLED, **changes))
