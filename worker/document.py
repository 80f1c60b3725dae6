"""Cuts a text that is longer than the model's context into parts that fit. Loses nothing: the parts joined are the text. Pure.

A cut is made between paragraphs, else lines, sentences, words, and never inside what a reader sees as one character if there is
another place. What a part costs is asked of who calls, because only the engine knows its tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Awaitable, Callable, Mapping

import attrs

from sentinel.errors import GenerationFailed

Cost = Callable[[str], Awaitable[int]]

# The first guess, on the high side: a piece that turns out too large says how large one may be.
CHARACTERS_PER_TOKEN = 6.0
SHORTEN = 0.95

# The ends of paragraphs, lines, sentences and words, each with the white space behind it.
_BORDERS = tuple(
    re.compile(border)
    for border in (r"\n[^\S\n]*\n\s*", r"\n\s*", r"[.!?…][\"'\u2019\u201d)\]]*\s+|[\u3002\uff01\uff1f]\s*", r"\s+")
)
_MARKS = ("Mn", "Me", "Mc")
_JOINER = "\u200d"
_REGIONAL = re.compile("[\U0001f1e6-\U0001f1ff]*\\Z")
# Zero-width joiners, skin tones, tags of flags, voiced marks of half-width kana, vowels and finals of Korean in pieces.
_EXTENDS = re.compile("[\u200c\u200d\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f\uff9e\uff9f\u1160-\u11ff]")
_KOREAN_BEGINS, _KOREAN = re.compile("[\u1100-\u115f]"), re.compile("[\u1100-\u11ff\uac00-\ud7a3]")
_SEEN_BACK = 200  # characters before a cut that can matter; no flag is longer


@attrs.frozen
class Span:
    """A part of a text, from one character to before another."""

    start: int
    end: int


async def split(text: str, room: int, cost: Cost, parts_max: int, known: Mapping[int, int] | None = None) -> list[Span]:
    """
    The parts of `text`, in order, none of which costs more than `room`; one that begins where a `known` one does ends with it.

    Raises:
        GenerationFailed: there would be more than `parts_max`, or a single character costs more.
    """
    spans: list[Span] = []
    ends = known or {}
    start, rate = 0, CHARACTERS_PER_TOKEN
    while start < len(text):
        if len(spans) == parts_max:
            raise GenerationFailed(
                f"The document has more than {parts_max} parts, of about {room} tokens each, which is the bound."
            )
        if start in ends:
            span = Span(start, ends[start])
            rate = _rate(span, await cost(text[span.start : span.end]))  # so that the parts behind it come out as before
        else:
            span, rate = await cut(text, start, room, cost, rate)
        spans.append(span)
        start = span.end
    return spans


async def cut(text: str, start: int, room: int, cost: Cost, rate: float = CHARACTERS_PER_TOKEN) -> tuple[Span, float]:
    """A part from `start` on that costs at most `room`, and how many characters a token has in it. Raises GenerationFailed."""
    size = max(1, int(room * rate))
    while True:
        end = find_border(text, start, size)
        tokens = await cost(text[start:end])
        if tokens <= room:
            return Span(start, end), _rate(Span(start, end), tokens)
        if end - start == 1:
            raise GenerationFailed("The model's context has no room for a part of the document.")
        size = max(1, int((end - start) * min(SHORTEN, SHORTEN * room / tokens)))


def _rate(span: Span, tokens: int) -> float:
    return (span.end - span.start) / max(1, tokens)


def find_border(text: str, start: int, size: int) -> int:
    """The best place to cut from `start` on: at most `size` characters on, at least half of that if there is any good place."""
    limit = start + size
    if limit >= len(text):
        return len(text)
    for border in _BORDERS:
        ends = [found.end() for found in border.finditer(text, start + size // 2, limit) if not is_inside(text, found.end())]
        if ends and ends[-1] > start:
            return ends[-1]
    return next((end for end in range(limit, start, -1) if not is_inside(text, end)), limit)


def is_inside(text: str, place: int) -> bool:
    """Whether a cut there would go through what a reader sees as one character (the main rules of UAX #29)."""
    if not 0 < place < len(text):
        return False
    before, after = text[place - 1], text[place]
    return (
        before + after == "\r\n"
        or before == _JOINER
        or _EXTENDS.match(after) is not None
        or unicodedata.category(after) in _MARKS
        or (_KOREAN_BEGINS.match(before) is not None and _KOREAN.match(after) is not None)
        or (_is_regional(after) and _regionals_before(text, place) % 2 == 1)
    )


def _is_regional(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _regionals_before(text: str, place: int) -> int:
    found = _REGIONAL.search(text, max(0, place - _SEEN_BACK), place)
    return len(found[0]) if found else 0


def joins(parts: int, fan_in: int, last: int) -> int:
    """How many times answers are put together, `fan_in` at a time, until there are as few as the `last` prompt takes."""
    total = 0
    while parts > max(1, last):
        parts = -(-parts // fan_in)
        total += parts
    return total
