"""Bytes to text, piece by piece."""

from __future__ import annotations

import pytest

from worker.utf8 import Utf8Pieces

TEXT = "Grüße, 世界! 👩‍🚀 done"


@pytest.mark.parametrize("size", range(1, 8))
def test_characters_are_never_cut(size):
    """However the bytes are cut, the pieces are whole characters and make up the text."""
    data = TEXT.encode()
    pieces = Utf8Pieces()
    texts = [pieces.feed(data[start : start + size]) for start in range(0, len(data), size)]
    assert "".join(texts) == TEXT
    assert "\ufffd" not in "".join(texts)


def test_an_unfinished_character_is_not_shown():
    """What is cut off in the middle of a character leaves no trace of it."""
    assert Utf8Pieces().feed(b"ok \xf0\x9f\xa6") == "ok "


def test_what_is_no_text_is_replaced():
    """Bytes that are not UTF-8, and U+0000, become the replacement character."""
    assert Utf8Pieces().feed(b"a\xff\x00b") == "a\ufffd\ufffdb"
