"""Hostile prompts, JSON Schemas and chat templates, seeded: input N of a seed is always the same, so each can be replayed."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from typing import Any

import attrs

from tests.corpus import corpus, escaped
from worker.engine import Prompt

ANSWER_TOKENS = (1, 2, 3, 4, 8)
LONG = 100_000  # characters
# The marks by which models end turns: those of the bundled one, and of its relatives.
MARKS = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<file_sep>", "<filename>", "<gh_stars>"),
    *("<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>", "<jupyter_code>"),
    *("<jupyter_output>", "<jupyter_script>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<start_of_turn>", "<|eot_id|>"),
    *("PLACE0OF0CONTENT0", "PLACE0OF0CONTENT00END", "PLACE0OF0CONTENT0999999END", "{{ messages }}", "{% for x in y %}"),
)  # fmt: skip
ODD = (
    *("", "\0", "a\0b", "\ud800", "\udfff\ud800", "\ufeff", "\ufffe\uffff", "\u202e\u2066", "\u0301", "\r\n", "\x1b[2J", "\x7f"),
    *("\U0010ffff", "👩‍👩‍👧‍👦", "🇺🇸🇸", "ﷺ", "İ", "ß", "0" * 400, "-" * 300, "\n" * 200, " " * 200, "'s't're've'm'll'd" * 9),
    *escaped("odd_strings"),
    *corpus("hostile"),
)  # fmt: skip
ROLES = ("system", "user", "assistant", "tool", "tool", "user<|im_end|>", "", None, 3)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
JUNK: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 10**15, 10**400, 0.5, float("nan"), float("inf"), "", "x", "\0", "\ud800", "#", "#/$defs/a"),
    *([], [None], {}, {"type": "string"}, {"type": []}, [{}], [[]], "integer", b"bytes", {1: 2}, {"": {"": {}}}),
)  # fmt: skip
# Pieces of templates. None can be trusted to end, to write little, or to be a template at all.
TWISTS = (
    *(
        "{{ messages }}",
        "{{ messages[0].content * 5 }}",
        "{{ messages | tojson }}",
        "{{ messages[-1].content | upper }}",
        "{%",
        "}}",
    ),
    *("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "{{ range(10 ** 9) | list }}"),
    *("{% for a in range(99999) %}{% if a %}{% endif %}{% for b in messages * 9999 %}{{ loop.index }}{% endfor %}{% endfor %}",),
    *("{{ 9 ** (9 ** 9) }}", "{{ 'x' * 10 ** 10 }}", "{{ [0] * 10 ** 10 }}", "{% set x = 2 ** 99999 %}{{ x * x * x % 7 }}"),
    *(
        "{{ 7 // 0 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ bos_token }}",
    ),
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{% for m in messages * 40 recursive %}{% if loop.depth < 9 %}{{ loop(messages * 40) }}{% endif %}{% endfor %}",
    "{% include 'x' %}",
    "{% extends messages[0].content %}",
    "{{ lipsum(9) }}{{ self }}{{ loop }}{{ caller() }}",
    "{{ '%999999d' % 1 }}{{ '{:>999999}'.format(1) }}{{ 'x' | center(999999) }}",
    "{{ raise_exception('no') }}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{% if 1 %}" * 120 + "{% endif %}" * 120,
    "{{ 1" + " + 1" * 3000 + " }}",
    "{% break %}",
    "{% while 1 %}",
)


@attrs.frozen
class Input:
    """What one input asks of the engine; a `template` takes the place of the model's own."""

    kind: str
    prompt: Prompt = attrs.field(repr=False)
    template: str | None = attrs.field(default=None, repr=False)


def make_input(seed: int, number: int) -> Input:
    """Input `number` of a seed."""
    rng = random.Random(f"{seed}:{number}")
    kind = rng.choice(("text", "text", "messages", "choices", "schema", "schema", "template"))
    return _KINDS[kind](rng, kind)


def _of_text(rng: random.Random, kind: str) -> Input:
    return Input(kind, _prompt(rng, [{"role": "system", "content": ""}, {"role": "user", "content": _text(rng)}]))


def _of_messages(rng: random.Random, kind: str) -> Input:
    count = rng.choice((0, 1, 1, 2, 2, 3, 5, 12, 1001))
    roles = rng.choice((ROLES[:5], ROLES[:5], ROLES))
    contents = () if roles is not ROLES else (None, 7, ["x"], {})
    messages = [{"role": rng.choice(roles), "content": rng.choice((_text(rng, 20), *contents))} for _ in range(count)]
    return Input(kind, _prompt(rng, messages))


