"""Every source reads its published format to the right log."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from responders.errors import InputError
from responders.log.session_log import SessionLog
from responders.sources import convert
from responders.sources._reading import parse, staged_table, text
from tests.responders.sources.raw import CASES, NAMES, edit, make, shown


@pytest.mark.parametrize("source", NAMES)
def test_every_source_makes_a_valid_log_with_a_full_card(
    source: str, tmp_path: Path, logs: Path
) -> None:
    log = convert(source, make(source, tmp_path / "raw"), logs / "log").validate()
    assert set(log.card) >= {"name", "source", "licence", "synthetic", "converter", "counts"}
    assert log.card["synthetic"] is False
    counts = log.card["counts"]
    assert counts["slates_kept"] == log.n_slates
    assert counts["sessions_kept"] == log.n_sessions
    assert counts["clicks"] == int(log.response.sum())
    assert [p.name for p in logs.iterdir()] == ["log"]
    left = {p.name for p in (logs / "log").iterdir()} - {".cache"}
    tables = {"slates.parquet", "sessions.parquet", "catalogue.parquet", "users.parquet"}
    assert left == tables | {"card.json"}


def test_rl4rs(tmp_path: Path, logs: Path) -> None:
    log = convert("rl4rs", make("rl4rs", tmp_path / "raw"), logs / "log")
    assert log.session_length.tolist() == [4, 3]
    assert log.time.tolist() == [105, 106, 107, 110, 200, 201, 202]
    assert shown(log)[:4] == [
        [1, 2, 3, 4, 5, 6, 7, 8, 9],
        [4, 5, 6, 1, 2, 3, 7, 8, 9],
        [2, 3, 1, 5, 4, 6, 8],
        [9, 8, 7, 6, 5, 4, 3, 2, 1],
    ]
    assert log.response[:3].tolist() == [
        [1, 0, 0, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0, 0, 1],
        [0, 1, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert log.catalogue.ids.tolist() == list(range(1, 10))
    assert log.catalogue.features.shape == (9, 40)
    assert log.catalogue.features[0, :3] == pytest.approx([-0.3, 0.0, 0.3])
    assert log.catalogue.price is not None
    assert log.catalogue.price[:2].tolist() == [1.5, 3.0]
    assert log.catalogue.attributes["layer"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert np.flatnonzero(log.catalogue.attributes["special"]).tolist() == [8]
    assert log.users.ids.tolist() == [7, 8]
    assert log.users.features[1, :2].tolist() == [800, 801]
    assert log.users.features.shape == (2, 42)
    counts = log.card["counts"]
    assert (counts["ties_moved"], counts["sessions_too_short"]) == (2, 1)


def test_rl4rs_leaves_out_user_features_that_differ_in_length(tmp_path: Path, logs: Path) -> None:
    folder = make("rl4rs", tmp_path / "raw")
    edit(folder / "rl4rs_dataset_b_sl.csv", "@900,901,", "@901,")
    log = convert("rl4rs", folder, logs / "log").validate()
    assert log.users.features.shape == (2, 0)
    assert "left out" in log.card["user_features"]


def test_rl4rs_takes_part_b_of_several_or_the_one_asked_for(tmp_path: Path, logs: Path) -> None:
    folder = make("rl4rs", tmp_path / "raw")
    text = (folder / "rl4rs_dataset_b_sl.csv").read_text().replace("@8@", "@88@")
    (folder / "rl4rs_dataset_a_sl.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert convert("rl4rs", folder, logs / "b").users.ids.tolist() == [7, 8]
    assert convert("rl4rs", folder, logs / "a", which="a").users.ids.tolist() == [7, 88]
    file = folder / "rl4rs_dataset_a_sl.csv.gz"
    assert convert("rl4rs", file, logs / "file").users.ids.tolist() == [7, 88]
    with pytest.raises(InputError, match=r"no rl4rs_dataset_c_sl.csv; .*a, b"):
        convert("rl4rs", folder, logs / "c", which="c")


def check_contentwise(log: SessionLog) -> None:
    log.validate()
    assert shown(log) == [[12, 53, 7], [12, 7], [*range(1, 25), 53]]
    assert [np.flatnonzero(r).tolist() for r in log.response] == [[0, 1], [1], [24]]
    assert log.time.tolist() == [5000, 5001, 9000]
    assert log.users.ids.tolist() == [1]
    counts = log.card["counts"]
    expected = {
        "interactions_read": 10,
        "interactions_without_recommendation": 1,
        "interactions_of_unknown_recommendation": 1,
        "impressions_read": 6,
        "impressions_without_interaction": 1,
        "recommendation_series_groups": 7,
        "groups_outside_the_list": 1,
        "slates_read": 5,
        "sessions_too_short": 1,
        "ties_moved": 1,
        "items": 25,
    }
    assert {k: counts[k] for k in expected} == expected


@pytest.mark.parametrize("packed", [False, True])
def test_contentwise_text(packed: bool, tmp_path: Path, logs: Path) -> None:
    folder = make("contentwise", tmp_path / "raw")
    for path in list(folder.iterdir()) if packed else []:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    check_contentwise(convert("contentwise", folder, logs / "log"))


@pytest.mark.parametrize("printed", [False, True])
@pytest.mark.parametrize("index", ["recommendation_id", "__index_level_0__"])
def test_contentwise_parquet(printed: bool, index: str, tmp_path: Path, logs: Path) -> None:
    case, folder = CASES / "contentwise", tmp_path / "raw"
    for name in ("interactions", "impressions-direct-link"):
        (folder / name).mkdir(parents=True)
        chunks = list(text.read_text(case / f"{name}.csv", _header(case / f"{name}.csv")))
        (chunk,) = chunks
        columns = {n: chunk.column(n) for n in chunk.table.column_names}
        for n in set(columns) - {"recommended_series_list", "vision_factor", "explicit_rating"}:
            columns[n] = pa.array(parse.integers(chunk, n).astype(np.int32 if n != "x" else int))
        if name == "interactions":
            ms = parse.integers(chunk, "utc_ts_milliseconds")
            columns["utc_ts_milliseconds"] = pa.array(ms, pa.timestamp("ms"))
        else:
            columns[index] = columns.pop("recommendation_id")
            if not printed:
                lists = parse.integer_lists(chunk, "recommended_series_list", None)
                columns["recommended_series_list"] = staged_table.to_lists(
                    lists.values, lists.length, np.int32
                )
        table = pa.table(columns)
        half = len(table) // 2
        pq.write_table(table.slice(0, half), folder / name / "part.0.parquet")
        pq.write_table(table.slice(half), folder / name / "part.1.parquet")
    check_contentwise(convert("contentwise", folder, logs / "log"))


def _header(path: Path) -> list[str]:
    return path.read_text().splitlines()[0].split(",")


def test_contentwise_cuts_positions(tmp_path: Path, logs: Path) -> None:
    folder = make("contentwise", tmp_path / "raw")
    log = convert("contentwise", folder, logs / "log", max_positions=2).validate()
    assert shown(log) == [[12, 53], [12, 7], [1, 2]]
    assert log.card["counts"]["clicks_cut_off"] == 1


def test_trec_session(tmp_path: Path, logs: Path) -> None:
    folder = make("trec-session", tmp_path / "raw")
    log = convert("trec-session", folder, logs / "log")
    assert log.users.ids.tolist() == [30, 31, 40]
    assert log.session_length.tolist() == [1, 2, 2]
    assert log.time.tolist() == [0, 0, 1, 0, 1]
    assert shown(log)[0] == [11, 11, *range(31, 39)]
    assert shown(log)[4] == [51, 52, 53, 54, 55]
    assert log.response[0].tolist() == [1, 1] + [0] * 8
    assert 91 not in log.catalogue.ids
    alone = convert("trec-session", folder / "test_per_query_quid.txt", logs / "alone")
    assert alone.users.ids.tolist() == [50]
    (folder / "train_per_query_quid.txt").unlink()
    with pytest.raises(InputError, match=r"no train_per_query_quid.txt.*test_per.*valid_per"):
        convert("trec-session", folder, logs / "none")


def test_trec_session_keeps_equal_ids_of_two_files_apart(tmp_path: Path, logs: Path) -> None:
    folder = make("trec-session", tmp_path / "raw")
    path = folder / "valid_per_query_quid.txt"
    path.write_text(path.read_text().replace("40\t", "31\t"))
    log = convert("trec-session", folder, logs / "log").validate()
    assert log.users.ids.tolist() == ["train/30", "train/31", "valid/31"]
    assert log.session_length.tolist() == [1, 2, 2]


def test_open_bandit(tmp_path: Path, logs: Path) -> None:
    log = convert("open-bandit", make("open-bandit", tmp_path / "raw"), logs / "log")
    assert log.slate.tolist() == [[-1, -1, 1], [3, -1, -1], [-1, 0, -1], [1, -1, -1]]
    assert np.argwhere(log.response).tolist() == [[1, 0]]
    assert log.propensity is not None
    assert (log.propensity == np.where(log.slate >= 0, np.float32(0.25), 0)).all()
    assert log.user.tolist() == [0, 1, 0, 2]
    assert log.users.features.sum(1).tolist() == [4, 4, 4]
    assert log.users.features.shape[1] == len(log.card["user_feature_columns"]) == 6
    assert log.catalogue.features.shape[1] == len(log.card["item_feature_columns"]) == 1 + 2 + 1 + 4
    assert log.catalogue.features[:, 0].tolist() == [-0.5, -0.25, 0.0, 0.25]
    assert (np.diff(log.time) == [23, 123, 0]).all()


def test_ebnerd(tmp_path: Path, logs: Path) -> None:
    log = convert("ebnerd", make("ebnerd", tmp_path / "raw"), logs / "log")
    assert shown(log) == [[9], [5, 7, 9, 6], [7, 8]]
    assert [np.flatnonzero(r).tolist() for r in log.response] == [[], [1, 3], [1]]
    assert log.time.tolist() == [9, 1, 2]
    assert log.users.ids[log.user].tolist() == [30, 40]


def test_ebnerd_history(tmp_path: Path, logs: Path) -> None:
    times = [[3_000_000, 1_000_000], [3_500_000, 3_600_000, 9_000_000]]
    columns = {
        "user_id": pa.array([40, 30], pa.uint32()),
        "impression_time_fixed": pa.array(times, pa.list_(pa.timestamp("us"))),
        "article_id_fixed": pa.array([[7, 8], [5, 7, 5]], pa.list_(pa.int32())),
    }
    path = tmp_path / "history.parquet"
    pq.write_table(pa.table(columns), path)
    log = convert("ebnerd-history", tmp_path, logs / "log")
    assert shown(log) == [[5], [7], [5], [8], [7]]
    assert log.time.tolist() == [3, 4, 9, 1, 3]
    assert log.response.all()
    assert log.users.ids[log.user].tolist() == [30, 40]
    columns["article_id_fixed"] = pa.array([[7], [5, 7, 5]], pa.list_(pa.int32()))
    pq.write_table(pa.table(columns), path)
    with pytest.raises(InputError, match="2 times for another number of articles"):
        convert("ebnerd-history", path, logs / "other")


def test_movielens(tmp_path: Path, logs: Path) -> None:
    folder = make("movielens", tmp_path / "raw")
    log = convert("movielens", folder, logs / "log")
    assert shown(log) == [[10], [30], [20], [40], [10]]
    assert log.response.ravel().tolist() == [1, 0, 1, 0, 1]
    assert log.time.tolist() == [400, 500, 501, 900, 1000]
    assert log.card["counts"]["ties_moved"] == 1
    low = convert("movielens", folder / "ratings.csv", logs / "low", threshold=3.5)
    assert low.response.ravel().tolist() == [1, 1, 1, 0, 1]


def test_movielens_with_films(tmp_path: Path, logs: Path) -> None:
    folder = make("movielens", tmp_path / "raw")
    films = """movieId,title,genres
