"""The JSON Schemas that an answer can be held to, read strictly into a few kinds of node, which check values. Pure.

A keyword that is not understood in full is refused by name: a schema that was obeyed in part would promise what no answer keeps.
(JSON Schema 2020-12, of which this is a part; `format`, `pattern`, `not`, `allOf` and conditions are not in it.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs

from sentinel.errors import GenerationFailed

DEPTH_MAX = 16
NODES_MAX = 300
OPTIONS_MAX = 200
NAME_CHARACTERS_MAX = 200
# Nothing that is repeated is without a bound: a small model may never close a string or a list by itself.
TEXT_CHARACTERS_DEFAULT, TEXT_CHARACTERS_MAX = 500, 2000
ITEMS_DEFAULT, ITEMS_MAX = 20, 100
WHOLE_DIGITS_MAX = 15
ANSWER_CHARACTERS_MAX = 20_000

_ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "$schema", "$id", "$comment", "$defs", "definitions"}


class Node(Protocol):
    """What a value has to be."""

    def accepts(self, value: Any) -> bool:
        """Whether `value`, out of a JSON parser, is one of those described."""
        ...

    def smallest(self) -> Any:
        """The least that it accepts: the first choice, the shortest text, only what is required."""
        ...


@attrs.frozen
class OneOfThese:
    """One of these values, each written as JSON."""

    texts: tuple[str, ...]

    def accepts(self, value: Any) -> bool:
        """Whether it is written as one of them is."""
        return write_json(value) in self.texts

    def smallest(self) -> Any:
        """The least of it."""
        return json.loads(self.texts[0])


@attrs.frozen
class Text:
    """A string of so many characters."""

    characters_min: int
    characters_max: int

    def accepts(self, value: Any) -> bool:
        """Whether it is a string of such a length, of characters that can be kept."""
        return isinstance(value, str) and _can_be_kept(value) and self.characters_min <= len(value) <= self.characters_max

    def smallest(self) -> Any:
        """The least of it."""
        return "x" * self.characters_min


@attrs.frozen
class Whole:
    """A whole number in these bounds, both of which are allowed values."""

    minimum: int
    maximum: int

    def accepts(self, value: Any) -> bool:
        """Whether it is a whole number in the bounds; True and 1.0 are none."""
        return type(value) is int and self.minimum <= value <= self.maximum

    def smallest(self) -> Any:
        """The least of it."""
        return min(max(0, self.minimum), self.maximum)


@attrs.frozen
class Decimal:
    """Any number."""

    def accepts(self, value: Any) -> bool:
        """Whether it is a number that has an end; True is none."""
        return type(value) in (int, float) and math.isfinite(value)

    def smallest(self) -> Any:
        """The least of it."""
        return 0


@attrs.frozen
class Items:
    """A list of so many values, all of one kind."""

    item: Node
    count_min: int
    count_max: int

    def accepts(self, value: Any) -> bool:
        """Whether it is such a list."""
        return isinstance(value, list) and self.count_min <= len(value) <= self.count_max and all(map(self.item.accepts, value))

    def smallest(self) -> Any:
        """The least of it."""
        return [self.item.smallest()] * self.count_min


@attrs.frozen
class Fields:
    """An object with these fields and no others: name, value, and whether it must be there."""

    fields: tuple[tuple[str, Node, bool], ...]

    def accepts(self, value: Any) -> bool:
        """Whether it is such an object."""
        if not isinstance(value, dict) or value.keys() - {name for name, _, _ in self.fields}:
            return False
        return all(node.accepts(value[name]) if name in value else not required for name, node, required in self.fields)

    def smallest(self) -> Any:
        """The least of it."""
        return {name: node.smallest() for name, node, required in self.fields if required}


@attrs.frozen
class Choice:
    """One of several kinds of value; if `is_exclusive`, of one kind only (`oneOf`)."""

    options: tuple[Node, ...]
    is_exclusive: bool

    def accepts(self, value: Any) -> bool:
        """Whether one of the options, or exactly one, accepts it."""
        count = sum(option.accepts(value) for option in self.options)
        return count == 1 if self.is_exclusive else count > 0

    def smallest(self) -> Any:
        """The least of it."""
        values = [option.smallest() for option in self.options]
        return next(filter(self.accepts, values), values[0])


def read_schema(schema: Any) -> Node:
    """
    The node that `schema`, a JSON Schema, describes.

    Raises:
        GenerationFailed: it uses what is not supported, contradicts itself, or is too large; the message says what and where.
    """
    node = _Reader(schema).read(schema, "$", 0)
    if _characters_min(node) > ANSWER_CHARACTERS_MAX:
        raise _refusal("$", f"even the shortest answer would be longer than {ANSWER_CHARACTERS_MAX} characters")
    return node


def _characters_min(node: Node) -> int:
    """Of the shortest JSON that it accepts, roughly. Lists in lists multiply: a few lines can ask for a billion items."""
    match node:
        case OneOfThese(texts):
            return min(map(len, texts))
        case Text(characters_min):
            return 2 + characters_min
        case Items(item, count_min):
            return 2 + count_min * _characters_min(item)
        case Fields(fields):
            return 2 + sum(len(name) + 3 + _characters_min(field) for name, field, required in fields if required)
        case Choice(options):
            return max(map(_characters_min, options))  # whichever of them is written
    return 1


def parse_answer(node: Node, text: str) -> Any:
    """
    The value that `text` is, as JSON.

    Raises:
        GenerationFailed: it is no JSON, or not what `node` describes.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        accepted = node.accepts(value)
    except (ValueError, RecursionError):
        raise GenerationFailed("The answer is not JSON.") from None
    if not accepted:
        raise GenerationFailed("The answer is JSON, but not of the schema that was asked for.")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def write_json(value: Any) -> str:
    """JSON without spaces, its characters as they are; the same text for the same value."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class _Reader:
    """Reads one schema; counts its nodes, since a `$ref` can be followed from many places."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._nodes = 0
        self._types: Mapping[str, tuple[Callable[[Mapping[str, Any], str, int], Node], set[str]]] = {
            "string": (_text, {"minLength", "maxLength"}),
            "integer": (_whole, {"minimum", "maximum"}),
            "number": (lambda *_: Decimal(), set()),
            "boolean": (lambda *_: OneOfThese(("true", "false")), set()),
            "null": (lambda *_: OneOfThese(("null",)), set()),
            "array": (self._items, {"items", "minItems", "maxItems"}),
            "object": (self._fields, {"properties", "required", "additionalProperties"}),
        }

    def read(self, schema: Any, place: str, depth: int) -> Node:
        self._nodes += 1
        if depth > DEPTH_MAX or self._nodes > NODES_MAX:
            raise _refusal(place, f"the schema is deeper than {DEPTH_MAX}, larger than {NODES_MAX} parts, or refers to itself")
        if not isinstance(schema, Mapping):
            raise _refusal(place, "this is not an object")
        for keyword, read in (("$ref", self._follow), ("enum", _values), ("const", _values), ("anyOf", self._choice)):
            if keyword in schema:
                return read(schema, place, depth)
        return self._choice(schema, place, depth) if "oneOf" in schema else self._typed(schema, place, depth)

    def _typed(self, schema: Mapping[str, Any], place: str, depth: int) -> Node:
        kinds = schema.get("type")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if not kinds or any(not isinstance(kind, str) or kind not in self._types for kind in kinds):
            raise _refusal(place, f"`type` must say what the value is: {', '.join(self._types)}")
        _allow(schema, place, {"type"}.union(*(self._types[kind][1] for kind in kinds)))
        nodes = tuple(self._types[kind][0](schema, place, depth) for kind in dict.fromkeys(kinds))
        return nodes[0] if len(nodes) == 1 else Choice(nodes, is_exclusive=False)

    def _items(self, schema: Mapping[str, Any], place: str, depth: int) -> Node:
        if "items" not in schema:
            raise _refusal(place, "an array needs `items`")
        item = self.read(schema["items"], f"{place}.items", depth + 1)
        return Items(item, *_bounds(schema, place, ("minItems", "maxItems"), ITEMS_DEFAULT, ITEMS_MAX))

    def _fields(self, schema: Mapping[str, Any], place: str, depth: int) -> Node:
        properties, required = schema.get("properties"), schema.get("required", [])
        if not isinstance(properties, Mapping):
            raise _refusal(place, "an object needs `properties`")
        if not isinstance(required, list) or any(not isinstance(name, str) or name not in properties for name in required):
            raise _refusal(place, "`required` must be a list of names that are in `properties`")
        if not isinstance(schema.get("additionalProperties", False), bool):
            raise _refusal(place, "`additionalProperties` may only be true or false")
        for name in properties:
            _writable(name, place)
        return Fields(
            tuple((name, self.read(field, f"{place}.{name}", depth + 1), name in required) for name, field in properties.items())
        )

    def _choice(self, schema: Mapping[str, Any], place: str, depth: int) -> Node:
        keyword = "anyOf" if "anyOf" in schema else "oneOf"
        _allow(schema, place, {keyword})
        options = schema[keyword]
        if not isinstance(options, list) or not 0 < len(options) <= OPTIONS_MAX:
            raise _refusal(place, f"`{keyword}` must be a list of 1 to {OPTIONS_MAX} schemas")
        nodes = tuple(self.read(option, f"{place}.{keyword}[{number}]", depth + 1) for number, option in enumerate(options))
        return Choice(nodes, is_exclusive=keyword == "oneOf")

    def _follow(self, schema: Mapping[str, Any], place: str, depth: int) -> Node:
        _allow(schema, place, {"$ref"})
        path = schema["$ref"]
        if not isinstance(path, str) or not path.startswith("#/") or len(path) > NAME_CHARACTERS_MAX:
            raise _refusal(place, "a `$ref` must be a path within the schema, as #/$defs/name")
        target = self._root
        for step in path[2:].split("/"):
            target = target.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
        if target is None:
            raise _refusal(place, "its `$ref` leads nowhere")
        return self.read(target, place, depth + 1)


