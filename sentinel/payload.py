"""Strict JSON, forms and XML: bytes in, plain values out, or BadInput that names what is wrong. No I/O.

Strict means: what two parsers could read differently is refused, and so is what a store could not keep.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import msgspec

from sentinel.errors import BadInput

DEPTH_MAX = 64
NODES_MAX = 20_000
XML_DEPTH_MAX = 50
INTEGER_MAX = 2**63 - 1

_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
_XML_ENCODING = re.compile(rb"""^(?:\xef\xbb\xbf)?<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
# An integer long enough to be beyond 64 bits, and not a part of a number with a point or an exponent.
_LONG_INTEGERS = re.compile(rb"(?<![\d.eE+-])-?\d{19,}(?![\d.eE])")
_KINDS = bytes.maketrans(b"123456789\t\n\r", b"000000000   ")  # every digit as 0, every white space as a space
_MANY_DIGITS = b"0" * 19
_HIDDEN = re.compile(rb"\\u00(?:00|22|3[Aa])")  # a NUL, a quote or a colon that the text does not show
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_CONTAINERS = (dict, list)
_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()
# The value of JSON that Sentinel itself wrote; not for anything that came from outside. No frame of its own: a claim needs three.
decode_own_json: Callable[[str | bytes], Any] = _decoder.decode


def encode_json(value: Any) -> bytes:
    """`value` as compact UTF-8 JSON."""
    return _encoder.encode(value)


def decode_json(body: bytes | str) -> Any:
    """
    The JSON value that `body` holds.

    Raises:
        BadInput: for anything that is not JSON (RFC 8259) in UTF-8, and for what JSON allows but two readers could
            understand differently or a store could not keep: repeated keys, U+0000, lone surrogates, integers beyond
            64 bits, numbers beyond a double, more than 64 levels or 20,000 values.
    """
    if not body:
        raise BadInput("The body is empty; JSON was expected.")
    try:
        value = _decoder.decode(body)
    except RecursionError:
        raise BadInput(f"The JSON is nested deeper than {DEPTH_MAX} levels.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise BadInput(f"The body is not valid JSON: {_reason(error)}") from None
    raw = body if isinstance(body, bytes) else body.encode()
    if _is_plain(raw, value):
        return value
    skeleton = _STRINGS.sub(b"", raw)
    _check_skeleton(skeleton)
    if _count_keys(value) != skeleton.count(b":"):
        raise BadInput("The JSON has the same key twice in one object.")
    if b"\\u0000" in raw:  # the only way to write it in JSON; an escaped backslash before "u0000" looks alike
        _check_strings(value)
    return value


def _is_plain(raw: bytes, value: Any) -> bool:
    """
    Whether a short look is enough to know that nothing is wrong with valid JSON; most of it is like this.

    If the value is written as the same text, no key was there twice. Or else: with nothing between a key and its colon `":` stands
    behind each key, and beside that only where a string says it. Unless a string hides its quote or colon behind a number, we write
    it there too, so only the keys that were there twice can be missing. As many brackets as levels are allowed cannot nest deeper.
    """
    kinds = raw.translate(_KINDS)
    if len(raw) > NODES_MAX or raw.count(b"{") + raw.count(b"[") > DEPTH_MAX or _MANY_DIGITS in kinds:
        return False
    if b"\\" in raw and _HIDDEN.search(raw):
        return False
    written = _encoder.encode(value)
    return raw == written or (b'" ' not in kinds and raw.count(b'":') == written.count(b'":'))


def decode_form(body: bytes) -> dict[str, str]:
    """The fields of an application/x-www-form-urlencoded body. Raises BadInput for repeated fields, U+0000 and bad UTF-8."""
    try:
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=200, errors="strict")
    except ValueError:
        raise BadInput("The body is not a valid form.") from None
    form = dict(fields)
    if len(form) != len(fields):
        raise BadInput("The form has the same field twice.")
    for name, value in fields:
        _check_string(name)
        _check_string(value)
    return form


def decode_xml(body: bytes) -> ElementTree.Element:
    """
    The root element of an XML document in UTF-8.

    Raises:
        BadInput: if it is not well-formed, declares a DOCTYPE or entities (CWE-611, CWE-776), nests deeper than 50 levels or has
            more than 20,000 elements and attributes.
    """
    if not body:
        raise BadInput("The body is empty; XML was expected.")
    if b"\0" in body:
        # No XML in UTF-8 has one, but expat would take "<\0!\0" for UTF-16 and read declarations that the next check cannot see.
        raise BadInput("The XML must be in UTF-8.")
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise BadInput("The XML has a DOCTYPE or an entity declaration, which is not taken.")
    encoding = _XML_ENCODING.match(body)
    if encoding and encoding[1].lower() not in (b"utf-8", b"us-ascii"):
        raise BadInput("The XML must be in UTF-8.")
    try:
        body.decode("utf-8")
        parser = ElementTree.XMLParser(target=_BoundedTree(), encoding="utf-8")
        parser.feed(body)
        root: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, ValueError):
        raise BadInput("The body is not well-formed XML in UTF-8.") from None
    return root


class _BoundedTree(ElementTree.TreeBuilder):
    """A tree builder that refuses deep nesting and great numbers while it parses, before the tree exists."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0
        self.nodes = 0

    def start(self, tag: Any, attributes: Any, /) -> ElementTree.Element:
        self.depth += 1
        if self.depth > XML_DEPTH_MAX:
            raise BadInput(f"The XML is nested deeper than {XML_DEPTH_MAX} levels.")
        self.nodes += 1 + len(attributes)
        if self.nodes > NODES_MAX:
            raise BadInput(f"The XML has more than {NODES_MAX} elements and attributes.")
        return super().start(tag, attributes)

    def end(self, tag: str, /) -> ElementTree.Element:
        self.depth -= 1
        return super().end(tag)


def _check_skeleton(skeleton: bytes) -> None:
    """Check what valid JSON looks like without its strings: it tells how much and how deep, faster than walking the values."""
    opened = skeleton.count(b"[") + skeleton.count(b"{")
    if opened + skeleton.count(b",") > NODES_MAX or (opened > DEPTH_MAX and _depth(skeleton) > DEPTH_MAX):
        raise BadInput(f"The JSON has more than {DEPTH_MAX} levels or {NODES_MAX} values.")
    if any(not -INTEGER_MAX - 1 <= int(digits) <= INTEGER_MAX for digits in _LONG_INTEGERS.findall(skeleton)):
        raise BadInput("The JSON has an integer beyond 64 bits.")


def _depth(skeleton: bytes) -> int:
    return max(accumulate(_STEPS.get(byte, 0) for byte in skeleton))


def _count_keys(root: Any) -> int:
    """How many keys the objects in `root` have. Iterative: no input can exhaust the stack."""
    keys = 0
    containers = [root] if type(root) in _CONTAINERS else []
    for container in containers:
        inside = container
        if type(container) is dict:
            keys += len(container)
            inside = container.values()
        containers.extend([value for value in inside if type(value) in _CONTAINERS])
    return keys


def _check_strings(root: Any) -> None:
    values = [root]
    for value in values:
        if isinstance(value, str):
            _check_string(value)
        elif isinstance(value, dict):
            values.extend(value)
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(value)


def _check_string(text: str) -> None:
    if "\0" in text:
        raise BadInput("The body has a string with U+0000 in it.")


def _reason(error: Exception) -> str:
    """The parser's words, which never quote the input."""
    return str(error)[:160]
