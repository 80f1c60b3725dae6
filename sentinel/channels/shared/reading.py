"""How channels read what a platform sent: any JSON value may come in, and nothing here raises for its shape. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from sentinel import payload
from sentinel.channels import Received
from sentinel.model import Event

ID_MAX = 255


def received(found: Iterable[Event | None]) -> Received:
    """What a webhook contained, from its items in order; None stands for one that is ignored."""
    items = list(found)
    events = tuple([item for item in items if item is not None])
    return Received(events, ignored=len(items) - len(events))


def unclear(item: Any, why: str, external_id: str = "") -> Event:
    """The event for a genuine item that was not understood; the item itself is kept in `reply_to["received"]`."""
    name = short_id(external_id) or fingerprint(payload.encode_json(item))
    return Event(name, "", "", "", {"received": item}, identity=name, problem=why)


def fingerprint(raw: bytes) -> str:
    """SHA-256 in hex: the id of what has no other."""
    return hashlib.sha256(raw).hexdigest()


def short_id(text: str) -> str:
    """`text`, or its fingerprint if it is too long for an index of the record."""
    return text if len(text) <= ID_MAX else fingerprint(text.encode("utf-8", "surrogatepass"))


def dig(value: Any, *path: str) -> Any:
    """What is at the end of the path of keys; None where the path breaks off. Takes any value and never raises."""
    for key in path:
        if type(value) is not dict and not isinstance(value, Mapping):  # the first is all that JSON gives, and ten times faster
            return None
        value = value.get(key)
    return value


def text_at(value: Any, *path: str) -> str:
    """The string at the end of the path; "" if there is none. The same walk as `dig`: a webhook asks a dozen times."""
    for key in path:
        if type(value) is not dict and not isinstance(value, Mapping):
            return ""
        value = value.get(key)
    return value if isinstance(value, str) else ""


def list_at(value: Any, *path: str) -> list[Any]:
    """The list at the end of the path; an empty one if there is none. The same walk again."""
    for key in path:
        if type(value) is not dict and not isinstance(value, Mapping):
            return []
        value = value.get(key)
    return value if isinstance(value, list) else []


def first_text(value: Any, paths: Iterable[tuple[str, ...]]) -> str:
    """The first string at one of the paths that is not blank; "" if all are."""
    for path in paths:
        text = text_at(value, *path)
        if text and not text.isspace():
            return text
    return ""
