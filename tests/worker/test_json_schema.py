"""JSON Schemas that an answer is held to, and the grammars that are written for them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.errors import GenerationFailed
from worker.grammar import write_grammar
from worker.json_schema import parse_answer, read_schema, write_json

TICKET = {
    "type": "object",
    "properties": {
        "intent": {"enum": ["refund", "order", 'say "hi"\\']},
        "priority": {"type": "integer", "minimum": 1, "maximum": 12},
        "note": {"type": ["string", "null"], "maxLength": 20},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 1, "maxItems": 3},
    },
    "required": ["intent", "tags"],
}


def as_regex(grammar: str) -> re.Pattern[str]:
    """The same language as a regular expression; there is one, because no rule refers to itself."""
    rules = dict(line.split(" ::= ", 1) for line in grammar.strip().split("\n"))

    def translate(body: str) -> str:
        out = ""
        for token in re.findall(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\{\d+,?\d*\}|[()|?*]|[\w-]+|\s+', body):
            if token[0] == '"':
                out += "(?:" + re.escape(re.sub(r"\\(.)", r"\1", token[1:-1])) + ")"
            elif token[0].isalpha():
                out += f"(?:{translate(rules[token])})"
            elif not token.isspace():
                out += token.replace("(", "(?:")
        return out

    return re.compile(translate(rules["root"]), re.DOTALL)


def spaced(value: Any) -> str:
    """JSON as people write it."""
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize(
    ("value", "is_accepted"),
    [
        ({"intent": "order", "tags": ["a"]}, True),
        ({"intent": 'say "hi"\\', "priority": 12, "note": None, "tags": ["a", "b", "c"]}, True),
        ({"intent": "order", "priority": 13, "tags": ["a"]}, False),
        ({"intent": "order", "priority": 0, "tags": ["a"]}, False),
        ({"intent": "order", "priority": True, "tags": ["a"]}, False),
        ({"intent": "order", "note": "x" * 21, "tags": ["a"]}, False),
        ({"intent": "order", "tags": []}, False),
        ({"intent": "order", "tags": ["a", "b", "c", "d"]}, False),
        ({"intent": "order", "tags": ["a"], "more": 1}, False),
        ({"intent": "sell", "tags": ["a"]}, False),
        ({"tags": ["a"]}, False),
        ([], False),
    ],
)
def test_the_grammar_and_the_check_say_the_same(value, is_accepted):
    """What the check accepts can be written under the grammar, with spaces or without, and nothing else can."""
    node = read_schema(TICKET)
    regex = as_regex(write_grammar(node))
    assert node.accepts(value) is is_accepted
    assert bool(regex.fullmatch(spaced(value))) is bool(regex.fullmatch(write_json(value))) is is_accepted


@given(low=st.integers(-2000, 2000), width=st.integers(0, 3000), probe=st.integers(-6000, 6000))
@settings(max_examples=300)
def test_whole_numbers_keep_their_bounds(low, width, probe):
    """The grammar of a range has the numbers of the range, written in the usual way, and no other."""
    node = read_schema({"type": "integer", "minimum": low, "maximum": low + width})
    regex = as_regex(write_grammar(node))
    assert bool(regex.fullmatch(str(probe))) is node.accepts(probe) is (low <= probe <= low + width)
    assert regex.fullmatch(str(low))
    assert regex.fullmatch(str(low + width))
    assert not regex.fullmatch(f"0{low + width}")


SMALL = st.integers(0, 3)
SCALARS = st.one_of(
    st.builds(lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more}, SMALL, SMALL),
    st.builds(lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more}, st.integers(), st.integers(0)),
    st.builds(lambda values: {"enum": values}, st.lists(st.one_of(st.text(max_size=5), st.integers(), st.none()), min_size=1)),
    st.sampled_from(
        [{"type": "null"}, {"type": "boolean"}, {"type": "number"}, {"type": ["string", "null"]}, {"const": {"a": [1]}}]
    ),
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists, objects and choices of what `inner` has."""
    return st.one_of(
        st.builds(
            lambda item, low, more: {"type": "array", "items": item, "minItems": low, "maxItems": low + more}, inner, SMALL, SMALL
        ),
        st.builds(
            lambda fields: {"type": "object", "properties": fields, "required": sorted(fields)[::2]},
            st.dictionaries(st.text(max_size=3), inner, max_size=3),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
    )


SCHEMAS = st.recursive(SCALARS, containers, max_leaves=6)


@given(schema=SCHEMAS)
def test_every_schema_is_refused_or_has_its_smallest_value(schema):
    """What is not refused has a value that its check accepts, that its grammar can write, and that can be read back."""
    try:
        node = read_schema(schema)
    except GenerationFailed:
        return
    smallest = node.smallest()
    assert node.accepts(smallest)
    assert as_regex(write_grammar(node)).fullmatch(write_json(smallest))
    assert parse_answer(node, write_json(smallest)) == smallest


NESTED: dict[str, Any] = {"type": "null"}
for _ in range(20):
    NESTED = {"type": "array", "items": NESTED}


def full(depth: int) -> dict[str, Any]:
    """Lists in lists, each of 100."""
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema, "minItems": 100, "maxItems": 100}
    return schema


