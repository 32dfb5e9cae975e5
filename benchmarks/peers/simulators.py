"""How fast other recommender simulators are: user-slate steps per second under a random policy.

    python -m benchmarks.peers.simulators --python recsim=ENV/bin/python --python sardine=OTHER/bin/python

Each peer has its own environment (`simulators.md` says how to make it), so each is measured in a
subprocess: the interpreter named for it executes this very file by path, `--one NAME`, and prints a
JSON line. Therefore nothing but the standard library is imported at the top, and each peer inside
its own function. The random actions are drawn before the clock starts, as in `throughput.py`; the
result is the median of ten windows. A peer counts one step when one user has answered one slate.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SLATE = 10
ITEMS = 1000
USERS = 1024
"""Users of the peers that step a batch, as in the reference row of `throughput.py`."""
WINDOWS = 10
ROUND = 64
"""Random actions drawn in advance, used in turn."""


def steps_per_second(step: Callable[[int], int], seconds: float) -> float:
    """Call `step(i)`, which returns the user-slate steps it took; return the median rate."""
    for i in range(3):  # compiles and fills caches
        step(i)
    rates = []
    i = 0
    for _ in range(WINDOWS):
        began, taken, steps = time.perf_counter(), 0.0, 0
        while taken < seconds / WINDOWS:
            steps += step(i)
            i += 1
            taken = time.perf_counter() - began
        rates.append(steps / taken)
    return statistics.median(rates)


def _slates(*shape: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, ITEMS, (ROUND, *shape), dtype=np.int32)


def _recsim(environment: str, resample: bool, seconds: float) -> float:
    module: Any = importlib.import_module(f"recsim.environments.{environment}")
    env = module.create_environment(
        {
            "slate_size": SLATE,
            "num_candidates": ITEMS,
            "resample_documents": resample,
            "seed": 0,
        }
    )
    slates = _slates(SLATE)
    env.reset()

    def step(i: int) -> int:
        if env.step(slates[i % ROUND])[2]:
            env.reset()
        return 1

    return steps_per_second(step, seconds)


def recsim_steps(seconds: float) -> float:
    """Interest evolution, 1 user, slate 10 of 1,000 fixed candidates."""
    return _recsim("interest_evolution", False, seconds)


def recsim_resampled_steps(seconds: float) -> float:
    """Interest evolution, 1 user, slate 10 of 1,000 candidates drawn anew every step."""
    return _recsim("interest_evolution", True, seconds)


def recsim_exploration_steps(seconds: float) -> float:
    """Interest exploration, 1 user, slate 10 of 1,000 fixed candidates; users never leave."""
    return _recsim("interest_exploration", False, seconds)


def recsim_users_steps(seconds: float) -> float:
    """Interest evolution, 64 users in a MultiUserEnvironment, slate 10 of 1,000 fixed candidates.

    A user who is done is reset alone, so that nobody waits for the last one. More users were not
    faster: the environment loops over them in Python.
    """
    choice_model: Any = importlib.import_module("recsim.choice_model")
    module: Any = importlib.import_module("recsim.environments.interest_evolution")
    simulator: Any = importlib.import_module("recsim.simulator")
    users = [
        module.IEvUserModel(
            SLATE,
            choice_model_ctor=choice_model.MultinomialProportionalChoiceModel,
            response_model_ctor=module.IEvResponse,
            user_state_ctor=module.IEvUserState,
            seed=seed,
        )
        for seed in range(64)
    ]
    documents = module.UtilityModelVideoSampler(doc_ctor=module.IEvVideo, seed=0)
    world = simulator.environment.MultiUserEnvironment(
        users, documents, ITEMS, SLATE, resample_documents=False
    )
    env = simulator.recsim_gym.RecSimGymEnv(
        world, lambda all_responses: [module.clicked_watchtime_reward(r) for r in all_responses]
    )
    slates = _slates(len(users), SLATE)
    env.reset()

    def step(i: int) -> int:
        env.step(slates[i % ROUND])
        for user in users:
            if user.is_terminal():
                user.reset()
        return len(users)

    return steps_per_second(step, seconds)


def _recsim_ng_network(slates: Callable[[Any], Any]) -> Any:
    """Return RecSim NG's interest evolution network with `slates(config)` for a recommender."""
    porl = "recsim_ng.applications.recsys_partially_observable_rl"
    corpus: Any = importlib.import_module(f"{porl}.corpus")
    metrics: Any = importlib.import_module(f"{porl}.metrics")
    recommender: Any = importlib.import_module(f"{porl}.recommender")
    user: Any = importlib.import_module(f"{porl}.user")
    story: Any = importlib.import_module("recsim_ng.stories.recommendation_simulation")
    value: Any = importlib.import_module("recsim_ng.core.value")
    network: Any = importlib.import_module("recsim_ng.core.network")
    tf: Any = importlib.import_module("tensorflow")
    base: Any = recommender.CollabFilteringRecommender

    class Given(base):  # keeps the specs, has no model of the user
        def next_state(self, previous_state: Any, user_response: Any, slate_docs: Any) -> Any:
            return previous_state.map(tf.identity)

        def slate_docs(self, previous_state: Any, user_obs: Any, available_docs: Any) -> Any:
            index = tf.identity(slates(config))
            chosen = available_docs.map(lambda field: tf.gather(field, index))
            return chosen.union(value.Value(doc_ranks=index))

    config = {
        "num_users": USERS,
        "num_topics": 20,
        "num_docs": ITEMS,
        "slate_size": SLATE,
        "history_length": 15,
    }
    docs = corpus.CorpusWithTopicAndQuality(config).initial_state()
    variables = story.recs_story(
        config,
        user.InterestEvolutionUser,
        lambda _: corpus.StaticCorpus(config, docs),
        Given,
        metrics.ConsumedTimeAsRewardMetrics,
    )
    return network.Network(variables=variables)


