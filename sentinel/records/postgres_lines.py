"""Where the ready jobs begin, while PostgreSQL cannot forget those that were taken: what one look has seen, the next begins at.

Pure: the record runs the statements. It says where to look, never what may be claimed: a wrong word here costs time only.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

WALKED_MAX = 1_000  # dead entries that a look may pass; the first to pass them has them removed, unless a snapshot keeps them
FULL_SECONDS = 1.0  # between two looks at everything, which find what came back with an old number, or was committed late
WALKED_A_SECOND = 50_000  # dead entries, by such looks on average: about a hundredth of the time
MISSED_WALKED_A_SECOND = 500_000  # the same, where the known lines gave nothing: there is time, and chats go on with old numbers
DRAWN_MIN = 8  # tenants that a look is told of at least: some may have nothing left
COMMIT_SECONDS = 0.1  # a job may become visible so much later than one with a greater number
# A claim for so many passes over what waits behind a job that runs, up to so many for each that it wants: to mark a message, and to
# take the mark away again, costs as much as to pass over a hundred. For a small claim it would be too much to read what runs first.
PASSING_COUNT_MIN = 64
PASSED_A_JOB_MAX = 64


Line = Mapping[str, Any]  # the tenant, the priority, and the number of the first job


@attrs.define(eq=False)
class Lines:
    """
    What is known of the lines, one for each tenant and priority, in which jobs wait to be claimed.

    `known` has by tenant, and then by priority, the number of the first job; or is None: then a claim must look at everything, as
    it does while that is cheap. A look is told of some tenants only, drawn by chance, so its cost does not grow with their number.
    """

    known: dict[str, dict[int, int]] | None = None
    passed: int = 0  # jobs that were not to be had, by the last look
    choose: Callable[[Sequence[str], int], list[str]] = random.sample
    _drawn: list[str] = attrs.field(factory=list)
    _walks: int = 0  # looks in a row that passed too many dead entries
    _looked_at: float = 0.0
    _full_at: float = 0.0
    _miss_at: float = 0.0
    _missed: bool = False  # the known lines gave nothing
    _marks: deque[tuple[float, int]] = attrs.field(factory=deque)  # when which job's number was the greatest

    def must_look(self, now: float) -> bool:
        """Whether a claim must first look at everything: no line is known, or those that are gave nothing."""
        return self._is_due(now) and not self._serves(now)

    def begins_aside(self, now: float) -> bool:
        """Whether somebody is now to look at everything, beside claims that go on with the lines that are known. Said once."""
        aside = self._is_due(now) and self._serves(now)
        if aside:
            self._looked_at, self._full_at = now, now + FULL_SECONDS
        return aside

    def _serves(self, now: float) -> bool:
        """Whether what is known will do for the next moment."""
        return bool(self.known) and not self._missed and self._looked_at <= now

    def _is_due(self, now: float) -> bool:
        return self._walks > 1 and not self._looked_at <= now < self._full_at

    @property
    def left(self) -> bool:
        """Whether the last look was told of some of the known lines only."""
        return bool(self.known and self.known.keys() - self._drawn)

    def missed(self, now: float) -> bool:
        """A look found nothing. Whether the next one will be at everything: no line is left, and that was not done just now."""
        if self.known is None or self.left or self._looked_at <= now <= self._miss_at:
            return False
        self._missed, self._full_at = True, self._looked_at
        return True

    def looked(self, lines: Sequence[Line], mark: int, walked: int, now: float) -> None:
        """Take a list of all lines; it had to pass `walked` dead entries, and `mark` is the greatest number of a job."""
        if now < self._looked_at or self.known is None:
            self._marks.clear()
        self.known, self._missed = {}, False
        self.looked_aside(lines, walked, now)
        if self.known is not None:
            self._marks.append((now, mark))

    def looked_aside(self, lines: Sequence[Line], walked: int, now: float) -> None:
        """Take a list of all lines that is a moment old: what claims have told meanwhile stays known, and so does their mark."""
        if self.known is None:
            return
        self._looked_at, self._full_at = now, now + max(FULL_SECONDS, walked / WALKED_A_SECOND)
        self._miss_at = now + walked / MISSED_WALKED_A_SECOND
        self._walks, self.known = (2, self.known) if walked > WALKED_MAX else (0, None)
        self._add(lines if self.known is not None else ())

    def passes(self, count: int) -> bool:
        """Whether a look for so many jobs leaves what waits behind a job that runs as it is, instead of marking it."""
        return count >= PASSING_COUNT_MIN and self.passed <= PASSED_A_JOB_MAX * count

    def draw(self, count: int, now: float) -> dict[str, Any]:
        """Where a look for `count` jobs is to look: at the lines of some tenants, and at numbers greater than a mark."""
        known = self.known or {}
        self._drawn = self.choose([*known], min(len(known), max(count, DRAWN_MIN)))
        lines = [(tenant, priority, first) for tenant in self._drawn for priority, first in known[tenant].items()]
        return {
            "tenants": [tenant for tenant, _, _ in lines],
            "priorities": [priority for _, priority, _ in lines],
            "firsts": [first for _, _, first in lines],
            "mark": self.mark(now),
        }

    def claimed(self, lines: Sequence[Line] | None, mark: int | None, walked: int, now: float) -> None:
        """Take what a claim tells: how many dead entries it passed and, if it was told where to look, where the next one should."""
        if lines is None or mark is None:
            self._walks, self.known = self._walks + 1 if walked > WALKED_MAX else 0, None
            return
        self.known = self.known or {}
        for tenant in self._drawn:
            self.known.pop(tenant, None)
        self._add(lines)
        self._marks.append((now, mark))

    def _add(self, lines: Sequence[Line]) -> None:
        """Know these lines too. A line's first is the smaller one: what comes back does so with an old number."""
        for line in lines:
            assert self.known is not None
            firsts = self.known.setdefault(line["tenant"], {})
            firsts[line["priority"]] = min(line["first"], firsts.get(line["priority"], line["first"]))

    def mark(self, now: float) -> int | None:
        """A number such that all jobs with smaller ones are in `known`, but for the few that a look at everything will find."""
        if self.known is None:
            return None
        while len(self._marks) > 1 and self._marks[1][0] <= now - COMMIT_SECONDS:
            self._marks.popleft()
        return self._marks[0][1]