def _of_choices(rng: random.Random, kind: str) -> Input:
    choices: dict[str, Any] = {
        "temperature": rng.choice((0.0, 1e-300, 1e-9, 1e-3, 0.7, 5.0, 5.1, -1.0, float("nan"), float("inf"))),
        "seed": rng.choice((0, 1, -1, 2**32 - 1, 2**32, 2**70)),
        "top_p": rng.choice((0.01, 0.5, 1.0, 0.0, float("nan"))),
        "min_p": rng.choice((0.0, 0.5, 0.99, 1.0)),
        "repeat_penalty": rng.choice((0.5, 1.0, 1.1, 2.0, 0.0)),
        "tokens_max": rng.choice((*ANSWER_TOKENS, 0, -1, 2**31, 2**70)),
        "stop": [rng.choice(("a", " ", "\n", "", "\0", "\ud800", "x" * 201, "é"))] * rng.choice((0, 1, 1, 3, 17)),
    }
    ranged = {"temperature": 0.7, "top_p": 0.9, "min_p": 0.1, "repeat_penalty": 1.1, "tokens_max": 4, "stop": []}
    kept = rng.sample(sorted(ranged), rng.randrange(len(ranged)))  # one that is out of its range hides all others
    return Input(kind, attrs.evolve(_prompt(rng, [{"role": "user", "content": "Hi."}]), **(choices | {k: ranged[k] for k in kept})))


def _of_schema(rng: random.Random, kind: str) -> Input:
    schema = rng.choice(_SCHEMAS)(rng)
    if rng.random() < 0.3:
        schema = _spoiled(rng, schema)
    asked = [{"role": "user", "content": rng.choice(("JSON.", "数", "\U0001f600", _text(rng, 20)))}]
    return Input(kind, attrs.evolve(_prompt(rng, asked), json_schema=schema))


def _of_template(rng: random.Random, kind: str) -> Input:
    pieces = [CHATML, *rng.choices(TWISTS, k=rng.choice((1, 1, 2, 3)))]
    rng.shuffle(pieces)
    source = "".join(pieces)
    if rng.random() < 0.3:
        place = rng.randrange(len(source))
        source = source[:place] + rng.choice(("", "{", "}", "%", "'", "\0", "{#", "\ud800")) + source[place + rng.randrange(9) :]
    messages = [{"role": rng.choice(ROLES[:3]), "content": _text(rng, 20)} for _ in range(rng.choice((1, 1, 2, 5)))]
    return Input(kind, _prompt(rng, messages), source)


_KINDS = {
    "text": _of_text,
    "messages": _of_messages,
    "choices": _of_choices,
    "schema": _of_schema,
    "template": _of_template,
}


def _prompt(rng: random.Random, messages: Sequence[Any]) -> Prompt:
    return Prompt(messages, rng.choice(ANSWER_TOKENS), rng.choice((0.0, 0.7, 2.0)), rng.randrange(9))


