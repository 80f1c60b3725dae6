"""The local limiter: a GCRA for each key, tenant, source and end user, in bounded memory. Pure; `now_ns` is monotonic.

Each of several processes gives out its share of every limit, so together they keep it without a word to each other. Where they
share a count (Redis), `correct` tells how much all of them have used: then the share is a share of what is left, and whoever is
alone gets it all. What makes no fiftieth of a limit is not worth a word. Must never be what a request waits for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import attrs

from sentinel.edge.gcra import SECOND_NS, Rate, left, wait_ns

BUCKETS_MAX = 100_000
SWEPT_AT_ONCE = 5_000
SPARED_AT_ONCE = 1_000  # people who were asked for lately, when there is no room: whoever comes must not wait for a walk past all
UNTOLD_PART = 50  # what is let in too many is what the others keep to themselves: together at most one in so many of a limit
SETTLE_NS = SECOND_NS * 3 // 20  # by then all have told what they let in before somebody was refused here, and the share may grow
BURST_PART = 10  # who begins anew and lets in one in so many of its share is in a burst, and tells at once
FRESH_NS = SECOND_NS  # so long after a correction what it said is still good enough to tell a caller how long to wait


class LimitKey(NamedTuple):
    """What a limit is for: its kind (tenant, source, key, user), the tenant, and the name within it."""

    kind: str
    tenant: str
    name: str = ""


class News(NamedTuple):
    """What one process has let in of a limit. It wants one more before it comes, if less than `wanted_ns` is left; 0 for none."""

    key: LimitKey
    rate: Rate
    jobs: int
    wanted_ns: int = 0


class Told(NamedTuple):
    """By how many nanoseconds all together are ahead of now, and whether one more was granted, which is in that."""

    ahead_ns: int
    granted: bool = False


@attrs.define(slots=True)
class Bucket:
    """
    One limit in one process.

    Attributes:
        tat_ns: the TAT of this process' share.
        all_ns: the TAT of all processes together, as far as it is known.
        since_ns: when it was made or last corrected.
        short_ns: since when somebody is refused who may get more; None while there is enough.
        corrected_ns: when it was last known.
        untold: let in here and not yet told to the others; less than none if one was told before it came.
        was_used: asked for since it was last looked at to be forgotten.
    """

    key: LimitKey
    rate: Rate
    tat_ns: int = 0
    all_ns: int = 0
    since_ns: int = 0
    corrected_ns: int | None = None
    untold: int = 0
    short_ns: int | None = None
    was_used: bool = False

    def wait_ns(self, now_ns: int, processes: int, cost: int = 1) -> int:
        """How long until `cost` may pass; 0 for at once. What a caller is told is exact only where nobody else shares the limit."""
        rate = self.rate
        interval, burst = rate.interval_ns * processes, rate.burst_ns
        if self.tat_ns + cost * interval <= now_ns + burst:  # nearly always; the same rule, told shortly
            return 0
        own = wait_ns(self.tat_ns, now_ns, interval, max(interval, burst), cost)
        if own == 0 or not self._is_fresh(now_ns):
            return own
        return max(1, wait_ns(self.all_ns, now_ns, self.rate.interval_ns, self.rate.burst_ns, cost))

    def take(self, now_ns: int, processes: int, cost: int = 1) -> None:
        """Let `cost` in, now or at the time that was promised."""
        owed_ns, tat_ns, all_ns = cost * self.rate.interval_ns, self.tat_ns, self.all_ns
        if tat_ns <= now_ns:
            self.short_ns = None
            if self.untold < 0 and now_ns - self.since_ns >= self.rate.interval_ns:  # what was granted is paid off, and lapses
                self.untold = 0
        self.tat_ns = (tat_ns if tat_ns > now_ns else now_ns) + owed_ns * processes  # noqa: FURB136  `max` is a call
        self.all_ns = (all_ns if all_ns > now_ns else now_ns) + owed_ns  # noqa: FURB136
        self.untold += cost

    def left(self, now_ns: int, processes: int) -> int:
        """How many more may pass at once here."""
        interval = self.rate.interval_ns * processes
        return left(self.tat_ns, now_ns, interval, max(self.rate.burst_ns, interval))

    def reset_seconds(self, now_ns: int) -> int:
        """When everything will be there again, in whole seconds from now."""
        return -(-max(max(self.tat_ns, self.all_ns) - now_ns, 0) // SECOND_NS)

    def correct(self, told: Told, jobs: int, now_ns: int, processes: int) -> None:
        """
        This is what all processes together have let in, with so many jobs of here; what came since is added.

        The share is a share of what is left. It grows only when all is known that the others let in before it was too little; and
        what is less than one for each is had by whoever was granted one.
        """
        self.untold -= jobs + told.granted
        self.since_ns = self.corrected_ns = now_ns
        interval = self.rate.interval_ns
        share_ns = told.ahead_ns + self.untold * interval * processes
        if told.granted:
            share_ns = max(self.rate.burst_ns, interval * processes) - interval * processes
        if self.may_grow(now_ns):
            self.tat_ns, self.short_ns = now_ns + share_ns, None
        else:
            self.tat_ns = max(self.tat_ns, now_ns + share_ns)
        self.all_ns = now_ns + told.ahead_ns + self.untold * interval

    def wanted_ns(self, now_ns: int, processes: int) -> int:
        """One more is wanted where less than so much is left of the limit; 0 for none."""
        return self.rate.interval_ns * processes if self.may_grow(now_ns) else 0

    def may_grow(self, now_ns: int) -> bool:
        """Whether its share is too little, and all that the others let in before is known."""
        return self.short_ns is not None and now_ns - self.short_ns >= SETTLE_NS

    def refuse(self, now_ns: int) -> bool:
        """Somebody is refused; whether it is of use to tell and to ask at once."""
        if self.short_ns is None:
            self.short_ns = now_ns
            return True
        return self.may_grow(now_ns)

    def is_in_burst(self, now_ns: int, processes: int) -> bool:
        """Whether so much was let in since others were last heard of that they should hear of it at once."""
        is_stale = self.corrected_ns is None or now_ns - self.corrected_ns >= SETTLE_NS
        return is_stale and self.untold * processes * BURST_PART >= self.rate.count

    def news(self, now_ns: int, processes: int) -> News:
        """What is to be told of it, and to be asked for."""
        return News(self.key, self.rate, self.untold, self.wanted_ns(now_ns, processes))

    def forget(self, now_ns: int, processes: int) -> None:
        """
        The others could not be told for a while: of what was let in, tell only what is not paid off yet.

        Nor could they tell, so nobody's share grows before they have.
        """
        owed = max(self.tat_ns - now_ns, 0) // (self.rate.interval_ns * processes)
        self.untold = min(self.untold, owed + 1)
        self.short_ns = None

    def is_idle(self, now_ns: int, *, shared: bool) -> bool:
        """
        Whether a new bucket would be as good.

        What the others were not told may be forgotten once in the limit's whole time: so it stays a fiftieth of it.
        """
        idle_ns = max(self.tat_ns, self.all_ns)
        return idle_ns + self.rate.burst_ns <= now_ns if shared and self.untold else idle_ns <= now_ns

    def _is_fresh(self, now_ns: int) -> bool:
        return self.corrected_ns is not None and now_ns - self.corrected_ns < FRESH_NS


@attrs.define
class Limiter:
    """
    All limits of one process. `processes` share each limit. Those of people, of whom there is no end, are forgotten when there are
    too many, the longest ago first; those of tenants, sources and keys last.

    While what is let in is `shared` with others, `heard` is called for each piece of news: True for somebody who was refused.
    """

    processes: int = 1
    buckets_max: int = BUCKETS_MAX
    shared: bool = False
    heard: Callable[[bool], None] = attrs.field(default=lambda _short: None)
    _lasting: dict[LimitKey, Bucket] = attrs.field(factory=dict)
    _buckets: OrderedDict[tuple[str, str, str], Bucket] = attrs.field(factory=OrderedDict)
    _news: dict[LimitKey, Bucket] = attrs.field(factory=dict)

    def bucket(self, key: LimitKey, rate: Rate, now_ns: int) -> Bucket:
        """The state of a limit that a tenant has by its name, its sources' or its keys'; a new one where its rate has changed."""
        found = self._lasting.get(key)
        if found is None or found.rate != rate:
            found = self._lasting[key] = Bucket(key, rate, now_ns, now_ns, now_ns)
        return found

    def person(self, tenant: str, end_user: str, rate: Rate, now_ns: int) -> Bucket:
        """The state of one person's limit; a new one, where it was idle or its rate has changed."""
        place = ("user", tenant, end_user)  # as good as a LimitKey, and made sooner
        found = self._buckets.get(place)
        if found is not None and (found.rate is rate or found.rate == rate):
            found.was_used = True
            return found
        key = LimitKey(*place)
        self._buckets.pop(key, None)
        if len(self._buckets) >= self.buckets_max:
            self._make_room()
        found = self._buckets[key] = Bucket(key, rate, now_ns, now_ns, now_ns)
        return found

    def _make_room(self) -> None:
        """Forget one who was not asked for since everybody was looked at last: nearly the one who was here the longest ago."""
        key, bucket = self._buckets.popitem(last=False)
        for _ in range(SPARED_AT_ONCE):
            if not bucket.was_used:
                break
            bucket.was_used = False
            self._buckets[key] = bucket
            key, bucket = self._buckets.popitem(last=False)
        self._forget(bucket)

    def _forget(self, bucket: Bucket) -> None:
        """There is no room for it: what it has let in is told at once."""
        if bucket.untold:
            self._note(bucket, short=False)

    def take(self, buckets: Iterable[Bucket], now_ns: int, cost: int = 1) -> None:
        """Let `cost` in by each. It is told where it makes more than this process' part of the limit's fiftieth."""
        processes = self.processes
        parts = UNTOLD_PART * (processes - 1 or 1)  # one other at least, who may come unseen
        for bucket in buckets:
            bucket.take(now_ns, processes, cost)
            if bucket.untold * parts > bucket.rate.count:
                self._note(bucket, short=bucket.is_in_burst(now_ns, processes))

    def refuse(self, bucket: Bucket, now_ns: int) -> None:
        """Somebody was refused: the share may be used up while others' is not."""
        self._note(bucket, short=bucket.refuse(now_ns))

    def correct(self, bucket: Bucket, told: Told, jobs: int, now_ns: int) -> None:
        """The bucket learns what all have let in; while it may soon get more, it is asked for again."""
        bucket.correct(told, jobs, now_ns, self.processes)
        if bucket.short_ns is not None:
            self._note(bucket, short=False)

    def _note(self, bucket: Bucket, *, short: bool) -> None:
        if self.shared:
            self._news[bucket.key] = bucket
            self.heard(short)

    def news(self) -> list[Bucket]:
        """Limits of which there is something to tell or to ask, taken from the list of those."""
        news, self._news = self._news, {}
        return list(news.values())

    def keep_news(self, buckets: list[Bucket]) -> None:
        """These could not be told."""
        self._news = {bucket.key: bucket for bucket in buckets} | self._news

    def sweep(self, now_ns: int) -> None:
        """Forget people who are idle; so many are looked at at a time."""
        for _ in range(min(len(self._buckets), SWEPT_AT_ONCE)):
            key, bucket = self._buckets.popitem(last=False)
            if not bucket.is_idle(now_ns, shared=self.shared):
                self._buckets[key] = bucket

    def begin_anew(self, now_ns: int) -> None:
        """Nobody holds a bucket of a tenant, a source or a key any more: forget those that are idle."""
        self._lasting = {key: each for key, each in self._lasting.items() if not each.is_idle(now_ns, shared=self.shared)}

    def __len__(self) -> int:
        return len(self._lasting) + len(self._buckets)
