"""The rate algorithm and the local limiter, against plain references."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.edge.gcra import SECOND_NS, Rate
from sentinel.edge.limits import SETTLE_NS, SPARED_AT_ONCE, UNTOLD_PART, Bucket, Limiter, LimitKey, Told

rates = st.builds(Rate, st.integers(1, 50), st.integers(1, 20))
steps = st.lists(st.tuples(st.integers(0, 3 * SECOND_NS), st.integers(1, 4)), max_size=60)
KEY = LimitKey("tenant", "acme")
PERSON = ("acme", "telegram/bot/bob")


class TokenBucket:
    """A token bucket in exact fractions: the same rule, told another way."""

    def __init__(self, rate: Rate) -> None:
        self.rate, self.tokens, self.at = rate, Fraction(rate.count), 0

    def level(self, now: int) -> Fraction:
        return min(Fraction(self.rate.count), self.tokens + Fraction(now - self.at, self.rate.interval_ns))

    def take(self, now: int, cost: int) -> bool:
        level = self.level(now)
        if level < min(cost, self.rate.count):
            return False
        self.tokens, self.at = level - cost, now
        return True


@given(rates, steps)
def test_it_is_a_token_bucket(rate: Rate, arrivals: list[tuple[int, int]]) -> None:
    """It lets in exactly what a token bucket lets in, and says exactly how many are left."""
    reference, bucket, now = TokenBucket(rate), Bucket(KEY, rate), 0
    for pause, cost in arrivals:
        now += pause
        assert bucket.left(now, 1) == max(0, int(reference.level(now)))
        allowed = bucket.wait_ns(now, 1, cost) == 0
        assert allowed == reference.take(now, cost)
        if allowed:
            bucket.take(now, 1, cost)


@given(rates, steps)
def test_never_more_than_burst_and_rate(rate: Rate, arrivals: list[tuple[int, int]]) -> None:
    """In no stretch of time are more let in than a burst and the rate times its length."""
    bucket, now, admitted = Bucket(KEY, rate), 0, []
    for pause, tries in arrivals:
        now += pause
        for _ in range(tries):
            if bucket.wait_ns(now, 1) == 0:
                bucket.take(now, 1)
                admitted.append(now)
    for first, began in enumerate(admitted):
        for last, ended in enumerate(admitted[first:], first):
            assert (last - first + 1) <= rate.count + Fraction(rate.count * (ended - began), rate.seconds * SECOND_NS)


@given(rates, steps)
def test_the_wait_is_exact(rate: Rate, arrivals: list[tuple[int, int]]) -> None:
    """Who is told to wait is let in after that time, and not a nanosecond before."""
    bucket, now = Bucket(KEY, rate), 0
    for pause, cost in arrivals:
        now += pause
        wait = bucket.wait_ns(now, 1, cost)
        if wait:
            assert bucket.wait_ns(now + wait - 1, 1, cost) == 1
        now += wait
        assert bucket.wait_ns(now, 1, cost) == 0
        bucket.take(now, 1, cost)


@given(rates, st.integers(1, 4), steps)
def test_the_shares_make_the_whole(rate: Rate, processes: int, arrivals: list[tuple[int, int]]) -> None:
    """Processes that know nothing of each other let in together what the limit allows, at most one too many for each other one."""
    buckets = [Bucket(KEY, rate) for _ in range(processes)]
    now, admitted = 0, 0
    for pause, tries in arrivals:
        now += pause
        for bucket in buckets:
            for _ in range(tries * 10):
                if bucket.wait_ns(now, processes) == 0:
                    bucket.take(now, processes)
                    admitted += 1
        assert admitted <= rate.count + Fraction(rate.count * now, rate.seconds * SECOND_NS) + processes - 1


@given(rates, st.integers(2, 4), steps, st.randoms(use_true_random=False))
def test_a_shared_count_corrects_the_shares(rate: Rate, processes: int, arrivals: list[tuple[int, int]], chance) -> None:
    """Told after every step what all have used, all together let in no more than the limit allows."""
    buckets = [Bucket(KEY, rate) for _ in range(processes)]
    now, shared, admitted = 0, 0, 0
    for pause, tries in arrivals:
        now += pause
        bucket = chance.choice(buckets)
        for _ in range(tries * 10):
            if bucket.wait_ns(now, processes) == 0:
                bucket.take(now, processes)
                admitted += 1
            told = bucket.untold
            shared = max(shared, now) + told * rate.interval_ns
            for each in buckets:
                each.correct(Told(shared - now), told if each is bucket else 0, now, processes)
        assert admitted <= rate.count + Fraction(rate.count * now, rate.seconds * SECOND_NS)
        assert bucket.untold == 0


def test_the_last_one_can_be_had() -> None:
    """Of a limit of one there is no half: it is let in by whoever was granted it, and then by nobody for its time."""
    rate = Rate(1, 60)
    bucket = Bucket(KEY, rate)
    assert bucket.wait_ns(0, 2) == 0
    bucket.take(0, 2)
    bucket.correct(Told(rate.interval_ns), 1, 0, 2)
    now = 61 * SECOND_NS
    assert bucket.wait_ns(now, 2) > 0
    bucket.refuse(now)
    assert bucket.news(now, 2).wanted_ns == 0
    now += SETTLE_NS
    assert bucket.news(now, 2).wanted_ns == 2 * rate.interval_ns
    bucket.correct(Told(rate.interval_ns, granted=True), 0, now, 2)
    assert bucket.wait_ns(now, 2) == 0
    bucket.take(now, 2)
    assert (bucket.wait_ns(now, 2) > 0, bucket.untold) == (True, 0)


def test_what_could_not_be_told_is_told_as_far_as_it_is_still_owed() -> None:
    """After an hour without the others, a full bucket owes at most its burst."""
    rate, bucket, now = Rate(10, 10), Bucket(KEY, Rate(10, 10)), 0
    for now in range(0, 3_600 * SECOND_NS, SECOND_NS):
        if bucket.wait_ns(now, 2) == 0:
            bucket.take(now, 2)
    assert bucket.untold > 1_000
    bucket.refuse(now - SECOND_NS)
    bucket.forget(now, 2)
    assert bucket.untold <= rate.count
    assert not bucket.may_grow(now)  # of the others nothing is known yet


@pytest.mark.parametrize(
    "rate", [Rate(10_000, 1), Rate(1_000, 60), Rate(300, 10), Rate(100, 60), Rate(6, 60), Rate(1, 30)], ids=str
)
@pytest.mark.parametrize("processes", [2, 4])
def test_what_is_not_worth_a_word_is_a_fiftieth(rate: Rate, processes: int) -> None:
    """
    One process takes all it can get, the others what they need not tell: together they pass the limit by a fiftieth.

    Each other one takes as much as that at a time, as soon as its bucket has been swept out.
    """
    greedy, *modest = limiters = [Limiter(processes=processes, shared=True) for _ in range(processes)]
    cost = max(1, rate.count // (UNTOLD_PART * (processes - 1)))
    now, step_ns, ahead_until, admitted, windows = 0, SECOND_NS // 20, 0, 0, 20
    while now < windows * rate.seconds * SECOND_NS:
        now += step_ns
        for limiter in modest:
            if len(limiter) == 0:
                limiter.take([limiter.person(*PERSON, rate, now)], now, cost)
                admitted += cost
        bucket = greedy.person(*PERSON, rate, now)
        while bucket.wait_ns(now, processes) == 0:
            greedy.take([bucket], now)
            admitted += 1
        greedy.refuse(bucket, now)
        for limiter in limiters:
            for bucket in limiter.news():
                ahead_until = max(ahead_until, now) + bucket.untold * rate.interval_ns
                bucket.correct(Told(ahead_until - now), bucket.untold, now, processes)
            if now % SECOND_NS == 0:
                limiter.sweep(now)
    allowed = rate.count * (windows + 1)
    assert 0.95 * allowed <= admitted <= (1 + 1 / UNTOLD_PART) * allowed + 1


class TestMemory:
    def test_invented_people_do_not_fill_it(self) -> None:
        """However many end users there are, the limiter remembers so many, and a limit in use stays."""
        limiter = Limiter(buckets_max=100)
        rate = Rate(1, 60)
        for number in range(10_000):
            limiter.take([limiter.person(*PERSON, rate, 0)], 0, 0)
            limiter.take([limiter.person("acme", str(number), rate, 0)], 0)
        assert len(limiter) == 100
        assert limiter.person("acme", "9999", rate, 0).wait_ns(0, 1) > 0

    def test_there_is_room_soon(self) -> None:
        """Where all are in use, whoever comes does not wait until each of them was looked at."""
        limiter, rate = Limiter(buckets_max=3 * SPARED_AT_ONCE), Rate(1, 60)
        names = [str(number) for number in range(3 * SPARED_AT_ONCE)]
        for name in names * 2:
            limiter.person("acme", name, rate, 0)
        limiter.take([limiter.person("acme", "new", rate, 0)], 0)
        assert len(limiter) == limiter.buckets_max
        assert limiter.person("acme", "new", rate, 0).wait_ns(0, 1) > 0
        assert sum(bucket.was_used for bucket in limiter._buckets.values()) == 2 * SPARED_AT_ONCE

    def test_tenants_sources_and_keys_are_as_many_as_the_directory_names(self) -> None:
        """Their limits stay while somebody may hold them, used or not; what is left to pay stays longer."""
        limiter = Limiter(buckets_max=1)
        limiter.take([limiter.bucket(KEY, Rate(1, 60), 0)], 0)
        other = limiter.bucket(LimitKey("tenant", "other"), Rate(1, 60), 0)
        limiter.person(*PERSON, Rate(1, 60), 0)
        limiter.sweep(3_600 * SECOND_NS)
        assert limiter.bucket(other.key, other.rate, 0) is other
        limiter.begin_anew(59 * SECOND_NS)
        assert limiter.bucket(KEY, Rate(1, 60), 0).wait_ns(59 * SECOND_NS, 1) > 0
        limiter.begin_anew(60 * SECOND_NS)
        assert len(limiter) == 0

    def test_what_is_idle_is_forgotten(self) -> None:
        """A limit that is whole again takes no memory."""
        limiter = Limiter()
        limiter.take([limiter.person(*PERSON, Rate(1, 60), 0)], 0)
        limiter.sweep(59 * SECOND_NS)
        assert len(limiter) == 1
        limiter.sweep(60 * SECOND_NS)
        assert len(limiter) == 0

    def test_whoever_is_busy_keeps_nobody_else(self) -> None:
        """Who came first and comes again stays, and the idle ones behind are forgotten."""
        limiter, rate = Limiter(), Rate(1, 60)
        for name in ("busy", "ada", "bob"):
            limiter.take([limiter.person("acme", name, rate, 0)], 0)
        limiter.take([limiter.person("acme", "busy", rate, 60 * SECOND_NS)], 60 * SECOND_NS)
        limiter.sweep(60 * SECOND_NS)
        assert len(limiter) == 1
        assert limiter.person("acme", "busy", rate, 60 * SECOND_NS).wait_ns(60 * SECOND_NS, 1) > 0

    def test_what_was_not_told_yet_is_told_or_kept(self) -> None:
        """Little is not told at once; it stays for the limit's whole time, and is told when there is no room for it."""
        limiter, rate = Limiter(buckets_max=1, shared=True), Rate(1_000, 60)
        limiter.take([limiter.person(*PERSON, rate, 0)], 0, 10)
        assert limiter.news() == []
        limiter.sweep(59 * SECOND_NS)
        assert len(limiter) == 1
        limiter.person("acme", "ada", rate, 0)
        assert [(bucket.key, bucket.untold) for bucket in limiter.news()] == [(LimitKey("user", *PERSON), 10)]

    def test_nothing_is_noted_for_others_where_there_are_none(self) -> None:
        """Without a shared count there are no news to keep."""
        limiter = Limiter()
        limiter.take([limiter.person(*PERSON, Rate(1, 60), 0)], 0)
        assert limiter.news() == []
