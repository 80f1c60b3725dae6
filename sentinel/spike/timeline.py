"""The spike second by second: what was planned, acknowledged, refused and delivered, and how many jobs waited. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import attrs

from sentinel.chaos.history import OK, Arrival, Attempt
from sentinel.spike.curve import Curve
from sentinel.spike.histogram import Histogram


@attrs.frozen
class Depth:
    """How many jobs had not ended at a moment."""

    at: float
    jobs: int


@attrs.frozen
class Second:
    """One second. Rates are per second, latencies from the planned time; `depth` is the last one that was seen."""

    at: int
    planned: float
    acknowledged: int
    refused: int
    delivered: int
    depth: int
    p50_ms: float
    p99_ms: float


def timeline(
    attempts: Iterable[Attempt], arrivals: Iterable[Arrival], depths: Sequence[Depth], curve: Curve, start: float = 0.0
) -> list[Second]:
    """Every second from the first webhook, which was planned for `start`, to the last thing that happened."""
    acknowledged: dict[int, Histogram] = defaultdict(Histogram)
    refused: dict[int, int] = defaultdict(int)
    delivered: dict[int, int] = defaultdict(int)
    for attempt in attempts:
        second = int(attempt.answered - start)
        if attempt.outcome == OK:
            acknowledged[second].add(attempt.answered - attempt.planned)
        else:
            refused[second] += 1
    for arrival in arrivals:
        delivered[int(arrival.at - start)] += 1
    waiting = {int(depth.at - start): depth.jobs for depth in depths}
    last = max((*acknowledged, *refused, *delivered, *waiting), default=-1)
    seconds: list[Second] = []
    for at in range(last + 1):
        acks, depth = acknowledged.get(at, Histogram()), waiting.get(at, seconds[-1].depth if seconds else 0)
        seconds.append(
            Second(
                at,
                curve.rate(at),
                acks.count,
                refused.get(at, 0),
                delivered.get(at, 0),
                depth,
                round(acks.percentile(50) * 1000, 1),
                round(acks.percentile(99) * 1000, 1),
            )
        )
    return seconds
