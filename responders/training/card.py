"""What a responder's card must hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from responders.errors import InputError, first_fault
from responders.training.initial_sessions import HELD_OUT

Chance = Annotated[float, Field(ge=0, le=1)]


class _Shape(BaseModel):
    n_items: int = Field(ge=1)
    n_positions: int = Field(ge=1, le=10_000)
    n_user_features: int = Field(ge=0)


class _Description(BaseModel):
    name: str
    options: dict[str, Any]
    shape: _Shape
    item_features: int | None = Field(ge=1, le=1_000_000)


class _Catalogue(BaseModel):
    items: int = Field(ge=1)
    fingerprint: str


class _Hazard(BaseModel):
    by_streak: list[Chance] = Field(min_length=1)
    min_slates: int = Field(ge=0)
    weights: tuple[float, float, float] = (0.0, 0.0, 0.0)


class _Returns(BaseModel):
    window: float = Field(gt=0)
    clicks: list[int]
    chance: list[Chance]
    gap: list[list[float]]


class _Support(BaseModel):
    repetition: list[Annotated[float, Field(ge=0)]] = Field(min_length=2)


class _Split(BaseModel):
    by: Literal["user", "time"]
    seed: int = Field(ge=0)
    fractions: tuple[float, float, float]


class _Data(BaseModel):
    fingerprint: str


class Card(BaseModel):
    """The fields of `card.json` that loading a responder reads."""

    synthetic: bool
    responder: _Description
    catalogue: _Catalogue
    hazard: _Hazard
    returns: _Returns | None = None
    support: _Support | None = None
    split: _Split
    data: _Data
    threshold: Chance
    metrics: dict[str, Any]
    refit: dict[str, Any] | None = None
    initial_users: str = HELD_OUT


def check_card(card: dict[str, Any], path: Path) -> Card:
    """Return the checked fields of the card read from `path`.

    Raises:
        InputError: a field is missing or has a wrong value; the message names the first.
    """
    try:
        return Card.model_validate(card)
    except ValidationError as error:
        raise InputError(f"{path}, {first_fault(error)}; train the responder again") from None
