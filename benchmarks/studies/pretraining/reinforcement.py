"""Policies that learn by acting: in a learned simulator first, then with the true users."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from agents.finding import find_policy
from agents.neural import NeuralPolicy
from agents.popular import PopularPolicy
from agents.rollout import rollout
from benchmarks.reports import pretrain as report
from benchmarks.studies.pretraining.sequences import Pretraining
from benchmarks.studies.pretraining.source import SimulatedUsers, open_source
from benchmarks.studies.stored import file_of, folder_of_trials, load_stored, run_missing
from benchmarks.studies.trials import TRAINING_SEED, separate_users
from benchmarks.workers import Workers
from recsim_env.make import make_world
from recsim_env.world import World
from responders import InputError, SessionLog
from responders.config import Config, make_config
from responders.errors import check_whole
from responders.evaluation.bootstrap import crossed_interval
from responders.files import new_folder, write_json
from responders.known_truth.world import truth_of

SCRATCH, PRETRAINED, POPULAR = "from scratch", "pretrained", "popular"
"""The arms; `popular` does not learn."""

_PRETRAINING_USERS = 256
_TRUE_USERS = 32  # few, so that few interactions are many steps


@dataclass(frozen=True)
class ReinforcementSetup:
    """What a trial needs beside the arm and the seed; see `pretrain`."""

    simulator: str
    log: Path
    policy: str
    interactions: tuple[int, ...]
    steps: int
    users: int
    settings: Mapping[str, Any]
    device: str


class ReinforcementTrial(BaseModel):
    """What an arm reached with one seed: by interactions as text, the reward of each true user."""

    arm: str
    seed: int
    reward: dict[str, list[float]]


def pretrain(
    simulator: str | Path,
    log: str | Path,
    policy: str = "slateq",
    *,
    interactions: Sequence[int] = (0, 500, 1000, 2000, 5000, 10_000, 20_000),
    steps: int = 50_000,
    users: int = 500,
    seeds: int = 3,
    settings: Mapping[str, Any] | None = None,
    workers: Workers = Workers(),  # noqa: B008
    device: str = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: bool = True,
) -> Pretraining:
    """Measure how many interactions with true users a policy saves by learning in a simulator.

    The policy learns in the simulator, and then with the true users of a synthetic log, as if they
    were real, for each number of interactions anew. Other true users judge it. Beside it, learning
    from scratch with the same number of interactions, and `popular`.

    Args:
        simulator: an environment id, or the folder of a responder.
        log: folder of a synthetic log with the same catalogue.
        policy: `slateq`, `slate_ppo` or another `NeuralPolicy`.
        interactions: user-slate steps with true users, rounded up to whole updates.
        steps: user-slate steps in the simulator.
        users: true users who judge.
        seeds: repetitions, each with its own users.
        settings: of the policy. Fine-tuning goes on with a tenth of the learning rates, where the
            schedules of pretraining end, and without more exploration than at their end.
        workers: what runs the trials.
        device: auto, cpu or cuda.
        out: as in `benchmarks.studies.pretraining.sequences.pretrain`.
        overwrite: replace `out` if it exists.
        command: the command line, for the files.
        progress: show a progress bar.

    Returns:
        Rows with `arm`, `interactions`, `reward` of a session with its 95 % interval over seeds and
        users, and `above`, the difference from popular's with the same users, likewise. The facts
        hold `needed`: the interactions from which on each arm's mean is at least popular's, None if
        it never is.

    Raises:
        InputError: the log is of real users, an unknown name or value, or `out` exists.
    """
    for name, value in (("seeds", seeds), ("users", users), ("steps", steps)):
        check_whole(name, value, 1)
    numbers = tuple(sorted({check_whole("interactions", n, 0) for n in interactions}))
    setup = ReinforcementSetup(
        str(simulator), Path(log), policy, numbers, steps, users, dict(settings or {}), device
    )
    if not numbers:
        raise InputError("no number of interactions given: for example 0,1000,10000")
    with nullcontext() if out is None else new_folder(Path(out), overwrite) as building:
        if truth_of(SessionLog.load(setup.log)) is None:
            raise InputError(
                f"{log} is a log of real users, who cannot be asked: give a synthetic one"
            )
        source = open_source(simulator, log, device)
        new_policy(setup, _true_worlds(setup)[0], 0)
        entry = find_policy(policy)
        key = f"{source.key} {steps} {users} {numbers} {sorted(setup.settings.items())}"
        with folder_of_trials(out) as folder:
            trials = {
                folder / file_of(entry, seed, f"{key} {arm}"): (setup, arm, seed)
                for seed in range(seeds)
                for arm in (POPULAR, SCRATCH, PRETRAINED)
            }
            run_missing(trials, workers, progress, run_reinforcement_trial, label="pretrain")
            done = [load_stored(path, ReinforcementTrial) for path in trials]
            rows = _rows(done)
            facts = {
                "kind": "reinforcement", "policy": policy, "simulator": str(simulator),
                "responder": source.checkpoint.card["responder"]["name"],
                "log": str(source.training.card.get("name")), "synthetic": True, "steps": steps,
                "users": users, "seeds": seeds, "needed": _needed(rows),
                "settings": dict(setup.settings), "command": command,
            }  # fmt: skip
            files = [] if building is None else report.write(rows, facts, building)
    return Pretraining(rows, facts, [Path(str(out)) / file.name for file in files])


def _true_worlds(setup: ReinforcementSetup) -> tuple[World, World]:
    """Return the true users with whom a policy learns, and those who judge."""
    learning, judging = (
        make_world(responder=setup.log, num_users=n, device=setup.device)
        for n in (_TRUE_USERS, setup.users)
    )
    separate_users(learning, judging)
    return learning, judging


def new_policy(setup: ReinforcementSetup, world: World, seed: int) -> NeuralPolicy:
    """Return the policy with random weights.

    Raises:
        InputError: it is no `NeuralPolicy`, or an invalid setting.
    """
    kind = find_policy(setup.policy).source
    if not isinstance(kind, type) or not issubclass(kind, NeuralPolicy):
        raise InputError(f"policy {setup.policy} neither is sequential nor learns as slateq does")
    return kind(world, make_config(kind.config_class, setup.settings, setup.policy), seed)  # type: ignore[arg-type]


def gentle(config: Config) -> Config:
    """Return the settings with which a policy goes on learning: as its training ended."""
    values = vars(config)
    rates = {name: values[name] / 10 for name in ("learning_rate", "actor_rate") if name in values}
    calm = {"start_epsilon": values["epsilon"]} if "start_epsilon" in values else {}
    return make_config(type(config), values | rates | calm, type(config).__name__)


def run_reinforcement_trial(path: Path, setup: ReinforcementSetup, arm: str, seed: int) -> None:
    """Train for each number of interactions, evaluate, and write the trial to the file `path`."""
    source = open_source(setup.simulator, setup.log, setup.device)
    learning, judging = _true_worlds(setup)
    reward = {}
    if arm == POPULAR:
        found = rollout(judging, PopularPolicy(judging), seed).reward.tolist()
        reward = {str(n): found for n in setup.interactions}
    else:
        start = _start(setup, source, learning, arm, seed)
        for n in setup.interactions:
            policy = copy.deepcopy(start)
            if n:
                policy.train(learning, n, TRAINING_SEED + seed)
            reward[str(n)] = rollout(judging, policy, seed).reward.tolist()
    write_json(path, ReinforcementTrial(arm=arm, seed=seed, reward=reward).model_dump())


def _start(
    setup: ReinforcementSetup, source: SimulatedUsers, learning: World, arm: str, seed: int
) -> NeuralPolicy:
    policy = new_policy(setup, learning, seed)
    if arm == PRETRAINED:
        policy.train(source.world(_PRETRAINING_USERS), setup.steps, TRAINING_SEED + seed)
        policy.config = gentle(policy.config)  # type: ignore[assignment]
    return policy


def _rows(trials: Sequence[ReinforcementTrial]) -> list[dict[str, Any]]:
    rows = []
    for number in trials[0].reward:
        values = {
            arm: np.array([t.reward[number] for t in trials if t.arm == arm])
            for arm in (POPULAR, SCRATCH, PRETRAINED)
        }  # [seeds, users]
        for arm, own in values.items():
            row = {"arm": arm, "interactions": int(number), **crossed_interval("reward", own)}
            if arm != POPULAR:
                row |= crossed_interval("above", own - values[POPULAR])
            rows.append(row)
    return rows


def _needed(rows: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    """Return from how many interactions on each arm's reward stays at least popular's."""
    needed: dict[str, int | None] = {}
    for arm in (SCRATCH, PRETRAINED):
        needed[arm] = None
        for row in reversed([row for row in rows if row["arm"] == arm]):
            if row["above"] < 0:
                break
            needed[arm] = row["interactions"]
    return needed
