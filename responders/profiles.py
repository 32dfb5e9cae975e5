"""User profiles: what users did before the sessions of a log, as features of its users.

Whatever reads user features reads profiles: responders start from them, observations and policies
have them. Three methods can be put side by side (arXiv 2508.07748 concatenates such profiles):

* `autoencoder`: the last events of a user (item, clicked or passed over, time since the event
  before) go through a GRU to a vector from which a second GRU reconstructs them;
* `svd`: the truncated SVD of the matrix of users' clicks on items;
* `counts`: sessions, slates, clicks, click rate, days since the last event, and the mean features
  of the items clicked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from sklearn.decomposition import TruncatedSVD
from torch import Tensor, nn
from torch.nn import functional as F

from responders.config import Config, setting
from responders.device import in_float32, pick_device
from responders.errors import InputError, check_finite, check_seed, near_matches
from responders.kernels import linear_cross_entropy
from responders.log.catalogue import EMPTY, Catalogue, Users
from responders.log.counts import click_matrix
from responders.log.session_log import SessionLog
from responders.models.parts.items import ItemEncoder
from responders.progress import progress_bar

METHODS = ("autoencoder", "svd", "counts")

_DAY = 86_400.0
_PRIOR_CLICKS, _PRIOR_SHOWN = 1.0, 10.0  # of an average user, added to means and rates


@dataclass(frozen=True)
class ProfileConfig(Config):
    """Settings of profiles."""

    size: int = setting(32, "D, numbers of the autoencoder's and of the SVD's vector.", ge=1)
    events: int = setting(200, "Last events of a user that the autoencoder reads.", ge=1)
    epochs: int = setting(20, "Passes of the autoencoder over all users.", ge=1, le=10_000)
    batch_size: int = setting(64, "Users in a batch of it.", ge=1)
    learning_rate: float = setting(0.003, "Of its Adam.", gt=0)


def split_past(log: SessionLog, share: float = 0.5) -> tuple[SessionLog, SessionLog]:
    """Split a log at the moment before which `share` of its sessions begin.

    Returns:
        The sessions that begin before that moment, and those that begin later.

    Raises:
        InputError: `share` leaves one of the two without sessions.
    """
    began = log.time[log.session_start[:-1]]
    if not 0 < check_finite("the share of sessions that are past", share) < 1:
        raise InputError(f"the share of sessions that are past must be within 0 and 1, not {share}")
    is_past = began < np.quantile(began, share, method="higher")
    if not is_past.any():
        raise InputError("no session begins before the others: give a log of the past")
    return log.select(is_past), log.select(~is_past)


@in_float32
def with_profiles(
    log: SessionLog,
    past: SessionLog,
    methods: Sequence[str] = METHODS[:1],
    config: ProfileConfig = ProfileConfig(),
    *,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> SessionLog:
    """Return `log` with profiles of its users as further features, called `past_METHOD_…`.

    Profiles are learned from `past` alone, without looking at `log`. Users whom `past` does not
    know have zeros. The truth of a synthetic log does not know profiles, so the card loses it.

    Args:
        log: any sessions.
        past: earlier sessions of the same users, by raw id, with any catalogue.
        methods: of `METHODS`; their columns are put side by side.
        config: the settings.
        seed: of the autoencoder and the SVD.
        device: of the autoencoder: auto, cpu or cuda.
        progress: show a progress bar.

    Raises:
        InputError: a method is unknown, the logs share no user, or a user's past is not over when
            `log` begins.
    """
    check_seed(seed)
    for method in methods:
        if method not in METHODS:
            raise InputError(f"profile {method!r} is unknown; {near_matches(method, METHODS)}")
    row = Catalogue(past.users.ids).index(log.users.ids)
    _check_order(log, past, row)
    columns, names = [log.users.features], [*log.users.feature_names]
    for method in methods:
        if method == "autoencoder":
            profile = _autoencoded(past, config, seed, pick_device(device), progress)
        else:
            profile = _svd(past, config.size, seed) if method == "svd" else _counts(past)
        columns.append(np.where((row == EMPTY)[:, None], 0, profile[row]))
        names += [f"past_{method}_{i}" for i in range(profile.shape[1])]
    made = {"methods": list(methods), "past": past.fingerprint(), "seed": seed, **asdict(config)}
    card = {key: value for key, value in log.card.items() if key != "truth"} | {"profiles": made}
    return replace(
        log, users=Users(log.users.ids, np.concatenate(columns, 1), tuple(names)), card=card
    )


def _check_order(log: SessionLog, past: SessionLog, row: np.ndarray) -> None:
    """Raise `InputError` unless the past of each user, in `row` of `past`, ends before `log`."""
    ends, begins = np.full(len(past.users), -1), np.full(len(log.users), np.iinfo(np.int64).max)
    np.maximum.at(ends, past.user, past.time[past.session_start[1:] - 1])
    np.minimum.at(begins, log.user, log.time[log.session_start[:-1]])
    if (row == EMPTY).all():
        raise InputError("no user of the log is in the log of the past: are ids of one kind?")
    late = (row != EMPTY) & (ends[row] >= begins)
    if late.any():
        user = int(np.argmax(late))
        raise InputError(
            f"the past of user {log.users.ids[user]} lasts until {ends[row[user]]} s, and the log "
            f"begins at {begins[user]} s: profiles would tell the future; give earlier sessions"
        )


def _svd(past: SessionLog, size: int, seed: int) -> np.ndarray:
    """Return the users' vectors [U, ≤ size] in the truncated SVD of their clicks."""
    clicks = click_matrix(past, np.arange(past.n_sessions))
    size = min(size, min(clicks.shape) - 1)
    if size < 1:
        raise InputError("an SVD needs a past with two users and two items or more")
    return TruncatedSVD(size, random_state=seed).fit_transform(clicks)


