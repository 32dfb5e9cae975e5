"""Reading policies from disk; `agents.saving` says what they consist of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from agents.policy import Policy
from agents.registry import known_policies
from agents.saving import CARD, TENSORS, learned_tensors, name_of
from agents.sequential import SequentialPolicy
from agents.site import Site
from recsim_env.world import World
from responders import Catalogue, InputError, Returns
from responders.config import make_config
from responders.errors import first_fault, near_matches
from responders.files import read_json
from responders.interpretation.saving import steering
from responders.registry import load

_AGAIN = "save the policy again"


class _Site(BaseModel):
    n_positions: int = Field(ge=1, le=10_000)
    horizon: int = Field(ge=1)
    history: int = Field(ge=1)
    returns: dict[str, Any] | None


class _Catalogue(BaseModel):
    ids: list[int] | list[str] = Field(min_length=1)
    feature_names: list[str]
    fingerprint: str


class _Card(BaseModel):
    """The fields of `card.json`."""

    format: Literal[1]
    kind: Literal["policy"]
    policy: str
    config: dict[str, Any]
    seed: int
    steps: int = Field(ge=0)
    synthetic: bool
    site: _Site
    catalogue: _Catalogue


def load_policy(
    path: str | Path,
    world: World | None = None,
    kind: type[Policy] | None = None,
    steer: Mapping[int, float] | None = None,
) -> Policy:
    """Load the policy in folder `path`, as it was saved; only its random draws start again.

    Args:
        path: a folder written by `Policy.save`.
        world: to run the policy in, on the world's device. None = only to answer histories with
            `Policy.recommend`, on the CPU.
        kind: its class; needed only if that is not a registered policy, since no code is imported
            because a file names it.
        steer: how much is added to the activations of features that `recsim interpret` found in
            the states of a sequential policy, by their numbers.

    Raises:
        InputError: the folder is missing or damaged, its class is unknown, the world has another
            catalogue or other slates, or the policy cannot be steered so.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no policy at {path}: make one with policy.save(DIR)")
    card = _read_card(path)
    tensors = _read_tensors(path / TENSORS)
    site = _site(path, card, tensors)
    if world is not None:
        _check_world(path, site, world)
        site = replace(site, device=world.device, features=site.features.to(world.device))
    kind = kind or _class(path, card)
    if name_of(kind).split(":")[-1] != card.policy.split(":")[-1]:
        raise InputError(f"{path} holds the policy {card.policy}, not {name_of(kind)}")
    try:
        config = make_config(kind.config_class, card.config, card.policy)
    except InputError as error:
        raise InputError(f"{path / CARD}, field config: {error}; {_AGAIN}") from None
    policy = kind(site, config, card.seed)
    _put_tensors(path / TENSORS, policy, tensors)
    policy.steps, policy.synthetic = card.steps, card.synthetic
    if steer:
        if not isinstance(policy, SequentialPolicy):
            raise InputError(
                f"steer needs a policy with a hidden state, which {card.policy} has not"
            )
        policy.steer(steering(path, steer))
    return policy


def _read_card(path: Path) -> _Card:
    content = read_json(path / CARD, "policy")
    try:
        return _Card.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path / CARD}, {first_fault(error)}; {_AGAIN}") from None


def _class(path: Path, card: _Card) -> type[Policy]:
    known = known_policies()
    if card.policy in known:
        return load(known, card.policy, "policy")
    raise InputError(
        f"{path / CARD}: policy {card.policy!r} is unknown; {near_matches(card.policy, known)}; "
        "load a policy of your own with load_policy(…, kind=ITS_CLASS)"
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {_AGAIN}") from None
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read ({reason}): it is damaged, {_AGAIN}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.double().isfinite().all():
            raise InputError(f"{path} has NaN or infinite numbers in {name}: {_AGAIN}")
    return tensors


def _site(path: Path, card: _Card, tensors: dict[str, Tensor]) -> Site:
    """Return the site, with the catalogue's columns taken out of `tensors`."""
    names = [name for name in tensors if name.startswith("catalogue.")]
    given = {name.removeprefix("catalogue."): tensors.pop(name) for name in names}
    features = tensors.pop("site.features", torch.zeros(0))
    if features.ndim != 2 or len(features) != 2:
        raise InputError(f"{path / TENSORS} has no site.features [2, F]: {_AGAIN}")
    try:
        columns = {name: tensor.numpy() for name, tensor in given.items()}
        catalogue = Catalogue(
            ids=np.array(card.catalogue.ids),
            features=columns.get("features"),  # type: ignore[arg-type]
            price=columns.get("price"),
            attributes={
                name.removeprefix("attribute."): column
                for name, column in columns.items()
                if name.startswith("attribute.")
            },
            feature_names=tuple(card.catalogue.feature_names),
        )
        catalogue.validate()
        returns = None if card.site.returns is None else Returns.from_json(card.site.returns)
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): {_AGAIN}") from error
    if catalogue.fingerprint() != card.catalogue.fingerprint:
        raise InputError(f"{path} has another catalogue than its card says: {_AGAIN}")
    form = card.site
    return Site(catalogue, form.n_positions, features, form.horizon, form.history, returns)


def _check_world(path: Path, site: Site, world: World) -> None:
    if site.catalogue.fingerprint() != world.catalogue.fingerprint():
        raise InputError(
            f"the policy in {path} was made for another catalogue ({site.n_items} items, this one "
            f"has {world.n_items}): train it again for this one"
        )
    mine, others = (
        {"positions": s.n_positions, "user features": s.features.shape[1]} for s in (site, world)
    )
    for what, number in mine.items():
        if number != others[what]:
            raise InputError(
                f"the policy in {path} was made for {number} {what}, the world has {others[what]}"
            )


def _put_tensors(path: Path, policy: Policy, tensors: dict[str, Tensor]) -> None:
    """Replace what `policy` has learned by `tensors`."""
    expected = learned_tensors(policy)
    found = {name.removeprefix("policy."): tensor for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or name not in expected:
            which = "lacks" if name not in found else "has an unknown"
            raise InputError(f"{path} {which} tensor {name}: {_AGAIN}")
        mine, given = expected[name], found[name]
        if mine.shape != given.shape or mine.dtype != given.dtype:
            raise InputError(
                f"{path}, tensor {name}: it is {tuple(given.shape)} {given.dtype}, not "
                f"{tuple(mine.shape)} {mine.dtype}: {_AGAIN}"
            )
    for name, value in list(vars(policy).items()):
        if isinstance(value, Tensor) and name in found:
            setattr(policy, name, found[name].to(policy.device))
        elif isinstance(value, nn.Module) and not name.startswith("_"):
            prefix = f"{name}."
            value.load_state_dict(
                {k.removeprefix(prefix): t for k, t in found.items() if k.startswith(prefix)}
            )