def _text(rng: random.Random, characters_max: int = 300) -> str:
    """Mostly short, so that most of the time goes to many inputs; one in a hundred is very long."""
    text = "".join(_piece(rng) for _ in range(rng.choice((1, 1, 2, 4))))
    if rng.random() < 0.01 and text:
        return (text * (LONG // len(text) + 1))[:LONG]
    return text[: min(characters_max, rng.choice((8, 16, 24, 24, 300)))]


def _piece(rng: random.Random) -> str:
    match rng.randrange(7):
        case 0:
            return rng.choice(MARKS)
        case 1 | 2:
            return rng.choice(ODD)
        case 3:
            return rng.randbytes(rng.choice((1, 7, 40))).decode(*rng.choice((("utf-8", "surrogateescape"), ("latin-1",))))
        case 4:
            low, high = rng.choice(
                ((0x300, 0x370), (0x4E00, 0x9FFF), (0xE000, 0xF8FF), (0xD800, 0xE000), (0, 0x110000), (0x1F000, 0x1FAFF))
            )
            return "".join(chr(rng.randrange(low, high)) for _ in range(rng.choice((1, 9, 60))))
        case 5:
            return rng.choice(string.printable) * rng.choice((1, 30, 150))
        case _:
            return " ".join(rng.choices(("the", "of", "x", "1", "é", "\t", "ĠĠ", "##"), k=20))


# --- schemas


def _deep(rng: random.Random) -> Any:
    schema: Any = _scalar(rng)
    for _ in range(rng.choice((3, 15, 17, 400))):
        schema = (
            {"type": "array", "items": schema, "minItems": rng.randrange(2)} if rng.random() < 0.6 else _object({"a": schema}, rng)
        )
    return schema


def _recursive(rng: random.Random) -> Any:
    refs = ("#/$defs/a", "#/$defs/b", "#", "#/", "#/$defs", "#/properties/x", "http://x/y", "#/" + "a/" * 90)
    a, b = ({"$ref": rng.choice(refs)} for _ in range(2))
    return rng.choice((a, _object({"x": a, "y": b}, rng))) | {
        "$defs": {"a": rng.choice((a, b)), "b": {"type": "array", "items": a}}
    }


def _fan(rng: random.Random) -> Any:
    """Two references a level, sixteen levels: 65,536 parts from sixteen."""
    levels = {f"l{n}": _object({"a": {"$ref": f"#/$defs/l{n + 1}"}, "b": {"$ref": f"#/$defs/l{n + 1}"}}, rng) for n in range(16)}
    return {"$ref": "#/$defs/l0", "$defs": levels | {"l16": _scalar(rng)}}


def _enum(rng: random.Random) -> Any:
    count = rng.choice((0, 1, 200, 201, 5000))
    return {
        "enum": [
            rng.choice((n, f"{'a' * (n % 199)}{n}", chr(0x4E00 + n % 5000) * 9, [n], None, "\U0001f600" * 50)) for n in range(count)
        ]
    }


def _bounds(rng: random.Random) -> Any:
    low, high = rng.choice(((5, 3), (0, 2000), (2000, 2000), (1, 10**9), (-1, 5), (0, 0)))
    return rng.choice(
        (
            {"type": "string", "minLength": low, "maxLength": high},
            {"type": "array", "items": _scalar(rng), "minItems": low // 20, "maxItems": high // 20},
            {"type": "integer", "minimum": -(10 ** rng.randrange(17)), "maximum": 10 ** rng.randrange(17) + rng.randrange(999)},
            {"type": "number", "minimum": high, "maximum": low},
        )
    )


def _pattern(rng: random.Random) -> Any:
    pattern = rng.choice((r"^(a+)+$", r"(((((x*)*)*)*)*)*y", "(" * 5000, r"\d{1,99999}", "[", r"(?=a)(?!b)\1"))
    return {"type": "string", "pattern": pattern} | rng.choice(({}, {"format": "uuid"}, {"not": {}}))


def _wide(rng: random.Random) -> Any:
    """Many names that begin alike, none of which is required: the grammar has as many ways on at once."""
    begin = rng.choice(("", "a" * 100, "\U0001f600" * 20, '"\\'))
    return _object({f"{begin}{n}": _scalar(rng) for n in range(rng.choice((2, 120, 290, 400)))}, rng)


def _ambiguous(rng: random.Random) -> Any:
    """Many kinds of the same text."""

    def text() -> Any:
        return {"type": "string", "minLength": rng.randrange(90), "maxLength": 90 + rng.randrange(200)}

    inner = {"anyOf": [text() for _ in range(rng.choice((2, 40, 140)))]}
    return rng.choice(
        (inner, {"type": "array", "items": inner, "maxItems": 100}, {"oneOf": [{"type": "array", "items": inner}, inner]})
    )


def _numbers(rng: random.Random) -> Any:
    def whole() -> Any:
        return {"type": "integer", "minimum": -rng.randrange(10**15), "maximum": rng.randrange(10**15)}

    return {"anyOf": [whole() for _ in range(rng.choice((1, 50, 200)))]}


def _empty(rng: random.Random) -> Any:
    return rng.choice(
        ({}, {"anyOf": []}, {"oneOf": []}, {"type": []}, {"enum": []}, {"properties": {}}, _object({}, rng), True, [], "x", None)
    )


_SCHEMAS = (_deep, _recursive, _fan, _enum, _bounds, _pattern, _wide, _ambiguous, _numbers, _empty)


def _scalar(rng: random.Random) -> Any:
    return rng.choice(
        (
            *({"type": name} for name in ("string", "integer", "number", "boolean", "null")),
            {"type": ["string", "null", "number"], "maxLength": rng.randrange(9)},
            {"const": rng.choice(("\u0301" * 60, '"\\\n', {"a": [1]}, -0.0))},
            {"type": "string", "maxLength": 2000},
        )
    )


def _object(properties: dict[str, Any], rng: random.Random) -> Any:
    required = [name for name in properties if rng.random() < 0.3]
    return {"type": "object", "properties": properties, "required": required}


def _spoiled(rng: random.Random, schema: Any) -> Any:
    """The same with something else in one place."""
    if not isinstance(schema, dict) or not schema or rng.random() < 0.2:
        return rng.choice(JUNK)
    key = rng.choice(list(schema))
    return schema | {rng.choice((key, key, "type", "$ref", "items")): _spoiled(rng, schema[key])}
