"""What a body of the admin API must look like: one line per field, and a refusal that names the field and what it must be. Pure.

Never repeats a value: there may be secrets among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from sentinel import payload
from sentinel.errors import BadInput

TEXT_MAX = 64
SETTING_MAX = 65_536


@attrs.frozen
class Field:
    """One field: `fits` says whether a JSON value is one, `must` says the same in words. What is not `required` has a default."""

    fits: Callable[[Any], bool]
    must: str
    required: bool = True
    default: Any = None


Fields = Mapping[str, Field]


def text(*, characters_max: int = TEXT_MAX, required: bool = True, default: str = "") -> Field:
    """A string, not empty where it is required."""
    least = 1 if required else 0

    def fits(value: Any) -> bool:
        return isinstance(value, str) and least <= len(value) <= characters_max

    return Field(fits, f"a string of {least} to {characters_max} characters", required, default)


def texts(allowed: Sequence[str], default: Sequence[str]) -> Field:
    """A list of some of these strings, each once."""

    def fits(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(one in allowed for one in value) and len(set(value)) == len(value)

    return Field(fits, f"a list of one or more of {', '.join(allowed)}", required=False, default=list(default))


def seconds(default: float | None) -> Field:
    """A number of seconds; its range is checked by whoever uses it."""

    def fits(value: Any) -> bool:
        return type(value) in (int, float)

    return Field(fits, "a number of seconds", required=False, default=default)


def settings() -> Field:
    """An object whose values are strings: the settings of a source."""

    def fits(value: Any) -> bool:
        return isinstance(value, dict) and all(isinstance(one, str) and len(one) <= SETTING_MAX for one in value.values())

    return Field(fits, f"an object with strings of at most {SETTING_MAX} characters")


def read_fields(body: bytes, fields: Fields) -> dict[str, Any]:
    """The values of a body's fields, with defaults for what is left out. Raises BadInput, which names the field."""
    if not fields:
        if body.strip():
            raise BadInput("This path takes no body.")
        return {}
    given = payload.decode_json(body)
    if not isinstance(given, dict):
        raise BadInput("The body must be a JSON object.")
    if unknown := sorted(given.keys() - fields.keys()):
        raise BadInput(f"There is no field {unknown[0][:40]!r}; there are {', '.join(fields)}.")
    return {name: _value(name, field, given.get(name)) for name, field in fields.items()}


def _value(name: str, field: Field, value: Any) -> Any:
    if value is None:
        if field.required:
            raise BadInput(f"The field {name!r} is missing; it must be {field.must}.")
        return field.default
    if not field.fits(value):
        raise BadInput(f"The field {name!r} must be {field.must}.")
    return value
