"""How long a chat in the line has still to wait, whether it is to be told, and the words for it. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import attrs

from sentinel.records.waiting import WaitingChat

ANSWERS_MEASURED = 32
LEFT_SECONDS_MIN = 10.0  # what is left is shorter: then the answer is nearly as soon there as the notice
_STEPS = ((60.0, 10.0), (600.0, 60.0), (3_600.0, 300.0), (float("inf"), 3_600.0))  # up to here, in steps of so many seconds


@attrs.frozen(eq=False)
class Pace:
    """How long the last answers of this worker took."""

    _seconds: deque[float] = attrs.field(factory=lambda: deque(maxlen=ANSWERS_MEASURED))

    def note(self, seconds: float) -> None:
        """An answer was made in so long."""
        self._seconds.append(seconds)

    @property
    def answer_seconds(self) -> float | None:
        """How long an answer takes; None before there was any."""
        return sum(self._seconds) / len(self._seconds) if self._seconds else None


@attrs.frozen
class Outlook:
    """A chat's number in the line, and how long it will be until its answer is there."""

    number: int
    seconds: float


def outlook(chat: WaitingChat, waiting_by_tenant: Sequence[int], slots: int, answer_seconds: float, *, merges: bool) -> Outlook:
    """
    What is to come for the chat's last message, with so many slots, all of them busy.

    Tenants take turns, so of each other tenant no more are before it than of its own. Messages of one chat are answered one after
    the other, however many slots there are; where the source `merges` them, all that wait are answered with the first.
    """
    turn = chat.first_turn if merges else chat.turn
    number = max(turn, sum(min(waiting, turn) for waiting in waiting_by_tenant))  # the line was counted a moment before
    own = chat.running + (0 if merges else chat.jobs - 1)
    return Outlook(number, (max(number / slots, own) + 1) * answer_seconds)


def is_to_be_told(found: Outlook, waited_seconds: float, threshold_seconds: float) -> bool:
    """Whether the whole wait will be longer than the threshold, and not nearly over."""
    return found.seconds >= LEFT_SECONDS_MIN and waited_seconds + found.seconds > threshold_seconds


def words(template: str, found: Outlook) -> str:
    """The notice; what stands in braces in the template is filled in."""
    return template.replace("{number}", str(rounded(found.number))).replace("{time}", time_words(found.seconds))


def rounded(number: int) -> int:
    """The number as people take it: its first two digits."""
    step = int(10 ** max(0, len(str(number)) - 2))
    return -(-number // step) * step


def time_words(seconds: float) -> str:
    """A time in a unit that is short in many languages, rounded up."""
    step = next(step for limit, step in _STEPS if seconds <= limit)
    whole = -int(-seconds // step) * int(step)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3_600 else f"{whole // 3_600} h"
