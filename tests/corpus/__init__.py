"""Lists of messages that were written by hand: hostile ones, and innocent ones that use the same words."""

from __future__ import annotations

from pathlib import Path


def corpus(name: str) -> list[str]:
    """The messages of a list, one a line, with line breaks and invisible characters written as escapes."""
    lines = (Path(__file__).parent / f"{name}_messages.txt").read_text().splitlines()
    return [line.encode("latin-1", "backslashreplace").decode("unicode_escape") for line in lines]
