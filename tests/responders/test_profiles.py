"""Profiles: what is known of a user's past, and that nothing of the future is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from responders import EMPTY, InputError, SessionLog, Users
from responders.known_truth.logs import synthesize
from responders.known_truth.presets import TruthConfig
from responders.profiles import (
    METHODS,
    EventAutoencoder,
    ProfileConfig,
    _History,
    split_past,
    with_profiles,
)

SMALL = ProfileConfig(size=4, events=30, epochs=8, batch_size=32)


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> SessionLog:
    """A synthetic log of 150 users who come twice, with tastes that their features hide."""
    world = TruthConfig(
        n_items=20, n_positions=4, clusters=4, dimensions=2, hidden=0.9, max_slates=6, base=-1.0
    )
    out = tmp_path_factory.mktemp("logs") / "visits"
    return synthesize(out, world, 300, visits=2, progress=False)


@pytest.fixture(scope="module")
def profiled(visits: SessionLog) -> SessionLog:
    past, later = split_past(visits)
    return with_profiles(later, past, METHODS, SMALL, progress=False)


def test_users_of_a_synthetic_log_come_back(visits: SessionLog) -> None:
    assert len(visits.users) == 150
    assert (np.bincount(visits.user) == 2).all()
    begin = visits.time[visits.session_start[:-1]].reshape(150, 2)
    end = visits.time[visits.session_start[1:] - 1].reshape(150, 2)
    assert (begin[:, 1] > end[:, 0]).all()
    past, later = split_past(visits)
    assert past.n_sessions == later.n_sessions == 150
    assert past.time.max() < later.time.min()


def test_profiles_join_the_features_of_the_users(visits: SessionLog, profiled: SessionLog) -> None:
    names = profiled.validate().users.feature_names
    assert names[:2] == ("feature_0", "feature_1")
    for method, size in (("autoencoder", 4), ("svd", 4), ("counts", 6 + 16)):
        assert sum(name.startswith(f"past_{method}_") for name in names) == size
    np.testing.assert_array_equal(profiled.users.features[:, :2], visits.users.features)
    assert "truth" not in profiled.card
    assert profiled.card["profiles"]["methods"] == list(METHODS)


def test_profiles_tell_hidden_tastes(profiled: SessionLog, visits: SessionLog) -> None:
    """The features of the items that a user clicks later are predicted from each profile."""
    row = np.repeat(profiled.user, profiled.session_length)
    liked = np.zeros((len(profiled.users), 16))
    slate, position = np.nonzero(profiled.response)
    np.add.at(liked, row[slate], visits.catalogue.features[profiled.slate[slate, position]])
    half = np.arange(len(liked)) % 2 == 0
    for method in METHODS:
        columns = [n.startswith(f"past_{method}") for n in profiled.users.feature_names]
        x = profiled.users.features[:, columns].astype(float)
        x = np.column_stack([(x - x.mean(0)) / (x.std(0) + 1e-6), np.ones(len(x))])
        ridge = x[half].T @ x[half] + 10 * np.eye(x.shape[1])
        predicted = x[~half] @ np.linalg.solve(ridge, x[half].T @ liked[half])
        assert np.corrcoef(predicted.ravel(), liked[~half].ravel())[0, 1] > 0.2, method


def test_events_are_the_last_ones_of_a_user_in_order(visits: SessionLog) -> None:
    history, user = _History(visits, 5), 7
    events = history.of(np.array([user, 8]), torch.device("cpu"))
    sessions = np.flatnonzero(visits.user == user)
    rows = visits.rows(sessions)
    shown, clicks = visits.slate[rows].ravel()[-5:], visits.response[rows].ravel()[-5:]
    assert events.item[0].tolist() == shown.tolist()
    assert events.click[0].tolist() == clicks.tolist()
    assert (events.item != EMPTY).sum() == history.length[[user, 8]].sum()


def test_padding_does_not_change_a_vector(visits: SessionLog) -> None:
    history = _History(visits, 40)
    users = np.argsort(history.length)[[0, -1]]
    torch.manual_seed(0)
    net = EventAutoencoder(len(visits.catalogue), 4).eval()
    with torch.no_grad():
        both = net(history.of(users, torch.device("cpu")))
        alone = net(history.of(users[:1], torch.device("cpu")))
    assert history.length[users[0]] < history.length[users[1]]
    torch.testing.assert_close(both[:1], alone)


def test_profiles_depend_on_the_past_alone_and_are_reproducible(visits: SessionLog) -> None:
    past, later = split_past(visits)
    other = replace(later, response=np.zeros_like(later.response), slate=later.slate[:, ::-1])
    quick = ProfileConfig(size=4, events=10, epochs=1)
    one, two = (with_profiles(log, past, METHODS, quick, progress=False) for log in (later, other))
    np.testing.assert_array_equal(one.users.features, two.users.features)


def test_unknown_users_have_zeros_and_the_future_is_refused(visits: SessionLog) -> None:
    past, later = split_past(visits)
    some = past.select(past.user < 100)
    made = with_profiles(later, some, ["counts"], progress=False)
    assert (made.users.features[100:, 2:] == 0).all()
    assert (made.users.features[:100, 2] > 0).all()
    with pytest.raises(InputError, match="would tell the future"):
        with_profiles(past, later, ["counts"])
    strangers = replace(past, users=Users(past.users.ids + 1000, past.users.features))
    with pytest.raises(InputError, match="no user of the log"):
        with_profiles(later, strangers, ["counts"])
    with pytest.raises(InputError, match="unknown; did you mean svd"):
        with_profiles(later, past, ["svds"])
    with pytest.raises(InputError, match="within 0 and 1"):
        split_past(visits, 1.0)
    with pytest.raises(InputError, match="no session begins before"):
        split_past(replace(past, time=past.time * 0).select([0]))
