"""What the README and the documentation print runs, and what the registries name is documented."""

import importlib.util
import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from agents.registry import POLICIES
from benchmarks.cli import main as cli
from recsim_env.registry import ENVIRONMENTS, REWARDS
from responders.models.registry import RESPONDERS
from responders.sources.registry import SOURCES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(python|console)( notest)?\n(.*?)^```", re.DOTALL | re.MULTILINE)
SMALLER = {
    r"--sessions \d+": "--sessions 150",
    r"--users \d+": "--users 20",
    r"--seeds \d+": "--seeds 1",
    r"--epochs \d+": "--epochs 1",
    r"--responders \S+": "--responders pbm --split user",
}


def blocks(page: Path) -> list[tuple[str, bool, str]]:
    """Return language, whether it runs, and text of the code blocks of `page`."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(language, not notest, text) for language, notest, text in found]


def recsim_lines(text: str) -> list[str]:
    lines = text.replace("\\\n", " ").splitlines()
    return [line[2:] for line in lines if line.startswith("$ recsim ")]


def smaller(command: str) -> list[str]:
    """Return the words of `command` on smaller numbers."""
    for large, small in SMALLER.items():
        command = re.sub(large, small, command)
    words = shlex.split(command)
    if words[1] == "train" and "--epochs" not in words:
        words += ["--epochs", "1"]
    if words[1] == "bench":
        words += ["--train-steps", "100"]
        words += [] if "--users" in words else ["--users", "20"]
        words += [] if "--seeds" in words else ["--seeds", "1"]
    return words


def raw_search_sessions(path: Path) -> None:
    """Write the folder RAW that the pages convert."""
    rng = np.random.default_rng(0)
    lines = []
    for session in range(60):
        for _ in range(rng.integers(1, 6)):
            documents = rng.choice(np.arange(1, 80), 10, replace=False).tolist()
            clicks = (rng.random(10) < 0.3).astype(int).tolist()
            lines.append(f"{session}\t{session + 5}\t{documents}\t{[1] * 10}\t{clicks}\n")
    path.mkdir()
    (path / "train_per_query_quid.txt").write_text("".join(lines))


def run(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", smaller(command))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code, f"{command}: {capsys.readouterr().err}"


def parse(command: str) -> None:
    """Check the words of a command without running it."""
    group: Any = typer.main.get_command(cli.app)
    words = shlex.split(command)[1:]
    context = group.make_context("recsim", [words[0]], resilient_parsing=True)
    while hasattr(group, "get_command"):
        name = words.pop(0)
        group = group.get_command(context, name)
        assert group is not None, f"{command}: no command {name}"
    group.make_context(command, words)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem
)
def test_page_runs(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Run the blocks of a page from top to bottom in an empty folder, commands on small numbers."""
    monkeypatch.chdir(tmp_path)
    raw_search_sessions(tmp_path / "RAW")
    module = types.ModuleType(f"page_{page.stem}")  # one namespace for the page
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for language, runs, text in blocks(page):
        if language == "python" and runs:
            exec(compile(text, str(page), "exec"), vars(module))
        elif language == "console":
            for command in recsim_lines(text):
                run(command, monkeypatch, capsys) if runs else parse(command)


def test_modules_that_commands_name_exist() -> None:
    for page in PAGES:
        text = re.sub(r"^```python.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.M)
        for name in re.findall(r"python -m (benchmarks[\w.]*)", text):
            assert importlib.util.find_spec(name), f"{page.name}: {name}"


def test_blocks_that_do_not_run_compile() -> None:
    for page in PAGES:
        for language, runs, text in blocks(page):
            if language == "python" and not runs:
                compile(text, str(page), "exec")


def test_every_registered_name_is_documented() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in (*RESPONDERS, *SOURCES, *REWARDS, *POLICIES, *ENVIRONMENTS):
        assert f"`{name}`" in text, name


def test_readme_is_short_and_its_files_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.encode()) <= 8_000
    local = re.findall(r"(?:\]\(|src(?:set)?=\")(?!https?:)([^)#\"]+)", readme)
    assert not [path for path in local if not (ROOT / path).exists()]
