"""Ends an answer where one of its stop strings appears. Pure.

A stop string may come in pieces, so the end of the text that could be the beginning of one is held back.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """The text of one answer on its way to whoever waits for it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def feed(self, piece: str, *, is_last: bool = False) -> tuple[str, bool]:
        """What may be shown of the text now, and whether a stop string ended it. With `is_last` nothing is held back."""
        text = self._held + piece
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            return text[: min(found)], True
        held = 0 if is_last else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False


def _overlap(text: str, stop: str) -> int:
    """How long the longest end of `text` is that is a beginning of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
