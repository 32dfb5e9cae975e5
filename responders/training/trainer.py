"""Maximum-likelihood training of a responder on a log: one loop, stoppable and resumable.

Everything random depends only on the seed, the epoch and the step, so that a resumed run gives the
same weights as an uninterrupted one, bit for bit on the CPU.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter

from responders.device import seed_random_numbers
from responders.errors import InputError
from responders.evaluation.metrics import log_loss
from responders.evaluation.predict import predict
from responders.log.batch import Part, SessionBatch, make_batch, plan_batches
from responders.log.session_log import SessionLog
from responders.models.base import Responder
from responders.progress import progress_bar
from responders.training.checkpoint import save_tensors
from responders.training.config import TrainConfig
from responders.training.processes import Processes

_VALIDATED = 10_000  # sessions at a time, to bound memory

STATE = "resume.safetensors"
"""The file in a training folder from which training resumes."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal; its state is saved."""


@dataclass
class _Progress:
    """Progress of training; part of the resumable state."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    positions: int = 0
    best: float = float("inf")
    best_epoch: int = -1
    learning_rate: float = 0.0
    seconds: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Trains one responder.

    Args:
        responder: built and initialised.
        log: the log.
        split: the part `train` is trained on, the part `validation` decides when to stop.
        config: settings.
        out: folder of the resumable state and the TensorBoard run.
        seed: fixes everything random.
        device: where to train.
        progress: show progress bars.
        rates: the learning rate of each epoch. All of them are trained, nothing is validated, and
            the last weights are kept. None = validation decides.
        processes: those that train together; None = this one alone.

    Raises:
        InputError: weights by inverse propensity for a log without propensities.
    """

    def __init__(
        self,
        responder: Responder,
        log: SessionLog,
        split: dict[str, Part],
        config: TrainConfig,
        out: Path,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        progress: bool = True,
        rates: Sequence[float] | None = None,
        processes: Processes | None = None,
    ) -> None:
        if config.ips_clip and log.propensity is None:
            raise InputError("ips_clip needs propensities, which this log has not: leave it at 0")
        self.responder, self.rates = responder.to(device), rates
        self.log, self.split, self.config, self.out = log, split, config, Path(out)
        self.seed, self.device = seed, torch.device(device)
        self.processes = processes or Processes()
        self.progress = progress and self.processes.first
        self.averaged = AveragedModel(self.responder, multi_avg_fn=self._average)
        self.averaged.update_parameters(self.responder)
        self.batch_size = config.batch_size or int(np.clip(len(split["train"]) // 50, 16, 128))
        steps = -(-len(split["train"]) // self.batch_size)
        self.patience = config.patience or int(np.clip(1000 // steps, 3, 10))
        self.state = _Progress(learning_rate=config.learning_rate)
        self.best = _weights(self.averaged.module)
        self.history: list[dict[str, float]] = []
        self.trainable = [p for p in responder.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(self.trainable, lr=config.learning_rate)
        self._stop = False
        self._saved_at = time.monotonic()

    def run(self) -> Responder:
        """Train until validation log-loss stops improving, or through the given learning rates.

        Returns:
            the responder with the best weights, or the last ones without validation.

        Raises:
            Interrupted: by SIGINT or SIGTERM; the state is saved and `resume` continues from it.
            InputError: the loss became NaN or infinite.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        writer: AbstractContextManager[SummaryWriter | None] = nullcontext()
        if self.processes.first:
            writer = SummaryWriter(str(self.out / "tensorboard"), purge_step=self.state.epoch)
        with torch.random.fork_rng(), self._signals(), writer as board:
            while not self.finished:
                self._epoch(board)
                self.save()
        self.responder.load_state_dict(self.best)
        return self.responder.eval()

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done or patience has run out."""
        if self.rates is not None:
            return self.state.epoch >= len(self.rates)
        waited = self.state.epoch - 1 - self.state.best_epoch
        return self.state.epoch >= self.config.epochs or (
            self.state.best_epoch >= 0 and waited >= self.patience
        )

    def facts(self) -> dict[str, Any]:
        """Return the settings and history of training, for the card."""
        return {
            **asdict(self.config),
            "batch_size": self.batch_size,
            "patience": self.patience,
            "epochs_run": self.state.epoch,
            "best_epoch": self.state.best_epoch + 1,
            "seconds": round(self.state.seconds, 1),
            "history": self.history,
        }

    def _epoch(self, board: SummaryWriter | None) -> None:
        state, began = self.state, time.monotonic()
        seconds_before = state.seconds
        if self.rates is not None:
            state.learning_rate = self.rates[state.epoch]
        rng = np.random.default_rng([self.seed, state.epoch])
        plan = plan_batches(self.split["train"], self.batch_size, rng)
        self.responder.train()
        for group in self.optimiser.param_groups:
            group["lr"] = state.learning_rate
        with self._bar(len(plan)) as bar:
            bar.update(state.batch)
            for rows in plan[state.batch :]:  # a resumed epoch skips the batches already done
                part = self.split["train"].take(rows)
                self._step(make_batch(self.log, part, self.config.ips_clip))
                bar.update()
                bar.set_postfix(loss=f"{state.loss_sum / state.positions:.4f}", refresh=False)
                state.seconds = seconds_before + time.monotonic() - began
                if self._stop:  # in all processes after the same step
                    self.save()
                    raise Interrupted
                if time.monotonic() - self._saved_at > 60 * self.config.save_minutes:
                    self.save()
        self._validate(board)
        state.seconds = seconds_before + time.monotonic() - began

    def _step(self, batch: SessionBatch) -> None:
        state = self.state
        # Seeding each step makes dropout and sampled negatives the same in a resumed run.
        seed = self.seed * 1_000_003 + state.step + self.processes.rank * 1_000_000_007
        seed_random_numbers(seed % (1 << 63), self.device)
        positions = int(batch.shown.sum())
        share = self.processes.share_of_batch(batch)
        amp = (
            torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()
        )
        with amp:
            loss, measures = self.responder.training_loss(share.to(self.device))
        if share is batch:  # of too few sessions to share: each process has all of them
            loss = loss / self.processes.count
        total, stop = self.processes.total(float(loss.detach()), self._stop)
        self._stop = stop > 0
        if not np.isfinite(total):
            raise InputError(
                f"the loss became {total} in epoch {state.epoch}, batch {state.batch}: lower "
                f"learning_rate (now {state.learning_rate:g}) with --set learning_rate=…"
            )
        self.optimiser.zero_grad(set_to_none=True)
        (loss / positions).backward()  # the loss is a sum over positions
        self.processes.add_gradients(self.trainable)
        torch.nn.utils.clip_grad_norm_(self.responder.parameters(), self.config.clip)
        self.optimiser.step()
        self.averaged.update_parameters(self.responder)
        state.loss_sum += total
        for name, value in measures.items():
            state.measures[name] = state.measures.get(name, 0.0) + float(value)
        state.positions += positions
        state.step += 1
        state.batch += 1

    def _validate(self, board: SummaryWriter | None) -> None:
        """Record the epoch, keep the weights if they are the best, and lower the learning rate."""
        state, row = self.state, {"train_loss": self.state.loss_sum / self.state.positions}
        improved = True
        if self.rates is None:
            loss = row["validation_log_loss"] = self._validation_loss()
            improved = loss < state.best - 1e-6
            state.best = loss if improved else state.best
        row["learning_rate"] = state.learning_rate
        row |= {name: total / state.batch for name, total in state.measures.items()}
        if board is not None:
            for name, value in row.items():
                board.add_scalar(name, value, state.epoch)
        self.history.append({"epoch": state.epoch, **row})
        if improved:
            state.best_epoch, self.best = state.epoch, _weights(self.averaged.module)
        else:
            state.learning_rate /= 2
        state.epoch, state.batch, state.loss_sum, state.positions = state.epoch + 1, 0, 0.0, 0
        state.measures = {}

    def _validation_loss(self) -> float:
        """Return the log-loss of the averaged weights, predicting some sessions at a time."""
        averaged = cast(Responder, self.averaged.module)
        part, total, positions = self.processes.share_of_part(self.split["validation"]), 0.0, 0.0
        for first in range(0, len(part), _VALIDATED):
            some = part.take(slice(first, first + _VALIDATED))
            result = predict(averaged, self.log, some, device=self.device)
            n = len(result.click)
            total, positions = total + log_loss(result.logit, result.click) * n, positions + n
        total, positions = self.processes.total(total, positions)
        return total / positions

    def _bar(self, total: int) -> Any:
        last = self.config.epochs if self.rates is None else len(self.rates)
        name = f"epoch {self.state.epoch + 1}/{last}" + (", refit" if self.rates else "")
        if np.isfinite(self.state.best):
            name += f" (best {self.state.best:.4f})"
        return progress_bar(
            total=total, desc=name, unit="batch", disable=not self.progress, leave=False
        )

    def _average(
        self, averaged: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor | int
    ) -> None:
        """Move `averaged` towards `current`, faster in the first steps, to forget the start."""
        keep = min(self.config.average, (1 + float(steps)) / (10 + float(steps)))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(averaged), list(current), 1 - keep if self.config.average else 1.0
            )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let the first SIGINT or SIGTERM stop training after the current batch."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self._stop = True
            signal.signal(number, previous[number])  # a second signal interrupts at once

        previous = {int(n): signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def save(self) -> None:
        """Write the resumable state to one file, replaced atomically."""
        self._saved_at = time.monotonic()
        if not self.processes.first:
            return
        tensors = {f"model.{k}": v for k, v in _weights(self.responder).items()}
        tensors |= {f"averaged.{k}": v for k, v in _weights(self.averaged).items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for index, slots in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": torch.as_tensor(v) for k, v in slots.items()}
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        facts = {"progress": asdict(self.state), "history": self.history}
        save_tensors(self.out / STATE, tensors, {"state": json.dumps(facts)})

    def resume(self) -> None:
        """Restore the saved state.

        Raises:
            InputError: it is missing or damaged.
        """
        path = self.out / STATE
        if not path.exists():
            raise InputError(f"there is nothing to resume in {self.out}: leave out --resume")
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads(file.metadata()["state"])
                self._restore(facts, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (
            SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError, RecursionError
        ) as error:  # fmt: skip
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{path} cannot be read ({reason}): it is damaged, train again with --overwrite"
            ) from error

    def _restore(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        given = asdict(_Progress(**facts["progress"]))  # refuses unknown names
        progress = TypeAdapter(_Progress).validate_python(given)
        history = TypeAdapter(list[dict[str, float]]).validate_python(facts["history"])
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "averaged": {}, "best": {}, "adam": {}}
        for name, tensor in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = tensor
        self.responder.load_state_dict(parts["model"])
        self.averaged.module.load_state_dict(parts["best"])  # checks names and shapes
        self.averaged.load_state_dict(parts["averaged"])
        self.best = {k: v.to(self.device) for k, v in parts["best"].items()}
        adam = self.optimiser.state_dict()
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["adam"].items():
            index, slot = name.split(".", 1)
            slots.setdefault(int(index), {})[slot] = tensor
        self.optimiser.load_state_dict(adam | {"state": slots})
        for parameter, state in self.optimiser.state.items():
            if {state[k].shape for k in ("exp_avg", "exp_avg_sq")} != {parameter.shape}:
                raise ValueError("the optimiser's state has other shapes")
        self.state, self.history = progress, history


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}
