"""Policies from one's own files and packages, and from folders."""

import sys
from pathlib import Path
from typing import Any

import pytest

from agents import Policy
from agents.finding import find_policies, find_policy
from agents.popular import PopularPolicy
from agents.registry import POLICIES, known_policies
from benchmarks.studies.leaderboard import leaderboard, run
from recsim_env import World, make_world
from responders import InputError

MINE = """
import torch
from agents import Policy


class Mine(Policy):
    def score(self, observation):
        return torch.arange(self.n_items).float()


class Other:
    pass
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_policy.py"
    path.write_text(MINE)
    return path


@pytest.fixture
def world(small_log_path: Path) -> World:
    return make_world("any", num_users=5, responder=small_log_path)


def test_every_form_is_found(file: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(file.parent)
    folder = PopularPolicy(world).save(file.parent / "saved")
    forms: dict[str, Any] = {
        "popular": "popular",
        "Mine": f"{file}:Mine",
        "saved": folder,
        "PopularPolicy": PopularPolicy,
        "RandomPolicy": "agents.uniform:RandomPolicy",
    }
    entries = find_policies(list(forms.values()))
    assert [entry.name for entry in entries] == list(forms)
    assert [entry.is_trained for entry in entries] == [False, False, True, False, False]
    assert all(isinstance(entry.make(world, 0), Policy) for entry in entries)
    assert find_policy("my_policy:Mine").make(world, 0).recommend([[]], k=1) == [[39]]
    policy = PopularPolicy(world)
    assert find_policy(policy).make(world, 3) is policy


def test_a_changed_file_is_imported_again(file: Path, world: World) -> None:
    first = find_policy(f"{file}:Mine")
    assert find_policy(f"{file}:Mine").source is first.source
    file.write_text(MINE.replace("torch.arange", "-torch.arange"))
    second = find_policy(f"{file}:Mine")
    assert second.fingerprint != first.fingerprint
    assert second.make(world, 0).recommend([[]], k=1) == [[0]]


def test_installed_packages_add_policies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recsim: Any, small_log_path: Path
) -> None:
    (tmp_path / "their_policy.py").write_text(MINE)
    info = tmp_path / "their_policy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-policy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[recsim_env.policies]\ntheirs = their_policy:Mine\nrandom = their_policy:Mine\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert known_policies() == POLICIES | {"theirs": "their_policy:Mine"}
    words = ["bench", "RecSim-v0", "--responder", small_log_path, "--users", 5, "--seeds", 1]
    out = tmp_path / "out"
    done = recsim(*words, "--policies", "theirs,random", "--out", out)
    assert done.code == 0, done.err
    assert "theirs" in (out / "leaderboard.csv").read_text()


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        (["FILE:Mine", "random", "random"], "2 policies have the name random"),
        (["FOLDER/no.py:Mine"], "there is no file"),
        (["FILE:Mint"], "has no class Mint; did you mean Mine"),
        (["FILE:Other"], "is not a subclass of agents.Policy"),
        (["FOLDER/bad.py:Mine"], r"cannot be imported \(NameError: name 'undefined'"),
        (["no.such.module:Mine"], r"no.such.module cannot be imported \(ModuleNotFoundError"),
        (["agents.popular:Popular"], "has no class Popular; did you mean PopularPolicy"),
        (["popula"], "did you mean popular"),
        (["FOLDER"], "is not a policy: it has no card.json"),
        (["FOLDER/bare.py:Bare"], r"policy Bare cannot be made .*called with a world and seed"),
        ([int], "is not a subclass"),
        ([], "no policy given"),
    ],
)
def test_what_is_no_policy_is_one_error_before_any_work(
    policies: list[Any], message: str, file: Path, world: World, small_log_path: Path
) -> None:
    (file.parent / "bad.py").write_text("undefined")
    bare = MINE + "\n\nclass Bare(Policy):\n    def __init__(self): ...\n"
    (file.parent / "bare.py").write_text(bare)
    names = {"FILE": str(file), "FOLDER": str(file.parent)}

    def filled(source: Any) -> Any:
        for name, value in names.items():
            source = source.replace(name, value) if isinstance(source, str) else source
        return source

    def never(num_users: int) -> World:
        assert num_users == 1, "work was done"
        return world

    before = sorted(file.parent.iterdir())
    with pytest.raises(InputError, match=message):
        leaderboard(never, [filled(p) for p in policies], progress=False)
    out = file.parent / "out"
    with pytest.raises(InputError, match=message):
        run("RecSim-v0", [filled(p) for p in policies], responder=small_log_path, out=out)
    assert [p for p in sorted(file.parent.iterdir()) if p.name != "__pycache__"] == before


def test_a_change_of_an_inherited_class_changes_the_fingerprint(file: Path) -> None:
    child = file.parent / "child.py"
    child.write_text(f"from {file.stem} import Mine\n\nclass Child(Mine):\n    pass\n")
    prints = []
    for text in (MINE, MINE.replace("arange", "zeros")):
        file.write_text(text)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(file.parent)
            patch.delitem(sys.modules, file.stem, raising=False)
            child.write_text(child.read_text() + "\n")
            prints.append(find_policy(f"{child}:Child").fingerprint)
    assert prints[0] != prints[1]
