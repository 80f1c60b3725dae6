"""The generic cell rate algorithm (ITU-T I.371): one number per limit, exact waits, no windows to straddle. Pure.

Times are whole nanoseconds of a clock that does not go back. The number is the theoretical arrival time (TAT): the moment at which
everything let in so far has been paid for. It may lie ahead of now by `burst_ns`, and by no more.
"""

from __future__ import annotations

import attrs

SECOND_NS = 1_000_000_000


@attrs.frozen
class Rate:
    """`count` at once, and as many again in every `seconds`, evenly: in any time t at most count + count * t / seconds."""

    count: int
    seconds: int
    interval_ns: int = attrs.field(init=False)
    burst_ns: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        interval_ns = -(-self.seconds * SECOND_NS // self.count)  # rounded up: never more than was promised
        object.__setattr__(self, "interval_ns", interval_ns)
        object.__setattr__(self, "burst_ns", interval_ns * self.count)

    def __str__(self) -> str:
        return f"{self.count}/{self.seconds}"


def wait_ns(tat_ns: int, now_ns: int, interval_ns: int, burst_ns: int, cost: int = 1) -> int:
    """
    How long until `cost` may pass together; 0 for at once.

    What costs more than a whole burst passes when nothing is owed, and is paid off afterwards: else it never could.
    """
    needed_ns = cost * interval_ns
    wait = (tat_ns - now_ns if tat_ns > now_ns else 0) - (burst_ns - needed_ns if needed_ns < burst_ns else 0)
    return max(0, wait)


def left(tat_ns: int, now_ns: int, interval_ns: int, burst_ns: int) -> int:
    """How many may pass at once."""
    return max(burst_ns - max(tat_ns - now_ns, 0), 0) // interval_ns
