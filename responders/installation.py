"""A check that no other distribution has taken the place of one of our packages.

`responders`, `agents` and `benchmarks` are common names: `openai-agents`, for one, also installs a
package called `agents`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("responders", "recsim_env", "agents", "benchmarks")


def check_installation() -> None:
    """Raise `ImportError` if a package of ours is found in another place than this one."""
    ours = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        spec = find_spec(name)
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        if not places or Path(places[0]).resolve() != ours / name:
            found = places[0] if places else "nowhere"
            raise ImportError(
                f"recsim-env's package {name!r} belongs at {ours / name}, but Python finds it at "
                f"{found}: another distribution installs a package of this name (openai-agents "
                "installs 'agents'). Install recsim-env in a virtual environment of its own"
            )
