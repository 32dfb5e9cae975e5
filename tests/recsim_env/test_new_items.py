"""Items that are new to the responder."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recsim_env.loading import with_items
from recsim_env.make import make_world, open_responder
from responders import Catalogue, InputError, SessionLog
from responders.training.checkpoint import load_responder
from responders.training.fit import fit


def test_new_items_are_answered_by_their_features(small_log: SessionLog, tmp_path: Path) -> None:
    fit(small_log, "session_gru", tmp_path / "run", {"epochs": 1, "embedding": "content"},
        progress=False)  # fmt: skip
    users = load_responder(tmp_path / "run")
    old = users.initial_sessions.catalogue
    twin, opposite = old.features[3], -old.features[3]
    more = old.extended([1000, 1001], [twin, opposite])
    np.testing.assert_array_equal(more.features[-2:], [twin, opposite])
    with pytest.raises(InputError, match="features of new items has shape"):
        old.extended([1000], [[1.0]])
    world = make_world("any", responder=users, catalogue=more, num_users=1)
    assert world.n_items == len(old) + 2
    state = world.episodes.memory
    a, b = torch.full((1, 5), -1), torch.full((1, 5), -1)
    a[0, 0], b[0, 0] = len(old), len(old) + 1
    with torch.inference_mode():
        first, second = (world.responder.logits(state, slate)[0, 0] for slate in (a, b))
    assert first != second
    outcome = world.step(torch.tensor([[len(old), len(old) + 1, 0, 1, 2]]))
    assert torch.isfinite(outcome.probability).all()
    assert len(users.initial_sessions.catalogue) == len(old)  # the given users stay as they were
    assert with_items(users, old) is users
    with pytest.raises(InputError, match="another catalogue"):
        make_world("any", responder=users, catalogue=Catalogue(np.arange(3)))


def test_new_items_do_not_move_the_layers_of_the_others() -> None:
    users = open_responder(Path(__file__).parents[2] / "recsim_env/assets/rl4rs")
    old = users.initial_sessions.catalogue
    plain = make_world("rl4rs", responder=users).rules.allowed
    unknown = make_world("rl4rs", responder=users, catalogue=old.extended([10**6])).rules.allowed
    assert plain is not None
    assert unknown is not None
    assert torch.equal(unknown[:, :-1], plain)
    assert not unknown[:, -1].any()
    more = old.extended([10**6])
    layer = more.attributes["layer"].copy()
    layer[-1] = 3
    known = replace(more, attributes=more.attributes | {"layer": layer})
    allowed = make_world("rl4rs", responder=users, catalogue=known).rules.allowed
    assert allowed is not None
    assert allowed[:, -1].tolist() == [False] * 6 + [True] * 3


def test_true_users_know_their_own_items_alone(small_log_path: Path) -> None:
    users = open_responder(small_log_path)
    old = users.initial_sessions.catalogue
    more = old.extended([1000])
    with pytest.raises(InputError, match="true users"):
        with_items(users, more)
