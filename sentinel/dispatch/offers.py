"""Tells the dispatch of jobs that may be claimed: new ones, those that come back, those whose turn has come in their conversation.

Behind the commit and beside the answer: nobody waits for it, and what it loses the keeper's sweep finds again.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Iterable, Sequence

import attrs
import trio

from sentinel.dispatch.keeper import Keeper
from sentinel.errors import Unavailable
from sentinel.logs import log
from sentinel.model import Hint, Job, NewJob, State
from sentinel.records import Store

WAITING_MAX = 100_000
BATCH = 1_000
AGAIN_SECONDS = 0.25  # between two looks for what has become due, and before the record is asked again after it has failed


@attrs.define(eq=False)
class Offers:
    """
    Hints on their way. `arrived`, `ended`, `look_behind` and `postponed` never block and never fail.

    What arrives goes from the thread that has committed it to the one that tells Redis: the way through the event loop would take
    longer than the telling.
    """

    keeper: Keeper
    store: Store
    _hints: deque[Hint] = attrs.field(factory=lambda: deque(maxlen=WAITING_MAX))
    _ended: deque[str] = attrs.field(factory=lambda: deque(maxlen=WAITING_MAX))
    _unsure: deque[str] = attrs.field(factory=lambda: deque(maxlen=WAITING_MAX))  # the record is asked who is next in their chats
    _later: list[tuple[float, str, Hint]] = attrs.field(factory=list)  # a heap, by when they are due
    _some_arrived: threading.Event = attrs.field(factory=threading.Event)
    _some_ended: trio.Event = attrs.field(factory=trio.Event)
    _stopped: bool = False
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))

    def arrived(self, jobs: Iterable[NewJob]) -> None:
        """These jobs are in the record. From any thread."""
        self._hints += [Hint.of(job) for job in jobs if job.state is State.QUEUED]
        self._some_arrived.set()

    def ended(self, job_id: str) -> None:
        """This job is over; whoever waited behind it in its conversation is next."""
        self._ended.append(job_id)
        self._some_ended.set()

    def look_behind(self, job_ids: Iterable[str]) -> None:
        """These jobs were not to be had, or were given back: who is next in their conversations Redis need not know."""
        self._unsure.extend(job_ids)
        self._some_ended.set()

    def postponed(self, job: Job, due: float) -> None:
        """This job was given back, to be claimed again when it is due (seconds since the epoch)."""
        hint = Hint.of(job)
        if due <= self.keeper.clock():
            self._hints.append(hint)
            self._some_arrived.set()
        elif len(self._later) < WAITING_MAX:
            heapq.heappush(self._later, (due, job.id, hint))

    async def run(self) -> None:
        """Offer for ever. Belongs in the process's nursery."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._offer_successors)
            nursery.start_soon(self._offer_postponed)
            try:
                await trio.to_thread.run_sync(self._offer_arrivals, limiter=self._limiter, abandon_on_cancel=True)
            finally:
                self._stopped = True
                self._some_arrived.set()

    def _offer_arrivals(self) -> None:
        while not self._stopped:
            self._some_arrived.wait()
            self._some_arrived.clear()
            while self._hints and not self._stopped:
                hints = _take(self._hints)
                try:
                    self.keeper.offer(hints)
                except Unavailable as error:
                    log.debug("dispatch.not_told", jobs=len(hints), reason=error.detail)

    async def _offer_successors(self) -> None:
        """Whose chat goes on is not forgotten while the record is away: it may have gone just after it had taken the ending."""
        while True:
            await self._some_ended.wait()
            self._some_ended = trio.Event()
            while self._ended or self._unsure:
                self._unsure.extend(await self._move_on(_take(self._ended)))
                ids = _take(self._unsure)
                try:
                    hints = await self.store.call(self.store.record.successors, ids) if ids else []
                except Unavailable as error:
                    log.debug("dispatch.not_told", jobs=len(ids), reason=error.detail)
                    self._unsure.extendleft(reversed(ids))
                    await trio.sleep(AGAIN_SECONDS)
                else:
                    await self._enqueue(hints)

    async def _move_on(self, ids: list[str]) -> list[str]:
        """Have Redis go on in the chats of these jobs, which are over; those of whose chats it knows nobody else."""
        try:
            return await self.keeper.call(self.keeper.dispatch.ended, ids) if ids else []
        except Unavailable as error:
            log.debug("dispatch.not_told", jobs=len(ids), reason=error.detail)
            return ids

    async def _enqueue(self, hints: Sequence[Hint]) -> None:
        """Tell Redis; what it cannot take now, a sweep finds when it is back."""
        try:
            if hints:
                await self.keeper.call(self.keeper.dispatch.enqueue, hints)
        except Unavailable as error:
            log.debug("dispatch.not_told", jobs=len(hints), reason=error.detail)

    async def _offer_postponed(self) -> None:
        while True:
            await trio.sleep(AGAIN_SECONDS)
            now = self.keeper.clock()
            if not self._later or self._later[0][0] > now:
                continue
            try:
                await self.store.call(self.store.record.promote, now)
            except Unavailable as error:
                log.debug("dispatch.not_told", jobs=len(self._later), reason=error.detail)
                continue
            while self._later and self._later[0][0] <= now:
                self._hints.append(heapq.heappop(self._later)[-1])
            self._some_arrived.set()


def open_offers(keeper: Keeper | None, store: Store) -> Offers | None:
    """Offers, where there is a dispatch."""
    return None if keeper is None else Offers(keeper, store)


def _take(waiting: deque) -> list:  # type: ignore[type-arg]
    return [waiting.popleft() for _ in range(min(len(waiting), BATCH))]
