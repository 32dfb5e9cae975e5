"""Sequential recommenders, on logs in which the next item is certain."""

import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import load_policy
from agents.answering import observe
from agents.finding import find_policy
from agents.pnfrec import PNFRec
from agents.registry import POLICIES
from agents.rollout import rollout
from agents.sequences import appended, clicked_history, sequences_of
from agents.sequential import SequenceModel, SequentialPolicy, gains
from agents.site import Site
from recsim_env import make_world
from responders import InputError, SessionLog, Users
from responders.log import ragged
from responders.registry import load
from tests.commands import run_together, two_ranks
from tests.conftest import log_of

NAMES = ["sasrec", "gru4rec", "bert4rec", "pnfrec"]
SMALL = {"size": 32, "dropout": 0.0, "learning_rate": 0.005, "batch_size": 32, "length": 4}


def chains(users: int = 120, items: int = 30, seed: int = 0) -> SessionLog:
    """Each user walks through the catalogue by steps of one: the next item is certain."""
    rng = np.random.default_rng(seed)
    length = rng.integers(4, 9, users)
    start = np.repeat(rng.integers(items, size=users), length)
    return log_of(((start + ragged.place(length)) % items)[:, None], 1, length, items=items)


def make(name: str, log: SessionLog, seed: int = 0, **settings: Any) -> SequentialPolicy:
    kind = load(POLICIES, name, "policy")
    return kind(Site(log.catalogue, 3), kind.config_class(**SMALL | settings), seed)


@pytest.fixture(scope="module", params=NAMES)
def learned(request: pytest.FixtureRequest) -> SequentialPolicy:
    """Each model in turn, trained on chains."""
    log = chains(400)
    policy = make(request.param, log, epochs=60, patience=10)
    policy.fit(log)
    return policy


def histories(policy: SequentialPolicy, *items: list[int]) -> dict[str, torch.Tensor]:
    site = policy.site
    return observe(site, [np.array(i, np.int64) for i in items], site.features.mean(0)[None])


def test_every_model_learns_what_comes_next(learned: SequentialPolicy) -> None:
    unseen = sequences_of(chains(200, seed=1), length=4, leave_out=1)
    assert gains(learned.net, unseen.history, unseen.target).mean() > 0.99  # a guess: 0.15
    assert learned.recommend([[3, 4, 5], [28, 29]], k=1) == [[6], [0]]
    counts = np.bincount(chains(400).slate[:, 0])
    assert counts[learned.recommend([[]], k=1)[0][0]] == counts.max()


def test_users_are_scored_alone_as_together(learned: SequentialPolicy) -> None:
    users = [[1, 2, 3], [], [9], list(range(20)), [4, 5, 6, 7, 8, 9]]
    together = learned.score(histories(learned, *users))
    alone = torch.cat([learned.score(histories(learned, user)) for user in users])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    latest = learned.score(histories(learned, users[3][-4:]))  # 4 clicks are read
    torch.testing.assert_close(together[3], latest[0], atol=1e-4, rtol=1e-4)


def test_what_was_not_clicked_is_not_read(learned: SequentialPolicy) -> None:
    seen = histories(learned, [1, 2, 3])
    item = torch.tensor([[7, 1, 12, 2, -1, 3, 9]])
    shown = {"item": item, "click": torch.tensor([[0, 1, 0, 1, 0, 1, 0]], dtype=torch.int8)}
    torch.testing.assert_close(learned.score(seen), learned.score(shown), atol=1e-4, rtol=1e-4)


