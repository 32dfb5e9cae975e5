"""Adversarial neural click model: a generator of clicks against a discriminator (AdvNCM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from responders.config import Config, setting
from responders.log.batch import SessionBatch
from responders.models.base import LogShape
from responders.models.recurrent import SlateGRU, SlateGRUConfig, relaxed_draw

_REAL = 0.9  # one-sided label smoothing (Salimans et al., 2016): keeps the discriminator soft


class _Discriminator(nn.Module):
    """A GRU that tells logged from generated click sequences, position by position.

    Args:
        size: d of item and user vectors.
        hidden_size: units.
    """

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__()
        self.initial = nn.Linear(size, hidden_size)
        self.gru = nn.GRU(2 * size + 1, hidden_size, batch_first=True)
        self.out = nn.Linear(hidden_size, 1)

    def forward(self, users: Tensor, item: Tensor, click: Tensor) -> Tensor:
        """Return the log-odds [B, S] that the clicks up to each position are logged ones.

        Args:
            users: [B, d].
            item: [B, S, d].
            click: [B, S] float, 0 or 1.
        """
        clicked = click.unsqueeze(-1)
        hidden = self.initial(users).tanh().unsqueeze(0)
        states, _ = self.gru(torch.cat([item, item * clicked, clicked], -1), hidden)
        return self.out(states).squeeze(-1)


@dataclass(frozen=True)
class AdvNCMConfig(SlateGRUConfig):
    """Settings of `AdvNCM`."""

    adversarial: float = setting(
        0.1, "Weight of the adversarial loss against the likelihood.", ge=0
    )


class AdvNCM(SlateGRU):
    """A SlateGRU that also learns to draw click sequences which pass for logged ones.

    In each step the model draws the clicks of every slate, reading its own draws. A discriminator,
    a GRU that knows slate and user, learns to tell them from the logged ones. The generator is
    trained by likelihood (as `readout` says) plus `adversarial` times the non-saturating loss of
    the discriminator (arXiv 2409.20055; Goodfellow et al., 2014). The discriminator sees clicks of
    0 and 1, because it would recognise fractions; the gradient passes through the binary-concrete
    draw (straight-through).

    Logged during training: `discriminator_loss`, `real_accuracy` and `generated_accuracy` (0.5 =
    the discriminator guesses), `generated_click_rate`, `click_rate` and `generator_loss`.

    Args:
        shape: sizes of the log.
        config: the settings.
        item_vectors: [N, K] given vectors for the embeddings that need them.
    """

    config_class: ClassVar[type[Config]] = AdvNCMConfig

    def __init__(
        self,
        shape: LogShape,
        config: AdvNCMConfig = AdvNCMConfig(),
        item_vectors: Tensor | None = None,
    ) -> None:
        super().__init__(shape, config, item_vectors)
        self.adversarial = config.adversarial
        self.discriminator = _Discriminator(config.embedding_size, config.hidden_size)

    def training_loss(self, batch: SessionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the losses of likelihood, generator and discriminator, and their balance.

        The discriminator's loss sees detached draws, and the generator's loss a discriminator with
        detached weights: one backward pass trains each against the other.
        """
        loss, measures = super().training_loss(batch)
        shown = batch.shown.flatten(0, 1)
        kept = shown.any(1)
        shown, slate = shown[kept], batch.slate.flatten(0, 1)[kept]
        real = batch.click.flatten(0, 1)[kept]
        items = self.items.vector(self.items.index(batch.slate))
        users = self.users(batch.user, items, batch.click).flatten(0, 1)[kept]
        items = items.flatten(0, 1)[kept].detach()

        offset = self.session.parallel(self.items, batch).flatten(0, 1)[kept]
        hidden = self.initial(users).tanh()
        reading = self.gru.read_soft(
            self.inputs(slate), hidden, None, offset, click_weight=relaxed_draw
        )
        relaxed = reading.click * shown
        drawn = (relaxed > 0.5).to(relaxed.dtype) + relaxed - relaxed.detach()
        users = users.detach()
        weights = {k: v.detach() for k, v in self.discriminator.named_parameters()}
        on_drawn = functional_call(self.discriminator, weights, (users, items, drawn))[shown]
        generator_loss = F.softplus(-on_drawn).sum()
        on_real = self.discriminator(users, items, real)[shown]
        on_detached = self.discriminator(users, items, drawn.detach())[shown]
        smooth = torch.full_like(on_real, _REAL)
        discriminator_loss = F.binary_cross_entropy_with_logits(on_real, smooth, reduction="sum")
        discriminator_loss = discriminator_loss + F.softplus(on_detached).sum()
        n = shown.sum()
        measures |= {
            "discriminator_loss": discriminator_loss.detach() / (2 * n),
            "generator_loss": generator_loss.detach() / n,
            "real_accuracy": (on_real > 0).float().mean(),
            "generated_accuracy": (on_detached <= 0).float().mean(),
            "generated_click_rate": drawn.detach().sum() / n,
            "click_rate": real.sum() / n,
        }
        return loss + self.adversarial * generator_loss + discriminator_loss, measures
