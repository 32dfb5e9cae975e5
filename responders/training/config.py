"""Maximum-likelihood training of a responder on a log: one loop, stoppable and resumable.

Everything random is seeded by (seed, epoch, batch), so a run that was stopped anywhere goes on to
the same weights, bit for bit on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from responders.errors import InputError


@dataclass(frozen=True)
class TrainConfig:
    """How a responder is trained.

    Args:
        epochs: at most.
        batch_size: sessions in a batch; 0 = a fiftieth of the training sessions, 16 to 128.
        learning_rate: of Adam; halved after each epoch that did not improve validation log-loss.
        patience: epochs without improvement after which training stops; 0 = as many as a thousand
            steps take, 3 to 10.
        clip: the gradient's norm is cut to this.
        average: the weights that are validated and kept are an exponential average over training
            steps that keeps this share of itself in each; 0 = the weights themselves.
        save_minutes: between saves of the resumable state; it is also saved after each epoch and
            when interrupted.
    """

    epochs: int = 50
    batch_size: int = 0
    learning_rate: float = 3e-3
    patience: int = 0
    clip: float = 1.0
    average: float = 0.999
    save_minutes: float = 5.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "patience"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("epochs", "learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, not {getattr(self, name)}")
        if not 0 <= self.average < 1:
            raise InputError(f"average must be in [0, 1), not {self.average}")
