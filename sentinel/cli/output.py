"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sentinel.visible import visible as show


def print_json(value: Any) -> None:
    """The value as indented JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], empty: str) -> None:
    """The rows under their headings, as wide as they need; `empty` when there are none."""
    if not rows:
        print(empty)
        return
    cells = [[visible(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[place]) for line in [columns, *cells]) for place in range(len(columns))]
    for line in [[column.upper() for column in columns], *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_document(document: Mapping[str, Any]) -> None:
    """One line per field."""
    width = max(map(len, document), default=0)
    for name, value in document.items():
        print(f"{name:<{width}}  {visible(' '.join(map(str, value)) if isinstance(value, (list, tuple)) else value)}".rstrip())


def visible(value: Any) -> str:
    """The value as one line of text; control and bidirectional characters are shown, not obeyed."""
    return "-" if value is None else show(str(value))
