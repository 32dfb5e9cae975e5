"""The one exception for bad input: it names what is wrong, where, and the mend."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: a file, field or value that cannot be used, and how to mend it.

    The command line prints its message as one line, ``error: …``, and exits with 1.
    """


def near_matches(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean a, b?"`` for names close to `name`, or the whole list."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
