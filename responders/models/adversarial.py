"""Adversarial neural click model: a generator of clicks against a discriminator (AdvNCM)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from responders.log.batch import SessionBatch
from responders.models.base import LogShape
from responders.models.recurrent import SlateGRU

_REAL = 0.9  # one-sided label smoothing (Salimans et al., 2016): keeps the discriminator soft


class _Discriminator(nn.Module):
    """A GRU that tells logged from generated click sequences, position by position.

    Args:
        size: d of item and user vectors.
        hidden_size: units.
    """

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__()
        self.enter = nn.Linear(size, hidden_size)
        self.gru = nn.GRU(2 * size + 1, hidden_size, batch_first=True)
        self.out = nn.Linear(hidden_size, 1)

    def forward(self, users: Tensor, item: Tensor, click: Tensor) -> Tensor:
        """Return log-odds [B, S] that the clicks up to each position are logged ones.

        Args:
            users: [B, d].
            item: [B, S, d].
            click: [B, S] float, 0 or 1.
        """
        clicked = click.unsqueeze(-1)
        hidden = self.enter(users).tanh().unsqueeze(0)
        states, _ = self.gru(torch.cat([item, item * clicked, clicked], -1), hidden)
        return self.out(states).squeeze(-1)


class AdvNCM(SlateGRU):
    """A SlateGRU that also learns to draw click sequences which pass for logged ones.

    In each step it draws the clicks of every slate, feeding on its own draws. A discriminator, a
    GRU that knows slate and user, learns to tell them from the logged ones. The generator is
    trained by likelihood (as `readout` says) plus `adversarial` times the non-saturating loss of
    the discriminator (arXiv 2409.20055; Goodfellow et al., 2014). Clicks are 0 or 1 for the
    discriminator, or it would know them by their fractions; the gradient passes through the
    binary-concrete draw (straight-through).

    Logged while training: `discriminator_loss`, `real_accuracy` and `generated_accuracy` (balance:
    0.5 = it guesses), `generated_click_rate` against `click_rate`, and `generator_loss`.

    Args:
        shape: sizes of the log.
        item_features: as `NeuralResponder`.
        adversarial: weight of the adversarial loss against the likelihood.
        options: as `SlateGRU`.
    """

    def __init__(
        self,
        shape: LogShape,
        item_features: Tensor | None = None,
        *,
        adversarial: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(shape, item_features, **options)
        self.adversarial = adversarial
        self.discriminator = _Discriminator(self.items.size, self.hidden_size)

    def training_loss(self, batch: SessionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return likelihood, generator's and discriminator's loss, and how the two stand.

        The discriminator's own loss sees detached draws, and the generator's loss a discriminator
        with detached weights: one backward pass trains each against the other.
        """
        loss, measures = super().training_loss(batch)
        shown = batch.shown.flatten(0, 1)
        kept = shown.any(1)
        shown, slate = shown[kept], batch.slate.flatten(0, 1)[kept]
        real = batch.click.flatten(0, 1)[kept]
        rows = self.items.rows(batch.slate)
        items = self.items(rows)
        users = self.users(batch.user, items, batch.click).flatten(0, 1)[kept]
        items = items.flatten(0, 1)[kept].detach()

        offset = self.session.parallel(batch).flatten(0, 1)[kept]
        walk = self.scan(*self._begin(users), slate, feed="relaxed", offset=offset)
        relaxed = walk.click * shown
        drawn = (relaxed > 0.5).to(relaxed.dtype) + relaxed - relaxed.detach()
        users = users.detach()
        weights = {k: v.detach() for k, v in self.discriminator.named_parameters()}
        fooled = functional_call(self.discriminator, weights, (users, items, drawn))[shown]
        generator_loss = F.softplus(-fooled).sum()
        on_real = self.discriminator(users, items, real)[shown]
        on_drawn = self.discriminator(users, items, drawn.detach())[shown]
        smooth = torch.full_like(on_real, _REAL)
        told = F.binary_cross_entropy_with_logits(on_real, smooth, reduction="sum")
        told = told + F.softplus(on_drawn).sum()
        n = shown.sum()
        measures |= {
            "discriminator_loss": told.detach() / (2 * n),
            "generator_loss": generator_loss.detach() / n,
            "real_accuracy": (on_real > 0).float().mean(),
            "generated_accuracy": (on_drawn <= 0).float().mean(),
            "generated_click_rate": drawn.detach().sum() / n,
            "click_rate": real.sum() / n,
        }
        return loss + self.adversarial * generator_loss + told, measures
