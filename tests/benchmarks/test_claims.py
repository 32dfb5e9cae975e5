"""The studies of what papers claim of sequential recommenders."""

import numpy as np
import pytest
import torch

from benchmarks.studies import generation, passed_over
from responders import InputError
from tests.agents.test_sequential import chains
from tests.conftest import log_of

SMALL = {"size": 8, "epochs": 1, "length": 6}


def test_the_next_clicks_are_held_out() -> None:
    log = chains(40)  # each item is followed by the next one
    training, history, target = generation.split(log, 4, 3)
    assert history.shape[1] == 4
    assert (target == (target[:, :1] + torch.arange(3)) % 30).all()
    last = history.gather(1, (history >= 0).sum(1, keepdim=True) - 1)
    assert ((last + 1) % 30 == target[:, :1]).all()
    tested = training.target >= 0
    assert tested.sum() == len(target) < len(training.target)
    np.testing.assert_array_equal(training.target[tested], last[:, 0])


def test_ways_of_generation_are_compared_with_the_first() -> None:
    rows = generation.compare(chains(40), "topk,greedy", ahead=3, seeds=1, settings=SMALL)
    assert [row["way"] for row in rows] == ["topk", "greedy"]
    assert rows[0]["ndcg_above"] == 0
    assert rows[1]["ndcg"] - rows[0]["ndcg"] == pytest.approx(rows[1]["ndcg_above"])
    with pytest.raises(InputError, match="nothing to test with"):
        generation.split(chains(40), 4, 20)


def test_all_that_is_recommended_is_counted() -> None:
    rng = np.random.default_rng(0)
    response = rng.random((60, 3)) < 0.4
    slate = rng.permuted(np.tile(np.arange(5), (60, 1)), axis=1)[:, :3]
    log = log_of(slate, response, [3] * 20)
    row, other = passed_over.compare(log, "item_knn,ease", top=5, seeds=1)
    asked = np.cumsum(response.reshape(20, 3, 3).any(2), 1)[16:, :-1] > 0
    later = response.reshape(20, 3, 3)[16:, 1:][asked]
    assert row["slates"] == asked.sum() > 0
    assert row["passed"] == pytest.approx(1 - later.mean())  # all five items are recommended
    assert row["ndcg_above"] == 0 != other["ndcg_above"]
    with pytest.raises(InputError, match="does not learn from logs"):
        passed_over.compare(log, "random")
