"""Google RecSim NG (https://github.com/google-research/recsim_ng)."""

# The simulator is installed in its own virtual environment.
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from recsim_ng.applications.recsys_partially_observable_rl import (
    corpus,
    metrics,
    recommender,
    user,
)
from recsim_ng.core import network, value
from recsim_ng.lib.tensorflow import runtime
from recsim_ng.stories import recommendation_simulation


def _network(users: int, items: int, slate_size: int, slates: Callable[[], Any]) -> Any:
    """Return the interest evolution network that recommends `slates()` [users, slate_size]."""
    base: Any = recommender.CollabFilteringRecommender

    class GivenSlates(base):  # keeps the specs, without a user model
        def next_state(self, previous_state: Any, user_response: Any, slate_docs: Any) -> Any:
            return previous_state.map(tf.identity)

        def slate_docs(self, previous_state: Any, user_obs: Any, available_docs: Any) -> Any:
            index = tf.identity(slates())
            chosen = available_docs.map(lambda field: tf.gather(field, index))
            return chosen.union(value.Value(doc_ranks=index))

    config = {
        "num_users": users,
        "num_topics": 20,
        "num_docs": items,
        "slate_size": slate_size,
        "history_length": 15,
    }
    docs = corpus.CorpusWithTopicAndQuality(config).initial_state()
    variables = recommendation_simulation.recs_story(
        config,
        user.InterestEvolutionUser,
        lambda _: corpus.StaticCorpus(config, docs),
        GivenSlates,
        metrics.ConsumedTimeAsRewardMetrics,
    )
    return network.Network(variables=variables)


def stepwise(users: int, items: int, slate_size: int) -> Callable[[int], int]:
    """Slates go in and choices and rewards come out as NumPy arrays, as with Gymnasium.

    One TensorFlow graph steps all users once. RecSim NG has no interface for this; `Network.step`
    is used, as `TFRuntime.execute(1, state)` would trace its graph at every call.
    """
    slates = np.random.default_rng(0).integers(0, items, (64, users, slate_size), dtype=np.int32)
    current_slates = tf.Variable(slates[0])
    world = _network(users, items, slate_size, lambda: current_slates)

    @tf.function
    def advance(state: Any) -> Any:
        new_state = world.step({name: value.Value(**fields) for name, fields in state.items()})
        return {name: fields.as_dict for name, fields in new_state.items()}

    state = {name: fields.as_dict for name, fields in world.initial_step().items()}

    def step(i: int) -> int:
        nonlocal state
        current_slates.assign(slates[i % len(slates)])
        state = advance(state)
        state["user response"]["choice"].numpy()
        state["metrics state"]["reward"].numpy()
        return users

    return step


def rollout(users: int, items: int, slate_size: int) -> Callable[[int], int]:
    """RecSim NG's own interface: one graph takes 100 steps, with a random policy inside."""
    horizon = 100

    def draw() -> Any:
        return tf.random.uniform((users, slate_size), maxval=items, dtype=tf.int32)

    simulation = runtime.TFRuntime(_network(users, items, slate_size, draw))

    def step(_: int) -> int:
        simulation.execute(horizon)["metrics state"].get("cumulative_reward").numpy()
        return horizon * users

    return step
