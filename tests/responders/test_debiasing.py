"""Training with inverse propensities, and the propensities of synthetic logs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from responders import InputError, SessionLog
from responders.known_truth.logs import LoggingPolicy, synthesize
from responders.known_truth.presets import PRESETS, TruthConfig
from responders.known_truth.world import make_truth
from responders.log.batch import Part, SessionBatch, inverse_propensity, make_batch
from responders.models.base import click_loss
from responders.training.fit import fit
from tests.conftest import random_responder


def test_weights_are_clipped_ratios_with_mean_one() -> None:
    propensity = np.array([[0.5, 0.1, 0.001, 0.0]])
    shown = np.array([[True, True, True, False]])
    found = inverse_propensity(propensity, shown, n_items=10, clip=5.0)
    ratio = np.array([0.2, 1.0, 5.0])  # the third is 100 without the clip
    np.testing.assert_allclose(found[0, :3], ratio / ratio.mean(), rtol=1e-6)
    assert found[0, 3] == 0
    np.testing.assert_allclose(
        inverse_propensity(np.full((2, 3), 0.1), np.ones((2, 3), bool), 10, 5.0), 1
    )


def test_the_loss_counts_positions_by_their_weight() -> None:
    slate, click = torch.tensor([[[0, 1, -1]]]), torch.tensor([[[1.0, 0.0, 0.0]]])
    batch = SessionBatch(slate, click, torch.zeros(1, 0), torch.tensor([1]))
    logits = torch.tensor([[[0.3, -0.2, 9.0]]])
    first, second = (float(-torch.tensor(x).sigmoid().log()) for x in (0.3, 0.2))
    assert float(click_loss(logits, batch)) == pytest.approx(first + second)
    weighted = replace(batch, weight=torch.tensor([[[2.0, 0.5, 7.0]]]))
    assert float(click_loss(logits, weighted)) == pytest.approx(2 * first + 0.5 * second)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> SessionLog:
    world = TruthConfig(
        n_items=20, n_positions=4, clusters=4, item_features=4, dimensions=3, max_slates=6
    )
    out = tmp_path_factory.mktemp("logs") / "log"
    return synthesize(out, world, 200, policy="personal", propensities=True, progress=False)


def test_a_synthetic_log_has_the_chances_of_its_policy(logged: SessionLog) -> None:
    assert logged.validate().propensity is not None
    plain = make_truth(TruthConfig().changed(**logged.card["truth"]))
    policy = LoggingPolicy(plain, "personal")
    user = torch.from_numpy(logged.users.features[:1].copy()).expand(20_000, -1)
    state = plain.start(user)
    with torch.no_grad():
        slate = policy(state, torch.Generator().manual_seed(0))
        chance = policy.propensity(state, slate)
        for item in slate[:, 0].unique()[:5]:
            rows = slate[:, 0] == item
            expected = float(chance[rows, 0][0])
            assert float(rows.float().mean()) == pytest.approx(expected, abs=0.012)
        first = slate[:, 0] == slate[:, 0].mode().values
        second = slate[first, 1].mode().values
        rows = slate[first, 1] == second
        expected = float(chance[first][rows, 1][0])
        assert float(rows.float().mean()) == pytest.approx(expected, abs=0.03)


def test_a_batch_has_weights_only_when_asked(logged: SessionLog) -> None:
    part = Part.of(logged, np.arange(20))
    assert make_batch(logged, part).weight is None
    batch = make_batch(logged, part, ips_clip=10.0)
    assert batch.weight is not None
    assert float(batch.weight[batch.shown].mean()) == pytest.approx(1, abs=1e-5)
    assert not batch.weight[~batch.shown].any()
    assert batch.weight[batch.shown].std() > 0.1
    assert batch.to("cpu").weight is not None


def test_training_with_weights_differs_and_needs_propensities(
    logged: SessionLog, small_log: SessionLog, tmp_path: Path
) -> None:
    settings = {"epochs": 1, "ips_clip": 5.0}
    weighted = fit(logged, "mf", tmp_path / "ips", settings, progress=False)
    plain = fit(logged, "mf", tmp_path / "plain", {"epochs": 1}, progress=False)
    ones, others = (c.responder.state_dict() for c in (weighted, plain))
    assert any(not torch.equal(ones[k], others[k]) for k in ones)
    with pytest.raises(InputError, match="ips_clip needs propensities"):
        fit(small_log, "mf", tmp_path / "none", settings, progress=False)
    assert not (tmp_path / "none").exists()
    batch = make_batch(logged, Part.of(logged, np.arange(3)), ips_clip=5.0)
    with pytest.raises(InputError, match="leave out ips_clip"):
        random_responder("rancm", items=20, features=3).training_loss(batch)


def test_propensities_are_refused_where_they_are_not_known(tmp_path: Path) -> None:
    for world, policy in ((PRESETS["rl4rs"], "mixed"), (PRESETS["contentwise"], "repeating")):
        with pytest.raises(InputError, match="propensities are known"):
            synthesize(tmp_path / "log", world, 5, policy=policy, propensities=True, progress=False)
    assert not (tmp_path / "log").exists()
