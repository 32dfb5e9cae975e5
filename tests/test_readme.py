"""What the README prints runs."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cli import main as cli

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ recsim")
]
SMALLER = {
    "--sessions 20000": "--sessions 200",
    "--users 500": "--users 20",
    "--seeds 3": "--seeds 1",
    "--responders all": "--responders pbm --split user",
}


@pytest.mark.parametrize("block", BLOCKS)
def test_python_examples_run(block: str) -> None:
    exec(compile(block, "README.md", "exec"), {})


def raw_search_sessions(path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for session in range(60):
        for _ in range(rng.integers(1, 6)):
            documents = rng.choice(np.arange(1, 80), 10, replace=False).tolist()
            clicks = (rng.random(10) < 0.3).astype(int).tolist()
            lines.append(f"{session}\t{session + 5}\t{documents}\t{[1] * 10}\t{clicks}\n")
    path.mkdir()
    (path / "train_per_query_quid.txt").write_text("".join(lines))


def test_commands_run_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On smaller numbers, in the order of the README."""
    assert len(COMMANDS) >= 8
    monkeypatch.chdir(tmp_path)
    raw_search_sessions(tmp_path / "RAW")
    for command in COMMANDS:
        for large, small in SMALLER.items():
            command = command.replace(large, small)
        words = shlex.split(command)
        words += ["--epochs", "1"] if words[1] == "train" else []
        words += ["--train-steps", "300"] if words[1] == "bench" else []
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code, f"{command}: {capsys.readouterr().err}"


def test_every_source_and_responder_is_listed() -> None:
    from responders.models.registry import RESPONDERS
    from responders.sources import SOURCES

    for name in (*RESPONDERS, *SOURCES):
        assert f"`{name}`" in README, name
