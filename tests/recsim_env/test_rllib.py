"""RLlib drives the vector environments as the documentation says."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.test_docs import ROOT, blocks


@pytest.mark.filterwarnings("ignore")
def test_rllib_learns_in_the_vector_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.rllib.algorithms.ppo", exc_type=ImportError)
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    page: Path = ROOT / "docs" / "environments" / "adapters.md"
    [text] = [text for _, _, text in blocks(page) if "PPOConfig" in text]
    text = re.sub(r"num_env_runners=\d", "num_env_runners=0", text)
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    names: dict[str, Any] = {}
    try:
        exec(compile(text, str(page), "exec"), names)
        found = names["found"]
        envs = names["algorithm"].env_runner.env.unwrapped
        assert type(envs).__name__ == "RecSimVectorEnv"
        assert found["num_env_steps_sampled_lifetime"] >= 1024
        assert 0 < found["env_runners"]["episode_return_mean"] < 1000
    finally:
        ray.shutdown()
