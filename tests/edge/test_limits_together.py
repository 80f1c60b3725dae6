"""Several limiters that share a count: who tells what when, in a time that is played, one millisecond after the other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import attrs
import pytest

from sentinel.edge.gcra import SECOND_NS, Rate
from sentinel.edge.limits import Limiter, LimitKey, News, Told

MS = SECOND_NS // 1_000
KEY = LimitKey("tenant", "acme")
TELL_MS, PAUSE_MS = 100, 5  # as `sentinel.shared_limits` tells
RATES = [Rate(3, 60), Rate(10, 60), Rate(30, 60), Rate(100, 60), Rate(300, 60), Rate(1_000, 60), Rate(30, 1)]


@attrs.define
class Count:
    """What `sql/redis/limit.lua` does, for one limit."""

    ahead: int = 0
    at: int = 0

    def tell(self, news: News, now: int) -> Told:
        ahead = max(0, max(0, self.ahead - (now - self.at)) + news.jobs * news.rate.interval_ns)
        granted = news.rate.interval_ns <= news.rate.burst_ns - ahead < news.wanted_ns
        self.ahead, self.at = ahead + granted * news.rate.interval_ns, now
        return Told(self.ahead, granted)


@attrs.define
class Process:
    """One gateway: its limiter, and the task that tells."""

    count: Count
    rate: Rate
    limiter: Limiter
    chance: random.Random
    now: int = 0
    admitted: int = 0
    has_news: bool = False
    is_short: bool = False
    steps: Iterator[None] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.limiter.heard, self.steps = self._heard, self._tell()

    def _heard(self, short: bool) -> None:
        self.has_news, self.is_short = True, self.is_short or short

    def ask(self) -> None:
        bucket = self.limiter.bucket(KEY, self.rate, self.now)
        if bucket.wait_ns(self.now, self.limiter.processes) == 0:
            self.limiter.take([bucket], self.now)
            self.admitted += 1
        else:
            self.limiter.refuse(bucket, self.now)

    def _tell(self) -> Iterator[None]:
        while True:
            while not self.has_news:
                yield
            for _ in range(TELL_MS):
                if not self.is_short:
                    yield
            self.has_news = self.is_short = False
            sent = [(bucket, bucket.news(self.now, self.limiter.processes)) for bucket in self.limiter.news()]
            yield from self._travel()
            answers = [self.count.tell(news, self.now) for _, news in sent]
            yield from self._travel()
            for (bucket, news), told in zip(sent, answers, strict=True):
                self.limiter.correct(bucket, told, news.jobs, self.now)
            yield from [None] * PAUSE_MS

    def _travel(self) -> Iterator[None]:
        yield from [None] * self.chance.randint(1, 4)


def admitted(rate: Rate, processes: int, milliseconds: int, arrives: Callable[[int, int], bool], seed: int) -> list[int]:
    """How many are let in by each of them; `arrives` says whether one comes to a process in a millisecond."""
    count, chance = Count(), random.Random(seed)
    several = [Process(count, rate, Limiter(processes=processes, shared=True), chance) for _ in range(processes)]
    for millisecond in range(milliseconds):
        for number, process in enumerate(several):
            process.now = 3_600 * SECOND_NS + millisecond * MS
            next(process.steps)
            if arrives(number, millisecond):
                process.ask()
    return [process.admitted for process in several]


def allowed(rate: Rate, milliseconds: int) -> int:
    return rate.count + rate.count * milliseconds // (rate.seconds * 1_000)


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_a_burst_on_all_at_once(rate: Rate, processes: int, seed: int) -> None:
    """However fast it is, all together let in what the limit allows and hardly more, and less by no more than the last one."""
    found = sum(admitted(rate, processes, 2_000, lambda _number, _ms: True, seed))
    most = allowed(rate, 2_000)
    assert found <= max(most, processes) * 1.02
    assert found >= min(most, 1_000) * 0.9 - 1


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_a_burst_on_one_beside_a_trickle(rate: Rate, seed: int) -> None:
    """One has twenty times as much to do as the other: the limit is kept too."""
    found = sum(admitted(rate, 2, 2_000, lambda number, ms: number == 0 or ms % 20 == 0, seed))
    assert 0.9 * allowed(rate, 2_000) - 1 <= found <= 1.02 * allowed(rate, 2_000) + 1


@pytest.mark.parametrize("rate", RATES, ids=str)
def test_a_burst_on_one_alone(rate: Rate) -> None:
    """Who has all of the load has the whole limit, after a second or two."""
    found, other = admitted(rate, 2, 3_000, lambda number, _ms: number == 0, 0)
    assert other == 0
    assert 0.9 * allowed(rate, 3_000) - 1 <= found <= allowed(rate, 3_000)


@pytest.mark.parametrize("rate", [Rate(100, 60), Rate(300, 60), Rate(1_000, 60)], ids=str)
def test_whoever_goes_from_one_to_the_other(rate: Rate) -> None:
    """What is used up at one is not there once more at the other, but for what comes before that has heard of it."""
    found = sum(admitted(rate, 2, 4_000, lambda number, ms: number == (ms >= 2_000), 0))
    assert found <= allowed(rate, 4_000) + 20


def test_evenly_spread_nobody_is_refused() -> None:
    """Four fifths of the limit, spread over both: all of it is let in."""
    found = sum(admitted(Rate(30, 1), 2, 10_000, lambda number, ms: ms % 83 == number * 41, 0))
    assert found == len([ms for ms in range(10_000) if ms % 83 in (0, 41)])
