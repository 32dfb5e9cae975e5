"""Memory use of this process."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path


def memory(field: str = "VmRSS") -> int:
    """Return a field of this process's status in kB; 0 if not on Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def peak_memory() -> int:
    """Return the peak resident memory of this process in kB; 0 on Windows."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # On Linux a child inherits its parent's ru_maxrss, so the status is preferred.
    return memory("VmHWM") or (peak // 1024 if sys.platform == "darwin" else peak)


def forget_peak() -> None:
    """Reset `peak_memory`, if the system supports it (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def peak_private() -> Iterator[list[int]]:
    """Yield a list of one number: the peak of this process's private memory in kB so far.

    Pages of mapped files do not count, as the system can reclaim them.
    """
    peak, stop = [memory("RssAnon")], threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            peak[0] = max(peak[0], memory("RssAnon"))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()
