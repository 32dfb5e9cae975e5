"""Environments in which the page (slate) is chosen item by item, as in the bundle shop of RL4RS.

As in SlateRecEnv and SeqSlateRecEnv (RL4RS, Wang et al., SIGIR 2023), a page of S items is chosen
one item at a time; after the last item the user answers and the page's reward is returned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor
from torch.nn import functional as F

from recsim_env.observations import HistoryObservation
from recsim_env.outcome import Outcome
from recsim_env.vector import WorldVectorEnv, to_numpy
from recsim_env.world import World
from responders import EMPTY


class PageVectorEnv(WorldVectorEnv):
    """B simulated users; the action is the next item of each user's page.

    ## Action space
    `Discrete(N)`. `info["action_mask"]` [B, N] int8 and `action_masks()` give the valid items:
    allowed at the position (layer), not yet on the page, at most one special. A page with an
    invalid item has reward 0. With `vectors`, `Box(d)`: the nearest valid item by cosine is taken.

    ## Observation space
    Dict: `HistoryObservation` of the previous pages, `page` [S] int64 the items chosen so far (-1 =
    open) and `position` [1] int64 the position to fill.

    ## Reward
    0 until the page is complete, then that of the page (by default Σ price × P(click)).

    ## Episode end
    Terminated when the user leaves after a page, truncated after `world.horizon` pages.

    Args:
        world: of B users.
        autoreset_mode: see `WorldVectorEnv`.
        render_mode: see `WorldVectorEnv`.
        vectors: [N, d] of the items, for continuous actions (proto-items).
    """

    def __init__(
        self,
        world: World,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        vectors: Tensor | None = None,
    ) -> None:
        self._vectors = None if vectors is None else F.normalize(vectors.float(), dim=1)
        encoder = HistoryObservation(world)
        n, s = world.n_items, world.n_positions
        space = spaces.Dict(
            {
                **encoder.space.spaces,
                "page": spaces.Box(EMPTY, n - 1, (s,), np.int64),
                "position": spaces.Box(0, s, (1,), np.int64),
            }
        )
        actions: spaces.Space = spaces.Discrete(n)
        if vectors is not None:
            actions = spaces.Box(-1.0, 1.0, (vectors.shape[1],), np.float32)
        super().__init__(world, encoder, actions, space, autoreset_mode, render_mode)
        self._begin(None)

    def _begin(self, mask: Tensor | None) -> None:
        b, s = self.world.num_users, self.world.n_positions
        if mask is None:
            self._page = torch.full((b, s), EMPTY, device=self.world.device)
            self._position = torch.zeros(b, dtype=torch.int64, device=self.world.device)
        else:
            self._page = self._page.masked_fill(mask[:, None], EMPTY)
            self._position = self._position.masked_fill(mask, 0)

    def _advance(self, actions: np.ndarray) -> tuple[Outcome | None, np.ndarray]:
        action = torch.from_numpy(actions).to(self.world.device)
        item = self._nearest(action) if self._vectors is not None else action.unsqueeze(1)
        self._page = self._page.scatter(1, self._position.unsqueeze(1), item)
        self._position = self._position + 1
        complete = self._position == self.world.n_positions
        is_shown = complete.cpu().numpy()
        if not is_shown.any():
            return None, is_shown
        outcome = self.world.step(self._page, mask=complete)
        self._begin(complete)
        return outcome, is_shown

    def observe(self) -> Any:
        observation = to_numpy(self.encoder(self.world))
        page = {"page": self._page.clone(), "position": self._position.unsqueeze(1).clone()}
        return observation | to_numpy(page)

    def _valid(self) -> Tensor:
        """Return [B, N] bool, the valid next items of each page."""
        masks = torch.zeros(
            self.num_envs, self.world.n_items, dtype=torch.bool, device=self.world.device
        )
        for position in torch.unique(self._position).tolist():
            users = self._position == position
            masks[users] = self.world.rules.mask(self._page[users], position)
        return masks

    def _nearest(self, point: Tensor) -> Tensor:
        """Return the valid item [B, 1] nearest to each point [B, d]."""
        assert self._vectors is not None
        similarity = point @ self._vectors.t()
        return similarity.masked_fill(~self._valid(), -torch.inf).argmax(1, keepdim=True)

    def action_masks(self) -> np.ndarray:
        """Return the valid items [B, N] bool, as for sb3-contrib's MaskablePPO."""
        return self._valid().cpu().numpy()

    def state_info(self) -> dict[str, np.ndarray]:
        return super().state_info() | {"action_mask": self.action_masks().astype(np.int8)}
