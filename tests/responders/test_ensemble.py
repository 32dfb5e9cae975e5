"""Ensembles of responders."""

import pytest
import torch

from responders import InputError
from responders.models.base import Responder, unroll
from responders.models.ensemble import Ensemble
from tests.conftest import random_batch, random_responder, uniform


def test_an_ensemble_is_the_mean_of_its_members() -> None:
    members = [random_responder(name) for name in ("pbm", "scot", "session_gru", "dbn")]
    ensemble, batch = Ensemble(members).eval(), random_batch()
    shown = batch.shown
    with torch.no_grad():
        whole, stepped = ensemble(batch), unroll(ensemble, batch)
        mean = torch.stack([m(batch).sigmoid() for m in members]).mean(0)
        state = ensemble.start(batch.user)
        slate = batch.slate[:, 0]
        answer = ensemble.respond(state, slate, uniform(slate, 0))
        stated = ensemble.logits(state, slate, answer.click.float()).sigmoid()
        each = ensemble.probabilities(state, slate, answer.click.float())
    torch.testing.assert_close(whole.sigmoid()[shown], mean[shown], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(whole[shown], stepped[shown], atol=1e-4, rtol=1e-4)
    here = slate >= 0
    torch.testing.assert_close(answer.probability[here], stated[here], atol=1e-5, rtol=1e-5)
    assert answer.disagreement is not None
    torch.testing.assert_close(answer.disagreement[here], each.std(0, correction=0)[here])
    assert (answer.disagreement[~here] == 0).all()


def test_members_that_agree_do_not_disagree() -> None:
    ensemble = Ensemble([random_responder("slate_gru"), random_responder("slate_gru")]).eval()
    with torch.no_grad():
        slate = torch.tensor([[0, 1, 2]] * 3)
        answer = ensemble.respond(ensemble.start(torch.zeros(3, 2)), slate, uniform(slate))
    assert answer.disagreement is not None
    assert answer.disagreement.max() < 1e-6


@pytest.mark.parametrize("members", [[], ["pbm", "other"]])
def test_ensembles_that_make_no_sense_are_refused(members: list[str]) -> None:
    found: list[Responder] = [
        random_responder("pbm", items=9 if name == "pbm" else 10) for name in members
    ]
    with pytest.raises(InputError, match=r"at least one responder|trained on one catalogue"):
        Ensemble(found)
