"""`recsim recommend`: answers to real users from a saved policy."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.popular import PopularPolicy
from agents.site import Site
from benchmarks.studies.recommend import read_histories, recommend
from responders import Catalogue, InputError


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    clicked = np.array([5, 9, 1, 3])
    catalogue = Catalogue(np.array([10, 20, 30, 40]), attributes={"clicked": clicked})
    return PopularPolicy(Site(catalogue, 2)).save(tmp_path / "policy")


def test_the_command_writes_ranked_items(recsim: Any, policy: Path, tmp_path: Path) -> None:
    histories, out = tmp_path / "h.csv", tmp_path / "new" / "out.csv"
    histories.write_text("user,item\nbob,10\nann,20\nbob,999\nbob,x\n")
    with pytest.warns(UserWarning, match="2 of 4 items"):
        done = recsim("recommend", policy, histories, "--k", 3)
    assert done.code == 0, done.err
    table = pd.read_csv(io.StringIO(done.out))
    assert table.columns.tolist() == ["user", "rank", "item"]
    assert table.user.tolist() == ["bob"] * 3 + ["ann"] * 3
    assert table["rank"].tolist() == [1, 2, 3] * 2
    assert table["item"].tolist() == [20, 10, 40] * 2
    histories.write_text("user,item\n7,10\n")
    assert recsim("recommend", policy, histories, "--out", out).code == 0
    assert out.read_text() == "user,rank,item\n7,1,20\n7,2,10\n"


def test_large_ids_are_not_rounded(tmp_path: Path) -> None:
    large = 2**53 + 1  # not a float64
    catalogue = Catalogue(np.array([large]), attributes={"clicked": np.ones(1)})
    PopularPolicy(Site(catalogue, 1)).save(tmp_path / "p")
    (tmp_path / "h.csv").write_text(f"user,item\n1,{large}\n1,none\n")
    with pytest.warns(UserWarning, match="1 of 2 items .* such as 'none'"):
        assert recommend(tmp_path / "p", tmp_path / "h.csv")["item"].tolist() == [large]


def test_times_order_the_clicks_and_the_file_the_users(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    path.write_text("time,user,item\n2024-05-02,u,d\n2024-05-01,v,a\n2024-05-01,u,b\n")
    table = read_histories(path)
    assert table["item"].tolist() == ["a", "b", "d"]
    assert table["user"].cat.categories.tolist() == ["u", "v"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file"),
        ("", "cannot be read as CSV"),
        ("user,item\n", "has no rows"),
        ("user,thing\n1,2\n", "has no column item; its columns are user, thing"),
        ("user,item\n1,10\n,20\n", "line 3, column user: '' is missing"),
        ("user,item,time\n1,10,soon\n", "line 2, column time: 'soon' is not a time"),
        ("user,item\n1,77\n", "none of the 1 items is in the catalogue"),
    ],
)
def test_bad_histories_are_one_error(
    text: str | None, message: str, recsim: Any, policy: Path, tmp_path: Path
) -> None:
    histories = tmp_path / "h.csv"
    if text is not None:
        histories.write_text(text)
    done = recsim("recommend", policy, histories, "--out", tmp_path / "o" / "out.csv")
    assert done.code == 1
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "o").exists()
    with pytest.raises(InputError, match="there is no policy at"):
        recommend(tmp_path / "none", policy / "card.json")
