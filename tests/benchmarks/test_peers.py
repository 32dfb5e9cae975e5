"""The files of other simulators, which run where our packages are not installed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers import measure, off_policy, simulators
from benchmarks.peers.registry import PEERS
from responders import InputError
from tests.test_architecture import imported

FOLDER = Path(measure.__file__).parent
PACKAGES = {
    "recsim": {"recsim"},
    "recsim_ng": {"recsim_ng", "tensorflow"},
    "sardine": {"sardine", "gymnasium"},
    "recogym": {"recogym"},
    "trecs": {"trecs"},
    "reclab": {"reclab"},
    "virtual_taobao": {"virtualTB"},
}
"""What each file may import besides the standard library and NumPy."""


def test_peers_import_nothing_of_ours() -> None:
    assert {peer.code.split(":")[0] for peer in PEERS.values()} == PACKAGES.keys()
    sequential = {"rectools", "cornac", "pandas", "pytorch_lightning", "torch"}
    others = {
        "measure": set(),
        "registry": set(),
        "rectools_metrics": {"rectools", "pandas"},
        "sequential_models": sequential,
    }
    for name, packages in {**PACKAGES, **others}.items():
        allowed = {*sys.stdlib_module_names, "numpy", *packages}
        found = {module.split(".")[0] for module in imported(FOLDER / f"{name}.py")}
        assert found <= allowed, name


@pytest.mark.parametrize("name", PEERS)
def test_peers_have_the_registered_functions(name: str) -> None:
    file, _, function = PEERS[name].code.partition(":")
    tree = ast.parse((FOLDER / f"{file}.py").read_text())
    (found,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function]
    assert [argument.arg for argument in found.args.args] == ["users", "items", "slate_size"]


def test_a_peer_that_is_not_installed_is_reported() -> None:
    (row,) = simulators.measure_all({}, 0.1, ["trecs"])
    assert row["steps_per_second"] is None
    assert row["reason"] == "trecs is not installed in this interpreter"


def test_an_interpreter_that_is_not_there_is_reported() -> None:
    (row,) = simulators.measure_all({"trecs": "/no/such/python"}, 0.1, ["trecs"])
    assert "FileNotFoundError" in row["reason"]


def test_a_peer_is_measured_in_its_own_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a copy of `measure.py` next to a fake peer that needs no package."""
    (tmp_path / "measure.py").write_text(Path(measure.__file__).read_text())
    (tmp_path / "fake.py").write_text(
        "def fake(users, items, slate_size):\n  return lambda i: users"
    )
    command = [sys.executable, tmp_path / "measure.py", "fake:fake", "numpy", "--seconds", "0.1"]
    done = subprocess.run(
        [*command, "--size", "3", "10", "2"], capture_output=True, text=True, check=True
    )
    assert '"reason": null' in done.stdout


def test_estimates_of_a_policy_are_near_its_value_without_obp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = off_policy.generate(20_000, 5, 2, seed=0)
    found = off_policy.ours(data)
    assert found["IPS"] == pytest.approx(found["cascade DR"], rel=0.05)
    assert found["SNIPS, one position"] == pytest.approx(found["DR, one position"], rel=0.05)
    monkeypatch.setitem(sys.modules, "obp", None)
    with pytest.raises(InputError, match=r"the top of off_policy\.py says how to install"):
        off_policy.theirs(data)