def _values(schema: Mapping[str, Any], place: str, _depth: int) -> Node:
    keyword = "enum" if "enum" in schema else "const"
    _allow(schema, place, {keyword, "type"})
    values = schema["enum"] if keyword == "enum" else [schema["const"]]
    if not isinstance(values, list) or not 0 < len(values) <= OPTIONS_MAX:
        raise _refusal(place, f"`enum` must be a list of 1 to {OPTIONS_MAX} values")
    try:
        return OneOfThese(tuple(_writable(write_json(value), place) for value in values))
    except (TypeError, ValueError, RecursionError):
        raise _refusal(place, f"`{keyword}` has a value that is not JSON") from None


def _text(schema: Mapping[str, Any], place: str, _depth: int) -> Node:
    return Text(*_bounds(schema, place, ("minLength", "maxLength"), TEXT_CHARACTERS_DEFAULT, TEXT_CHARACTERS_MAX))


def _whole(schema: Mapping[str, Any], place: str, _depth: int) -> Node:
    largest = 10**WHOLE_DIGITS_MAX - 1
    minimum, maximum = schema.get("minimum", -largest), schema.get("maximum", largest)
    if type(minimum) is not int or type(maximum) is not int or not -largest <= minimum <= maximum <= largest:
        raise _refusal(place, f"`minimum` and `maximum` must be whole numbers of at most {WHOLE_DIGITS_MAX} digits, in order")
    return Whole(minimum, maximum)


