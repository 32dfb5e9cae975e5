"""Synthetic logs: the users of a known-truth world answer the slates of a logging policy."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from responders.behaviour.leaving import add_log_odds
from responders.behaviour.slate_rules import SlateRules
from responders.device import in_float32, pick_device
from responders.errors import InputError, check_seed, check_whole, near_matches
from responders.known_truth.presets import TruthConfig
from responders.known_truth.world import KnownTruth, make_truth
from responders.log import ragged
from responders.log.catalogue import Catalogue, Users
from responders.log.session_log import SessionLog
from responders.log.storage import LogWriter
from responders.models.state import State, take_rows
from responders.progress import progress_bar

_DAYS = 30  # within which sessions start
_LONGEST_STEP = 330  # seconds from a slate to the next

POLICIES = ("mixed", "popular", "uniform", "personal", "repeating", "informed")
"""Logging policies: by popularity and true taste (mixed), popularity, at random, by true taste;
`repeating` is `mixed`, but half of the slates are the one before again; `informed` is `personal`,
but also sees the hidden part of taste, so that its slates reveal it."""


class LoggingPolicy:
    """Chooses the slates of a synthetic log: valid items with the best scores plus Gumbel noise."""

    def __init__(self, truth: KnownTruth, name: str) -> None:
        if name not in POLICIES:
            raise InputError(f"policy {name!r} is unknown; {near_matches(name, POLICIES)}")
        self.truth, self.name, self.device = truth, name, truth.item_log_odds.device
        self.rules = SlateRules.of(truth.catalogue, truth.config.n_positions).to(self.device)
        rng = np.random.default_rng([truth.config.seed, 3])
        odds = truth.item_log_odds[:-1].cpu().numpy()
        rank = np.argsort(np.argsort(-(odds + 0.5 * rng.normal(size=len(truth.catalogue)))))
        popularity = -0.8 * torch.log1p(torch.tensor(rank, dtype=torch.float32))
        if truth.config.n_new:
            new = np.random.default_rng([truth.config.seed, 5]).permutation(len(odds))
            self.is_new = torch.zeros(len(odds), dtype=torch.bool, device=self.device)
            self.is_new[new[: truth.config.n_new]] = True
        self.popularity = popularity.to(self.device)

    def score(self, state: State) -> Tensor:
        """Return the scores [B, N] of all items for users in `state`, before the noise."""
        score = torch.zeros(len(state["fatigue"]), self.truth.config.n_items, device=self.device)
        if self.name == "popular":
            score = score + self.popularity
        elif self.name in ("personal", "informed"):
            score = score + self.truth.attraction(state)
        elif self.name in ("mixed", "repeating"):
            score = score + 0.6 * self.popularity + 0.6 * self.truth.attraction(state)
        if self.truth.config.n_new:
            score = score.masked_fill(self.is_new, -torch.inf)
        return score

    def propensity(self, state: State, slate: Tensor) -> Tensor:
        """Return the chance [B, S] of each item of `slate`, given the items above it.

        The best items by score and Gumbel noise are those of a Plackett–Luce model.

        Raises:
            InputError: slates follow rules, or repeat the one before.
        """
        if self.rules.exist or self.name == "repeating":
            raise InputError(
                "propensities are known for worlds without layers and policies other than repeating"
            )
        log_chance = self.score(state).log_softmax(1).gather(1, slate)
        chance = log_chance.exp()
        left = (1 - (chance.cumsum(1) - chance)).clamp(min=1e-6)  # not shown above
        return (chance / left).clamp(1e-9, 1.0)

    def __call__(
        self, state: State, generator: torch.Generator, previous: Tensor | None = None
    ) -> Tensor:
        """Return slates [B, S] for users in `state`, whose last slates are `previous` [B, S]."""
        b, n = len(state["fatigue"]), self.truth.config.n_items
        noise = torch.rand(b, n, generator=generator).to(self.device).clamp(min=1e-9)
        slate = self.rules.choose(-torch.log(-torch.log(noise)) + self.score(state))
        if self.name == "repeating" and previous is not None:
            again = torch.rand(b, 1, generator=generator).to(self.device) < 0.5
            slate = torch.where(again, previous, slate)
        return slate


@in_float32
@torch.inference_mode()
def synthesize(
    out: Path,
    settings: TruthConfig,
    sessions: int,
    *,
    seed: int = 0,
    policy: str = "mixed",
    visits: int = 1,
    propensities: bool = False,
    name: str = "known truth",
    catalogue: Catalogue | None = None,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> SessionLog:
    """Write a log of `sessions` sessions in a known-truth world to folder `out` and load it.

    Random numbers are drawn on the CPU, so that logs of different devices differ only where
    rounding changes a choice or a click.

    Args:
        out: the folder; it appears when complete.
        settings: the world; `settings.seed` fixes its items.
        sessions: E.
        seed: fixes the users, slates and clicks.
        policy: the logging policy, one of `POLICIES`.
        visits: sessions of each user, a month apart. Each starts from the same taste, which the
            earlier visits tell something of; the rest of the state is that of a new user.
        propensities: record the chance of each shown item, given those above it.
        name: of the log, for its card.
        catalogue: the items, with features; None = generated ones.
        overwrite: replace a log at `out`.
        device: of the probabilities: auto, cpu or cuda.
        progress: show a progress bar.

    Raises:
        InputError: `sessions` or `visits` is below 1, the policy or the device is unknown, the seed
            is out of range, propensities are not known, or `out` exists.
    """
    sessions, seed = check_whole("sessions", sessions, 1), check_seed(seed)
    visits = check_whole("visits", visits, 1)
    if catalogue is not None:
        settings = settings.changed(n_items=len(catalogue))
    truth = make_truth(settings, catalogue).to(pick_device(device))
    logging_policy = LoggingPolicy(truth, policy)
    generator = torch.Generator().manual_seed(seed)
    user, visit = np.divmod(np.arange(sessions), visits)
    ids = np.arange(user[-1] + 1)
    visible, hidden = _draw_tastes(settings, len(ids), generator)
    length = np.zeros(sessions, np.int64)
    start_time = np.random.default_rng([seed, 3]).integers(0, _DAYS * 86_400, sessions)
    start_time += visit * (_DAYS * 86_400 + settings.max_slates * _LONGEST_STEP)
    with (
        LogWriter(out, overwrite) as writer,
        progress_bar(
            total=sessions, desc="synthesize", unit="session", disable=not progress
        ) as bar,
    ):
        for first in range(0, sessions, 2048):
            part = slice(first, first + 2048)
            who = user[part]
            slates = _play(
                logging_policy, visible[who], hidden[who], generator, propensities=propensities
            )
            length[part] = slates["length"]
            time = slates["time"] + np.repeat(start_time[part], slates["length"])
            writer.append(slates["slate"], slates["click"], time, slates.get("propensity"))
            bar.update(len(slates["length"]))
        card = _card(settings, name, policy, seed)
        if catalogue is not None:
            card["given_items"] = True
        if policy == "informed" and settings.hidden:  # slates tell more than the truth reads
            del card["truth"]
        writer.finish(length, user, truth.catalogue, Users(ids, visible.numpy()), card)
    return SessionLog.load(out)


@torch.inference_mode()
def first_slates(settings: TruthConfig, sessions: int, slates: int) -> SessionLog:
    """Return a log, in memory, of `sessions` users of the world who see up to `slates` slates.

    They are slates of the logging policy `mixed`.
    """
    logging_policy = LoggingPolicy(make_truth(settings), "mixed")
    generator = torch.Generator().manual_seed(0)
    visible, hidden = _draw_tastes(settings, sessions, generator)
    played = _play(logging_policy, visible, hidden, generator, slates)
    ids = np.arange(sessions)
    return SessionLog(
        slate=played["slate"],
        response=played["click"],
        session_start=ragged.offsets(played["length"]),
        user=ids,
        time=played["time"],
        catalogue=logging_policy.truth.catalogue,
        users=Users(ids, visible.numpy()),
        card=_card(settings, "known truth", "mixed", seed=0),
    )


def _draw_tastes(
    settings: TruthConfig, users: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the visible and the hidden part of new users' tastes, [B, d] each."""
    visible = torch.randn(users, settings.dimensions, generator=generator)
    visible *= np.sqrt((1 - settings.hidden) / settings.dimensions)
    hidden = torch.randn(users, settings.dimensions, generator=generator)
    hidden *= np.sqrt(settings.hidden / settings.dimensions)
    return visible, hidden


