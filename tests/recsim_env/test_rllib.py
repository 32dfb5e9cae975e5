"""RLlib drives the vector environments as the documentation says."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_docs import ROOT, blocks

PAGE: Path = ROOT / "docs" / "environments" / "adapters.md"


@pytest.fixture(scope="module")
def recipe() -> Iterator[str]:
    """The code of the documentation, without further processes; Ray is running."""
    pytest.importorskip("ray.rllib.algorithms.ppo", exc_type=ImportError)
    import ray

    [text] = [text for _, _, text in blocks(PAGE) if "PPOConfig" in text]
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield re.sub(r"num_env_runners=\d", "num_env_runners=0", text)
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RecSim-ContentWise-v0", ""),
        ("RecSim-RL4RS-v0", '"paged": False, '),
        ("RecSim-v0", ""),
    ],
)
def test_rllib_learns_in_the_vector_environments(
    name: str, options: str, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    text = recipe.replace("RecSim-ContentWise-v0", name)
    names: dict[str, Any] = {}
    exec(compile(text.replace("env_config={", f"env_config={{{options}"), str(PAGE), "exec"), names)
    found = names["found"]
    envs = names["algorithm"].env_runner.env.unwrapped
    assert type(envs).__name__ == "RecSimVectorEnv"
    assert envs.spec.id.endswith(name)
    assert found["num_env_steps_sampled_lifetime"] >= 1024
    assert 0 < found["env_runners"]["episode_return_mean"] < 10_000
    names["algorithm"].stop()
