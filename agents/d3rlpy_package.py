"""The base class of policies that d3rlpy trains on logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from agents.candidate_items import CandidateItems
from agents.from_log import LogPolicy, check_form, observe_log, shuffled
from agents.quiet_import import quiet_import
from agents.site import Site
from agents.user_features import UserFeatures
from recsim_env.world import World
from responders import InputError, SessionLog
from responders.behaviour.leaving import departures
from responders.config import Config, setting
from responders.device import seeded


@dataclass(frozen=True)
class OfflineConfig(Config):
    """Settings that policies of d3rlpy have in common."""

    candidates: int = setting(250, "Items to choose from, each an arm: the most clicked.", ge=1)
    hidden_size: int = setting(128, "Units of both layers.", ge=1, le=8192)
    learning_rate: float = setting(0.0005, "Of Adam.", gt=0)
    gamma: float = setting(0.9, "Discount.", ge=0, le=1)
    epochs: int = setting(5, "Passes over the log.", ge=1)
    batch_size: int = setting(64, "Slates in a minibatch; each of their items is a step.", ge=1)
    target_update: int = setting(200, "Minibatches between copies to the target network.", ge=1)


class OfflinePolicy(LogPolicy):
    """Learns the values of arms from a log with an algorithm of d3rlpy; an arm is an item.

    Each item of a logged slate is a step of its own: in the state before the slate, the arm of the
    item was pulled, the reward is the click on it, and the state after the slate follows. A slate
    shows the S arms with the highest values. What else was in the slate is part of the state that
    follows, but not of the action. Items that are no candidates are left out, and so is the last
    slate of a session that the log cut, as what follows is unknown.

    A subclass names the algorithm. Only the networks' weights are saved, not the files of d3rlpy,
    which hold pickles.

    Args:
        world: see `Policy`.
        config: the settings; others have the algorithm's defaults.
        seed: of the weights and of the order of the log.

    Attributes:
        candidates: [C] int64, catalogue indices of the arms.
        net: the networks by name; `q` gives the values.

    Raises:
        InputError: d3rlpy is not installed.
    """

    algorithm: ClassVar[str] = ""
    """Class in `d3rlpy.algos`."""
    config_class: ClassVar[type[Config]] = OfflineConfig
    config: OfflineConfig

    def __init__(
        self, world: World | Site, config: OfflineConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(world, config, seed)
        self._candidates = CandidateItems.most_clicked(self.site, self.config.candidates)
        self.candidates = self._candidates.item
        self._features = UserFeatures(self.site)
        self._begin()

    def settings(self) -> dict[str, Any]:
        """Return further settings of the algorithm."""
        return {}

    def networks(self, modules: Any) -> dict[str, nn.Module]:
        """Return what is saved of the algorithm's modules."""
        return {"q": modules.q_funcs[0]}

    def values(self, x: Tensor) -> Tensor:
        """Return the value of each arm [B, C] for users with features [B, D]."""
        return self.net["q"](x).q_value

    def _begin(self) -> None:
        """Make the algorithm, with the random weights of the seed."""
        d3rlpy, config = import_d3rlpy(), self.config
        self._algorithm = getattr(d3rlpy.algos, f"{self.algorithm}Config")(
            learning_rate=config.learning_rate,
            gamma=config.gamma,
            target_update_interval=config.target_update,
            encoder_factory=d3rlpy.models.VectorEncoderFactory([config.hidden_size] * 2),
            **self.settings(),
        ).create(device=str(self.device))
        with seeded(self.seed):
            self._algorithm.create_impl((self._features.size,), len(self.candidates))
        self.net = nn.ModuleDict(self.networks(self._algorithm.impl.modules))

    def fit_log(self, log: SessionLog) -> None:
        check_form(log, self.site)
        self._begin()
        last = log.session_start[1:] - 1
        terminal = np.zeros(log.n_slates, bool)
        terminal[last] = departures(log, np.arange(log.n_sessions))
        known = np.ones(log.n_slates, bool)
        known[last] = terminal[last]
        arm = self._candidates.columns(log.slate).cpu().numpy()
        rows = np.flatnonzero(known & (arm >= 0).any(1))
        if not len(rows):
            raise InputError(
                f"the log has nothing to learn from: no slate with one of the "
                f"{len(self.candidates)} candidates is followed by another or by the user's leaving"
            )
        rng = np.random.default_rng(self.seed)
        for _ in range(self.config.epochs):
            for part in shuffled(rows, self.config.batch_size, rng):
                self._algorithm.update(self._steps(log, part, arm, terminal))
        self.net.eval()

    def _steps(
        self, log: SessionLog, rows: np.ndarray, arm: np.ndarray, terminal: np.ndarray
    ) -> Any:
        """Return the items of the slates `rows` as steps [n] in d3rlpy's form."""
        before = self._features(observe_log(log, rows, self.site)).cpu().numpy()
        # The row after a terminal slate is of another session; d3rlpy ignores it.
        following = np.minimum(rows + 1, log.n_slates - 1)
        after = self._features(observe_log(log, following, self.site)).cpu().numpy()
        of, position = np.nonzero(arm[rows] >= 0)
        ones = np.ones((len(of), 1), np.float32)
        action = arm[rows][of, position][:, None].astype(np.float32)
        return import_d3rlpy().dataset.TransitionMiniBatch(
            observations=before[of],
            actions=action,
            rewards=ones * (log.response[rows][of, position] > 0)[:, None],
            next_observations=after[of],
            next_actions=0 * action,  # only algorithms for continuous actions read them
            terminals=ones * terminal[rows][of][:, None],
            intervals=ones,
            transitions=[],
        )

    @torch.no_grad()
    def affinity(self, observation: dict[str, Tensor]) -> Tensor:
        return self.among_all(self.values(self._features(observation)), self.candidates)


def import_d3rlpy() -> Any:
    """Return the module d3rlpy, or raise `InputError` if it is not installed."""
    try:
        return quiet_import("d3rlpy")
    except ImportError as error:
        raise InputError(
            "this policy needs the package d3rlpy: pip install 'recsim-env[offline]'"
        ) from error
