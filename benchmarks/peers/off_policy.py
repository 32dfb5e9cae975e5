"""Our estimators of another policy's value beside those of the Open Bandit Pipeline (obp).

    pip install --no-deps --ignore-requires-python obp==0.5.7 seaborn
    python -m benchmarks.peers.off_policy

computes both from the same generated (synthetic) slates, clicks, propensities and model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.harness import check_out, publish, run_script
from benchmarks.reports.tables import number, text
from responders import InputError
from responders.evaluation.off_policy import cascade_dr, dr, ips, snips


def generate(n_slates: int, n_items: int, n_positions: int, seed: int) -> dict[str, np.ndarray]:
    """Return slates [T, S], clicks, propensities, the other policy [S, N] and a model [S, N]."""
    rng = np.random.default_rng(seed)
    logging, other = rng.dirichlet(np.ones(n_items), (2, n_positions)) * 0.9 + 0.1 / n_items
    slate = np.stack([rng.choice(n_items, n_slates, p=p) for p in logging], 1)
    position = np.arange(n_positions)
    click = rng.random(slate.shape) < rng.random((n_positions, n_items))[position, slate]
    model = rng.random((n_positions, n_items))
    return {
        "slate": slate, "click": click.astype(float), "propensity": logging[position, slate],
        "other": other, "model": model,
    }  # fmt: skip


def ours(data: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the estimates of `responders.evaluation.off_policy`: those of slates, of one item."""
    position = np.arange(data["slate"].shape[1])
    weight = data["other"][position, data["slate"]] / data["propensity"]
    logged = data["model"][position, data["slate"]]
    expected = np.broadcast_to((data["other"] * data["model"]).sum(1), logged.shape)
    click, first = data["click"], np.s_[:, :1]
    filled = np.ones_like(click[first], bool)
    found = {
        "IPS": ips(click, weight),
        "cascade DR": cascade_dr(click, weight, logged, expected),
        "SNIPS, one position": snips(click[first], weight[first], filled),
        "DR, one position": dr(click[first], weight[first], logged[first], expected[first]),
    }
    return {name: float(each.mean()) for name, each in found.items()}


def theirs(data: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the estimates of obp.

    Raises:
        InputError: obp is not installed.
    """
    try:
        from obp import ope
    except ImportError as error:
        raise InputError(
            f"{error}: the top of {Path(__file__).name} says how to install"
        ) from error
    slate, other, model = data["slate"], data["other"], data["model"]
    n, s = slate.shape
    items, position = len(other[0]), np.arange(s)
    chance = other[position, slate]
    slates = {
        "slate_id": np.repeat(np.arange(n), s), "reward": data["click"].ravel(),
        "position": np.tile(position, n),
    }  # fmt: skip
    cascade = {
        "action": slate.ravel(),
        "pscore_cascade": np.cumprod(data["propensity"], 1).ravel(),
        "evaluation_policy_pscore_cascade": np.cumprod(chance, 1).ravel(),
        "q_hat": np.tile(model.ravel(), n),
        "evaluation_policy_action_dist": np.tile(other.ravel(), n),
    }
    one: dict[str, Any] = {
        "reward": data["click"][:, 0],
        "action": slate[:, 0],
        "pscore": data["propensity"][:, 0],
        "action_dist": np.tile(other[0], (n, 1))[:, :, None],
        "position": np.zeros(n, int),
        "estimated_rewards_by_reg_model": np.tile(model[0], (n, 1))[:, :, None],
    }
    snips_of_obp = ope.SelfNormalizedInverseProbabilityWeighting()
    value = {
        "IPS": ope.SlateIndependentIPS(len_list=s).estimate_policy_value(
            **slates,
            pscore_item_position=data["propensity"].ravel(),
            evaluation_policy_pscore_item_position=chance.ravel(),
        ),
        "cascade DR": ope.SlateCascadeDoublyRobust(
            len_list=s, n_unique_action=items
        ).estimate_policy_value(**slates, **cascade),
        "SNIPS, one position": snips_of_obp.estimate_policy_value(**one),
        "DR, one position": ope.DoublyRobust().estimate_policy_value(**one),
    }
    return {name: float(each) for name, each in value.items()}


def main(
    slates: Annotated[int, typer.Option(min=10)] = 5_000,
    items: Annotated[int, typer.Option(min=2)] = 20,
    positions: Annotated[int, typer.Option(min=2)] = 3,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder of the table.")] = Path("runs/off_policy"),
) -> None:
    """Compare the estimates on the same data."""
    check_out(out)
    data = generate(slates, items, positions, seed)
    peer = theirs(data)
    rows = [
        {"estimator": name, "ours": value, "obp": peer[name], "difference": abs(value - peer[name])}
        for name, value in ours(data).items()
    ]
    columns = {
        "estimator": text("estimator"),
        "ours": number("ours", 6),
        "obp": number("obp", 6),
        "difference": number("difference", 9),
    }
    caption = f"{slates:,} synthetic slates of {positions} among {items} items"
    title = "The value of another policy, by this package and by obp"
    publish("off_policy", title, columns, rows, caption=caption, out=out)


if __name__ == "__main__":
    run_script(main)
