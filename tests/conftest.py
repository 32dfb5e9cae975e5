"""Small logs and responders that many tests share."""

import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():  # before any kernel is defined: Triton's interpreter, on the CPU
    os.environ.setdefault("TRITON_INTERPRET", "1")

from benchmarks.cli import main as cli
from recsim_env.world import World
from responders import Catalogue, SessionLog, Users
from responders.config import make_config
from responders.known_truth.logs import synthesize
from responders.known_truth.presets import PRESETS, TruthConfig
from responders.known_truth.world import make_truth
from responders.log import ragged
from responders.log.batch import SessionBatch
from responders.models.base import LogShape, Responder
from responders.models.build import responder_class
from responders.models.registry import RESPONDERS
from responders.training.fit import fit

OPTIONAL = {"implicit": {"als", "bpr"}, "d3rlpy": {"offline_dqn", "cql", "bcq"}}
"""Policies by the optional package that they need; the other extras are always installed."""

SMALL = PRESETS["contentwise"].changed(
    n_items=40, n_positions=5, clusters=6, item_features=4, dimensions=3, max_slates=12
)


def missing_policies() -> set[str]:
    """Return the policies that need a package which is not installed."""
    lacking = (names for package, names in OPTIONAL.items() if find_spec(package) is None)
    return set().union(*lacking)


@pytest.fixture(scope="session")
def small_world() -> TruthConfig:
    return SMALL


@pytest.fixture(scope="session")
def small_log(tmp_path_factory: pytest.TempPathFactory) -> SessionLog:
    """600 sessions on 40 items."""
    return synthesize(tmp_path_factory.mktemp("logs") / "small", SMALL, 600, progress=False)


@pytest.fixture(scope="session")
def small_log_path(small_log: SessionLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_log.save(tmp_path_factory.mktemp("logs") / "saved")


@pytest.fixture(scope="session")
def trained(small_log: SessionLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SessionGRU trained for two epochs on the small log."""
    out = tmp_path_factory.mktemp("runs") / "session_gru"
    settings = {"epochs": 2, "hidden_size": 16, "embedding_size": 8}
    fit(small_log, "session_gru", out, settings, progress=False)
    return out


def log_of(
    slate: Any, click: Any = 0, length: Any = None, *, items: Any = None, **fields: Any
) -> SessionLog:
    """A log of slates [T, S], each session with a user of its own, a second between slates.

    Args:
        slate: [T, S] items.
        click: [T, S], or the same everywhere.
        length: slates of each session, by default all in one.
        items: the catalogue or its size, by default up to the largest item.
        fields: others of the log.
    """
    slate = np.asarray(slate)
    length = np.array([len(slate)] if length is None else length)
    n = int(slate.max()) + 1 if items is None else items
    made = {
        "session_start": ragged.offsets(length),
        "user": np.arange(len(length)),
        "time": ragged.place(length),
        "catalogue": n if isinstance(n, Catalogue) else Catalogue(np.arange(n)),
        "users": Users(np.arange(len(length))),
    }
    click = np.broadcast_to(click, slate.shape).astype(np.uint8)
    return SessionLog(slate=slate, response=click, **{**made, **fields}).validate()


def random_batch(
    users: int = 6, slates: int = 5, positions: int = 4, items: int = 9, features: int = 2
) -> SessionBatch:
    """Ragged sessions with empty positions anywhere, the longest of full length."""
    generator = torch.Generator().manual_seed(users * slates + positions)
    slate = torch.randint(-1, items, (users, slates, positions), generator=generator)
    length = torch.randint(1, slates + 1, (users,), generator=generator)
    length[0] = slates
    slate[torch.arange(slates) >= length[:, None]] = -1
    click = (torch.rand(slate.shape, generator=generator) < 0.4) & (slate >= 0)
    user = torch.randn(users, features, generator=generator)
    return SessionBatch(slate, click.float(), user, length)


def uniform(slate: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Numbers in [0, 1) for a responder to draw clicks on `slate`."""
    return torch.rand(slate.shape, generator=torch.Generator().manual_seed(seed))


def random_responder(
    name: str, items: int = 9, positions: int = 4, features: int = 2, **settings: Any
) -> Responder:
    """An untrained responder with weights large enough for every effect to show."""
    torch.manual_seed(0)
    if name in TRUTHS:
        sizes = {"n_items": items, "n_positions": positions, "dimensions": features}
        return make_truth(TruthConfig(**sizes, **TRUTHS[name]))
    shape = LogShape(items, positions, features)
    name, variant = VARIANTS.get(name, (name, {}))
    kind = responder_class(name)
    known = {field.name for field in fields(kind.config_class)}
    small = {k: 8 for k in ("embedding_size", "hidden_size") if k in known}
    given = {"item_vectors": torch.randn(items, 3)} if "embedding" in variant else {}
    responder = kind(
        shape, make_config(kind.config_class, small | variant | settings, name), **given
    ).eval()
    with torch.no_grad():
        for parameter in responder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for module in responder.modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0
        for buffer in (b for k, b in responder.named_buffers() if k in ("position", "examination")):
            buffer.copy_(torch.rand_like(buffer))
    return responder


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"slate_gru {readout}": ("slate_gru", {"readout": readout})
        for readout in ("threshold", "soft", "sample", "differentiable_sample")
    },
    "session_gru content_delta": ("session_gru", {"embedding": "content_delta"}),
    "session_transformer window": ("session_transformer", {"window": 2}),
    "scot window": ("scot", {"window": 3}),
    "hstu window": ("hstu", {"window": 2}),
    "min_gru layers": ("min_gru", {"layers": 2}),
    "min_gru no feedback": ("min_gru", {"feedback": False}),
    "session_gru activation": ("session_gru", {"activation": True}),
    "slate_transformer activation": ("slate_transformer", {"activation": True}),
}
"""Settings that change how a responder works, by a name for the tests."""

TRUTHS: dict[str, dict[str, Any]] = {
    "known_truth": {"clusters": 3},
    "known_truth_hidden": {"clusters": 3, "hidden": 0.5},
    "known_truth_clickbait": {"clickbait": 2.0, "turn": 0.3},
    "known_truth_repeat": {"repeat": 2.0},
}
"""Parameters of known-truth worlds, by a name for the tests."""

EVERY_RESPONDER = [*RESPONDERS, *VARIANTS, *TRUTHS]
COMPILED = [
    "session_gru",
    "hierarchical_gru",
    "session_gru content_delta",
    "min_gru layers",
    "min_gru no feedback",
]
"""Those with a compiled form."""


@pytest.fixture(params=[*EVERY_RESPONDER, *(f"{name} compiled" for name in COMPILED)])
def responder(request: pytest.FixtureRequest) -> Responder:
    """Each responder in turn, for 9 items, 4 positions and 2 user features.

    Those called compiled are prepared, so that they answer few users in their compiled form.
    """
    name = request.param.removesuffix(" compiled")
    responder = random_responder(name)
    if name != request.param:
        responder.prepare()
    return responder


def random_slates(world: World, seed: int = 0) -> torch.Tensor:
    """A slate [B, S] of different random items for each user of `world`."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(world.num_users, world.n_items, generator=generator)
    return noise.topk(world.n_positions, 1).indices


class Result:
    """What a command printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def call_recsim(*words: object) -> Result:
    """Call the command line in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["recsim", *map(str, words)])
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture
def recsim() -> Callable[..., Result]:
    """The command line, called in this process."""
    return call_recsim
