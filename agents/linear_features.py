"""What linear bandits know of items and of users."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from agents.site import Site
from agents.transition import Transition


def item_components(site: Site, components: int) -> Tensor:
    """Return the principal components of the item features with unit variance, [N, P] float32.

    P is `components`, or fewer if the catalogue has fewer features. They are the same on every
    device, since the weights of a policy trained on one may be loaded on another.
    """
    features = torch.from_numpy(site.catalogue.features.astype(np.float64))
    centred = features - features.mean(0)
    if not features.shape[1]:
        return torch.zeros(site.n_items, 0, device=site.device)
    size = min(components, *centred.shape)
    left, deviation, right = torch.linalg.svd(centred, full_matrices=False)
    used = deviation[:size] > 1e-4 * deviation[:1]
    # The sign of a component is arbitrary: its largest weight becomes positive.
    sign = right.gather(1, right.abs().argmax(1, keepdim=True)).sign().squeeze(1)
    return (left * sign)[:, :size].mul(used * site.n_items**0.5).float().to(site.device)


def user_state(site: Site, items: Tensor, observation: dict[str, Tensor]) -> Tensor:
    """Return a constant 1, the standardised user features and the mean of the clicked items.

    Args:
        site: has the mean and the deviation of the users' features.
        items: [N, P], from `item_components`.
        observation: a batched `HistoryObservation`.

    Returns:
        [B, 1 + F + P] float32.
    """
    click = observation["click"].float()
    clicked = (items[observation["item"].clamp(min=0)] * click.unsqueeze(2)).sum(1)
    parts = [clicked / click.sum(1, keepdim=True).clamp(min=1)]
    if "user" in observation:
        parts.insert(0, site.standardised(observation["user"]))
    return F.pad(torch.cat(parts, 1), (1, 0), value=1.0)


def impressions(transition: Transition, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the items [n] shown to running sessions, their clicks [n] and user states [n, d].

    Args:
        transition: of B users.
        state: [B, d].
    """
    shown = (transition.slate >= 0) & transition.active.unsqueeze(1)
    row, position = shown.nonzero(as_tuple=True)
    return transition.slate[row, position], transition.click[row, position].float(), state[row]