def test_a_loaded_policy_recommends_the_same(learned: SequentialPolicy, tmp_path: Path) -> None:
    loaded = load_policy(learned.save(tmp_path / "p"))
    users = [[1, 2, 3], [], [9], [4, 5, 6]]
    assert loaded.recommend(users, k=5) == learned.recommend(users, k=5)
    seen = histories(learned, *users)
    assert loaded.score(seen).equal(learned.score(seen))


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_fixes_the_training(name: str) -> None:
    log, states = chains(20), []
    for seed in (0, 0, 1):
        torch.rand(seed + 3)  # the state of PyTorch's generator does not matter
        policy = make(name, log, seed, epochs=2, negatives=8, dropout=0.2)
        policy.fit(log)
        policy.fit(log)  # from the start again
        states.append(policy.net.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not all(torch.equal(states[0][k], states[2][k]) for k in states[0])


@pytest.mark.parametrize("share", ["row", "block", "batch"])
def test_sampled_negatives_teach_as_well(share: str) -> None:
    log = chains()
    policy = make("sasrec", log, epochs=40, negatives=16, share=share)
    policy.fit(log)
    data = sequences_of(chains(200, seed=1), length=4, leave_out=1)
    assert gains(policy.net, data.history, data.target).mean() > 0.9


def test_training_stops_when_validation_gets_no_better() -> None:
    log = chains()
    policy = make("gru4rec", log, epochs=200, patience=3)
    epochs = policy.fit_sequences(sequences_of(log, 4, leave_out=1))
    found = [epoch.ndcg for epoch in epochs]
    assert len(found) < 200
    assert len(found) - 1 - int(np.argmax(found)) == 3
    data = sequences_of(log, 4, leave_out=1)
    assert gains(policy.net, data.history, data.target).mean() == pytest.approx(max(found))
    pairs = log.select(np.arange(log.n_sessions), first_slates=2)
    epochs = policy.fit_sequences(replace(sequences_of(pairs, 4), n_items=30))
    assert len(epochs) == 200  # nothing to validate on
    assert epochs[-1].ndcg is None


def fit_and_save(out: Path, environment: dict[str, str]) -> None:
    os.environ |= environment
    torch.set_num_threads(1)
    policy = make("sasrec", chains(97), epochs=3)  # the last batch has too few rows to share
    epochs = policy.fit_sequences(sequences_of(chains(97), 4, leave_out=1))
    curve = [[epoch.loss, epoch.ndcg] for epoch in epochs]
    np.savez(out, curve=curve, items=policy.net.items.weight.detach().numpy())


@pytest.mark.skipif(os.name == "nt", reason="starts processes by a fork server")
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.npz" for name in ("one", "first", "second")]
    run_together(fit_and_save, *zip(files, [{}, *two_ranks()], strict=True))
    one, first, second = map(np.load, files)
    np.testing.assert_allclose(first["curve"], one["curve"], atol=1e-5)
    np.testing.assert_allclose(first["items"], one["items"], atol=1e-4)
    np.testing.assert_array_equal(second["items"], first["items"])


@pytest.mark.parametrize("name", NAMES)
def test_batches_without_a_next_click_teach_nothing(name: str) -> None:
    log = tastes(9).select(np.arange(9), first_slates=3)
    policy = make(name, log, epochs=2)
    epochs = policy.fit_sequences(sequences_of(log, 4))  # one click, and two left out
    assert np.isfinite([epoch.loss for epoch in epochs]).all()
    assert len(policy.recommend([[1], []], k=3)[0]) == 3


def test_sequences_are_in_time_and_leave_the_last_out() -> None:
    log = chains(5, items=100)
    two, one = (sequences_of(log, 4, leave_out=n) for n in (2, 1))
    clicks = np.diff(log.session_start)
    for user in range(5):
        for data, out in ((two, 2), (one, 1)):
            known = data.item[user][data.item[user] >= 0]
            assert len(known) == min(clicks[user] - out, 5)
            assert (np.diff(np.r_[known, data.target[user]]) % 100 == 1).all()
            assert data.history[user][data.history[user] >= 0].tolist() == known[-4:].tolist()
        assert two.target[user] == one.item[user][one.item[user] >= 0][-1]
        assert one.target[user] == log.slate[log.session_start[user + 1] - 1, 0]


def test_sessions_of_a_user_follow_each_other() -> None:
    log = log_of(
        [[4, 5], [6, 7], [0, 1], [2, 3], [8, 9]],
        [[1, 0], [0, 1], [1, 1], [1, 0], [0, 1]],
        [2, 2, 1],
        user=np.array([0, 0, 1]),
        time=np.array([10, 11, 1, 2, 0]),
        users=Users(np.arange(2)),
    )
    by_user = sequences_of(log, 6, leave_out=1)
    assert by_user.item.tolist() == [[0, 1, 2, 4, -1, -1, -1]]  # one click is no sequence
    assert by_user.target.tolist() == [7]
    assert by_user.skipped.tolist() == [[3, 5, -1, -1, -1, -1, -1]]  # 6 was shown with the target
    by_session = sequences_of(log, 6, leave_out=1, by="session")
    assert by_session.item[:, :3].tolist() == [[4, 7, -1], [0, 1, -1]]
    assert by_session.target.tolist() == [-1, 2]
    assert by_session.skipped[:, :3].tolist() == [[5, 6, -1], [-1, -1, -1]]
    short = sequences_of(log, 1, leave_out=2)
    assert (short.item.tolist(), short.history.tolist()) == ([[1, 2]], [[2]])
    assert short.target.tolist() == [4]
    with pytest.raises(InputError, match="no session of the log has two clicks"):
        sequences_of(log.select(np.array([2])), by="session")


def test_histories_are_the_last_clicks() -> None:
    item = torch.tensor([[5, 3, 8, 1, 2, 7], [-1, -1, -1, -1, -1, 4], [1, 2, 3, 4, 5, 6]])
    click = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 1], [0] * 6], dtype=torch.int8)
    found = clicked_history({"item": item, "click": click}, 3)
    assert found.tolist() == [[8, 1, 7], [4, -1, -1], [-1, -1, -1]]
    longer = appended(found, torch.tensor([9, 9, 9]))
    assert longer.tolist() == [[1, 7, 9], [4, 9, -1], [9, -1, -1]]
    assert appended(found, torch.tensor([-1, -1, -1])).equal(found)


