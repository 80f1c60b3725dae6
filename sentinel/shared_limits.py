"""Keeps the local limiters of all gateways in step by a shared count in Redis. Must never be what a request waits for.

What was let in is told behind the answer: every 100 ms, at once when somebody had to be refused or a burst begins, one script for
all limits of which it is worth a word. Between two words each process gives out its share of what was left. Nobody waits for Redis;
while it is down each process has its share and no more.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import attrs
import trio

from sentinel.dispatch import SharedCount
from sentinel.edge.breaker import Breaker
from sentinel.edge.limits import Bucket, Limiter
from sentinel.errors import Unavailable
from sentinel.logs import log

TELL_SECONDS = 0.1
PAUSE_SECONDS = 0.005  # between two words, however many are refused
AT_ONCE = 500


@attrs.define(eq=False)
class SharedLimits:
    """Tells Redis what a limiter has let in, and corrects the limiter by what all have."""

    limits: SharedCount
    limiter: Limiter
    clock_ns: Callable[[], int] = time.monotonic_ns
    breaker: Breaker = attrs.field(factory=Breaker)
    _alone_until_ns: int = 0
    _news: trio.Event = attrs.field(factory=trio.Event)
    _short: trio.Event = attrs.field(factory=trio.Event)
    _thread: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))

    def __attrs_post_init__(self) -> None:
        self.limiter.shared, self.limiter.heard = True, self._heard

    def _heard(self, short: bool) -> None:
        self._news.set()
        if short:
            self._short.set()

    async def run(self) -> None:
        """Tell for ever. Belongs in the gateway's nursery."""
        while True:
            if self.breaker.open_since is None:
                await self._news.wait()
                with trio.move_on_after(TELL_SECONDS):
                    await self._short.wait()
            self._news, self._short = trio.Event(), trio.Event()
            await self._tell()
            await trio.sleep(PAUSE_SECONDS if self.breaker.open_since is None else TELL_SECONDS)

    async def _tell(self) -> None:
        """Tell all there is; while Redis is down, now and then ask whether it is back."""
        if not self.breaker.allows(trio.current_time()):
            return
        buckets = self.limiter.news()
        for begin in range(0, max(1, len(buckets)), AT_ONCE):  # once also with none: that asks whether Redis is back
            if not await self._try(buckets[begin : begin + AT_ONCE]):
                self.limiter.keep_news(buckets[begin:])
                return

    async def _try(self, buckets: Sequence[Bucket]) -> bool:
        now_ns, processes = self.clock_ns(), self.limiter.processes
        for bucket in buckets:
            if bucket.since_ns < self._alone_until_ns:
                bucket.forget(now_ns, processes)
        news = [bucket.news(now_ns, processes) for bucket in buckets]
        try:
            answers = await trio.to_thread.run_sync(self.limits.tell, news, limiter=self._thread)
        except Unavailable as error:
            self._failed(error)
            return False
        self._succeeded()
        now_ns = self.clock_ns()
        for bucket, told, each in zip(buckets, answers, news, strict=True):
            self.limiter.correct(bucket, told, each.jobs, now_ns)
        return True

    def _failed(self, error: Unavailable) -> None:
        if self.breaker.open_since is None:
            log.warning("limits.alone", reason=error.detail)
        self.breaker.failed(trio.current_time(), error.detail, random.random())
        self.limiter.shared, self._alone_until_ns = False, self.clock_ns()

    def _succeeded(self) -> None:
        if self.breaker.open_since is not None:
            self.breaker.succeeded(trio.current_time())
            self._alone_until_ns = self.clock_ns()
            log.info("limits.shared")
        self.limiter.shared = True
