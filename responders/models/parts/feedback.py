"""What the clicks above in a slate tell of its user."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from responders.models.parts.readout import Bounds


class Feedback(nn.Module):
    """Changes the log-odds of a position by how far the clicks above it differ from expected ones.

    A network that scores a whole slate from one state of its user does not see the clicks inside
    the slate, but they tell of the user: below a click, similar items are more likely to be
    clicked. The log-odds of position s change by Σⱼ qₛ·kⱼ (cⱼ - pⱼ) over the positions j above,
    where cⱼ is the click and pⱼ its probability without feedback. The differences have mean zero,
    so this learns how the clicks of a slate depend on each other and hardly changes their rates.

    q and k are linear in the item and in its position; a gate that reads the state of the user
    scales q, since a click says less about a user who is known well.

    Args:
        n_positions: S.
        item_size: d of the item vectors.
        hidden_size: H of the state.
    """

    def __init__(self, n_positions: int, item_size: int, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(item_size, item_size)
        self.key = nn.Linear(item_size, item_size)
        self.gate = nn.Linear(hidden_size, item_size)
        self.position_query = nn.Embedding(n_positions, item_size)
        self.position_key = nn.Embedding(n_positions, item_size)
        for weight in (self.query.weight, self.query.bias, self.position_query.weight):
            nn.init.zeros_(weight)  # no effect at first
        nn.init.normal_(self.position_key.weight, std=0.1)

    def effects(self, hidden: Tensor, item: Tensor, position: Tensor) -> Tensor:
        """Return qₛ·kⱼ [..., S, S] for all pairs of positions, of which those with j < s count.

        Args:
            hidden: [..., H] states.
            item: [..., S, d] vectors.
            position: [..., S] int64.
        """
        gate = 2 * self.gate(hidden).sigmoid()
        query = (self.query(item) + self.position_query(position)) * gate.unsqueeze(-2)
        return query @ (self.key(item) + self.position_key(position)).transpose(-1, -2)

    @staticmethod
    def changes(effects: Tensor, difference: Tensor) -> Tensor:
        """Return the changes [..., S] of log-odds for c - p [..., S], 0 at empty positions."""
        return (effects.tril(-1) @ difference.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def draw(
        effects: Tensor,
        attraction: Tensor,
        bounds: Bounds | None,
        shown: Tensor,
        uniform: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Draw clicks position by position.

        Args:
            effects: [B, S, S].
            attraction: [B, S] log-odds without feedback, not bounded.
            bounds: of the positions; None = nothing is bounded.
            shown: [B, S] bool, False at empty positions.
            uniform: [B, S] in [0, 1): a position is clicked where it is below the probability.

        Returns:
            Clicks [B, S] bool and their probabilities [B, S]; both 0 at empty positions.
        """
        bound = (lambda s, x: x) if bounds is None else (lambda s, x: bounds[s](x))
        # Positions come first, so that those of all users at a position lie next to each other.
        columns, filled = effects.permute(2, 1, 0).contiguous(), shown.t().to(attraction.dtype)
        start, numbers = attraction.t().contiguous(), uniform.t().contiguous()
        log_odds, clicks, probabilities = start, [], []
        for s in range(len(start)):
            expected = bound(s, start[s]).sigmoid() * filled[s]
            probability = bound(s, log_odds[s]).sigmoid() * filled[s]
            click = numbers[s] < probability
            # Changes also the log-odds of positions above, which are not read any more.
            log_odds = torch.addcmul(log_odds, columns[s], click.to(start.dtype) - expected)
            clicks.append(click)
            probabilities.append(probability)
        return torch.stack(clicks, 1), torch.stack(probabilities, 1)
