"""Judges a finished run from its history alone: what was promised, and whether it was kept. Pure; knows no store and no clock.

The invariants have the numbers of docs/faults.md. A rule that is broken gives one finding per case, never just a flag.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import attrs

from sentinel.chaos.history import INFO, OK, Arrival, Attempt, History, JobEnd

Identity = tuple[str, str, str, str]
HEALTH_SECONDS, REFUSALS_MIN = 2.0, 10
QUIET_FACTOR = 2.0  # so much later than before may be what the others get while one tenant is loud
QUIET_SAMPLES_MIN = 20
ENDS = frozenset({"succeeded", "failed", "cancelled", "quarantined"})


@attrs.frozen
class Rules:
    """What a scenario allows. The defaults allow nothing: no refusal, no silence, no repeated reply."""

    ack_seconds: float = 1.0
    tolerance_seconds: float = 0.1  # for being scheduled, on a machine that runs everything
    refusals_allowed: bool = False  # 503: nothing durable was possible
    silence_allowed: bool = False  # no answer: the gateway itself was hit
    repeats_allowed: int = 0  # replies sent twice, when a worker dies between the platform's answer and our commit
    quarantined_allowed: frozenset[str] = frozenset()  # texts of the events that may end so
    replies: bool = True  # whether a reply tells which message it answers: the fake engine's do
    loud: str = ""  # the tenant that floods, or is broken; the others must not feel it
    quiet_ack_seconds: float = 0.1  # what they may always take, however fast it was before
    quiet_reply_seconds: float = 1.0
    rss_bytes_max: int = 200_000_000
    descriptors_max: int = 2_000


@attrs.frozen
class Finding:
    """One broken promise."""

    rule: str
    event: str
    detail: str


@attrs.frozen
class Known:
    """The history, sorted for the questions that the rules ask."""

    history: History
    rules: Rules
    by_event: Mapping[Identity, Sequence[Attempt]]
    acknowledged: Mapping[Identity, float]
    jobs: Mapping[Identity, Sequence[JobEnd]]
    replies: Mapping[str, Sequence[Arrival]]

    @classmethod
    def of(cls, history: History, rules: Rules) -> Known:
        """Sort it."""
        by_event: dict[Identity, list[Attempt]] = defaultdict(list)
        acknowledged: dict[Identity, float] = {}
        for attempt in history.attempts:
            by_event[attempt.identity].append(attempt)
            if attempt.outcome == OK:
                acknowledged[attempt.identity] = min(attempt.answered, acknowledged.get(attempt.identity, attempt.answered))
        jobs: dict[Identity, list[JobEnd]] = defaultdict(list)
        for job in history.jobs:
            jobs[job.identity].append(job)
        replies: dict[str, list[Arrival]] = defaultdict(list)
        for arrival in sorted(history.arrivals, key=lambda arrival: arrival.at):
            replies[arrival.text].append(arrival)
        return cls(history, rules, by_event, acknowledged, jobs, replies)


def check(history: History, rules: Rules | None = None) -> list[Finding]:
    """Every broken promise; none for a run that kept them all."""
    known = Known.of(history, rules or Rules())
    return [finding for rule in RULES for finding in rule(known)]


def _kept(known: Known) -> Iterator[Finding]:
    """I1: each acknowledged event has a job that ended, and whose effect the platform saw."""
    for identity in known.acknowledged:
        text = known.by_event[identity][0].text
        jobs = known.jobs.get(identity, ())
        if not jobs:
            yield Finding("I1", text, "acknowledged, and there is no job")
        for job in jobs:
            if job.state not in ENDS:
                yield Finding("I1", text, f"acknowledged, and its job {job.id} is still {job.state}")
            elif job.state == "succeeded" and known.rules.replies and not known.replies.get(text):
                yield Finding("I1", text, f"its job {job.id} is called done, and no reply arrived")
            elif job.state != "succeeded" and text not in known.rules.quarantined_allowed:
                yield Finding("I1", text, f"its job {job.id} ended as {job.state}: {job.error}")


def _once(known: Known) -> Iterator[Finding]:
    """I2: at most one job and one visible reply for each event."""
    for identity, jobs in known.jobs.items():
        if len(jobs) > 1:
            yield Finding("I2", "/".join(identity), f"{len(jobs)} jobs")
    repeated = repeats(known.history)
    if len(repeated) > known.rules.repeats_allowed:
        for text, count in repeated.items():
            yield Finding("I2", text, f"{count} visible replies")


def repeats(history: History) -> dict[str, int]:
    """The texts of which a person saw more than one reply. Those with the same idempotency key are seen as one."""
    seen: Counter[str] = Counter()
    keys: set[tuple[str, str]] = set()
    for arrival in history.arrivals:
        if arrival.key and (arrival.text, arrival.key) in keys:
            continue
        keys.add((arrival.text, arrival.key))
        seen[arrival.text] += 1
    return {text: count for text, count in seen.items() if count > 1}


def _asked_for(known: Known) -> Iterator[Finding]:
    """I3: no job and no reply that nobody sent a request for."""
    sent = {attempt.text for attempt in known.history.attempts}
    for identity, jobs in known.jobs.items():
        if identity not in known.by_event:
            yield Finding("I3", "/".join(identity), f"the job {jobs[0].id} was never asked for")
    for text in known.replies:
        if text not in sent:
            yield Finding("I3", text, "a reply to what nobody said")


def _bounded(known: Known) -> Iterator[Finding]:
    """I4: memory and descriptors stay within bounds."""
    worst: dict[str, tuple[int, int]] = {}
    for sample in known.history.samples:
        rss, descriptors = worst.get(sample.process, (0, 0))
        worst[sample.process] = (max(rss, sample.rss_bytes), max(descriptors, sample.descriptors))
    for process, (rss, descriptors) in worst.items():
        if rss > known.rules.rss_bytes_max:
            yield Finding("I4", process, f"{rss / 1e6:.0f} MB of memory")
        if descriptors > known.rules.descriptors_max:
            yield Finding("I4", process, f"{descriptors} descriptors")


def _drained(known: Known) -> Iterator[Finding]:
    """I5: afterwards nothing waits in the spool or the queue, and everybody was acknowledged."""
    if known.history.spooled:
        yield Finding("I5", "spool", f"{known.history.spooled} jobs are still in the spool")
    for identity, jobs in known.jobs.items():
        if identity not in known.acknowledged and (live := [job for job in jobs if job.state not in ENDS]):
            yield Finding("I5", "/".join(identity), f"its job {live[0].id} is still {live[0].state}")
    for identity, attempts in known.by_event.items():
        if identity not in known.acknowledged:
            yield Finding("I5", attempts[0].text, f"never acknowledged in {len(attempts)} attempts")


def _durable(known: Known) -> Iterator[Finding]:
    """I8: a 2xx names jobs that are in the record, and they are that event's."""
    ids = {job.id: job.identity for job in known.history.jobs}
    for attempt in known.history.attempts:
        if attempt.outcome != OK:
            continue
        if not attempt.jobs:
            yield Finding("I8", attempt.text, f"{attempt.status} without a job id")
        for job_id in attempt.jobs:
            if ids.get(job_id) != attempt.identity:
                yield Finding("I8", attempt.text, f"{attempt.status} for the job {job_id}, which is {ids.get(job_id, 'nowhere')}")


