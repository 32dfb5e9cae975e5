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
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from recsim_env.actions import CandidateActions, SlateActions, popular_candidates
from recsim_env.observations import make_encoder
from recsim_env.pages import PageVectorEnv
from recsim_env.plugin import ENVIRONMENTS
from recsim_env.rewards import Reward
from recsim_env.single import RecSimEnv
from recsim_env.vector import RecSimVectorEnv, WorldVectorEnv
from recsim_env.world import World
from responders import InputError, SessionLog
from responders.checkpoint import Checkpoint, load_checkpoint
from responders.errors import near_matches
from responders.fit import make_contexts
from responders.leaving import Hazard
from responders.storage import read_json
from responders.synthetic import truth_of

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
    """

    asset: str
    home: str | None
    reward: str = "clicks"
    horizon: int = 100
    paged: bool = False


SCENARIOS = {
    "contentwise": Scenario("contentwise", "contentwise"),
    "rl4rs": Scenario("rl4rs", "rl4rs", reward="expected_revenue", horizon=4, paged=True),
    "any": Scenario("contentwise", None),
}


def open_responder(path: str | Path | Checkpoint) -> Checkpoint:
    """Return the users at `path`.

    Args:
        path: a responder written by `recsim train`; a synthetic log, whose known-truth users then
            answer themselves; or a checkpoint already loaded.

    Raises:
        InputError: there is nothing usable at `path`.
    """
    if isinstance(path, Checkpoint):
        return path
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"there is no responder at {path}: train one with `recsim train`")
    has_card = (path / "card.json").exists()
    if not has_card or read_json(path / "card.json", "responder").get("kind") != "session log":
        return load_checkpoint(path)
    log = SessionLog.load(path)
    truth = truth_of(log)
    if truth is None:
        raise InputError(
            f"{path} is a log of real users, which cannot answer new slates: train a responder on "
            f"it with `recsim train {path} --responder session_gru --out DIR`"
        )
    hazard = Hazard(tuple(truth.hazard), truth.settings.min_slates)
    card = {
        "synthetic": True,
        "responder": {"name": "known_truth"},
        "data": log.card,
        "catalogue": {"items": len(log.catalogue), "fingerprint": log.catalogue.fingerprint()},
    }
    return Checkpoint(truth, card, make_contexts(log, np.arange(log.n_sessions)), hazard)


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
    responder: str | Path | Checkpoint | None = None,
    reward: str | Reward | None = None,
    horizon: int | None = None,
    history: int = 10,
    warm_start: int | None = None,
    leaving: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> World:
    """Return the world of a scenario (or environment id).

    Args:
        scenario: `contentwise`, `rl4rs`, `any`, or an id such as `RecSim-ContentWise-v0`.
        num_users: B.
        responder: see `open_responder`; None = RECSIM_HOME's, else the embedded one.
        reward: None = the scenario's; see `recsim_env.rewards.make_reward`.
        horizon: None = the scenario's.
        history: slates that observations remember.
        warm_start: logged slates that users have behind them at the start; None = 0 where user
            features tell users apart, else 1.
        leaving: whether users leave by the hazard learned from the log.
        seed: of the users' random streams.
        device: where the world lies.

    Raises:
        InputError: an unknown scenario or an unusable argument.
    """
    parts = find_scenario(scenario)
    users = open_responder(find_responder(parts) if responder is None else responder)
    if users.synthetic:
        _tell_synthetic(scenario)
    if warm_start is None:
        warm_start = 0 if users.contexts.users.features.shape[1] else 1
    return World(
        users.responder,
        users.contexts,
        users.hazard if leaving else None,
        num_users=num_users,
        horizon=parts.horizon if horizon is None else horizon,
        history=history,
        reward=reward or parts.reward,
        warm_start=warm_start,
        seed=seed,
        device=device,
    )


def make_vector_env(
    num_envs: int = 1,
    scenario: str = "any",
    *,
    observe: str = "history",
    candidates: int | None = None,
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
        observe: `history` (Dict) or `flat` (Box), see `recsim_env.observations`.
        candidates: offer so many of the most clicked items instead of the whole catalogue.
        paged: choose slates item by item; None = as the scenario does.
        autoreset_mode: see `recsim_env.vector.WorldVectorEnv`.
        render_mode: None, "ansi" or "rgb_array".
        max_episode_steps: another name of `horizon`, which Gymnasium uses.
        users: not read; it stands in `env.spec` to say that embedded users are synthetic.
        world: further arguments of `make_world`: responder, reward, horizon, …
    """
    if max_episode_steps is not None:
        world.setdefault("horizon", max_episode_steps)
    core = make_world(scenario, num_users=num_envs, **world)
    paged = find_scenario(scenario).paged if paged is None else paged
    if paged:
        if candidates is not None or observe != "history":
            raise InputError("paged environments take no candidates and observe the history")
        return PageVectorEnv(core, autoreset_mode, render_mode)
    actions: SlateActions | CandidateActions = SlateActions(core)
    if candidates is not None:
        actions = CandidateActions(popular_candidates(core, candidates))
    encoder = make_encoder(observe, core)
    return RecSimVectorEnv(core, actions, encoder, autoreset_mode, render_mode)


def make_env(scenario: str = "any", **options: Any) -> RecSimEnv:
    """Return the environment of one user; `gym.make(id)` calls it.

    Args: as `make_vector_env`, without `num_envs` and `autoreset_mode`.
    """
    return RecSimEnv(make_vector_env(1, scenario, autoreset_mode=AutoresetMode.DISABLED, **options))
