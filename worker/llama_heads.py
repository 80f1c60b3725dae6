"""Heads: what many prompts begin with (the system prompt, the tools). Each is read once and then copied. No native code.

A copy takes no memory of its own: the sequences share the cells. So a head's cells are counted once, as long as it is kept or used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from worker.llama_native import Context

HEADS_MAX = 8
HEAD_TOKENS_MIN = 16  # what is shorter is read as fast as it is looked up


@attrs.define(eq=False)
class Head:
    """The first tokens of some prompts, in a sequence of their own; `fed` of them are read, and `users` answers begin with it."""

    tokens: tuple[int, ...] = attrs.field(repr=False)
    slot: int
    fed: int = 0
    users: int = 0

    @property
    def left_to_feed(self) -> int:
        """Tokens that have yet to be read; with none left it can be copied."""
        return len(self.tokens) - self.fed


class Heads:
    """The heads that are kept, the one that was used last at the end."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._kept: dict[tuple[int, ...], Head] = {}

    @property
    def cells(self) -> int:
        """The room in the context that they take, or are about to."""
        return sum(len(tokens) for tokens in self._kept)

    def find(self, tokens: tuple[int, ...]) -> Head | None:
        """The head with just these tokens, if it is kept."""
        return self._kept.get(tokens)

    def unread(self) -> Iterator[Head]:
        """Those that somebody waits for."""
        return (head for head in self._kept.values() if head.left_to_feed)

    def join(self, tokens: tuple[int, ...]) -> Head | None:
        """The head for one more answer; None if these are too few tokens, or all places are taken by heads in use."""
        if len(tokens) < HEAD_TOKENS_MIN:
            return None
        head = self._kept.pop(tokens, None) or self._begin(tokens)
        if head is not None:
            head.users += 1
            self._kept[tokens] = head
        return head

    def leave(self, head: Head) -> None:
        """One answer fewer. A head is kept for the next, unless it was not yet read."""
        head.users -= 1
        if not head.users and head.left_to_feed:
            self._drop(head)

    def free(self, cells: int, *, but: Head | None = None) -> bool:
        """Gives up heads that are not in use, longest unused first, until so many cells are free; False if there are too few."""
        idle = [head for head in self._kept.values() if not head.users and head is not but]
        if sum(len(head.tokens) for head in idle) < cells:
            return False
        while cells > 0:
            head = idle.pop(0)
            cells -= len(head.tokens)
            self._drop(head)
        return True

    def _begin(self, tokens: tuple[int, ...]) -> Head | None:
        if len(self._kept) >= HEADS_MAX:
            idle = next((head for head in self._kept.values() if not head.users), None)
            if idle is None:
                return None
            self._drop(idle)
        taken = {head.slot for head in self._kept.values()}
        first = self._context.slots
        head = Head(tokens, next(slot for slot in range(first, first + HEADS_MAX) if slot not in taken))
        self._copy_what_is_read(head)
        return head

    def _copy_what_is_read(self, head: Head) -> None:
        """Another head may begin alike, as the same rules with another summary behind them."""
        read = [other for other in self._kept.values() if not other.left_to_feed]
        alike, other = max(((_common(head.tokens, one.tokens), one) for one in read), default=(0, None), key=lambda pair: pair[0])
        if other is not None and alike >= HEAD_TOKENS_MIN:
            self._context.copy(other.slot, head.slot, alike)
            head.fed = alike

    def _drop(self, head: Head) -> None:
        self._context.forget(head.slot)
        del self._kept[head.tokens]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return next((count for count, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
