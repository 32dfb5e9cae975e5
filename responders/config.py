"""Configurations: frozen dataclasses that check their fields.

The fields of a configuration are at once keyword arguments, the settings that `--set KEY=VALUE`
changes, what a checkpoint's card records, and a table in the documentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from responders.errors import InputError, near_matches


@dataclass(frozen=True)
class Config:
    """Base of all configurations.

    Subclasses are frozen dataclasses. A field is declared with its range and its meaning:
    `hidden_size: Annotated[int, Field(ge=1, description="Units of the network.")] = 64`.
    Values may be given as text: `hidden_size="128"` is 128.

    Raises:
        InputError: a value has the wrong type or is out of range.
    """

    def __post_init__(self) -> None:
        for name, (hint, adapter) in _adapters(type(self)).items():  # type: ignore[arg-type]
            value = getattr(self, name)
            object.__setattr__(self, name, _checked(name, value, hint, adapter))


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
    known = [field.name for field in fields(kind)]
    for name in settings:
        if name not in known:
            raise InputError(f"{owner} has no setting {name!r}; {near_matches(name, known)}")
    return kind(**settings)


def parse_settings(pairs: Iterable[str]) -> dict[str, str]:
    """Return the settings of texts such as `hidden_size=128`.

    Raises:
        InputError: a text is not of the form KEY=VALUE.
    """
    found = {}
    for pair in pairs:
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
    adapters: Any = _adapters(kind)  # type: ignore[arg-type]
    found = []
    for field in fields(kind):
        hint = adapters[field.name][0]
        inner, info = _parts(hint)
        default = None if field.default is MISSING else field.default
        description = (info.description or "") if info else ""
        found.append(Setting(field.name, default, _range(inner, info), description))
    return found


@cache
def _adapters(kind: type[Config]) -> dict[str, tuple[Any, TypeAdapter[Any]]]:
    hints = get_type_hints(kind, include_extras=True)
    config: Any = {"allow_inf_nan": False, "arbitrary_types_allowed": True}
    return {
        f.name: (hints[f.name], TypeAdapter(hints[f.name], config=config)) for f in fields(kind)
    }


def _checked(name: str, value: Any, hint: Any, adapter: TypeAdapter[Any]) -> Any:
    inner, _ = _parts(hint)
    if get_origin(inner) is Literal and value not in get_args(inner):
        raise InputError(
            f"{name} {value!r} is unknown; {near_matches(str(value), get_args(inner))}"
        )
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].replace("Input should be", "must be", 1)
        raise InputError(f"setting {name} {reason}, not {value!r}") from None


def _parts(hint: Any) -> tuple[Any, FieldInfo | None]:
    """Return the plain type of a field and its `Field(…)`, if it has one."""
    arguments = get_args(hint)
    info = next((a for a in arguments if isinstance(a, FieldInfo)), None)
    return (arguments[0] if hasattr(hint, "__metadata__") else hint), info


def _range(kind: Any, info: FieldInfo | None) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    name = {int: "whole number", float: "number", bool: "true or false", str: "text"}.get(kind)
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(limit, attribute):g}"
        for limit in (info.metadata if info else ())
        for attribute, sign in signs.items()
        if getattr(limit, attribute, None) is not None
    ]
    return " ".join([name or str(kind), *bounds])
