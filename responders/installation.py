"""A check that no other package has taken the place of one of ours.

`responders`, `agents` and `benchmarks` are common names: `openai-agents`, for one, also installs a
package called `agents`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def check_installation(*packages: str) -> None:
    """Raise `ImportError` if Python finds a package of ours in another place than next to this one.

    Args:
        packages: names of the packages that are about to be imported.
    """
    ours = Path(__file__).resolve().parents[1]
    for name in packages:
        spec = find_spec(name)
        places = [] if spec is None else [*(spec.submodule_search_locations or ()), spec.origin]
        if not places or Path(str(places[0])).resolve() != ours / name:
            found = f"at {places[0]}" if places else "nowhere"
            raise ImportError(
                f"recsim-env's package {name!r} is in {ours}, but Python finds {name!r} {found}. "
                "If that belongs to another distribution (openai-agents installs 'agents'), "
                "install recsim-env in a virtual environment of its own; if it is your own "
                "folder, rename it or run from another one"
            )
