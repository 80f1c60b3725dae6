"""Turns the bytes of tokens into text. A character may span tokens: no piece ever holds a part of one."""

from __future__ import annotations

import codecs


class Utf8Pieces:
    """The text so far, piece by piece. Bytes that are not UTF-8, and U+0000, which no store keeps, become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: bytes) -> str:
        """The characters that `token` completes; "" if it only begins one. What is never completed is dropped."""
        return self._decoder.decode(token).replace("\0", "\ufffd")