10,Up (2009),Animation|Comedy
20,"Wall, The (1982)",Drama
30,No year,Comedy
40,Alien (1979),(no genres listed)
"""
    (folder / "movies.csv").write_text(films)
    catalogue = convert("movielens", folder, logs / "log").catalogue
    assert catalogue.ids.tolist() == [10, 20, 30, 40]
    names = ("(no genres listed)", "Animation", "Comedy", "Drama", "year")
    assert catalogue.feature_names == names
    assert catalogue.features[0].tolist() == [0, 1, 1, 0, 2009]
    assert catalogue.features[2].tolist() == [0, 0, 1, 0, 1982]  # the median year
    (folder / "movies.csv").write_text(films.replace("40,Alien", "41,Alien"))
    with pytest.raises(InputError, match="item 40 is not in the item table"):
        convert("movielens", folder, logs / "other")


def test_movielens_among_films_that_were_not_rated(tmp_path: Path, logs: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = [
        (user, film, rng.integers(1, 6), time)
        for user in range(30)
        for time, film in enumerate(rng.permutation(np.arange(100, 112))[:6])
    ]
    lines = [",".join(map(str, row)) for row in rows]
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(lines))
    plain = convert("movielens", folder, logs / "plain")
    log = convert("movielens", folder, logs / "among", negatives=5)
    rated = log.slate == plain.slate
    assert (rated.sum(1) == 1).all()
    assert np.array_equal(log.response.sum(1), plain.response[:, 0])
    assert not log.response[~rated].any()
    assert np.bincount(rated.argmax(1), minlength=6).min() > 10  # at any position
    for session in range(30):
        rows_of = slice(*log.session_start[session : session + 2])
        own, slates = set(plain.slate[rows_of, 0]), log.slate[rows_of]
        assert all(len(set(slate)) == 6 and len(set(slate) & own) == 1 for slate in slates)
    assert "constructed" in log.card["slates"]
    assert "CONSTRUCTED slates with 5 random films" in log.card["source"]
    again = convert("movielens", folder, logs / "again", negatives=5, chunk_rows=7)
    assert np.array_equal(again.slate, log.slate)
    other = convert("movielens", folder, logs / "other", negatives=5, seed=1)
    assert not np.array_equal(other.slate, log.slate)
    with pytest.raises(InputError, match="rated all but 6 films, too few for 7 negatives"):
        convert("movielens", folder, logs / "many", negatives=7)


def test_amazon(tmp_path: Path, logs: Path) -> None:
    log = convert("amazon", make("amazon", tmp_path / "raw"), logs / "log")
    assert shown(log) == [[1], [2], [3], [4], [2], [5], [1], [6], [2]]
    assert log.response.all()
    assert log.time.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]


def test_slates_without_an_item_are_counted_and_left_out(tmp_path: Path, logs: Path) -> None:
    folder = make("trec-session", tmp_path / "raw")
    path = folder / "train_per_query_quid.txt"
    edit(path, "[21, 22, 23, 24, 25, 26, 27, 28, 29, 30]", str([0] * 10))
    log = convert("trec-session", path, logs / "log").validate()
    assert log.card["counts"]["slates_empty"] == 1
    assert log.n_slates == 2


def test_a_slate_without_an_item_does_not_interrupt_its_session(tmp_path: Path, logs: Path) -> None:
    path = tmp_path / "one_per_query_quid.txt"
    rows = [("[1, 2]", "[0, 1]"), ("[0, 0]", "[0, 0]"), ("[2, 1]", "[0, 0]")]
    path.write_text("".join(f"5\t1\t{shown}\t[1, 1]\t{click}\n" for shown, click in rows))
    log = convert("trec-session", path, logs / "log").validate()
    assert shown(log) == [[1, 2], [2, 1]]
    assert log.time.tolist() == [0, 1]
