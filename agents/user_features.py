"""What policies with networks know of a user, and networks that score items for users."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.candidate_items import CandidateItems
from agents.linear_features import item_components
from agents.site import Site

_DECAYS = (0.5, 0.8, 1.0)
_COMPONENTS = 32
_SIGNATURE = 16


class UserFeatures:
    """Summaries of users' histories in the space of item features.

    The concatenation of: the user's features [F], standardised; for three decays by the slate (0.5,
    0.8 and 1), mean features of the items shown [P] and of those clicked [P], and the clicks per
    slate; and the share of the horizon passed. Item features are the first 32 principal components
    of the catalogue's; a catalogue without features gets 16 fixed random numbers per item.

    Args:
        site: where the policy recommends.

    Attributes:
        items: [N, P] float32.
        size: D, the number of features.
        slate_size: number of features of each slate, see `by_slate`.
    """

    def __init__(self, site: Site) -> None:
        if site.catalogue.features.shape[1]:
            self.items = item_components(site, _COMPONENTS)
        else:
            generator = torch.Generator().manual_seed(0)
            self.items = torch.randn(site.n_items, _SIGNATURE, generator=generator).to(site.device)
        self._table = F.pad(self.items, (0, 0, 1, 0))  # row 0: the empty position
        age = torch.arange(site.history - 1, -1, -1, device=site.device)
        decay = torch.tensor(_DECAYS, device=site.device).unsqueeze(1) ** age
        weight = decay / decay.sum(1, keepdim=True)
        self._weight = weight.repeat_interleave(site.n_positions, 1)  # [K, H · S]
        self._recency = decay[1].repeat_interleave(site.n_positions)
        self._site, self._n_positions = site, site.n_positions
        self.slate_size = 2 * self.items.shape[1] + site.n_positions
        self.size = site.features.shape[1] + len(_DECAYS) * (2 * self.items.shape[1] + 1) + 1

    @torch.no_grad()
    def __call__(self, observation: dict[str, Tensor]) -> Tensor:
        """Return the features [B, D] of a batched `HistoryObservation`."""
        item, click = self._recent(observation)
        weight = self._weight[:, -item.shape[1] :]
        clicked = weight * click.unsqueeze(1)  # [B, K, H · S]
        shown = weight.expand(len(item), -1, -1) / self._n_positions
        means = torch.bmm(torch.cat([shown, clicked], 1), self._table[item + 1])
        parts = [means.flatten(1), clicked.sum(2), observation["step"] / self._site.horizon]
        if "user" in observation:
            parts.insert(0, self._site.standardised(observation["user"]))
        return torch.cat(parts, 1)

    @torch.no_grad()
    def repeats(
        self, observation: dict[str, Tensor], candidates: CandidateItems
    ) -> dict[str, Tensor]:
        """Return how often items were `shown` and `clicked`, both [B, C], recent slates more.

        Each time counts 0.8 to the power of the slates since.

        Args:
            observation: a batched `HistoryObservation`.
            candidates: the C items.
        """
        item, click = self._recent(observation)
        place = candidates.columns(item) + 1  # 0: other items
        none = torch.zeros(len(place), len(candidates) + 1, device=place.device)
        weight = self._recency[-item.shape[1] :].expand(place.shape)
        counts = {"shown": weight, "clicked": weight * click}
        return {name: none.scatter_add(1, place, v)[:, 1:] for name, v in counts.items()}

    def _recent(self, observation: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return items and clicks [B, ≤ H · S] of the last H slates.

        The histories of real users may have more or fewer slates than the observations of a world.
        """
        width = self._weight.shape[1]
        return observation["item"][:, -width:], observation["click"][:, -width:]

    @torch.no_grad()
    def by_slate(self, observation: dict[str, Tensor]) -> Tensor:
        """Return features of the last slates, [B, H, E], oldest first; 0 before the first one.

        They are the mean features of the items shown [P] and of those clicked [P], per position,
        and the clicks [S].
        """
        b, s = len(observation["item"]), self._n_positions
        click = observation["click"].view(-1, s).float()
        weights = torch.stack([torch.ones_like(click), click], 1) / s
        means = torch.bmm(weights, self._table[observation["item"].view(-1, s) + 1])
        return torch.cat([means.flatten(1), click], 1).view(b, -1, self.slate_size)


class ItemScores(nn.Module):
    """Scores C items for users: products of a network's output with item vectors, and more.

    score = f(x) · (W features + vector) + bias + the effects of having shown and clicked the very
    item before. Everything starts at 0 but the item vectors.

    Args:
        features: of users and items.
        item: [C] int64, catalogue indices of the items to score.
        size: of the item vectors.
        hidden_size: units of each of the network's two layers.
        more: numbers that x has in addition to the features of a user.
    """

    def __init__(
        self, features: UserFeatures, item: Tensor, size: int, hidden_size: int, more: int = 0
    ) -> None:
        super().__init__()
        self.register_buffer("item_features", features.items[item], persistent=False)
        self.item_features: Tensor
        self.network = mlp(features.size + more, hidden_size, size)
        self.linear = nn.Linear(features.size + more, size, bias=False)
        self.mix = nn.Linear(features.items.shape[1], size, bias=False)
        self.vector = nn.Parameter(0.1 * torch.randn(len(item), size))
        self.bias = nn.Parameter(torch.zeros(len(item)))
        self.repeated = nn.Parameter(torch.zeros(2))
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Tensor, history: dict[str, Tensor]) -> Tensor:
        """Return the scores [B, C].

        Args:
            x: [B, D], the users' features.
            history: `shown` and `clicked` [B, C], see `UserFeatures.repeats`.
        """
        user = self.network(x) + self.linear(x)
        vectors = self.mix(self.item_features) + self.vector
        score = torch.addmm(self.bias, user, vectors.t())
        # In place, as copies of [B, C] take longer than the additions.
        score.addcmul_(history["shown"], self.repeated[0])
        return score.addcmul_(history["clicked"], self.repeated[1])


def mlp(n_inputs: int, hidden_size: int, n_outputs: int) -> nn.Sequential:
    """Return a network with two hidden layers, which starts as 0."""
    last = nn.Linear(hidden_size, n_outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Linear(n_inputs, hidden_size),
        nn.Tanh(),
        nn.Linear(hidden_size, hidden_size),
        nn.Tanh(),
        last,
    )
