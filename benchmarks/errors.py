"""How the command line and the scripts report bad input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from responders.errors import InputError


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn bad input into one line on stderr and exit code 1; `--debug` shows the traceback."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        yield
    except (InputError, OSError) as error:
        if debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
