"""Values that do not print: a secret says `***` wherever it is shown, logged or raised, and must be asked for what it holds.

Pure. Hides from accidents, not from code that means to read it.
"""

from __future__ import annotations

import hmac
from typing import Any

MASK = "***"


class Secret:
    """A text that `repr`, `str`, f-strings and JSON show as `***`; two compare in a time that does not tell where they differ."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself. Only for whoever signs, sends or seals it."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes(), other._bytes())

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> Any:
        raise TypeError("A secret is not pickled.")

    def _bytes(self) -> bytes:
        return self._text.encode("utf-8", "surrogatepass")


class SecretMapping(dict[str, str]):
    """Named values of which some are secrets: it prints the names and `***` for each value. To be read by name, not changed."""

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: {MASK}" for name in self) + "}"

    __str__ = __repr__
