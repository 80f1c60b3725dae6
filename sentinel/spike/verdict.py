"""What a spike came to: the figures, the verdict in words, and the document for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

import attrs

from sentinel.chaos.checker import Finding, Rules, check, percentile, repeats
from sentinel.chaos.history import INFO, OK, History
from sentinel.spike.curve import Curve
from sentinel.spike.histogram import PERCENTILES, Histogram
from sentinel.spike.timeline import Depth, Second, timeline

LOST, DOUBLED = ("I1", "I8"), ("I2",)
_ACKNOWLEDGED, _DELIVERED = attrgetter("acknowledged"), attrgetter("delivered")
LAG_SECONDS_MAX = 0.05  # a sender that is later than this is itself part of the latency


@attrs.frozen(kw_only=True)
class Spike:
    """
    The outcome. Latencies count from when a webhook was first due.

    `replies_read` is whether a reply tells which message it answers, as the fake engine's do; else the record alone is judged.
    """

    webhooks: int
    attempts: int
    acknowledged: int
    duplicates: int
    refused: int
    unanswered: int
    late: int
    late_seconds: float
    lost: int
    doubled: int
    delivered: int
    replies_read: bool
    drained_seconds: float | None
    sender_lag_p99_ms: float
    sender_core_share: float
    latencies: Histogram
    seconds: list[Second]
    findings: list[Finding]

    @property
    def kept(self) -> bool:
        """Whether everything acknowledged became exactly one job that ended, every answer was in time, and everybody got one."""
        return not (self.lost or self.doubled or self.late or self.findings) and self.acknowledged == self.webhooks

    @property
    def depth_max(self) -> int:
        """The most jobs that waited or ran at once."""
        return max((second.depth for second in self.seconds), default=0)


def judge(
    history: History,
    depths: Sequence[Depth],
    curve: Curve,
    *,
    start: float,
    late_seconds: float,
    drained_seconds: float | None,
    lags: Sequence[float],
    core_share: float,
) -> Spike:
    """The outcome of a finished run. Refusals and silence are counted, not forbidden: a platform sends again."""
    read = any(arrival.text for arrival in history.arrivals)
    rules = Rules(ack_seconds=float("inf"), refusals_allowed=True, silence_allowed=True, replies=read)
    findings = check(history if read else attrs.evolve(history, arrivals=()), rules)
    waits = list(_waits(history))
    return Spike(
        webhooks=len({attempt.identity for attempt in history.attempts}),
        attempts=len(history.attempts),
        acknowledged=len(waits),
        duplicates=sum(attempt.duplicate for attempt in history.attempts),
        refused=sum(attempt.outcome != OK and attempt.status > 0 for attempt in history.attempts),
        unanswered=sum(attempt.outcome == INFO or not attempt.status for attempt in history.attempts),
        late=sum(wait > late_seconds for wait in waits),
        late_seconds=late_seconds,
        lost=_events(findings, LOST),
        doubled=_events(findings, DOUBLED),
        delivered=len(history.arrivals) - sum(count - 1 for count in repeats(history).values() if read),
        replies_read=read,
        drained_seconds=drained_seconds,
        sender_lag_p99_ms=percentile(99, lags) * 1000,
        sender_core_share=core_share,
        latencies=Histogram.of(waits),
        seconds=timeline(history.attempts, history.arrivals, depths, curve, start),
        findings=findings,
    )


def _waits(history: History) -> Iterator[float]:
    """For each acknowledged event, the seconds from when it was first due until its first 2xx."""
    due: dict[Any, float] = {}
    answered: dict[Any, float] = {}
    for attempt in history.attempts:
        due[attempt.identity] = min(attempt.planned, due.get(attempt.identity, attempt.planned))
        if attempt.outcome == OK:
            answered[attempt.identity] = min(attempt.answered, answered.get(attempt.identity, attempt.answered))
    return (at - due[identity] for identity, at in answered.items())


def _events(findings: Sequence[Finding], rules: Sequence[str]) -> int:
    return len({finding.event for finding in findings if finding.rule in rules})


def words(spike: Spike) -> Iterator[str]:
    """The verdict for a person."""
    judged = f"{spike.lost} lost, {spike.doubled} doubled, {spike.late} late (over {spike.late_seconds:g} s)"
    yield f"{'KEPT' if spike.kept else 'BROKEN'}: {spike.webhooks:,} webhooks, {spike.acknowledged:,} acknowledged, {judged}"
    if not spike.replies_read:
        yield "The replies do not say which message they answer: lost and doubled are judged by the record alone."
    p50, p99, p999, most = (spike.latencies.percentile(percent) * 1000 for percent in (50, 99, 99.9, 100))
    yield f"acknowledged after p50 {p50:,.1f}  p99 {p99:,.1f}  p99.9 {p999:,.1f}  max {most:,.1f} ms, from the planned time"
    acked, work = (max((get(second) for second in spike.seconds), default=0) for get in (_ACKNOWLEDGED, _DELIVERED))
    yield f"at most {acked:,} acknowledged and {work:,} delivered in a second, {spike.depth_max:,} jobs in the queue"
    tries = f"{spike.refused} refusals and {spike.unanswered} silences on the way; {spike.duplicates:,} repetitions recognised"
    yield f"{spike.delivered:,} replies delivered; {tries}"
    drained = (
        "not drained in time" if spike.drained_seconds is None else f"drained {spike.drained_seconds:.1f} s after the last webhook"
    )
    yield f"{drained}; the sender used {spike.sender_core_share:.0%} of a core and was {spike.sender_lag_p99_ms:.1f} ms late (p99)"
    if spike.sender_lag_p99_ms > LAG_SECONDS_MAX * 1000:
        yield "The sender could not keep its times: these latencies are its own too. Send less, or from another machine."


def as_document(spike: Spike) -> dict[str, Any]:
    """For JSON."""
    figures = {
        field.name: getattr(spike, field.name)
        for field in attrs.fields(Spike)
        if field.name not in ("latencies", "seconds", "findings")
    }
    return figures | {
        "kept": spike.kept,
        "depth_max": spike.depth_max,
        "latency_ms": {f"{percent:g}": round(spike.latencies.percentile(percent) * 1000, 3) for percent in PERCENTILES},
        "seconds": [attrs.asdict(second) for second in spike.seconds],
        "findings": [attrs.asdict(finding) for finding in spike.findings[:100]],
    }