def _counts(past: SessionLog) -> np.ndarray:
    """Return counts of the users' events, and the mean features of what they clicked, [U, 6 + F].

    Columns are log(1 + sessions, slates, shown, clicks), the click rate, and log(1 + days since the
    last event, counted to the last of anyone).
    """
    n, user = len(past.users), np.repeat(past.user, past.session_length)
    shown = np.bincount(user, (past.slate != EMPTY).sum(1), n)
    clicks = np.bincount(user, past.response.sum(1, dtype=np.int64), n)
    last = np.full(n, past.time.min())
    np.maximum.at(last, user, past.time)
    counts = [np.bincount(past.user, minlength=n), np.bincount(user, minlength=n), shown, clicks]
    rate = (clicks + _PRIOR_SHOWN * clicks.sum() / shown.sum()) / (shown + _PRIOR_SHOWN)
    days = (past.time.max() - last) / _DAY
    features = past.catalogue.features - past.catalogue.features.mean(0)
    liked = click_matrix(past, np.arange(past.n_sessions)) @ features
    liked = liked / (clicks + _PRIOR_CLICKS)[:, None]
    return np.column_stack([np.log1p(np.stack(counts, 1)), rate, np.log1p(days), liked])


class _Events(NamedTuple):
    """The last events of users, oldest first, padded on the right."""

    item: Tensor  # [B, L] int64 catalogue indices, -1 = none
    click: Tensor  # [B, L] float32: 1 = clicked, 0 = passed over
    gap: Tensor  # [B, L] float32, log(1 + seconds) since the event before, over 10


class _History:
    """All events of a log, of one user after another, in the order of time and positions."""

    def __init__(self, log: SessionLog, longest: int) -> None:
        sessions = np.lexsort((log.time[log.session_start[:-1]], log.user))
        rows = log.rows(sessions)
        at, position = np.nonzero(log.slate[rows] != EMPTY)
        rows = rows[at]
        user = np.repeat(log.user[sessions], log.session_length[sessions])[at]
        gap = np.diff(log.time[rows], prepend=0).clip(min=0)
        gap[np.flatnonzero(np.diff(user, prepend=-1))] = 0
        count = np.bincount(user, minlength=len(log.users))
        self.length = np.minimum(count, longest)
        self.first = np.cumsum(count) - self.length
        self.item = torch.from_numpy(log.slate[rows, position].astype(np.int64))
        self.click = torch.from_numpy(log.response[rows, position].astype(np.float32))
        self.gap = torch.from_numpy((np.log1p(gap) / 10).astype(np.float32))

    def of(self, users: np.ndarray, device: torch.device) -> _Events:
        """Return the events of `users`, all of whom have some."""
        length, first = (torch.from_numpy(a[users])[:, None] for a in (self.length, self.first))
        step = torch.arange(int(length.max()))
        index, none = first + step.clamp(max=length - 1), step >= length
        item = self.item[index].masked_fill(none, EMPTY)
        return _Events(*(a.to(device) for a in (item, self.click[index], self.gap[index])))


class EventAutoencoder(nn.Module):
    """A GRU that reads a user's events to a vector, and one that reconstructs them from it.

    The second GRU reads only the vector, at every step, so that all it knows of a user is there. It
    predicts which items are clicked, by a softmax over the catalogue; of items that were passed
    over, whose showing was a recommender's choice, as of clicked ones whether they are clicked; and
    the time since the event before.

    Args:
        n_items: N.
        size: D of the vector and of the items' vectors; the GRUs have 2 · D units.
        features: [N, F] of the items, or None.
    """

    def __init__(self, n_items: int, size: int, features: Tensor | None = None) -> None:
        super().__init__()
        embedding = "learned" if features is None else "content"
        self.items = ItemEncoder(n_items, size, embedding, features)
        self.answer, self.gap = nn.Embedding(2, size), nn.Linear(1, size)
        self.encoder = nn.GRU(size, 2 * size, batch_first=True)
        self.vector = nn.Linear(2 * size, size)
        self.decoder = nn.GRU(size, 2 * size, batch_first=True)
        self.next_item, self.match = nn.Linear(2 * size, size), nn.Linear(2 * size, size)
        self.next_gap = nn.Linear(2 * size, 1)

    def forward(self, events: _Events) -> Tensor:
        """Return the vectors [B, D] of users."""
        token = self.items.vector(self.items.index(events.item))
        token = token + self.answer(events.click.long()) + self.gap(events.gap.unsqueeze(2))
        states = self.encoder(token)[0]
        last = (events.item >= 0).sum(1) - 1
        return self.vector(states[torch.arange(len(last), device=last.device), last])

    def loss(self, events: _Events) -> Tensor:
        """Return the mean loss of the events: items and answers in nats, and squared gaps."""
        steps = self(events).unsqueeze(1).expand(-1, events.item.shape[1], -1)
        is_event = events.item >= 0
        states, item = self.decoder(steps)[0][is_event], events.item[is_event]
        click = events.click[is_event]
        known = self.items.index(torch.arange(self.items.unknown, device=item.device), False)
        clicked = linear_cross_entropy(
            self.next_item(states), self.items.vector(known),
            torch.where(click > 0, item, -100), negatives="auto",
        )  # fmt: skip
        rows = self.items.index(item)
        log_odds = (self.match(states) * self.items.vector(rows)).sum(1) + self.items.bias(rows)
        answers = F.binary_cross_entropy_with_logits(log_odds, click)
        return clicked + answers + F.mse_loss(self.next_gap(states)[:, 0], events.gap[is_event])


def _autoencoded(
    past: SessionLog, config: ProfileConfig, seed: int, device: torch.device, progress: bool
) -> np.ndarray:
    """Train an `EventAutoencoder` on all users and return their vectors [U, D]."""
    history, features = _History(past, config.events), torch.tensor(past.catalogue.features)
    users = np.flatnonzero(history.length)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        net = EventAutoencoder(
            len(past.catalogue), config.size, features if features.shape[1] else None
        ).to(device)
        optimiser = torch.optim.Adam(net.parameters(), config.learning_rate)
        bar = progress_bar(
            range(config.epochs), desc="autoencoder", unit="epoch", disable=not progress
        )
        for _ in bar:
            for batch in _batches(rng.permutation(users), config.batch_size):
                loss = net.loss(history.of(batch, device))
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimiser.step()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    net.eval()
    vectors = np.zeros((len(past.users), config.size), np.float32)
    with torch.inference_mode():
        for batch in _batches(users, config.batch_size):
            vectors[batch] = net(history.of(batch, device)).cpu().numpy()
    return vectors


def _batches(users: np.ndarray, size: int) -> list[np.ndarray]:
    return [users[i : i + size] for i in range(0, len(users), size)]
