"""Named environments: a responder with its catalogue and users, and the parts of a world.

    RecSim-ContentWise-v0   video on demand: slates of series, reward = clicks
    RecSim-RL4RS-v0         bundle shop: pages of 9 chosen item by item, reward = price × P(click)
    RecSim-v0               any trained responder: gym.make("RecSim-v0", responder="path")

Without a responder of your own they use small embedded ones. Those learned from a known-truth
world of the published shape: their users are synthetic, and a line on stderr says so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from torch import Tensor

from recsim_env.actions import (
    Actions,
    ArmActions,
    CandidateActions,
    OfferedActions,
    RandomCandidates,
    Retrieve,
    SlateActions,
    given_candidates,
    item_arms,
    popular_candidates,
)
from recsim_env.continuous import ProtoActions, ScoreActions, item_vectors
from recsim_env.loading import (
    Source,
    open_population,
    open_responder,
    pick_hazard,
    pick_returns,
    with_items,
)
from recsim_env.observations import make_encoder
from recsim_env.pages import PageVectorEnv
from recsim_env.registry import ENVIRONMENTS
from recsim_env.rewards import Choice
from recsim_env.single import RecSimEnv
from recsim_env.vector import RecSimVectorEnv, WorldVectorEnv
from recsim_env.world import World
from responders import Catalogue, InputError, SessionLog
from responders.behaviour.leaving import Hazard
from responders.behaviour.returns import Returns
from responders.errors import near_matches

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Scenario:
    """The defaults of a named environment.

    Args:
        asset: folder of the embedded responder in `assets`.
        home: folder of your own responder in `RECSIM_HOME`, None = not looked for.
        reward: see `recsim_env.rewards`.
        horizon: slates (pages) after which an episode is truncated.
        paged: whether a page is chosen item by item.
        vector: the last so many item features are what proto-items are compared with; None = all.
    """

    asset: str
    home: str | None
    reward: str = "clicks"
    horizon: int = 100
    paged: bool = False
    vector: int | None = None


SCENARIOS = {
    "contentwise": Scenario("contentwise", "contentwise"),
    "rl4rs": Scenario(
        "rl4rs", "rl4rs", reward="expected_revenue", horizon=4, paged=True, vector=32
    ),
    "any": Scenario("contentwise", None),
}


def find_scenario(name: str) -> Scenario:
    """Return the scenario called `name`, or that of the environment id `name`."""
    scenario = ENVIRONMENTS.get(name, name)
    if scenario not in SCENARIOS:
        known = [*ENVIRONMENTS, *SCENARIOS]
        raise InputError(f"environment {name!r} is unknown; {near_matches(name, known)}")
    return SCENARIOS[scenario]


def find_responder(scenario: Scenario) -> Path:
    """Return the folder of the scenario's responder: in RECSIM_HOME if it is there, else ours."""
    home = os.environ.get("RECSIM_HOME")
    if home and scenario.home:
        own = Path(home).expanduser() / scenario.home
        if own.exists():
            return own
    return ASSETS / scenario.asset


@lru_cache(maxsize=8)
def _tell_synthetic(name: str) -> None:
    """Say once per process that the users of an environment are synthetic."""
    print(
        f"recsim-env: the users of {name} are SYNTHETIC (learned from a known-truth log); pass "
        "responder=… or set RECSIM_HOME for users of your own",
        file=sys.stderr,
    )


def make_world(
    scenario: str = "any",
    *,
    num_users: int = 1,
    responder: Source | Sequence[Source] | None = None,
    catalogue: Catalogue | None = None,
    population: str | Path | SessionLog = "held_out",
    reward: Choice | None = None,
    horizon: int | None = None,
    warm_start: int | None = None,
    leaving: bool | Hazard = True,
    returns: str | Returns | None = None,
    **world: Any,
) -> World:
    """Return the world of a scenario (or environment id).

    Args:
        scenario: `contentwise`, `rl4rs`, `any`, or an id such as `RecSim-ContentWise-v0`.
        num_users: B.
        responder: see `open_responder`; None = RECSIM_HOME's, else the embedded one. Several make
            an ensemble.
        catalogue: the responder's own with new (cold) items appended.
        population: `held_out` users, `cold` ones of whom nothing is known, or a log of others.
        reward: None = the scenario's; see `recsim_env.rewards.make_reward`.
        horizon: None = the scenario's.
        warm_start: logged slates that users have behind them at the start; None = 0 where user
            features tell users apart or they are cold, else 1.
        leaving: whether users leave by the hazard learned from the log, or a `Hazard`.
        returns: None = who leaves is gone; `learned` from the log, `rule`, or a `Returns`.
        world: further arguments of `World`: history, shift, one_member, seed, device.

    Raises:
        InputError: an unknown scenario or an unusable argument.
    """
    parts = find_scenario(scenario)
    users = open_responder(find_responder(parts) if responder is None else responder)
    if users.synthetic:
        _tell_synthetic(scenario)
    if catalogue is not None:
        users = with_items(users, catalogue)
    contexts = open_population(population, users)
    if warm_start is None:
        warm_start = 0 if contexts.users.features.shape[1] or population == "cold" else 1
    return World(
        users.responder,
        contexts,
        pick_hazard(leaving, users),
        num_users=num_users,
        horizon=parts.horizon if horizon is None else horizon,
        reward=parts.reward if reward is None else reward,
        warm_start=warm_start,
        returns=pick_returns(returns, users),
        **world,
    )


