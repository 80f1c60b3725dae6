"""The rate algorithm and the local limiter, against plain references."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from sentinel.edge.gcra import SECOND_NS, Rate, left, passed, wait_ns
from sentinel.edge.limits import Bucket, Limiter, LimitKey

rates = st.builds(Rate, st.integers(1, 50), st.integers(1, 20))
steps = st.lists(st.tuples(st.integers(0, 3 * SECOND_NS), st.integers(1, 4)), max_size=60)
KEY = LimitKey("tenant", "acme")


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
    bucket, tat, now = TokenBucket(rate), 0, 0
    for pause, cost in arrivals:
        now += pause
        assert left(tat, now, rate.interval_ns, rate.burst_ns) == max(0, int(bucket.level(now)))
        allowed = wait_ns(tat, now, rate.interval_ns, rate.burst_ns, cost) == 0
        assert allowed == bucket.take(now, cost)
        if allowed:
            tat = passed(tat, now, rate.interval_ns, cost)


@given(rates, steps)
def test_never_more_than_burst_and_rate(rate: Rate, arrivals: list[tuple[int, int]]) -> None:
    """In no stretch of time are more let in than a burst and the rate times its length."""
    tat, now, admitted = 0, 0, []
    for pause, tries in arrivals:
        now += pause
        for _ in range(tries):
            if wait_ns(tat, now, rate.interval_ns, rate.burst_ns) == 0:
                tat = passed(tat, now, rate.interval_ns)
                admitted.append(now)
    for first, began in enumerate(admitted):
        for last, ended in enumerate(admitted[first:], first):
            assert (last - first + 1) <= rate.count + Fraction(rate.count * (ended - began), rate.seconds * SECOND_NS)


@given(rates, steps)
def test_the_wait_is_exact(rate: Rate, arrivals: list[tuple[int, int]]) -> None:
    """Who is told to wait is let in after that time, and not a nanosecond before."""
    tat, now = 0, 0
    for pause, cost in arrivals:
        now += pause
        wait = wait_ns(tat, now, rate.interval_ns, rate.burst_ns, cost)
        if wait:
            assert wait_ns(tat, now + wait - 1, rate.interval_ns, rate.burst_ns, cost) == 1
        now += wait
        assert wait_ns(tat, now, rate.interval_ns, rate.burst_ns, cost) == 0
        tat = passed(tat, now, rate.interval_ns, cost)


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
            shared = passed(shared, now, rate.interval_ns, told) if told else max(shared, now)
            for each in buckets:
                each.correct(shared - now, told if each is bucket else 0, now, processes)
        assert admitted <= rate.count + Fraction(rate.count * now, rate.seconds * SECOND_NS)
        assert bucket.untold == 0


def test_the_last_one_can_be_had() -> None:
    """Of a limit of one there is no half: it is let in by whoever asks first, and then by nobody for its time."""
    rate = Rate(1, 60)
    bucket = Bucket(KEY, rate)
    assert bucket.wait_ns(0, 2) == 0
    bucket.take(0, 2)
    bucket.correct(rate.interval_ns, 1, 0, 2)
    assert bucket.wait_ns(0, 2) > 0
    bucket.correct(0, 0, 60 * SECOND_NS, 2)
    assert bucket.wait_ns(60 * SECOND_NS, 2) == 0


def test_what_could_not_be_told_is_told_as_far_as_it_is_still_owed() -> None:
    """After an hour without the others, a full bucket owes at most its burst."""
    rate, bucket, now = Rate(10, 10), Bucket(KEY, Rate(10, 10)), 0
    for now in range(0, 3_600 * SECOND_NS, SECOND_NS):
        if bucket.wait_ns(now, 2) == 0:
            bucket.take(now, 2)
    assert bucket.untold > 1_000
    bucket.forget(now, 2)
    assert bucket.untold <= rate.count


class TestMemory:
    def test_invented_people_do_not_fill_it(self) -> None:
        """However many end users there are, the limiter remembers so many, and a limit in use stays."""
        limiter = Limiter(buckets_max=100)
        rate = Rate(1, 60)
        for number in range(10_000):
            limiter.take(limiter.bucket(KEY, rate, 0), 0, 0)
            limiter.take(limiter.bucket(LimitKey("user", "acme", str(number)), rate, 0), 0)
        assert len(limiter) == 100
        assert limiter.bucket(LimitKey("user", "acme", "9999"), rate, 0).wait_ns(0, 1) > 0

    def test_what_is_idle_is_forgotten(self) -> None:
        """A limit that is whole again takes no memory."""
        limiter = Limiter()
        limiter.take(limiter.bucket(KEY, Rate(1, 60), 0), 0)
        limiter.sweep(59 * SECOND_NS)
        assert len(limiter) == 1
        limiter.sweep(60 * SECOND_NS)
        assert len(limiter) == 0

    def test_nothing_is_noted_for_others_where_there_are_none(self) -> None:
        """Without a shared count there are no news to keep."""
        limiter = Limiter()
        limiter.take(limiter.bucket(KEY, Rate(1, 60), 0), 0)
        assert limiter.news(10) == []
