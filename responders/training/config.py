"""Settings of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from responders.config import Config


@dataclass(frozen=True)
class TrainConfig(Config):
    """Settings for training any responder."""

    epochs: Annotated[int, Field(ge=1, description="At most this many.")] = 50
    batch_size: Annotated[
        int,
        Field(
            ge=0,
            description="Sessions in a batch; 0 = a fiftieth of the training sessions, 16 to 128.",
        ),
    ] = 0
    learning_rate: Annotated[
        float,
        Field(
            gt=0,
            description="Of Adam; halved after each epoch without better validation log-loss.",
        ),
    ] = 3e-3
    patience: Annotated[
        int,
        Field(
            ge=0,
            description="Epochs without improvement before training stops; 0 = about a "
            "thousand steps, 3 to 10.",
        ),
    ] = 0
    clip: Annotated[float, Field(gt=0, description="Largest norm of the gradient.")] = 1.0
    average: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Decay of the exponential average of the weights, which is validated and "
            "kept; 0 = no averaging.",
        ),
    ] = 0.999
    save_minutes: Annotated[
        float,
        Field(
            gt=0,
            description="Minutes between saves of the resumable state, which is also saved after "
            "each epoch and when interrupted.",
        ),
    ] = 5.0