def _bounds(schema: Mapping[str, Any], place: str, keywords: tuple[str, str], default: int, most: int) -> tuple[int, int]:
    low, high = keywords
    minimum = schema.get(low, 0)
    maximum = schema.get(high, max(default, minimum) if type(minimum) is int else default)
    if type(minimum) is not int or type(maximum) is not int or not 0 <= minimum <= maximum <= most:
        raise _refusal(place, f"`{low}` and `{high}` must be whole numbers from 0 to {most}, in order")
    return minimum, maximum


def _allow(schema: Mapping[str, Any], place: str, keywords: set[str]) -> None:
    for keyword in schema:
        if keyword not in keywords and keyword not in _ANNOTATIONS:
            raise _refusal(place, f"the keyword {str(keyword)[:40]!r} is not supported here")


def _writable(text: Any, place: str) -> str:
    if not isinstance(text, str) or len(text) > NAME_CHARACTERS_MAX or "\\u0000" in text or not _can_be_kept(text):
        raise _refusal(place, f"a name or value is longer than {NAME_CHARACTERS_MAX} characters, or not text that can be kept")
    return text


def _can_be_kept(text: str) -> bool:
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


def _refusal(place: str, why: str) -> GenerationFailed:
    return GenerationFailed(f"The JSON Schema cannot be used: at {place[:100]}, {why}.")
