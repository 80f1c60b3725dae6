"""Lists that were written by hand: hostile messages, innocent ones that use the same words, odd strings, and broken JSON."""

from __future__ import annotations

from pathlib import Path


def corpus(name: str) -> list[str]:
    """The messages of a list."""
    return escaped(f"{name}_messages")


def escaped(name: str) -> list[str]:
    """The lines of a list, in which what is not plain may be written as an escape of Python's."""
    lines = (Path(__file__).parent / f"{name}.txt").read_text().splitlines()
    return [line.encode("latin-1", "backslashreplace").decode("unicode_escape") for line in lines]
