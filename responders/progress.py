"""Progress bars: quick on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

_SECONDS_IN_A_FILE = 10.0


def progress_bar(*iterable: Any, **options: Any) -> tqdm:
    """Return a tqdm bar on stderr; arguments are those of `tqdm`.

    It appears after a second, and where stderr is not a terminal it is printed rarely.
    """
    terminal = sys.stderr.isatty()
    defaults = {
        "delay": 1.0,
        "mininterval": 0.1 if terminal else _SECONDS_IN_A_FILE,
        "maxinterval": 10.0 if terminal else _SECONDS_IN_A_FILE,
        "dynamic_ncols": terminal,
    }
    return tqdm(*iterable, **defaults | options)
