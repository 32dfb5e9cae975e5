"""What the tests of sources share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """An empty folder for logs: what is not asked for must not stay in it."""
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder
