"""Predicted click probabilities of a responder on a log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit

from responders.device import in_float32
from responders.errors import InputError
from responders.log.batch import Part, SessionBatch, make_batch, plan_batches
from responders.log.session_log import SessionLog
from responders.models.base import Responder
from responders.models.state import take_rows
from responders.progress import progress_bar

_ANSWERS = 1024  # drawn at a time, to bound memory: states are copied for every draw


@dataclass(frozen=True)
class Predictions:
    """Log-odds and outcomes of the P counted positions of a log.

    Args:
        logit: [P] float64 log-odds of a click.
        click: [P] bool.
        position: [P] int64.
        user: [P] int64, for the bootstrap.
        session: [P] int64.
        item: [P] int64 catalogue indices.

    Raises:
        InputError: a log-odds is NaN or infinite, so that positions cannot be ranked.
    """

    logit: np.ndarray
    click: np.ndarray
    position: np.ndarray
    user: np.ndarray
    session: np.ndarray
    item: np.ndarray

    def __post_init__(self) -> None:
        if not np.isfinite(self.logit).all():
            raise InputError("predicted log-odds are NaN or infinite: the responder is damaged")

    @property
    def probability(self) -> np.ndarray:
        """[P] float64."""
        return expit(self.logit)


@in_float32
@torch.inference_mode()
def predict(
    responder: Responder,
    log: SessionLog,
    part: Part,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    progress: bool = False,
    draws: int = 0,
) -> Predictions:
    """Predict the clicks at the counted positions of `part`, given everything before each position.

    These predictions are *conditional* on the clicks above in the same slate. With `draws` they
    are *unconditional*: the mean probability over that number of answers drawn by the responder.
    The two are the same for a responder that does not read the clicks above.

    Args:
        responder: evaluated in eval mode; its mode is restored.
        log: the log.
        part: the sessions, and which of their slates count.
        batch_size: sessions at a time.
        device: of the responder.
        progress: show a progress bar.
        draws: answers per slate for unconditional predictions; 0 = conditional predictions.
    """
    training = responder.training
    responder.eval()
    if draws:
        responder.prepare()
    logits, clicks, positions, sessions, items = [], [], [], [], []
    batches = plan_batches(part, batch_size)
    silent = not progress
    generator = torch.Generator(device).manual_seed(0)
    for rows in progress_bar(batches, desc="evaluate", unit="batch", disable=silent, leave=False):
        group = part.take(rows)
        batch = make_batch(log, group)
        step = torch.arange(batch.slate.shape[1])
        counted = (step >= torch.from_numpy(group.first)[:, None]) & (step < batch.length[:, None])
        keep = batch.shown & counted.unsqueeze(-1)
        if draws and responder.reads_clicks_above:
            logit = _unconditional(responder, batch.to(device), counted, draws, generator)
        else:
            logit = responder(batch.to(device))
        logit = logit.double().cpu()
        b, _, s = torch.nonzero(keep, as_tuple=True)
        logits.append(logit[keep].numpy())
        clicks.append(batch.click[keep].numpy() > 0)
        positions.append(s.numpy())
        items.append(batch.slate[keep].numpy())
        sessions.append(group.sessions[b.numpy()])
    responder.train(training)
    session = np.concatenate(sessions)
    return Predictions(
        logit=np.concatenate(logits),
        click=np.concatenate(clicks),
        position=np.concatenate(positions),
        user=log.user[session].astype(np.int64),
        session=session,
        item=np.concatenate(items),
    )


def _unconditional(
    responder: Responder,
    batch: SessionBatch,
    counted: torch.Tensor,
    draws: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return log-odds [B, R, S] of the counted [B, R] slates, averaged over clicks in the slate."""
    state = responder.start(batch.user)
    logits = torch.zeros(batch.slate.shape, device=batch.slate.device)
    for r in range(batch.slate.shape[1]):
        slate, users = batch.slate[:, r], counted[:, r].nonzero().squeeze(1).to(logits.device)
        for chunk in users.split(max(_ANSWERS // draws, 1)) if len(users) else ():
            repeated = chunk.repeat_interleave(draws)
            uniform = torch.rand(slate[repeated].shape, generator=generator, device=slate.device)
            answer = responder.respond(take_rows(state, repeated), slate[repeated], uniform)
            mean = answer.probability.view(len(chunk), draws, -1).double().mean(1)
            logits[chunk, r] = torch.logit(mean, eps=1e-7).float()
        state = responder.observe(state, slate, batch.click[:, r])
    return logits
