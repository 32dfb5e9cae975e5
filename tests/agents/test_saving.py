"""Policies on disk, and their answers to real users."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents import Policy, load_policy
from agents.answering import observe
from agents.epsilon_greedy import EpsilonGreedyConfig, EpsilonGreedyPolicy
from agents.finding import find_policy
from agents.greedy import GreedyPolicy
from agents.gru4rec import GRU4RecConfig, GRU4RecPolicy
from agents.oracle import OraclePolicy
from agents.popular import PopularPolicy
from agents.ppo import PPOConfig, PPOPolicy
from agents.registry import POLICIES
from agents.rollout import rollout
from agents.saving import learned_tensors
from agents.site import Site
from agents.uniform import RandomPolicy
from recsim_env import World, make_world
from responders import Catalogue, InputError
from tests.conftest import missing_policies


@pytest.fixture
def world(small_log_path: Path) -> World:
    return make_world("any", num_users=20, horizon=5, responder=small_log_path)


@pytest.fixture(scope="module")
def saved_once(small_log_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_world("any", num_users=20, horizon=5, responder=small_log_path)
    policy = EpsilonGreedyPolicy(world, EpsilonGreedyConfig(epsilon=0.3), seed=5)
    policy.train(world, 50, seed=1)
    return policy.save(tmp_path_factory.mktemp("policies") / "policy")


@pytest.fixture
def saved(saved_once: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved_once, tmp_path / "policy")


@pytest.mark.parametrize(
    "kind", [RandomPolicy, PopularPolicy, EpsilonGreedyPolicy, PPOPolicy, GRU4RecPolicy]
)
def test_a_loaded_policy_acts_like_the_saved_one(
    kind: type[Policy], world: World, tmp_path: Path
) -> None:
    configs = {
        PPOPolicy: PPOConfig(candidates=10, hidden_size=8),
        GRU4RecPolicy: GRU4RecConfig(generation="sample", epochs=2, size=8),
    }
    config = configs.get(kind)
    policy = kind(world, config, seed=3)
    used = policy.train(world, 600, seed=1)
    policy.save(tmp_path / "p")
    names = {path.name for path in (tmp_path / "p").iterdir()}
    assert names == {"card.json", "policy.safetensors"}
    for loaded in (load_policy(tmp_path / "p", world), load_policy(tmp_path / "p")):
        assert type(loaded) is kind
        assert (loaded.config, loaded.seed, loaded.steps) == (policy.config, 3, used)
        assert loaded.synthetic == (kind is not RandomPolicy)
        mine, theirs = learned_tensors(policy), learned_tensors(loaded)
        assert mine.keys() == theirs.keys()
        assert all(mine[name].equal(theirs[name]) for name in mine)
        again = kind(world, config, seed=3)  # a loaded policy draws from its seed again
        for name, value in vars(loaded).items():
            if name in mine or isinstance(value, torch.nn.Module):
                setattr(again, name, value)
        runs = [rollout(world, p, seed=9) for p in (loaded, again)]
        np.testing.assert_array_equal(runs[0].log.slate, runs[1].log.slate)


def test_a_policy_is_made_and_trained_further_without_its_world(saved: Path, world: World) -> None:
    policy = load_policy(saved)
    assert isinstance(policy, EpsilonGreedyPolicy)
    assert policy.epsilon == 0.3
    before = policy.steps
    assert policy.train(world, 100, seed=7) == policy.steps - before
    fresh = EpsilonGreedyPolicy(Site(world.catalogue, 3))
    assert len(fresh.recommend([[0, 1]])[0]) == 3


def test_layers_prices_and_text_ids_survive(tmp_path: Path) -> None:
    catalogue = Catalogue(
        np.array(["a", "b", "c", "d"]),
        features=np.eye(4),
        price=np.arange(4),
        attributes={"layer": np.array([1, 1, 2, 2]), "clicked": np.array([1, 2, 3, 4])},
        feature_names=("w", "x", "y", "z"),
    )
    PopularPolicy(Site(catalogue, 2)).save(tmp_path / "p")
    policy = load_policy(tmp_path / "p")
    assert policy.catalogue.feature_names == ("w", "x", "y", "z")
    assert policy.catalogue.price is not None
    assert policy.catalogue.price.tolist() == [0, 1, 2, 3]
    assert policy.recommend([["a"], []]) == [["b", "d"]] * 2
    assert policy.recommend([[]], k=4) == [["b", "a", "d", "c"]]


def test_recommendations_are_ranked_raw_ids(world: World) -> None:
    class Last(Policy):
        """Prefers the neighbours of the last item."""

        def score(self, observation: dict[str, Tensor]) -> Tensor:
            last = observation["item"][:, -1:].float()
            return -(torch.arange(self.n_items) - last + 0.1).abs()

    ids = np.arange(100, 140)
    policy = Last(Site(Catalogue(ids), 3))
    assert policy.recommend([[101, 110], [139]]) == [[110, 109, 111], [139, 138, 137]]
    assert policy.recommend([[110]], k=1) == [[110]]
    assert len(policy.recommend([[110]], k=99)[0]) == 40
    assert policy.recommend([]) == []
    with pytest.warns(UserWarning, match=r"2 of 4 items .* ignored, such as 7"):
        assert policy.recommend([[110, 7], [139, 8]]) == policy.recommend([[110], [139]])
    with pytest.warns(UserWarning, match="1 of 2 items"):
        assert policy.recommend([[110, "a"]]) == policy.recommend([[110]])
    with pytest.raises(InputError, match=r"none of the 2 items is in the catalogue.* such as 100"):
        policy.recommend([["a"], ["b"]])
    with pytest.raises(InputError, match="k must be a whole number of at least 1"):
        policy.recommend([[110]], k=0)
    with pytest.raises(InputError, match="a k of at most 5"):
        RandomPolicy(world).recommend([[]], k=6)
    with pytest.raises(InputError, match=r"users must be finite numbers \[1, 3\]"):
        PopularPolicy(world).recommend([[]], users=np.zeros((2, 3)))


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=5), st.integers(1, 4)
)
def test_histories_become_observations(histories: list[list[int]], n_positions: int) -> None:
    site = Site(Catalogue(np.arange(10)), n_positions, torch.tensor([[1.0], [3.0]]))
    arrays = [np.array(history, np.int64) for history in histories]
    seen = observe(site, arrays, site.features.mean(0).expand(len(arrays), -1))
    assert seen["item"].shape[1] % n_positions == 0
    for row, history in enumerate(histories):
        item, click = seen["item"][row], seen["click"][row].bool()
        assert item[click].tolist() == history
        assert item[~click].eq(-1).all()
        assert seen["step"][row] == -(-len(history) // n_positions)
        assert seen["user"][row] == 2.0


def edit(path: Path, **changes: Any) -> None:
    card = json.loads((path / "card.json").read_text())
    (path / "card.json").write_text(json.dumps(card | changes))


def retensor(path: Path, **changes: Tensor | None) -> None:
    tensors = load_file(path / "policy.safetensors") | changes
    kept = {name: value for name, value in tensors.items() if value is not None}
    save_file(kept, path / "policy.safetensors")


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "there is no policy at": shutil.rmtree,
    "is not a policy: it has no card.json": lambda p: (p / "card.json").unlink(),
    "the policy is damaged": lambda p: (p / "card.json").write_text("{"),
    "field kind: it should be 'policy'": lambda p: edit(p, kind="responder"),
    "field steps: it should be a valid integer": lambda p: edit(p, steps="many"),
    "did you mean epsilon_greedy": lambda p: edit(p, policy="epsilon_gredy"),
    "kind=ITS_CLASS": lambda p: edit(p, policy="os:system"),
    "has no setting 'delta'": lambda p: edit(p, config={"delta": 1}),
    "epsilon must be a number": lambda p: edit(p, config={"epsilon": 2}),
    "policy.safetensors is missing": lambda p: (p / "policy.safetensors").unlink(),
    "it is damaged, save the policy again": lambda p: (p / "policy.safetensors").write_bytes(b"x"),
    "NaN or infinite numbers in policy.shown": lambda p: retensor(
        p, **{"policy.shown": torch.full((40,), torch.nan)}
    ),
    "lacks tensor shown": lambda p: retensor(p, **{"policy.shown": None}),
    "has an unknown tensor more": lambda p: retensor(p, **{"policy.more": torch.ones(1)}),
    r"tensor shown: it is \(3,\)": lambda p: retensor(p, **{"policy.shown": torch.ones(3)}),
    "has another catalogue than its card says": lambda p: retensor(
        p, **{"catalogue.price": torch.ones(40)}
    ),
    "features has 3 rows for 40 items": lambda p: retensor(
        p, **{"catalogue.features": torch.ones(3, 4)}
    ),
    "is damaged .*BFloat16": lambda p: retensor(
        p, **{"catalogue.features": torch.ones(40, 4, dtype=torch.bfloat16)}
    ),
    r"tensor shown: it is .* torch.float8_e4m3fn, not": lambda p: retensor(
        p, **{"policy.shown": torch.ones(40).to(torch.float8_e4m3fn)}
    ),
    "catalogue.clicked has 3 rows": lambda p: retensor(
        p, **{"catalogue.attribute.clicked": torch.ones(3)}
    ),
    "has no site.features": lambda p: retensor(p, **{"site.features": None}),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_each_damage_is_one_error(message: str, saved: Path) -> None:
    DAMAGE[message](saved)
    with pytest.raises(InputError, match=message) as caught:
        load_policy(saved)
    assert str(saved) in str(caught.value)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["card.json", "policy.safetensors"]), st.data())
def test_any_changed_byte_loads_or_is_one_error(
    saved_once: Path, tmp_path: Path, name: str, data: st.DataObject
) -> None:
    folder = tmp_path / "fuzz"
    shutil.copytree(saved_once, folder, dirs_exist_ok=True)
    content = bytearray((folder / name).read_bytes())
    place = data.draw(st.integers(0, min(len(content), 4000) - 1))
    content[place] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(content)
    with suppress(InputError):
        load_policy(folder)


def test_a_policy_is_for_its_catalogue_and_slates(saved: Path, world: World) -> None:
    policy = load_policy(saved, world)
    with pytest.raises(InputError, match=r"another catalogue \(40 items, this one has 1000\)"):
        load_policy(saved, make_world("contentwise"))
    Policy.save(PopularPolicy(Site(policy.catalogue, 3)), saved, overwrite=True)
    with pytest.raises(InputError, match="made for 3 positions, the world has 5"):
        load_policy(saved, world)
    PopularPolicy(replace(policy.site, features=torch.zeros(2, 1))).save(saved, overwrite=True)
    with pytest.raises(InputError, match="made for 1 user features, the world has 3"):
        load_policy(saved, world)
    with pytest.raises(InputError, match="exists already"):
        policy.save(saved)
    with pytest.raises(InputError, match="the oracle cannot be saved"):
        OraclePolicy(world).save(saved)
    with pytest.raises(InputError, match="needs a known-truth world"):
        OraclePolicy(policy.site)


class Mine(Policy):
    """A policy that is not registered."""

    def __init__(self, world: World | Site, config: Any = None, seed: int = 0) -> None:
        super().__init__(world, config, seed)
        self.value = torch.zeros(self.n_items)

    def score(self, observation: dict[str, Tensor]) -> Tensor:
        return self.value


def test_no_code_is_imported_because_a_file_names_it(world: World, tmp_path: Path) -> None:
    policy = Mine(world)
    policy.value[7] = 1.0
    policy.save(tmp_path / "p")
    with pytest.raises(InputError, match="load_policy"):
        load_policy(tmp_path / "p")
    assert load_policy(tmp_path / "p", kind=Mine).recommend([[]], k=1) == [[7]]
    with pytest.raises(InputError, match=r"holds the policy .*Mine, not popular"):
        load_policy(tmp_path / "p", kind=PopularPolicy)


def test_histories_of_any_length_are_answered_by_every_policy(world: World) -> None:
    long = np.random.default_rng(0).integers(0, 40, 400).tolist()
    for name in sorted(POLICIES.keys() - missing_policies()):
        entry = find_policy(name)
        assert isinstance(entry.source, type)
        if issubclass(entry.source, GreedyPolicy | OraclePolicy):
            continue  # they know the users of a world
        policy = entry.make(Site.of(world), 0)
        for histories in ([long, [], [3, 4]], [[3, 4]]):
            found = policy.recommend(histories)
            assert [len(set(items)) for items in found] == [world.n_positions] * len(found), name