def test_later_items_do_not_change_earlier_states() -> None:
    log = chains(3)
    for name in ("sasrec", "gru4rec", "pnfrec"):
        net = make(name, log, length=6).net
        item = torch.randint(20, (3, 6))
        other = torch.cat([item[:, :3], (item[:, 3:] + 1) % 20], 1)
        with torch.no_grad():
            torch.testing.assert_close(net(item)[:, :3], net(other)[:, :3])


def test_the_contrast_is_the_formula_by_hand() -> None:
    net = make("pnfrec", chains(3)).net
    assert isinstance(net, PNFRec)
    state = torch.randn(2, 3, 32)
    target = torch.tensor([[4, 5, -1], [6, -1, -1]])
    skipped = torch.tensor([[7, 5, 8], [9, -1, -1]])
    vectors = net.items.weight
    terms = [
        -torch.log_softmax(vectors[torch.tensor(items)] @ s, 0)[0]
        for items, s in (
            ([4, 7, 5, 8], state[0, 0]),
            ([5, 7, 8], state[0, 1]),
            ([6, 9], state[1, 0]),
        )
    ]
    torch.testing.assert_close(net.contrastive(state, target, skipped), torch.stack(terms).mean())


def tastes(users: int = 60, seed: int = 0) -> SessionLog:
    """Each slate has one of 15 items of the user's parity, which is clicked, and four others."""
    rng, slates = np.random.default_rng(seed), 6
    parity = np.arange(users).repeat(slates)[:, None] % 2
    liked = 2 * rng.integers(15, size=(users * slates, 1)) + parity
    others = 2 * rng.integers(15, size=(users * slates, 4)) + 1 - parity
    return log_of(np.c_[liked, others], [1, 0, 0, 0, 0], [slates] * users, items=30)


def test_what_was_passed_over_is_recommended_less() -> None:
    clicked = [[2 * i, 2 * j] for i, j in itertools.permutations(range(15), 2)]
    disliked = np.zeros((2, 4))
    for seed in range(4):
        data = sequences_of(tastes(seed=seed), 4, leave_out=1)
        data = replace(data, target=np.full_like(data.target, -1))  # no early stopping
        for weight in (0, 1):
            policy = make("pnfrec", tastes(), seed, epochs=2, skips=weight, contrast=weight)
            policy.fit_sequences(data)
            recommended = np.array(policy.recommend(clicked, k=10))
            disliked[weight, seed] = (recommended % 2).mean()
    assert disliked[1].mean() < 0.5 * disliked[0].mean()


class Scores(SequenceModel):
    """A model with given scores of all items."""

    def __init__(self, scores: torch.Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.items, self.given = torch.nn.Embedding(scores.shape[1], 1), scores

    def scores(self, item: torch.Tensor) -> torch.Tensor:
        return self.given[: len(item)]


def test_ndcg_is_that_of_the_rank() -> None:
    fixed = Scores(torch.arange(20.0).flip(0).expand(4, -1))  # item i has rank i + 1
    found = gains(fixed, np.zeros((4, 4), np.int64), np.array([0, 1, 9, 10]))
    np.testing.assert_allclose(found, [1, 1 / np.log2(3), 1 / np.log2(11), 0])


def test_constant_scores_are_ranked_in_the_middle_and_nan_is_refused() -> None:
    history, target = np.zeros((4, 3), np.int64), np.array([0, 5, 50, 99])
    assert (gains(Scores(torch.zeros(4, 100)), history, target) == 0).all()
    best = torch.zeros(4, 100)
    best[torch.arange(4), torch.from_numpy(target)] = 1.0
    assert (gains(Scores(best), history, target) == 1).all()
    two = torch.zeros(4, 100)
    two[:, [7, 8]] = 1.0
    tied = gains(Scores(two), history, np.full(4, 7))
    np.testing.assert_allclose(tied, 1 / np.log2(2.5))  # rank 1.5
    with pytest.raises(InputError, match="NaN"):
        gains(Scores(torch.full((4, 100), torch.nan)), history, target)


@pytest.mark.parametrize("name", NAMES)
def test_a_world_teaches_it_and_shows_its_slates(name: str, small_log_path: Path) -> None:
    world = make_world("any", num_users=60, responder=small_log_path)
    policy = find_policy(name).make(world, 0)
    assert policy.train(world, 500, seed=5) >= 500
    assert policy.synthetic
    assert rollout(world, policy, seed=0).log.n_slates > 60