def _truthful(known: Known) -> Iterator[Finding]:
    """I6: when nobody was acknowledged for HEALTH_SECONDS, /readyz must have said so."""
    for began, ended in _refusing(known.history.attempts):
        said = [status for at, status in known.history.health if began + HEALTH_SECONDS / 2 <= at <= ended]
        if said and all(status == 200 for status in said):
            yield Finding("I6", "/readyz", f"200 from {began:.1f} s to {ended:.1f} s, while every webhook was refused")


def _refusing(attempts: Sequence[Attempt]) -> Iterator[tuple[float, float]]:
    """The times in which there were answers, and not one of them 2xx."""
    began = ended = count = 0.0
    for attempt in sorted((each for each in attempts if each.status), key=lambda each: each.answered):
        if attempt.outcome == OK:
            if count >= REFUSALS_MIN and ended - began >= HEALTH_SECONDS:
                yield began, ended
            count = 0.0
        else:
            began, ended, count = (began if count else attempt.answered), attempt.answered, count + 1


def _in_order(known: Known) -> Iterator[Finding]:
    """Order: within a conversation replies come in the order in which the messages were acknowledged, one after the other."""
    chats: dict[tuple[str, str, str], dict[int, Attempt]] = defaultdict(dict)
    for attempt in known.history.attempts:
        if attempt.conversation and attempt.outcome == OK:
            chats[attempt.source, attempt.channel, attempt.conversation].setdefault(attempt.place, attempt)
    for places in chats.values():
        texts = [places[place].text for place in sorted(places)]
        arrivals = [(text, known.replies[text][0].at) for text in texts if text in known.replies]
        for (earlier, first), (later, second) in pairwise(arrivals):
            if second < first:
                yield Finding("order", later, f"answered {first - second:.3f} s before {earlier}, which was acknowledged earlier")