def make_actions(
    name: str,
    world: World,
    candidates: int | Sequence[int] | None = None,
    retrieval: str | Retrieve = "popular",
    vector: int | None = None,
) -> Actions:
    """Return how actions become slates.

    Args:
        name: `slate`, `scores`, `proto` or `arm`, see `recsim_env.actions` and `.continuous`.
        world: of the users.
        candidates: choose among C items instead of the whole catalogue: their number, or the items.
        retrieval: which: the most clicked (`popular`), `random` ones at every step, or a function
            of your own, see `recsim_env.actions.Retrieve`.
        vector: see `Scenario`.

    Raises:
        InputError: an unknown name, or a combination without meaning.
    """
    known = ("slate", "scores", "proto", "arm")
    if name not in known:
        raise InputError(f"action {name!r} is unknown; {near_matches(str(name), known)}")
    if not callable(retrieval) and retrieval not in ("popular", "random"):
        near = near_matches(str(retrieval), ("popular", "random"))
        raise InputError(f"retrieval {retrieval!r} is unknown; {near}")
    if name == "proto":
        if candidates is not None:
            raise InputError("a proto-item is compared with the whole catalogue: no candidates")
        return ProtoActions(world, item_vectors(world, vector))
    retrieve = None if isinstance(retrieval, str) else retrieval
    if retrieve is not None and candidates is not None:
        raise InputError("a retrieval function decides how many candidates there are: leave it out")
    if retrieval == "random":
        if not isinstance(candidates, int):
            raise InputError("random candidates need their number: candidates=…")
        retrieve = RandomCandidates(world, candidates)
    if retrieve is not None:
        if name == "arm" or world.rules.allowed is not None:
            raise InputError("retrieved candidates go with slates or scores, without layers")
        return OfferedActions(world, retrieve) if name == "slate" else ScoreActions(world, retrieve)
    if candidates is None:
        if name == "slate":
            return SlateActions(world)
        return ScoreActions(world) if name == "scores" else ArmActions(item_arms(world))
    if isinstance(candidates, Sequence | np.ndarray | Tensor):
        fixed = given_candidates(world, candidates)
    else:
        fixed = popular_candidates(world, candidates)
    if name == "slate":
        return CandidateActions(fixed)
    return (
        ScoreActions(world, fixed[0])
        if name == "scores"
        else ArmActions(item_arms(world, fixed[0]))
    )


def make_vector_env(
    num_envs: int = 1,
    scenario: str = "any",
    *,
    observe: str = "history",
    action: str = "slate",
    candidates: int | Sequence[int] | None = None,
    retrieval: str | Retrieve = "popular",
    paged: bool | None = None,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    users: str | None = None,
    **world: Any,
) -> WorldVectorEnv:
    """Return the native vector environment of a scenario; `gym.make_vec(id, num_envs=…)` calls it.

    Args:
        num_envs: B.
        scenario: see `make_world`.
        observe: `history` (Dict), `flat` or `state` (Box), see `recsim_env.observations`.
        action: `slate`, `scores`, `proto` or `arm`, see `make_actions`.
        candidates: offer so many items, or these, instead of the whole catalogue.
        retrieval: which ones, see `make_actions`.
        paged: choose slates item by item; None = as the scenario does.
        autoreset_mode: see `recsim_env.vector.WorldVectorEnv`.
        render_mode: None, "ansi" or "rgb_array".
        max_episode_steps: another name of `horizon`, which Gymnasium uses for vector environments;
            `gym.make` keeps it to itself and wraps a TimeLimit instead.
        users: not read; it stands in `env.spec` to say that embedded users are synthetic.
        world: further arguments of `make_world`: responder, reward, horizon, …
    """
    if "seed" in world:
        raise InputError("a seed goes to reset(seed=…), not to the making of the environment")
    if not isinstance(paged, bool | None):
        raise InputError(f"paged is True, False or None, not {paged!r}")
    if max_episode_steps is not None:
        world.setdefault("horizon", max_episode_steps)
    core = make_world(scenario, num_users=num_envs, **world)
    parts = find_scenario(scenario)
    if parts.paged if paged is None else paged:
        plain = candidates is None and retrieval == "popular" and observe == "history"
        if not plain or action not in ("slate", "proto"):
            raise InputError(
                "paged environments choose among all items (or action='proto') and observe the "
                "history: leave out candidates, or give paged=False"
            )
        vectors = item_vectors(core, parts.vector) if action == "proto" else None
        return PageVectorEnv(core, autoreset_mode, render_mode, vectors)
    actions = make_actions(action, core, candidates, retrieval, parts.vector)
    encoder = make_encoder(observe, core)
    return RecSimVectorEnv(core, actions, encoder, autoreset_mode, render_mode)


def make_env(scenario: str = "any", **options: Any) -> RecSimEnv:
    """Return the environment of one user; `gym.make(id)` calls it.

    Args: as `make_vector_env`, without `num_envs` and `autoreset_mode`.
    """
    return RecSimEnv(make_vector_env(1, scenario, autoreset_mode=AutoresetMode.DISABLED, **options))
