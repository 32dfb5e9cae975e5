"""The comparison of sequential recommenders, without the other libraries."""

import numpy as np
import pytest
import torch

from agents.registry import POLICIES
from agents.sequences import sequences_of
from agents.sequential import gains
from agents.site import Site
from benchmarks.peers.sequential import Settings, compare, gains_of_lists, ours, split
from benchmarks.peers.sequential_models import Best, ndcg
from responders import Catalogue, InputError, SessionLog
from responders.registry import load
from tests.agents.test_sequential import chains

SETTINGS = Settings(size=8, length=4, epochs=2)


@pytest.fixture(scope="module")
def log() -> SessionLog:
    return chains(30)


def test_lists_are_judged_as_scores_are(log: SessionLog) -> None:
    data = sequences_of(log, 4, leave_out=1)
    kind = load(POLICIES, "sasrec", "policy")
    net = kind(Site(log.catalogue, 3), kind.config_class(size=8, length=4)).net
    lists = net.scores(torch.from_numpy(data.history)).topk(10).indices.numpy()
    expected = gains(net, data.history, data.target)
    assert 0 < (expected > 0).mean() < 1
    np.testing.assert_allclose(gains_of_lists(lists, data.target), expected)
    assert ndcg(lists, data.target) == pytest.approx(expected.mean())
    assert not gains_of_lists(np.full((1, 10), -1), np.array([3])).any()


def test_the_weights_of_the_best_epoch_are_kept() -> None:
    layer = torch.nn.Linear(1, 1)
    file = {"validation_history": np.zeros((1, 1), int), "validation_target": np.array([7])}
    best, going = Best(file, patience=2), []
    for epoch, place in enumerate((5, 1, 3, 3)):
        torch.nn.init.constant_(layer.weight, epoch)
        items = np.where(np.arange(10) == place, 7, 0)[None]
        going.append(best.add(lambda _, items=items: items, layer))  # type: ignore[misc]
    assert going == [True, True, True, False]
    assert best.weights["weight"].item() == 1


def test_items_that_are_not_trained_on_are_not_tested() -> None:
    training, test = split(chains(12), 4)
    assert 0 < len(test.target) < len(training.target) == 12
    items = np.unique(training.item[training.item >= 0])
    np.testing.assert_array_equal(items, np.arange(training.n_items))
    assert ((test.target >= 0) & (test.target < training.n_items)).all()


@pytest.mark.parametrize("model", ["sasrec", "gru4rec"])
def test_our_side_has_the_common_settings(model: str, log: SessionLog) -> None:
    training, test = split(log, 4)
    site = Site(Catalogue(np.arange(training.n_items)), 1)
    run = ours(model, site, training, test, SETTINGS, seed=0)
    assert run.epochs == 2
    assert run.seconds > 0
    assert run.gain.shape == test.target.shape


def test_bad_input_is_named_before_the_work(log: SessionLog) -> None:
    with pytest.raises(InputError, match="'popular' has no peer"):
        compare(log, {}, "popular", SETTINGS)
    with pytest.raises(InputError, match="gru4rec needs --cornac"):
        compare(log, {"rectools": "python"}, "gru4rec", SETTINGS)
    pairs = log.select(np.arange(log.n_sessions), first_slates=2)
    with pytest.raises(InputError, match="no user has three clicks"):
        compare(pairs, {"cornac": "python"}, "gru4rec", SETTINGS)