def recsim_ng_steps(seconds: float) -> float:
    """Interest evolution, 1,024 users, slate 10 of 1,000, 20 topics; slates given from outside.

    One TensorFlow graph steps all users once; slates go in and choices and rewards come out as
    NumPy arrays, as with a Gymnasium environment. RecSim NG has no such face of its own: this uses
    `Network.step`. `TFRuntime.execute(1, state)` would trace its graph at every call.
    """
    value: Any = importlib.import_module("recsim_ng.core.value")
    tf: Any = importlib.import_module("tensorflow")
    slates = _slates(USERS, SLATE)
    given = tf.Variable(slates[0])
    network = _recsim_ng_network(lambda _: given)

    @tf.function
    def advance(state: Any) -> Any:
        after = network.step({name: value.Value(**fields) for name, fields in state.items()})
        return {name: fields.as_dict for name, fields in after.items()}

    state = {name: fields.as_dict for name, fields in network.initial_step().items()}

    def step(i: int) -> int:
        nonlocal state
        given.assign(slates[i % ROUND])
        state = advance(state)
        state["user response"]["choice"].numpy()
        state["metrics state"]["reward"].numpy()
        return USERS

    return steps_per_second(step, seconds)


def recsim_ng_rollout_steps(seconds: float) -> float:
    """Interest evolution, 1,024 users, slate 10 of 1,000, 20 topics; 100 steps in one graph.

    RecSim NG's own way: the random policy is part of the graph and nothing comes out until the end
    of the episode.
    """
    runtime: Any = importlib.import_module("recsim_ng.lib.tensorflow.runtime")
    tf: Any = importlib.import_module("tensorflow")

    def draw(config: dict[str, int]) -> Any:
        shape = (config["num_users"], config["slate_size"])
        return tf.random.uniform(shape, maxval=config["num_docs"], dtype=tf.int32)

    simulation = runtime.TFRuntime(_recsim_ng_network(draw))
    horizon = 100

    def step(_: int) -> int:
        simulation.execute(horizon)["metrics state"].get("cumulative_reward").numpy()
        return horizon * USERS

    return steps_per_second(step, seconds)


