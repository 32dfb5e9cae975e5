"""Times one simulator in its own virtual environment and prints one line of JSON.

`simulators.py` starts this file by path; it and the peers' files must not import this package.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WINDOWS = 10
"""The result is the median rate over this many time windows."""


def steps_per_second(step: Callable[[int], int], seconds: float) -> float:
    """Call `step(i)`, which returns the user-slate steps it took; return the median rate."""
    for i in range(3):  # warm up: compile and fill caches
        step(i)
    rates = []
    i = 0
    for _ in range(WINDOWS):
        began, taken, steps = time.perf_counter(), 0.0, 0
        while taken < seconds / WINDOWS:
            steps += step(i)
            i += 1
            taken = time.perf_counter() - began
        rates.append(steps / taken)
    return statistics.median(rates)


def load(code: str) -> Callable[..., Callable[[int], int]]:
    """Return the function given as "file:function" in this folder."""
    name, _, function = code.partition(":")
    spec = importlib.util.spec_from_file_location(
        f"peer_{name}", Path(__file__).with_name(f"{name}.py")
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{name}.py cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded: Callable[..., Callable[[int], int]] = getattr(module, function)
    return loaded


def measure(code: str, distribution: str, size: list[int], seconds: float) -> dict[str, Any]:
    """Return `version`, and `steps_per_second` or the `reason` why there is no result."""
    row: dict[str, Any] = {"version": None, "steps_per_second": None, "reason": None}
    try:
        row["version"] = importlib.metadata.version(distribution)
        row["steps_per_second"] = steps_per_second(load(code)(*size), seconds)
    except importlib.metadata.PackageNotFoundError:
        row["reason"] = f"{distribution} is not installed in this interpreter"
    except Exception as error:  # old packages fail in many ways with newer dependencies
        row["reason"] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return row


def main() -> None:
    """Measure one simulator in this interpreter."""
    parser = argparse.ArgumentParser()
    parser.add_argument("code")
    parser.add_argument("distribution")
    parser.add_argument("--size", type=int, nargs=3, metavar=("USERS", "ITEMS", "SLATE"))
    parser.add_argument("--seconds", type=float)
    options = parser.parse_args()
    # Files in this folder have the names of the packages that they import, and would shadow them.
    folder = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    row = measure(options.code, options.distribution, options.size, options.seconds)
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