def _card(settings: TruthConfig, name: str, policy: str, seed: int) -> dict[str, Any]:
    return {
        "name": f"synthetic {name}",
        "source": "known-truth world (responders/known_truth); these users are simulated",
        "licence": "Apache-2.0",
        "synthetic": True,
        "truth": asdict(settings),
        "policy": policy,
        "seed": seed,
    }


def _play(
    logging: LoggingPolicy,
    visible: Tensor,
    hidden: Tensor,
    generator: torch.Generator,
    slates: int | None = None,
    propensities: bool = False,
) -> dict[str, np.ndarray]:
    """Simulate users until all have left; return their slates session by session.

    Args:
        logging: chooses the slates. Unless it is `informed`, it sees only what is known of the
            users: otherwise its slates would reveal the hidden part of taste, and a model could
            beat the Bayes optimum.
        visible: [B, d] the part of the users' taste that is known.
        hidden: [B, d] the rest.
        generator: of the randomness.
        slates: after which sessions are cut; None = those of the world.
        propensities: whether to return them as well.
    """
    truth, s = logging.truth, logging.truth.config
    seen = visible.to(logging.device)
    state = truth.start_at((seen + hidden.to(seen.device))[:, None])
    known = truth.start(seen) if s.hidden and logging.name != "informed" else None
    hazard = torch.tensor(truth.hazard, dtype=torch.float32)
    b = len(seen)
    active, streak, time = torch.arange(b), torch.zeros(b, dtype=torch.int64), torch.zeros(b)
    steps, slate = [], None
    for step in range(1, min(s.max_slates, slates or s.max_slates) + 1):
        visible_state = state if known is None else known
        slate = logging(visible_state, generator, slate)
        chance = logging.propensity(visible_state, slate).cpu() if propensities else None
        uniform = torch.rand(slate.shape, generator=generator).to(slate.device)
        answer = truth.respond(state, slate, uniform)
        click = answer.click.cpu()
        time = time + 30 + torch.randint(0, 300, (len(active),), generator=generator)
        played = {"user": active, "slate": slate.cpu(), "click": click, "time": time}
        steps.append(played if chance is None else played | {"propensity": chance})
        streak = torch.where(click.any(1), 0, streak + 1)
        uniform_leave = torch.rand(len(active), generator=generator)
        leaving = hazard[streak.clamp(max=len(hazard) - 1)]
        log_odds = truth.leave_log_odds(answer.state)
        leaving = add_log_odds(leaving, None if log_odds is None else log_odds.cpu())
        stay = uniform_leave >= leaving * (step >= s.min_slates)
        staying = stay.to(slate.device)
        state = take_rows(answer.state, staying)
        if known is not None:
            known = take_rows(truth.observe(known, slate, answer.click.float()), staying)
        active, streak, time, slate = active[stay], streak[stay], time[stay], slate[staying]
        if not len(active):
            break
    columns = {name: torch.cat([played[name] for played in steps]) for name in steps[0]}
    user = columns.pop("user")
    order = torch.argsort(user, stable=True)
    return {name: column[order].numpy() for name, column in columns.items()} | {
        "length": torch.bincount(user, minlength=b).numpy()
    }