def sardine_steps(seconds: float) -> float:
    """SlateTopK-BoredInf-v0, 1 user, slate 10 of 1,000."""
    importlib.import_module("sardine")  # registers its environments
    gym: Any = importlib.import_module("gymnasium")
    env = gym.make("sardine/SlateTopK-BoredInf-v0", disable_env_checker=True)
    slates = _slates(SLATE)
    env.reset(seed=0)

    def step(i: int) -> int:
        _, _, terminated, truncated, _ = env.step(slates[i % ROUND])
        if terminated or truncated:
            env.reset()
        return 1

    return steps_per_second(step, seconds)


def recogym_steps(seconds: float) -> float:
    """RecoGym reco-gym-v1, 1 user, one item of 1,000 (it has no slates).

    A step is one recommendation and its click or not; the user's browsing until the next
    recommendation, which RecoGym simulates in the same call, is part of its time.
    """
    recogym: Any = importlib.import_module("recogym")
    envs: Any = importlib.import_module("recogym.envs")
    env = envs.RecoEnv1()  # gym 0.26 wraps what gym.make makes in checks that it does not pass
    env.init_gym({**recogym.env_1_args, "num_products": ITEMS, "random_seed": 0})
    items = _slates().tolist()
    user = 0

    def start() -> None:
        """Go on to the next user who gets as far as a recommendation."""
        nonlocal user
        done = True
        while done:
            env.reset(user)
            user += 1
            done = env.step(None)[2]

    def step(i: int) -> int:
        if env.step(items[i % ROUND])[2]:
            start()
        return 1

    start()
    return steps_per_second(step, seconds)


def trecs_steps(seconds: float) -> float:
    """T-RECS RandomRecommender, 1,024 users, slate 10 of 1,000, 8 attributes.

    Its users' tastes stand still (the default) and they always choose the item they like best.
    Slates are drawn inside, by its `startup` mode, the faster of its two ways.
    """
    import warnings

    import numpy as np

    models: Any = importlib.import_module("trecs.models")
    rng = np.random.default_rng(0)
    world = models.RandomRecommender(
        actual_user_representation=rng.normal(size=(USERS, 8)),
        actual_item_representation=rng.normal(size=(8, ITEMS)),
        num_items_per_iter=SLATE,
        seed=0,
    )
    warnings.simplefilter("ignore")  # it warns at each run that nothing is measured

    def step(_: int) -> int:
        world.run(1, startup=True, train_between_steps=False, disable_tqdm=True)
        return USERS

    return steps_per_second(step, seconds)


def reclab_steps(seconds: float) -> float:
    """RecLab BetaRank, 1,024 users, all online, slate 10 of 1,000, 20 topics.

    Tastes stand still; a user rates one item of the slate, never the same twice. It begins anew
    after 100 steps. (Of RecLab's other users, Topics and LatentFactorBehavior read the first item
    of a slate only.)
    """
    environments: Any = importlib.import_module("reclab.environments")
    env = environments.BetaRank(
        dimension=20, num_users=USERS, num_items=ITEMS, rating_frequency=1.0
    )
    env.seed(0)
    env.reset()
    slates = _slates(USERS, SLATE)

    def step(i: int) -> int:
        env.step(slates[i % ROUND])
        if i % 100 == 99:
            env.reset()
        return USERS

    return steps_per_second(step, seconds)


def virtual_taobao_steps(seconds: float) -> float:
    """VirtualTB, 1 user, the action is a weight vector of 27 that stands for a page of items."""
    import numpy as np

    envs: Any = importlib.import_module("virtualTB.envs")
    env = envs.VirtualTB()
    actions = np.random.default_rng(0).uniform(-1, 1, (ROUND, env.n_item_feature))
    env.reset()

    def step(i: int) -> int:
        if env.step(actions[i % ROUND])[2]:
            env.reset()
        return 1

    return steps_per_second(step, seconds)


PEERS: dict[str, Callable[[float], float]] = {
    "recsim": recsim_steps,
    "recsim_resampled": recsim_resampled_steps,
    "recsim_exploration": recsim_exploration_steps,
    "recsim_users": recsim_users_steps,
    "recsim_ng": recsim_ng_steps,
    "recsim_ng_rollout": recsim_ng_rollout_steps,
    "sardine": sardine_steps,
    "recogym": recogym_steps,
    "trecs": trecs_steps,
    "reclab": reclab_steps,
    "virtual_taobao": virtual_taobao_steps,
}

