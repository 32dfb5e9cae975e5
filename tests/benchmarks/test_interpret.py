"""Interpretation of hidden states: files, measures, steering, and what is refused."""

import json
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch

from agents import load_policy
from agents.gru4rec import GRU4RecConfig, GRU4RecPolicy
from agents.site import Site
from agents.uniform import RandomPolicy
from benchmarks.studies.interpret import Interpretation, interpret
from recsim_env import make_world
from responders import InputError, SessionLog, fit

SMALL = {"features": 8, "active": 3, "epochs": 3}


@pytest.fixture(scope="module")
def responder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained responder that may be written to."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("interpreted") / "session_gru")


@pytest.fixture(scope="module")
def interpreted(responder: Path, small_log_path: Path) -> Interpretation:
    out = responder.parent / "report"
    return interpret(responder, small_log_path, out, settings=SMALL, sessions=150, command="it")


@pytest.fixture(scope="module")
def policy(small_log: SessionLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = GRU4RecConfig(length=8, size=8, epochs=1)
    policy = GRU4RecPolicy(Site(small_log.catalogue, small_log.n_positions), config)
    policy.fit(small_log)
    return policy.save(tmp_path_factory.mktemp("policies") / "gru4rec")


def test_interpretation_of_a_responder(interpreted: Interpretation, responder: Path) -> None:
    facts, clusters = interpreted.facts, interpreted.clusters
    assert 0 < facts["explained"] <= 1
    assert facts["explained_low"] <= facts["explained"] <= facts["explained_high"]
    assert facts["log_loss_change"] == pytest.approx(
        facts["log_loss_reconstructed"] - facts["log_loss"]
    )
    assert facts["synthetic"]
    assert len(clusters) == 6
    for row in clusters:
        assert 0 <= row["rho_low"] <= row["rho"] <= row["rho_high"] <= 1
    table = pd.read_csv(responder.parent / "report" / "features.csv")
    assert table["feature"].tolist() == list(range(8))
    assert table["active"].sum() <= 3
    assert table["name"].notna().all()
    assert table["attribute"].dropna().str.startswith(("feature_", "price")).all()
    saved = json.loads((responder.parent / "report" / "interpretation.json").read_text())
    assert saved["explained"] == facts["explained"]
    page = (responder.parent / "report" / "report.html").read_text()
    assert "synthetic users" in page
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_steering_changes_the_users_and_nothing_else(
    interpreted: Interpretation, responder: Path
) -> None:
    feature = int(interpreted.features["active"].idxmax())
    worlds = [
        make_world("any", responder=responder, num_users=8, steer=steer)
        for steer in (None, {feature: 0.0}, {feature: 3.0}, {np.int64(feature): -3.0})
    ]
    slate = torch.arange(5).expand(8, 5)
    plain, zero, more, less = (world.step(slate).probability for world in worlds)
    torch.testing.assert_close(zero, plain)
    assert (more - plain).abs().max() > 1e-3
    assert (less - more).abs().max() > 1e-3
    env = gym.make("RecSim-v0", responder=str(responder), steer={feature: 3.0})
    env.reset(seed=0)
    env.step(env.action_space.sample())


def test_interpretation_of_a_policy_and_steered_lists(
    policy: Path, small_log_path: Path, tmp_path: Path
) -> None:
    found = interpret(policy, small_log_path, tmp_path / "out", settings=SMALL, sessions=200)
    assert found.facts["log_loss"] < 2 * np.log(40)
    feature = int(found.features["active"].idxmax())
    plain, steered = load_policy(policy), load_policy(policy, steer={feature: 50.0})
    history = [[3], [3, 9, 4], []]
    before, after = plain.recommend(history), steered.recommend(history)
    assert before[1] != after[1]
    assert before[2] == after[2]  # without a click there is no state
    assert set(after[0]) == set(after[1])  # one direction outweighs what users clicked


def test_what_cannot_be_interpreted_or_steered(
    interpreted: Interpretation,
    responder: Path,
    trained: Path,
    small_log: SessionLog,
    small_log_path: Path,
    tmp_path: Path,
) -> None:
    def refused(match: str, **arguments: object) -> None:
        with pytest.raises(InputError, match=match):
            make_world("any", **arguments)

    refused("was not interpreted", responder=trained, steer={0: 1.0})
    refused("feature 8 is unknown: .* 0 to 7", responder=responder, steer={8: 1.0})
    refused("whole number", responder=responder, steer={"horror": 1.0})
    refused("finite number", responder=responder, steer={0: float("nan")})
    refused("dictionary", responder=responder, steer=[0])
    refused("known_truth has not", responder=small_log_path, steer={0: 1.0})
    fit(small_log, "pbm", tmp_path / "pbm", progress=False)
    with pytest.raises(InputError, match="pbm keeps no hidden state"):
        interpret(tmp_path / "pbm", small_log_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="interpreted already"):
        interpret(responder, small_log_path, tmp_path / "out")
    uniform = RandomPolicy(Site(small_log.catalogue, small_log.n_positions))
    uniform.save(tmp_path / "random")
    with pytest.raises(InputError, match="random has not"):
        load_policy(tmp_path / "random", steer={0: 1.0})
    other = shutil.copytree(responder, tmp_path / "other")
    shutil.copy(tmp_path / "pbm" / "responder.safetensors", other)
    (other / "card.json").write_text((tmp_path / "pbm" / "card.json").read_text())
    refused("pbm has not", responder=other, steer={0: 1.0})
    (responder.parent / "damaged").mkdir()
    damaged = shutil.copytree(trained, responder.parent / "damaged" / "gru")
    (damaged / "sae.safetensors").write_bytes(b"nothing")
    refused("cannot be read", responder=damaged, steer={0: 1.0})
