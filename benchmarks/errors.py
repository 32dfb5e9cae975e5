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
    debug, formatted = "--debug" in sys.argv, warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        with _signals_interrupt():
            yield
    except (InputError, OSError) as error:
        if debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    finally:
        warnings.formatwarning = formatted


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = {getattr(signal, name, signal.SIGTERM) for name in ("SIGTERM", "SIGHUP")}
    previous = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if previous[number] != signal.SIG_IGN:  # nohup lets a process outlive its terminal
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
