"""Configurations: frozen dataclasses that check their fields.

The fields of a configuration are at once keyword arguments, the settings that `--set KEY=VALUE`
changes, what a checkpoint's card records, and a table in the documentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import Field, TypeAdapter, ValidationError

from responders.errors import InputError, near_matches

_LARGEST = 10**12
"""Of a number without an upper limit of its own: larger ones overflow, and mean nothing."""


@dataclass(frozen=True)
class Config:
    """Base of all configurations.

    Subclasses are frozen dataclasses whose fields are declared with `setting`, such as
    `hidden_size: int = setting(64, "Units of the network.", ge=1)`. Values may be given as text:
    `hidden_size="128"` is 128.

    Raises:
        InputError: a value has the wrong type or is out of range.
    """

    def __post_init__(self) -> None:
        for name, field_type in _types(type(self)).items():  # type: ignore[arg-type]
            value = _checked(name, getattr(self, name), *field_type)
            object.__setattr__(self, name, value)


def setting(default: Any, description: str, **limits: float) -> Any:
    """Declare a field of a `Config`.

    Args:
        default: its default value.
        description: what it means, for help texts and documentation.
        limits: of its range: ge (≥), gt (>), le (≤), lt (<).
    """
    return field(default=default, metadata={"description": description, "limits": limits})


C = TypeVar("C", bound=Config)


def make_config(kind: type[C], settings: Mapping[str, Any], owner: str) -> C:
    """Return `kind(**settings)`.

    Args:
        kind: the class of the configuration.
        settings: values by field, as text or already of the right type.
        owner: what is configured, for the error message.

    Raises:
        InputError: an unknown field, or a value that the field does not take.
    """
    known = [f.name for f in fields(kind)]
    for name in settings:
        if name not in known:
            raise InputError(f"{owner} has no setting {name!r}; {near_matches(name, known)}")
    return kind(**settings)


def known_settings(kind: type[Config], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `settings` that are fields of the configuration `kind`."""
    known = {f.name for f in fields(kind)}
    return {name: value for name, value in settings.items() if name in known}


def parse_settings(pairs: Iterable[str] | None) -> dict[str, Any]:
    """Return the settings, as text, of texts such as `hidden_size=128`; of None, no settings.

    Raises:
        InputError: a text is not of the form KEY=VALUE.
    """
    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise InputError(f"a setting has the form KEY=VALUE, not {pair!r}")
        found[key.strip()] = value.strip()
    return found


class Setting(NamedTuple):
    """One field of a configuration, for tables and help texts."""

    name: str
    default: Any
    values: str
    """The permitted values, in words."""
    description: str


def settings_of(kind: type[Config]) -> list[Setting]:
    """Return the fields of a configuration in the order of their declaration."""
    hints = get_type_hints(kind)
    return [
        Setting(
            f.name,
            None if f.default is MISSING else f.default,
            _range(hints[f.name], f.metadata.get("limits", {})),
            f.metadata.get("description", ""),
        )
        for f in fields(kind)
    ]


@cache
def _types(kind: type[Config]) -> dict[str, tuple[Any, dict[str, float], TypeAdapter[Any]]]:
    """Return the type, the limits and the parser of each field."""
    hints, found = get_type_hints(kind), {}
    config: Any = {"allow_inf_nan": False, "arbitrary_types_allowed": True}
    for f in fields(kind):
        hint, limits = hints[f.name], f.metadata.get("limits", {})
        limited: Any = Annotated[hint, Field(**limits)]
        found[f.name] = hint, limits, TypeAdapter[Any](limited, config=config)
    return found


def _checked(
    name: str, value: Any, hint: Any, limits: Mapping[str, float], adapter: TypeAdapter[Any]
) -> Any:
    if get_origin(hint) is Literal and value not in get_args(hint):
        near = near_matches(str(value), get_args(hint))
        raise InputError(f"{name} {value!r} is unknown; {near}")
    wanted = f"setting {name} must be {_range(hint, limits)}, not {value!r}"
    if hint in (int, float) and isinstance(value, bool):
        raise InputError(wanted)
    try:
        checked = adapter.validate_python(value)
    except ValidationError:
        raise InputError(wanted) from None
    if hint in (int, float) and not {"le", "lt"} & limits.keys() and abs(checked) > _LARGEST:
        raise InputError(f"setting {name} must not be beyond {_LARGEST:,}, not {value!r}")
    return checked


def _range(hint: Any, limits: Mapping[str, float]) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [f"{sign} {limits[name]:,}" for name, sign in signs.items() if name in limits]
    return " ".join([names.get(hint, str(hint)), " and ".join(bounds)]).strip()