def twice(number: int) -> dict[str, Any]:
    """An object with the definition before `number` in it, two times."""
    return {"type": "object", "properties": {name: {"$ref": f"#/$defs/d{number - 1}"} for name in "ab"}}


DOUBLING = {"$ref": "#/$defs/d9", "$defs": {"d0": {"type": "null"}} | {f"d{n}": twice(n) for n in range(1, 10)}}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (True, r"at \$, this is not an object"),
        ({}, "`type` must say what the value is"),
        ({"type": "any"}, "`type` must say"),
        ({"type": [["string"]]}, "`type` must say"),
        ({"type": "object"}, "an object needs `properties`"),
        ({"type": "array"}, "an array needs `items`"),
        ({"type": "string", "pattern": "^a$"}, "'pattern' is not supported"),
        ({"type": "string", "format": "email"}, "'format' is not supported"),
        ({"type": "number", "minimum": 0}, "'minimum' is not supported"),
        ({"type": "string", "maxLength": 2001}, "from 0 to 2000"),
        ({"type": "string", "maxLength": True}, "from 0 to 2000"),
        ({"type": "string", "minLength": 5, "maxLength": 4}, "in order"),
        ({"type": "integer", "minimum": 0.5}, "whole numbers"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "in order"),
        ({"type": "array", "items": {"type": "null"}, "maxItems": 101}, "from 0 to 100"),
        ({"type": "array", "items": {"type": "null"}, "uniqueItems": True}, "'uniqueItems' is not supported"),
        ({"type": "object", "properties": {"a": {"type": "array"}}}, r"at \$\.a, an array needs"),
        ({"type": "object", "properties": {}, "required": ["a"]}, "`required` must"),
        ({"type": "object", "properties": {}, "additionalProperties": {"type": "null"}}, "`additionalProperties` may only"),
        ({"type": "object", "properties": {"\0": {"type": "null"}}}, "not text that can be kept"),
        ({"enum": []}, "`enum` must"),
        ({"enum": ["\ud800"]}, "not text that can be kept"),
        ({"const": float("nan")}, "not JSON"),
        ({"const": object()}, "not JSON"),
        ({"anyOf": []}, "`anyOf` must"),
        ({"anyOf": [{"type": "null"}], "not": {}}, "'not' is not supported"),
        ({"allOf": [{"type": "null"}]}, "`type` must"),
        ({"$ref": "https://example.org/schema"}, "must be a path within"),
        ({"$ref": "#/$defs/gone"}, "leads nowhere"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "refers to itself"),
        (NESTED, "deeper than"),
        (full(3), "even the shortest answer"),
        ({"anyOf": [{"type": "null"}, full(12)]}, "even the shortest answer"),
        (DOUBLING, "larger than"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(schema, message):
    """A schema that cannot be kept in full is an error that says what and where, and never "any JSON"."""
    with pytest.raises(GenerationFailed, match=message):
        read_schema(schema)


def test_a_grammar_has_a_bound_in_all():
    """Lengths that are allowed one by one are refused when they are too much together."""
    schema = {"type": "object", "properties": {f"f{n}": {"type": "string", "maxLength": 1900 + n} for n in range(12)}}
    with pytest.raises(GenerationFailed, match="too large in all"):
        write_grammar(read_schema(schema))


def ranges(count: int) -> dict[str, Any]:
    """A whole number in one of so many ranges."""
    return {"anyOf": [{"type": "integer", "minimum": -12_345 - n, "maximum": 7**17 + n} for n in range(count)]}


@pytest.mark.parametrize(
    "schema",
    [
        ranges(40),
        {"type": "array", "items": ranges(40)},
        {"type": "object", "properties": {"a": ranges(40)}},
        {"anyOf": [{"enum": list(range(150))}, {"enum": list(range(150, 300))}, {"enum": list(range(300, 450))}]},
    ],
    ids=["ranges", "in a list", "in a field", "values"],
)
def test_a_grammar_may_not_go_on_in_too_many_ways(schema):
    """What would take the model's library seconds for each token is refused, with the numbers."""
    with pytest.raises(GenerationFailed, match=r"leave \d{3} ways to go on at one place; there may be 400"):
        write_grammar(read_schema(schema))


def test_wide_schemas_that_take_a_moment_are_used():
    """A list of all values that there may be, many optional fields, and some ranges are no trouble."""
    for schema in (
        {"enum": list(range(200))},
        {"type": "object", "properties": {f"f{n}": {"type": "integer"} for n in range(290)}},
        ranges(12),
    ):
        write_grammar(read_schema(schema))


def test_only_one_of_one_of():
    """`oneOf` does not accept what two of its options accept."""
    node = read_schema({"oneOf": [{"type": "integer", "maximum": 5}, {"type": "integer", "minimum": 5}]})
    assert (node.accepts(4), node.accepts(5), node.accepts(6)) == (True, False, True)


@pytest.mark.parametrize("text", ["", "{", "nil", "[" * 100_000, '{"intent": NaN}', '"\\ud800"'])
def test_a_wrong_answer_is_not_passed_on(text):
    """What a model or a server says is parsed and checked, and refused if it is not what was asked for."""
    with pytest.raises(GenerationFailed, match="The answer is"):
        parse_answer(read_schema(TICKET), text)
