"""Splits of a log by user and by time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from responders import InputError, SessionLog, fit
from responders.log.batch import Part
from responders.log.split import PARTS, make_split, sample_users, split_users


def test_the_fractions_of_the_split_are_an_argument(small_log: SessionLog, tmp_path: Path) -> None:
    users = fit(small_log, "pbm", tmp_path / "run", fractions=(0.5, 0.2, 0.3), progress=False)
    assert users.card["metrics"]["n_sessions"] == 180
    assert users.card["split"]["fractions"] == [0.5, 0.2, 0.3]
    with pytest.raises(InputError, match="add up to 1"):
        fit(small_log, "pbm", tmp_path / "other", fractions=(0.5, 0.2, 0.2), progress=False)
    assert not (tmp_path / "other").exists()


def test_a_split_by_time_starts_with_users_that_were_not_trained_on(
    small_log: SessionLog, tmp_path: Path
) -> None:
    users = fit(small_log, "pbm", tmp_path / "run", split="time", progress=False)
    assert users.card["initial_users"] == "users held out of training"
    part = make_split(small_log, "time", 0)["train"]
    trained = set(small_log.users.ids[small_log.user[part.sessions]].tolist())
    assert not trained & set(users.initial_sessions.users.ids.tolist())


def test_the_split_is_by_user_exact_and_stable(small_log: SessionLog) -> None:
    split = split_users(small_log, seed=3)
    users = [set(small_log.user[split[part].sessions]) for part in PARTS]
    assert [len(u) for u in users] == [480, 60, 60]
    assert not users[0] & users[1]
    assert not users[0] & users[2]
    shuffled = small_log.select(np.random.default_rng(0).permutation(small_log.n_sessions))
    again = split_users(shuffled, seed=3)["test"].sessions
    assert set(shuffled.users.ids[shuffled.user[again]]) == set(
        small_log.users.ids[small_log.user[split["test"].sessions]]
    )
    assert set(split_users(small_log, seed=4)["test"].sessions) != set(split["test"].sessions)


def test_a_log_too_small_to_split_is_refused(small_log: SessionLog) -> None:
    with pytest.raises(InputError, match="3 users, too few"):
        split_users(small_log.select([0, 1, 2]))


def test_no_two_seeds_give_one_split(small_log: SessionLog) -> None:
    parts = [split_users(small_log, s)["test"].sessions for s in (10**17, 10**17 + 1, 2**62 - 1)]
    assert len({tuple(part) for part in parts}) == 3


def test_the_split_by_time_hides_the_future(small_log: SessionLog) -> None:
    split = make_split(small_log, "time", 0)
    latest, counted = {}, np.zeros(small_log.n_slates, int)
    for name, part in split.items():
        start = small_log.session_start[part.sessions]
        seen = np.concatenate([np.arange(s, s + e) for s, e in zip(start, part.end, strict=True)])
        latest[name] = small_log.time[seen].max()
        for s, first, end in zip(start, part.first, part.end, strict=True):
            counted[s + first : s + end] += 1
            assert name == "train" or small_log.time[s + first] >= latest["train"]
    assert latest["train"] <= latest["validation"] <= latest["test"]
    assert (counted == 1).all()  # every slate counts in one part
    shares = [(part.end - part.first).sum() / small_log.n_slates for part in split.values()]
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.01)


def test_what_training_counts_ends_with_its_part(small_log: SessionLog, tmp_path: Path) -> None:
    """Later slates of a session that is cut by the moment are not counted."""
    part = make_split(small_log, "time", 0)["train"]
    users = fit(small_log, "item_ctr", tmp_path / "run", split="time", progress=False)
    shown = users.initial_sessions.catalogue.attributes["shown"]
    assert shown.sum() == sum(
        int((small_log.slate[s : s + e] >= 0).sum())
        for s, e in zip(small_log.session_start[part.sessions], part.end, strict=True)
    )
    assert users.card["split"]["by"] == "time"


def test_logs_without_times_cannot_be_split_by_time(small_log: SessionLog) -> None:
    short = small_log.select(np.arange(50), first_slates=1)
    at_once = SessionLog(**{**vars(short), "time": np.zeros(short.n_slates)})
    with pytest.raises(InputError, match="cannot be split by time"):
        make_split(at_once, "time", 0)


def test_samples_of_sessions_and_users(small_log: SessionLog) -> None:
    visits = replace(small_log, user=np.arange(600) // 3)
    assert sample_users(visits, np.arange(600), 600).tolist() == list(range(600))
    sample = sample_users(visits, np.arange(600), 100)
    assert len(sample) == 102
    assert (np.bincount(visits.user[sample])[visits.user[sample]] == 3).all(), "all of a user's"
    everything = Part.of(small_log, np.arange(600))
    assert len(everything.sample(600)) == 600
    assert everything.sample(250).sessions.tolist() == list(range(0, 600, 3))
