"""How the command line and the scripts report bad input."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from responders.errors import InputError


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn bad input into one line on stderr and exit code 1; `--debug` shows the traceback."""
    debug = "--debug" in sys.argv
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        with _sigterm_interrupts():
            yield
    except (InputError, OSError) as error:
        if debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
