"""Text from outside as one line that is only shown: control and bidirectional characters are made visible, not obeyed. Pure."""

from __future__ import annotations

import unicodedata

_HIDDEN = frozenset(("Cc", "Cf", "Co", "Cs", "Zl", "Zp"))


def visible(text: str) -> str:
    """The text with `\\u202e` and the like in place of what a reader would not see, or a terminal would act upon."""
    if text.isprintable():
        return text
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c) in _HIDDEN else c for c in text)