DISTRIBUTIONS = {
    "recsim": "recsim",
    "recsim_resampled": "recsim",
    "recsim_exploration": "recsim",
    "recsim_users": "recsim",
    "recsim_ng": "recsim-ng",
    "recsim_ng_rollout": "recsim-ng",
    "sardine": "sardine-rec",
    "recogym": "recogym",
    "trecs": "trecs",
    "reclab": "reclab",
    "virtual_taobao": "virtualTB",
}
"""The name under which each peer is installed."""


def setting_of(name: str) -> str:
    """Return what is measured of a peer: the first line of its function's docstring."""
    return (PEERS[name].__doc__ or name).splitlines()[0].rstrip(".")


def measure_one(name: str, seconds: float) -> dict[str, Any]:
    """Measure one peer in this interpreter."""
    row: dict[str, Any] = {
        "peer": name,
        "version": None,
        "setting": setting_of(name),
        "steps_per_second": None,
        "reason": None,
    }
    try:
        row["version"] = importlib.metadata.version(DISTRIBUTIONS[name])
        row["steps_per_second"] = PEERS[name](seconds)
    except importlib.metadata.PackageNotFoundError:
        row["reason"] = f"{DISTRIBUTIONS[name]} is not installed in this interpreter"
    except Exception as error:  # whatever an old package does under new ones
        row["reason"] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return row


def measure_all(interpreters: dict[str, str], seconds: float) -> list[dict[str, Any]]:
    """Measure each peer, one after another, and return its rows.

    `interpreters` gives the Python executable of a peer and of its siblings, the peers of the same
    distribution; the running one is the default. A row has `peer`, `version`, `setting`, and
    `steps_per_second` or a `reason`.
    """
    siblings = {DISTRIBUTIONS[name]: path for name, path in interpreters.items()}
    rows = []
    for name, distribution in DISTRIBUTIONS.items():
        python = interpreters.get(name, siblings.get(distribution, sys.executable))
        rows.append(_measure_in(python, name, seconds))
    return rows


def _measure_in(python: str, name: str, seconds: float) -> dict[str, Any]:
    found = str(Path(shutil.which(python) or python).absolute())
    command = [found, str(Path(__file__).resolve()), "--one", name, "--seconds", str(seconds)]
    failed = {
        "peer": name,
        "version": None,
        "setting": setting_of(name),
        "steps_per_second": None,
    }
    try:
        with tempfile.TemporaryDirectory() as folder:  # T-RECS writes a log where it runs
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=300 + 10 * seconds,
                cwd=folder,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {**failed, "reason": f"{type(error).__name__}: {error}"[:200]}
    try:
        row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        words = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return {**failed, "reason": words[0][:200]}
    return row


def _named(text: str) -> tuple[str, str]:
    name, sign, path = text.partition("=")
    if not sign or name not in PEERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH with NAME of {list(PEERS)}")
    return name, path


def main() -> None:
    """Print a table of all peers or, with --one, a JSON line of one in this interpreter."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--python",
        metavar="NAME=PATH",
        type=_named,
        action="append",
        default=[],
        help="The interpreter that has this peer and its siblings; repeatable.",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="Per row.")
    parser.add_argument("--one", choices=list(PEERS), help="Only this one, here, as JSON.")
    options = parser.parse_args()
    if options.one:
        here = Path(__file__).resolve().parent  # our module names are not the peer's
        sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
        print(json.dumps(measure_one(options.one, options.seconds)), flush=True)
        return
    print(f"{'peer':19} {'version':9} {'steps/s':>9}  setting, or why not")
    for row in measure_all(dict(options.python), options.seconds):
        rate = row["steps_per_second"]
        speed = "-" if rate is None else f"{rate:,.0f}"
        print(
            f"{row['peer']:19} {row['version'] or '-':9} {speed:>9}  "
            f"{row['reason'] or row['setting']}"
        )


if __name__ == "__main__":
    main()
