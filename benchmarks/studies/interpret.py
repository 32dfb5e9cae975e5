"""What a responder or a sequential policy keeps of users: sparse features of its hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from agents.clicked_states import next_click_losses, states_after_clicks
from agents.loading import load_policy
from agents.sequential import SequentialPolicy
from benchmarks.reports import interpret as report
from benchmarks.studies.evaluate import check_shape
from responders import InputError, SessionLog
from responders.config import make_config
from responders.errors import check_whole
from responders.evaluation.bootstrap import interval, user_weights
from responders.files import new_folder, read_json
from responders.interpretation.autoencoder import (
    AutoencoderConfig,
    SparseAutoencoder,
    fit_autoencoder,
)
from responders.interpretation.naming import correlation, describe, tastes
from responders.interpretation.saving import save_autoencoder
from responders.interpretation.states import States, hidden_states, losses
from responders.known_truth.world import truth_of
from responders.log.batch import Part
from responders.log.split import FRACTIONS, make_split
from responders.models.steered import has_hidden
from responders.training.checkpoint import AUTOENCODER, load_responder

RECOVERED = 0.8
"""|rho| from which a true cluster counts as recovered."""

_RESAMPLES = 1000
_ANY_SPLIT = {"by": "user", "seed": 0, "fractions": FRACTIONS}


@dataclass(frozen=True)
class Interpretation:
    """The result of `interpret`.

    Args:
        features: a row for each feature, see `responders.interpretation.naming.describe`.
        facts: the measures, and how they were made.
        clusters: of a known-truth log, a row for each true cluster; else empty.
        files: that were written.
    """

    features: pd.DataFrame
    facts: dict[str, Any]
    clusters: list[dict[str, Any]]
    files: list[Path]


class _Source(NamedTuple):
    """Hidden states of users to learn from and of others, and how to measure replacing them."""

    name: str
    is_policy: bool
    synthetic: bool
    train: States
    test: States
    losses: Any  # from an autoencoder to sums [U, 2] and counts [U]


def interpret(
    path: str | Path,
    log: str | Path,
    out: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    sessions: int = 5000,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
    command: str | None = None,
) -> Interpretation:
    """Find sparse features of hidden states and say what they stand for, as `recsim interpret`.

    An autoencoder is trained on the hidden states of the training users and measured on the test
    users. It is saved in the folder `path`, where `steer=` finds it.

    Args:
        path: folder of a responder with hidden states, or of a sequential policy.
        log: folder of a log with its catalogue.
        out: folder of features.csv, interpretation.json and report.html.
        settings: of `AutoencoderConfig`.
        sessions: at most this many train the autoencoder, and as many test it.
        seed: of the autoencoder, and of which sessions count.
        overwrite: replace `out`, and the autoencoder of an earlier interpretation.
        progress: show a progress bar.
        command: stored with the results.

    Raises:
        InputError: no hidden states, another catalogue, an unknown setting, or `out` or an
            autoencoder exists.
    """
    folder, sessions = Path(path), check_whole("sessions", sessions, 1)
    config = make_config(AutoencoderConfig, dict(settings or {}), "interpret")
    loaded = SessionLog.load(Path(log))
    if (folder / AUTOENCODER).exists() and not overwrite:
        raise InputError(f"{folder} was interpreted already: use --overwrite to number it anew")
    with new_folder(Path(out), overwrite) as building:
        source = _open(folder, loaded, sessions, seed)
        net = fit_autoencoder(source.train.vector, config, seed, progress=progress)
        codes = [_encode(net, states) for states in (source.train, source.test)]
        table = describe(source.test, codes[1], loaded.catalogue, loaded.users)
        facts: dict[str, Any] = {
            "name": source.name,
            "path": str(folder),
            "is_policy": source.is_policy,
            "log": str(loaded.card.get("name")),
            "synthetic": loaded.synthetic or source.synthetic,
            "command": command,
            "size": source.test.vector.shape[1],
            "states": len(source.test.vector),
            "users": len(np.unique(source.test.user)),
            **asdict(config),
            "never_active": float((table["active"] == 0).mean()),
            **_reconstruction(source, net, len(loaded.users)),
        }
        clusters = _clusters(source, codes, loaded)
        if clusters:
            facts |= {
                f"recovered{kind}": sum(row[f"rho{kind}"] >= RECOVERED for row in clusters)
                for kind in ("", "_unit")
            }
        names = report.write(building, table, facts, clusters)
        save_autoencoder(net, folder)
    return Interpretation(table, facts, clusters, [Path(out) / name for name in names])


def _open(folder: Path, log: SessionLog, sessions: int, seed: int) -> _Source:
    kind = read_json(folder / "card.json", "responder or policy").get("kind")
    return (_policy if kind == "policy" else _responder)(folder, log, sessions, seed)


def _parts(log: SessionLog, split: Mapping[str, Any], sessions: int, seed: int) -> list[Part]:
    """Return some sessions of the training and of the test users; of a split by time, periods."""
    rng = np.random.default_rng(seed)
    found = make_split(log, split["by"], split["seed"], split["fractions"])
    parts = [found[name] for name in ("train", "test")]
    if split["by"] == "user":  # whose test sessions count from their first slate on here
        parts = [Part.of(log, part.sessions) for part in parts]
    return [part.take(rng.permutation(len(part))[:sessions]) for part in parts]


def _responder(folder: Path, log: SessionLog, sessions: int, seed: int) -> _Source:
    checkpoint = load_responder(folder, log.catalogue)
    responder, name = checkpoint.responder, checkpoint.card["responder"]["name"]
    if not has_hidden(responder):
        raise InputError(f"{name} keeps no hidden state of users, so there is nothing to interpret")
    check_shape(responder, log, folder)
    train, test = _parts(log, checkpoint.card["split"], sessions, seed)
    return _Source(
        name,
        False,
        checkpoint.synthetic,
        hidden_states(responder, log, train),
        hidden_states(responder, log, test),
        lambda net: losses(responder, log, test, net),
    )


def _policy(folder: Path, log: SessionLog, sessions: int, seed: int) -> _Source:
    policy, parts = load_policy(folder), _parts(log, _ANY_SPLIT, sessions, seed)
    if not isinstance(policy, SequentialPolicy):
        raise InputError(f"{folder} is no sequential policy, so it has no states to interpret")
    if policy.catalogue.fingerprint() != log.catalogue.fingerprint():
        raise InputError(f"{folder} was made for another catalogue than that of the log")
    (train, _), (test, target) = (states_after_clicks(policy, log, part.sessions) for part in parts)
    return _Source(
        type(policy.net).__name__,
        True,
        policy.synthetic,
        train,
        test,
        lambda net: next_click_losses(policy, test, target, net, len(log.users)),
    )


@torch.inference_mode()
def _encode(net: SparseAutoencoder, states: States) -> np.ndarray:
    return net.encode(torch.from_numpy(states.vector)).numpy()


@torch.inference_mode()
def _reconstruction(source: _Source, net: SparseAutoencoder, n_users: int) -> dict[str, float]:
    """Return the explained variance of held-out states, and what replacing them costs."""
    vector, user = source.test.vector, source.test.user
    error = ((net(torch.from_numpy(vector)).numpy() - vector) ** 2).sum(1)
    variance = ((vector - vector.mean(0)) ** 2).sum(1)
    wrong, whole = (np.bincount(user, each, n_users) for each in (error, variance))
    sums, count = source.losses(net)
    return {
        **_ratio("explained", whole - wrong, whole),
        **_ratio("log_loss", sums[:, 0], count),
        **_ratio("log_loss_reconstructed", sums[:, 1], count),
        **_ratio("log_loss_change", sums[:, 1] - sums[:, 0], count),
    }


def _ratio(name: str, top: np.ndarray, bottom: np.ndarray) -> dict[str, float]:
    """Return the ratio of sums over users [U], with its 95 % interval over users."""
    top, bottom = top[bottom > 0], bottom[bottom > 0]
    weights = np.stack(list(user_weights(len(top), _RESAMPLES)))
    return interval(name, top.sum() / bottom.sum(), (weights @ top) / (weights @ bottom))


def _clusters(source: _Source, codes: list[np.ndarray], log: SessionLog) -> list[dict[str, Any]]:
    """Return how well features, and hidden units, tell the shares of clicks in true clusters.

    The feature of a cluster is chosen on the training users and measured on the test users, over
    the moments after a first click; |rho| is between its activation and the share of the recent
    clicks (`responders.interpretation.states.FADE`) that were on items of the cluster.
    """
    truth = truth_of(log)
    if truth is None:
        return []
    is_in = np.eye(truth.config.clusters)[truth.clusters]
    shares, after = [], []
    for states in (source.train, source.test):
        after.append(np.asarray(states.clicks.sum(1)).ravel() > 0)
        shares.append(tastes(states, is_in)[after[-1]])
    n_items = is_in.sum(0)
    rows: list[dict[str, Any]] = [
        {"cluster": int(k), "items": int(n_items[k]), "clicks": float(shares[1][:, k].mean())}
        for k in np.flatnonzero((n_items > 0) & shares[0].any(0) & shares[1].any(0))
    ]
    units = [source.train.vector, source.test.vector]
    user = source.test.user[after[1]]
    weights = np.stack(list(user_weights(len(np.unique(user)), _RESAMPLES)))
    for kind, values in (("", codes), ("_unit", units)):
        train, test = (each[keep] for each, keep in zip(values, after, strict=True))
        best = np.abs(correlation(train, shares[0])).argmax(0)
        for row in rows:
            k = row["cluster"]
            row["feature" if not kind else "unit"] = int(best[k])
            row |= _rho(f"rho{kind}", test[:, best[k]], shares[1][:, k], user, weights)
    return rows


def _rho(
    name: str, a: np.ndarray, b: np.ndarray, user: np.ndarray, weights: np.ndarray
) -> dict[str, float]:
    """Return |rho| of a [n] and b [n], with its 95 % interval; weights [R, users] resample."""
    a, b = a.astype(np.float64) - a.mean(), b - b.mean()
    row = np.unique(user, return_inverse=True)[1]
    sums = np.stack(
        [np.bincount(row, each) for each in (np.ones(len(a)), a, b, a * b, a * a, b * b)], 1
    )
    n, *moments = np.concatenate([sums.sum(0, keepdims=True), weights @ sums]).T
    a_mean, b_mean, ab, aa, bb = (moment / n for moment in moments)
    spread = np.sqrt(np.maximum((aa - a_mean**2) * (bb - b_mean**2), 1e-18))
    rho = np.abs(ab - a_mean * b_mean) / spread
    return interval(name, rho[0], rho[1:])