def _in_time(known: Known) -> Iterator[Finding]:
    """Time: every answer within the budget, and no answer but 2xx unless the scenario allows it."""
    limit = known.rules.ack_seconds + known.rules.tolerance_seconds
    for attempt in known.history.attempts:
        if attempt.status and attempt.answered - attempt.sent > limit:
            yield Finding("time", attempt.text, f"{attempt.status} after {attempt.answered - attempt.sent:.3f} s")
        if attempt.status and attempt.outcome != OK and (attempt.status != 503 or not known.rules.refusals_allowed):
            yield Finding("answer", attempt.text, f"status {attempt.status}")
        if attempt.outcome == INFO and not known.rules.silence_allowed:
            yield Finding("answer", attempt.text, f"no answer: {attempt.reason}")


def _apart(known: Known) -> Iterator[Finding]:
    """I7: while one tenant is loud, the others' p99, of acknowledgments and of replies, is at most twice what it was before."""
    rules, faults = known.rules, known.history.faults
    if not rules.loud or not faults:
        return
    begin = min(began for began, _ended in faults)
    for what, waits, least in (
        ("acknowledgment", _ack_waits(known), rules.quiet_ack_seconds),
        ("reply", _reply_waits(known), rules.quiet_reply_seconds),
    ):
        before = [wait for at, wait in waits if at < begin]
        during = [wait for at, wait in waits if any(began <= at <= ended for began, ended in faults)]
        if min(len(before), len(during)) < QUIET_SAMPLES_MIN:
            yield Finding("I7", what, f"only {len(before)} before and {len(during)} during the fault: too few to tell")
            continue
        usual, loud = percentile(99, before), percentile(99, during)
        if loud > max(QUIET_FACTOR * usual, least):
            yield Finding("I7", what, f"p99 {usual * 1000:.0f} ms before, {loud * 1000:.0f} ms while {rules.loud} was loud")


def _ack_waits(known: Known) -> list[tuple[float, float]]:
    """When each acknowledged request of a quiet tenant was sent, and how long the answer took."""
    attempts = known.history.attempts
    return [(each.sent, each.answered - each.sent) for each in attempts if each.outcome == OK and each.tenant != known.rules.loud]


def _reply_waits(known: Known) -> list[tuple[float, float]]:
    """
    When each event of a quiet tenant was acknowledged, and how much later its reply came.

    Messages of a chat wait for each other by right, and are left out.
    """
    found = []
    for identity, at in known.acknowledged.items():
        first = known.by_event[identity][0]
        if first.tenant != known.rules.loud and not first.conversation and (arrivals := known.replies.get(first.text)):
            found.append((at, arrivals[0].at - at))
    return found


def percentile(percent: float, values: Iterable[float]) -> float:
    """The value that so many percent do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


RULES = (_kept, _once, _asked_for, _bounded, _drained, _truthful, _durable, _in_order, _in_time, _apart)
