"""Settings of training."""

from __future__ import annotations

from dataclasses import dataclass

from responders.config import Config, setting


@dataclass(frozen=True)
class TrainConfig(Config):
    """Settings for training any responder."""

    epochs: int = setting(50, "At most this many.", ge=1)
    batch_size: int = setting(
        0, "Sessions in a batch; 0 = a fiftieth of the training sessions, 16 to 128.", ge=0
    )
    learning_rate: float = setting(
        0.003, "Of Adam; halved after each epoch without better validation log-loss.", gt=0, le=10
    )
    patience: int = setting(
        0,
        "Epochs without improvement before training stops; 0 = as many as a thousand "
        "steps take, 3 to 10.",
        ge=0,
    )
    clip: float = setting(1.0, "Largest norm of the gradient.", gt=0)
    ips_clip: float = setting(
        0.0,
        "Largest weight of a position by inverse propensity, for logs with propensities; 0 = all "
        "positions count alike.",
        ge=0,
    )
    average: float = setting(
        0.999,
        "Decay of the exponential average of the weights that is validated and kept; 0 = "
        "the weights themselves.",
        ge=0,
        lt=1,
    )
    save_minutes: float = setting(
        5.0,
        "Minutes between saves of the resumable state, which is also saved after each "
        "epoch and on interruption.",
        gt=0,
    )
