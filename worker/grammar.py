"""Writes the grammar (GBNF, llama.cpp's notation) of exactly the JSON that a schema describes. Pure.

Only grammars from here reach the library: text of others, or what nests too deep, ends its process.
"""

from __future__ import annotations

from collections.abc import Iterator

from sentinel.errors import GenerationFailed
from worker.json_schema import Choice, Decimal, Fields, Items, Node, OneOfThese, Text, Whole, write_json

# What is repeated N times becomes N rules in the library; this many take it some milliseconds.
REPETITIONS_MAX = 20_000
# How the text may go on, counted in alternatives at one place. Each costs 0.3 ms when the library is asked about a vocabulary of
# 49,000 tokens, which can be at each token of each slot: 200 ranges of whole numbers took 2.7 s a token, and all others waited.
WAYS_MAX = 400
# One space where people write one, or none. More would let a model fill its answer with them.
_FIXED = """\
space ::= " "?
char ::= [^"\\\\\\x00-\\x1F] | "\\\\" ["\\\\/bfnrt]
"""


def write_grammar(node: Node) -> str:
    """
    The grammar whose words are the JSON texts of what `node` accepts.

    Raises:
        GenerationFailed: it would be too large, or leave too many ways to go on.
    """
    if (ways := _ways(node)) > WAYS_MAX:
        raise GenerationFailed(
            f"The JSON Schema cannot be used: its choices, optional fields and ranges leave {ways} ways to go on at one place; "
            f"there may be {WAYS_MAX}."
        )
    return _Writer().write(node)


class _Writer:
    """Collects rules. The same node twice is one rule."""

    def __init__(self) -> None:
        self._names: dict[Node, str] = {}
        self._rules: list[str] = []
        self._repetitions = 0

    def write(self, node: Node) -> str:
        root = self._name(node)
        return f"root ::= {root}\n{_FIXED}{''.join(self._rules)}"

    def _name(self, node: Node) -> str:
        if node not in self._names:
            name = self._names[node] = f"r{len(self._names)}"
            self._rules.append(f"{name} ::= {self._body(node, name)}\n")
        return self._names[node]

    def _body(self, node: Node, name: str) -> str:
        match node:
            case Text(low, high):
                body = f'"\\"" {self._repeat("char", low, high)} "\\""'
            case Items():
                body = self._list(node)
            case Fields(fields):
                body = f'"{{" space {self._members(fields, name)} space "}}"'
            case Choice(options):
                body = " | ".join(map(self._name, options))
            case _:
                body = _scalar(node)
        return body

    def _repeat(self, what: str, low: int, high: int) -> str:
        self._repetitions += high
        if self._repetitions > REPETITIONS_MAX:
            raise GenerationFailed("The JSON Schema cannot be used: the lengths that it allows are too large in all.")
        return f"{what}{{{low},{high}}}"

    def _list(self, node: Items) -> str:
        if node.count_max == 0:
            return '"[" space "]"'
        item = self._name(node.item)
        more = self._repeat(f'("," space {item})', max(0, node.count_min - 1), node.count_max - 1)
        some = f"{item} {more} space"
        return f'"[" space {some} "]"' if node.count_min else f'"[" space ({some})? "]"'

    def _members(self, fields: tuple[tuple[str, Node, bool], ...], name: str) -> str:
        """Two rules a field: what follows if nothing was written before it, and if something was, which takes a comma."""
        rest = {True: '""', False: '""'}
        for number, (key, node, required) in reversed(list(enumerate(fields))):
            pair = f'{_literal(write_json(key))} space ":" space {self._name(node)} {rest[True]}'
            for is_first in (True, False):
                written = pair if is_first else f'"," space {pair}'
                rule = f"{name}-{number}{'' if is_first else '-next'}"
                skip = rest[not is_first]
                self._rules.append(f"{rule} ::= {written}{'' if required else f' | {skip}'}\n")
            rest = {True: f"{name}-{number}-next", False: f"{name}-{number}"}
        return rest[False]


def _ways(node: Node) -> int:
    """At most so many alternatives are looked at together, wherever the text has come to."""
    match node:
        case Choice(options):
            return sum(map(_ways, options))
        case Fields(fields):
            return max(len(fields) + 1, *(_ways(field) for _, field, _ in fields), 1)
        case Items(item):
            return _ways(item) + 2
        case OneOfThese(texts):
            return len(texts)
        case Whole(low, high):
            return 3 * len(list(_whole(low, high)))  # the first digit splits an alternative into three
    return 3


def _scalar(node: Node) -> str:
    match node:
        case OneOfThese(texts):
            return " | ".join(map(_literal, texts))
        case Whole(low, high):
            return " | ".join(_whole(low, high))
        case Decimal():
            return '"-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,15})?'
    raise TypeError(f"no grammar for {type(node)}")


def _literal(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _whole(low: int, high: int) -> Iterator[str]:
    if low < 0:
        yield from (f'"-" {digits}' for digits in _digits(max(1, -high), -low))
    if high >= 0:
        yield from _digits(max(0, low), high)


def _digits(low: int, high: int) -> Iterator[str]:
    """Numbers that are not negative, by their count of digits; the counts of which all numbers are meant are one alternative."""
    if low == 0:
        yield '"0"'
        low = 1
    counts = range(len(str(low)), len(str(high)) + 1) if high else ()
    whole = [count for count in counts if low <= 10 ** (count - 1) and 10**count - 1 <= high]
    if whole:
        yield f"[1-9] [0-9]{{{whole[0] - 1},{whole[-1] - 1}}}"
    for count in counts:
        if count not in whole:
            yield f"({_between(str(max(low, 10 ** (count - 1))), str(min(high, 10**count - 1)))})"


def _between(low: str, high: str) -> str:
    """All texts of digits from `low` to `high`, which are equally long."""
    rest = len(low) - 1
    if not rest:
        return f"[{low}-{high}]"
    if low[0] == high[0]:
        return f'"{low[0]}" ({_between(low[1:], high[1:])})'
    if set(low[1:]) == {"0"} and set(high[1:]) == {"9"}:
        return f"[{low[0]}-{high[0]}] [0-9]{{{rest}}}"
    parts = [f'"{low[0]}" ({_between(low[1:], "9" * rest)})', f'"{high[0]}" ({_between("0" * rest, high[1:])})']
    if int(high[0]) - int(low[0]) > 1:
        parts.insert(1, f"[{int(low[0]) + 1}-{int(high[0]) - 1}] [0-9]{{{rest}}}")
    return " | ".join(parts)
