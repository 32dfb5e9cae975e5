"""Dependencies point one way, and importing is cheap."""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["responders", "recsim_env", "agents", "benchmarks"]


def imported(path: Path, types: bool = False) -> set[str]:
    """The modules that a file and its functions import; with `types`, those for types as well."""
    tree, names = ast.parse(path.read_text()), set()
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
        if not types
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and id(node) not in typing_only:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


ROOMS = [
    ["errors", "registry", "config", "files", "progress", "device", "installation", "compiling"],
    ["log"],
    ["sources", "kernels", "behaviour", "content"],
    ["models"],
    ["known_truth", "profiles"],
    ["evaluation"],
    ["training"],
    ["interpretation"],
]
"""The rooms of `responders`, each of which may import those above it in this list."""


@pytest.mark.parametrize("layer", LAYERS)
def test_dependencies_point_one_way(layer: str) -> None:
    above = set(LAYERS[LAYERS.index(layer) + 1 :])
    for path in (ROOT / layer).rglob("*.py"):
        packages = {name.split(".")[0] for name in imported(path)}
        assert not packages & above, f"{path} imports from a layer above {layer}"


def test_rooms_of_responders_import_only_lower_ones() -> None:
    level = {room: i for i, rooms in enumerate(ROOMS) for room in rooms}
    for path in (ROOT / "responders").rglob("*.py"):
        room = path.relative_to(ROOT / "responders").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "responders" and len(parts) > 1:
                same = parts[1] == room
                assert same or level[parts[1]] < level[room] or level[room] == 0, (path, name)


def test_no_module_imports_itself_through_others() -> None:
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for layer in LAYERS
        for path in (ROOT / layer).rglob("*.py")
    }
    graph = {name: imported(path, types=True) & modules.keys() for name, path in modules.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_registering_the_environments_does_not_import_pytorch() -> None:
    code = "import recsim_env, sys; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_a_foreign_package_in_our_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("")
    run = subprocess.run(
        [sys.executable, "-c", "import benchmarks"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        cwd=tmp_path,
        check=False,
    )
    assert "belongs to another distribution" in run.stderr
