"""Converting with the index of a given catalogue, and what `convert` takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from responders.errors import InputError
from responders.log.catalogue import Catalogue
from responders.registry import load
from responders.sources import SOURCES, convert
from tests.responders.sources.raw import NAMES, edit, make, shown


@pytest.mark.parametrize("source", ["contentwise", "trec-session", "movielens", "ebnerd", "amazon"])
def test_catalogue_keeps_its_index_and_gets_cold_items(
    source: str, tmp_path: Path, logs: Path
) -> None:
    folder = make(source, tmp_path / "raw")
    whole = convert(source, folder, logs / "whole")
    first = Catalogue(whole.catalogue.ids[[2, 0]])
    log = convert(source, folder, logs / "log", catalogue=first).validate()
    assert log.catalogue.ids[:2].tolist() == first.ids.tolist()
    assert log.catalogue.fingerprint(2) == first.fingerprint()
    assert log.card["counts"]["cold_items"] == len(whole.catalogue) - 2
    assert shown(log) == shown(whole)


def test_catalogue_of_another_log_and_an_item_table(tmp_path: Path, logs: Path) -> None:
    folder = make("rl4rs", tmp_path / "raw")
    whole = convert("rl4rs", folder, logs / "whole")
    some = Catalogue(
        whole.catalogue.ids[3:],
        whole.catalogue.features[3:],
        whole.catalogue.price[3:] if whole.catalogue.price is not None else None,
        {k: v[3:] for k, v in whole.catalogue.attributes.items()},
    )
    log = convert("rl4rs", folder, logs / "log", catalogue=some).validate()
    assert log.catalogue.ids.tolist() == [4, 5, 6, 7, 8, 9, 1, 2, 3]
    assert log.card["counts"]["cold_items"] == 3
    edit(folder / "rl4rs_dataset_b_sl.csv", "@9,8,7,6,5,4,3,2,1@", "@9,8,7,6,5,4,3,2,77@")
    with pytest.raises(InputError, match="line 4: item 77 is not in the item table"):
        convert("rl4rs", folder, logs / "bad", catalogue=some)


def test_catalogue_of_other_kind_of_ids(tmp_path: Path, logs: Path) -> None:
    folder = make("movielens", tmp_path / "raw")
    with pytest.raises(InputError, match="ids of one kind"):
        convert("movielens", folder, logs / "log", catalogue=Catalogue(np.array(["a", "b"])))
    assert not list(logs.iterdir())


def test_convert_names_what_it_does_not_know(tmp_path: Path, logs: Path) -> None:
    folder = make("rl4rs", tmp_path / "raw")
    with pytest.raises(InputError, match="source 'rlrs' is unknown; did you mean rl4rs"):
        convert("rlrs", folder, logs / "log")
    with pytest.raises(InputError, match="no option 'min_slate'; did you mean min_slates"):
        convert("rl4rs", folder, logs / "log", min_slate=2)
    convert("rl4rs", folder, logs / "log")
    with pytest.raises(InputError, match="exists already"):
        convert("rl4rs", folder, logs / "log")
    assert convert("rl4rs", folder, logs / "log", overwrite=True, min_slates=2).n_sessions == 3
    assert [p.name for p in logs.iterdir()] == ["log"]
    (folder / "item_info.csv").unlink()
    with pytest.raises(InputError, match=r"no item_info.csv .*rl4rs_dataset_b_sl.csv"):
        convert("rl4rs", folder, logs / "other")


def test_the_registry_imports_no_large_package() -> None:
    program = """
import sys
import responders.sources
print([name for name in ("torch", "pandas", "duckdb", "pyarrow") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_every_source_can_be_loaded() -> None:
    assert set(NAMES) <= SOURCES.keys()
    for name in SOURCES:
        assert callable(load(SOURCES, name, "source"))
