"""Sequential recommenders trained with the catalogue's cross-entropy."""

import numpy as np
import pytest
import torch

from agents.sasrec import SASRec, gains, ndcg, sequences_of, train, with_last
from responders import Catalogue, InputError, SessionLog, Users


def chains(users: int = 120, items: int = 30, seed: int = 0) -> SessionLog:
    """Each user walks through the catalogue by steps of one: the next item is certain."""
    rng = np.random.default_rng(seed)
    length = rng.integers(4, 9, users)
    start = np.repeat(rng.integers(items, size=users), length)
    step = np.concatenate([np.arange(n) for n in length])
    return SessionLog(
        slate=((start + step) % items)[:, None],
        response=np.ones((length.sum(), 1)),
        session_start=np.r_[0, np.cumsum(length)],
        user=np.arange(users),
        time=step,
        catalogue=Catalogue(np.arange(items)),
        users=Users(np.arange(users)),
    )


@pytest.mark.parametrize(
    "options", [{}, *({"negatives": 16, "share": s} for s in ("row", "block", "batch"))]
)
def test_sasrec_learns_what_comes_next(options: dict) -> None:
    data = sequences_of(chains(), length=8)
    settings = {"size": 32, "dropout": 0.0}
    net = train(data, epochs=25, learning_rate=5e-3, progress=False, model=settings, **options)
    assert ndcg(net, with_last(data), data.test) > 0.8  # a guess among 30 items: 0.15


def test_a_seed_fixes_the_training() -> None:
    data = sequences_of(chains(20), length=8)
    nets = [
        train(data, epochs=2, seed=seed, progress=False, negatives=8).state_dict()
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(nets[0][k], nets[1][k]) for k in nets[0])
    assert not all(torch.equal(nets[0][k], nets[2][k]) for k in nets[0])


def test_sequences_are_in_time_and_leave_the_last_two_out() -> None:
    data = sequences_of(chains(5, items=100), length=4)
    for user in range(5):
        known = data.item[user][data.item[user] >= 0]
        assert (np.diff(np.r_[known, data.validation[user], data.test[user]]) % 100 == 1).all()
    whole = with_last(data)
    for user in range(5):
        known = whole[user][whole[user] >= 0]
        assert known[-1] == data.validation[user]
        assert (np.diff(known) % 100 == 1).all()


def test_later_items_do_not_change_earlier_states() -> None:
    torch.manual_seed(0)
    net = SASRec(20, 6, size=8).eval()
    item = torch.randint(20, (3, 6))
    other = torch.cat([item[:, :3], (item[:, 3:] + 1) % 20], 1)
    with torch.no_grad():
        torch.testing.assert_close(net(item)[:, :3], net(other)[:, :3])


def test_ndcg_is_that_of_the_rank() -> None:
    class Fixed(SASRec):
        def scores(self, item: torch.Tensor) -> torch.Tensor:
            return torch.arange(20.0).flip(0).expand(len(item), -1)  # item i has rank i + 1

    target = np.array([0, 1, 9, 10])
    expected = np.mean([1, 1 / np.log2(3), 1 / np.log2(11), 0])
    found = ndcg(Fixed(20, 4, size=8), np.zeros((4, 4), np.int64), target)
    assert found == pytest.approx(expected)


def test_too_few_clicks_are_refused() -> None:
    log = chains(3)
    with pytest.raises(InputError, match="three clicks"):
        sequences_of(log.select(np.arange(3), first_slates=2))


class Scores:
    """A model with given scores of all items."""

    def __init__(self, scores: torch.Tensor) -> None:
        self.items, self.given = torch.nn.Embedding(scores.shape[1], 1), scores

    def eval(self) -> None: ...

    def scores(self, item: torch.Tensor) -> torch.Tensor:
        return self.given[: len(item)]


def test_constant_scores_are_ranked_in_the_middle_and_nan_is_refused() -> None:
    history, target = np.zeros((4, 3), np.int64), np.array([0, 5, 50, 99])
    constant = Scores(torch.zeros(4, 100))
    assert (gains(constant, history, target) == 0).all()  # type: ignore[arg-type]
    best = torch.zeros(4, 100)
    best[torch.arange(4), torch.from_numpy(target)] = 1.0
    assert (gains(Scores(best), history, target) == 1).all()  # type: ignore[arg-type]
    two = torch.zeros(4, 100)
    two[:, [7, 8]] = 1.0
    tied = gains(Scores(two), history, np.full(4, 7))  # type: ignore[arg-type]
    np.testing.assert_allclose(tied, 1 / np.log2(2.5))  # rank 1.5
    with pytest.raises(InputError, match="NaN"):
        gains(Scores(torch.full((4, 100), torch.nan)), history, target)  # type: ignore[arg-type]
