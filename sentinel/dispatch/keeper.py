"""Keeps a dispatch in step with the record, in every process: refills what is empty or old, finds again what got lost.

Decides when the dispatch is left alone. Must never let the work wait for it: whoever is refused goes to the record.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import attrs
import trio

from sentinel.dispatch import Dispatch, Stale, open_dispatch
from sentinel.edge.breaker import Breaker
from sentinel.errors import Unavailable
from sentinel.logs import log
from sentinel.model import Hint
from sentinel.records import Store

LOOK_SECONDS = 1.0
PAUSE_SECONDS_MAX = 3.0  # between two trials of a Redis that is down, each of them one small call
PAGE = 1_000
PAGE_SECONDS = 0.2  # between two pages of a sweep: finding what got lost must not be a load of its own
SETTLED_SECONDS = 2.0  # a job is given so long to be enqueued by whoever accepted it
LEAD_SECONDS = 5.0
POLICY_SECONDS = 60.0  # between two looks at how Redis is configured

T = TypeVar("T")


@attrs.define(eq=False)
class Keeper:
    """
    The one way to a dispatch. `clock` is the record's: seconds since the epoch.

    Whoever gets Unavailable from `call` or `wait` takes what it needs from the record, and may ask again at any time: while the
    dispatch is down, that costs nothing.
    """

    dispatch: Dispatch
    store: Store
    breaker: Breaker = attrs.field(factory=lambda: Breaker(pause_seconds_max=PAUSE_SECONDS_MAX))
    clock: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random
    _stale: bool = False
    _refilling: bool = False
    _policy_due: float = float("-inf")
    _warning: str = ""
    _turn: trio.Lock = attrs.field(factory=trio.Lock)
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))
    _bell: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))

    async def call(self, method: Callable[..., T], *args: object) -> T:
        """
        `method(*args)` in a thread, one at a time; `method` is one of the dispatch's, of those that share a connection.

        Raises:
            Unavailable: it failed, or is down: then `run` tries it, by a call that writes, since a full Redis answers all others.
            Stale: it is being refilled, or will be.
        """
        if self._refilling:
            raise Stale("Redis is being refilled.")
        if self.breaker.open_since is not None:
            raise self._down()
        async with self._turn:
            return await self._ask(method, *args)

    async def wait(self, seconds: float, count: int, lease_seconds: float) -> list[str]:
        """
        What `take` gives once the bell has rung, nothing if it does not ring within `seconds`; one at a time.

        Its failures count, but a broken dispatch is not tried with it.
        """
        if self.breaker.open_since is not None:
            raise self._down()
        try:
            return await trio.to_thread.run_sync(self._wait_and_take, seconds, count, lease_seconds, limiter=self._bell)
        except Stale:
            self._stale = True
            raise
        except Unavailable as error:
            self._failed(error)
            raise

    def offer(self, hints: Sequence[Hint]) -> None:
        """
        Enqueue these from a thread of trio's, straight and beside `call`; one at a time.

        Raises as `call` does. Its failures count, but a broken dispatch is not tried with it.
        """
        if self.breaker.open_since is not None:
            raise self._down()
        try:
            self.dispatch.offer(hints)
        except Stale:
            self._stale = True
            raise
        except Unavailable as error:
            trio.from_thread.run_sync(self._failed, error)
            raise

    def words(self) -> str:
        """How it is, for people."""
        if self.breaker.open_since is not None:
            seconds, why = trio.current_time() - self.breaker.open_since, self.breaker.reason.rstrip(".")
            return f"redis down for {seconds:.0f} s: claiming from the record ({why})"
        return "redis is being refilled" if self._stale or self._refilling else self._warning or "ok"

    async def run(self) -> None:
        """Look about every second, for ever. Belongs in the process's nursery."""
        while True:
            try:
                await self._look()
            except (Unavailable, _RecordFailed) as error:
                log.debug("dispatch.unkept", reason=str(error))  # who lost what has been said by whoever lost it
            await trio.sleep(LOOK_SECONDS * (0.5 + self.chance()))

    # One call

    def _wait_and_take(self, seconds: float, count: int, lease_seconds: float) -> list[str]:
        if not self.dispatch.wait(seconds):
            return []
        trio.from_thread.check_cancelled()  # who stops takes nothing any more
        return self.dispatch.take_next(count, lease_seconds)

    async def _ask(self, method: Callable[..., T], *args: object) -> T:
        if not self.breaker.allows(trio.current_time()):
            raise self._down()
        try:
            result = await trio.to_thread.run_sync(method, *args, limiter=self._limiter)
        except Stale:
            self._stale = True
            self._succeeded()  # it answers, after all
            raise
        except Unavailable as error:
            self._failed(error)
            raise
        self._stale = False
        self._succeeded()
        return result

    def _down(self) -> Unavailable:
        return Unavailable(self.breaker.reason or "Redis is down.")

    def _succeeded(self) -> None:
        since = self.breaker.open_since
        self.breaker.succeeded(trio.current_time())
        if since is not None and self.breaker.open_since is None:
            log.info("dispatch.back", seconds=round(trio.current_time() - since, 1))

    def _failed(self, error: Unavailable) -> None:
        was_open = self.breaker.open_since is not None
        self.breaker.failed(trio.current_time(), error.detail, self.chance())
        if not was_open:
            log.warning("dispatch.lost", reason=error.detail)

    # Keeping it in step

    async def _look(self) -> None:
        leads = await self._ask_to_lead()
        if leads is None:
            await self._refill()
            return
        if trio.current_time() >= self._policy_due:
            await self._check_policy()
        if leads:
            await self._sweep()

    async def _check_policy(self) -> None:
        """Say once if Redis may drop hints by itself: nothing is lost by it, but jobs wait for the sweep."""
        found = await self.call(self.dispatch.policy_warning) or ""
        self._policy_due = trio.current_time() + POLICY_SECONDS
        if found and found != self._warning:
            log.warning("dispatch.evicts", reason=found)
        self._warning = found

    async def _ask_to_lead(self) -> bool | None:
        """
        Whether this process is the one that sweeps; None if the dispatch cannot be used as it is.

        The first Stale may only mean that another process has refilled it.
        """
        for _ in range(2):
            try:
                async with self._turn:
                    return await self._ask(self.dispatch.lead, LEAD_SECONDS)
            except Stale:
                continue
        return None

    async def _refill(self) -> None:
        """Fill it from the record, unless another process does."""
        began = trio.current_time()
        async with self._turn:
            self._refilling = True
            try:
                done = await self._ask(self.dispatch.rebuild, self._pages(self.clock()))
            finally:
                self._refilling = False
        if done:
            log.warning("dispatch.refilled", seconds=round(trio.current_time() - began, 1))
        else:
            self._stale = True  # another process is at it, or has just done it: the next look tells

    def _pages(self, before: float) -> Iterator[list[Hint]]:
        """What is ready, page by page; runs in the dispatch's thread, which waits for the record's."""
        after: int | None = 0
        while after is not None:
            hints, after = trio.from_thread.run(self._page, after, before)
            yield hints

    async def _page(self, after: int, before: float) -> tuple[list[Hint], int | None]:
        try:
            return await self.store.call(self.store.record.ready, after, PAGE, before)
        except Unavailable as error:
            raise _RecordFailed(error.detail) from error  # not the dispatch's failure

    async def _sweep(self) -> None:
        """Enqueue again what has been ready for a while; what of it is new had got lost."""
        before, lost = self.clock() - SETTLED_SECONDS, 0
        hints, after = await self._page(0, before)
        while hints or after is not None:
            lost += await self.call(self.dispatch.enqueue, hints)
            if after is None:
                break
            await trio.sleep(PAGE_SECONDS)
            if not await self.call(self.dispatch.lead, LEAD_SECONDS):
                break
            hints, after = await self._page(after, before)
        if lost:
            log.warning("dispatch.found", jobs=lost)


def open_keeper(url: str | None, store: Store) -> Keeper | None:
    """The keeper of the dispatch at that URL, if there is to be one. Redis need not answer yet."""
    return None if url is None else Keeper(open_dispatch(url), store)


class _RecordFailed(Exception):
    """The record could not say what is ready."""
