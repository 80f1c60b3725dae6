"""Where a long text is cut: nothing is lost, no part is above its bound, and no character is torn."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.errors import GenerationFailed
from worker.document import Span, find_border, is_inside, joins, split

moderate = settings(max_examples=200, deadline=None)
# Much of what is hard: marks, joined emoji, flags, Korean in pieces, borders of all kinds.
PIECES = [
    "a",
    "Zoë",
    "e\u0301",
    "\u0301",
    "\r\n",
    "\n",
    "\n\n",
    " ",
    ". ",
    "! ",
    "\u3002",
    "日本",
    "👩\u200d👩\u200d👧",
    "🇩🇪🇫🇷",
    "👍🏽",
    "\u1112\u1161\u11ab",
]
texts = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=400), st.lists(st.sampled_from(PIECES), max_size=200).map("".join)
)


async def characters(text: str) -> int:
    return len(text)


async def octets(text: str) -> int:
    return len(text.encode())


async def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(("cost", "room_min"), [(characters, 1), (octets, 4), (words, 1)])
@moderate
@given(text=texts, room=st.integers(0, 50))
async def test_nothing_is_lost_and_nothing_too_large(cost, room_min, text, room):
    """The parts joined are the text, whatever it is; none is empty, and none costs more than its bound."""
    spans = await split(text, room + room_min, cost, len(text) + 1)
    parts = [text[span.start : span.end] for span in spans]
    assert "".join(parts) == text
    assert all(parts)
    assert [span.start for span in spans[1:]] == [span.end for span in spans[:-1]]
    assert all([await cost(part) <= room + room_min for part in parts])


@moderate
@given(text=texts, start=st.integers(0, 50), size=st.integers(1, 60))
def test_no_character_is_torn(text, start, size):
    """A cut goes through what a reader sees as one character only where that alone is more than a part may be."""
    start = min(start, len(text))
    end = find_border(text, start, size)
    assert start <= end <= start + size
    if is_inside(text, end):
        assert all(is_inside(text, place) for place in range(start + 1, start + size + 1))


@pytest.mark.parametrize(
    "one", ["e\u0301", "\r\n", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "한", "\u1112\u1161\u11ab", "\u0928\u093f", "❤\ufe0f"]
)
def test_what_a_reader_sees_as_one(one):
    """Marks, joined emoji, flags, skin tones and Korean in pieces stay together; what stands beside them does not."""
    assert [is_inside(one, place) for place in range(1, len(one))] == [True] * (len(one) - 1)
    assert [is_inside(one + one, len(one)), is_inside(f"a{one}b", 1), is_inside(f"a{one}b", 1 + len(one))] == [False] * 3


@pytest.mark.parametrize(
    ("text", "size", "first"),
    [
        ("One two.\n\nThree four. Five", 16, "One two.\n\n"),
        ("One two.\nThree four. Five", 15, "One two.\n"),
        ("One two. Three four five six", 14, "One two. "),
        ("One two three four five", 12, "One two "),
        ("一二三。四五六七八九", 6, "一二三。"),
        ("abcdefghij", 4, "abcd"),
        ("short", 100, "short"),
    ],
)
def test_the_best_border(text, size, first):
    """Paragraphs go before lines, lines before sentences, sentences before words; a word is cut only if it must be."""
    assert text[: find_border(text, 0, size)] == first


async def test_parts_are_well_filled():
    """Of plain prose a part uses most of its bound; a piece says how large the next may be, so few are counted twice."""
    text = "".join(f"This is sentence number {number} of the book.\n" for number in range(2000))
    looks = []

    async def cost(part: str) -> int:
        looks.append(part)
        return await words(part)

    spans = await split(text, 500, cost, 100)
    assert len(spans) <= 1.15 * await words(text) / 500
    assert len(looks) <= 2 * len(spans)


async def test_what_is_known_stays():
    """A part that was read before ends where it did, and what is behind it is cut anew."""
    first, second, *_ = await split("abcdefghij", 4, characters, 10, {0: 5})
    assert (first, second.start) == (Span(0, 5), 5)
    assert second.end - second.start <= 4


async def test_bounds():
    """More parts than the bound, and a character that costs more than a part, fail with a plain reason."""
    with pytest.raises(GenerationFailed, match="more than 3 parts"):
        await split("abcdefgh", 2, characters, 3)
    with pytest.raises(GenerationFailed, match="no room"):
        await split("äb", 1, octets, 9)


@pytest.mark.parametrize(
    ("parts", "fan_in", "last", "ahead"),
    [(1, 2, 2, 0), (2, 2, 2, 0), (3, 2, 2, 2), (5, 2, 2, 5), (100, 6, 6, 20), (100, 6, 30, 17), (12, 6, 30, 0), (9, 3, 0, 4)],
)
def test_joins(parts, fan_in, last, ahead):
    """How many times answers are put together on the way to one, from how many fit."""
    assert joins(parts, fan_in, last) == ahead
