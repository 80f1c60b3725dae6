"""Tells the dispatch of jobs that may be claimed: new ones, and those whose turn has come in their conversation.

Behind the commit and beside the answer: nobody waits for it, and what it loses the keeper's sweep finds again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

import attrs
import trio

from sentinel.dispatch.keeper import Keeper
from sentinel.errors import Unavailable
from sentinel.logs import log
from sentinel.model import Hint, NewJob, State
from sentinel.records import Store

WAITING_MAX = 100_000
BATCH = 1_000


@attrs.define(eq=False)
class Offers:
    """
    Hints on their way. `arrived` and `ended` never block and never fail.

    What arrives goes from the thread that has committed it to the one that tells Redis: the way through the event loop would take
    longer than the telling.
    """

    keeper: Keeper
    store: Store
    _hints: deque[Hint] = attrs.field(factory=lambda: deque(maxlen=WAITING_MAX))
    _ended: deque[str] = attrs.field(factory=lambda: deque(maxlen=WAITING_MAX))
    _some_arrived: threading.Event = attrs.field(factory=threading.Event)
    _some_ended: trio.Event = attrs.field(factory=trio.Event)
    _stopped: bool = False
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))

    def arrived(self, jobs: Iterable[NewJob]) -> None:
        """These jobs are in the record. From any thread."""
        self._hints += [Hint(job.id, job.tenant, job.priority) for job in jobs if job.state is State.QUEUED]
        self._some_arrived.set()

    def ended(self, job_id: str) -> None:
        """This job left the queue; whoever waited behind it in its conversation may be next."""
        self._ended.append(job_id)
        self._some_ended.set()

    async def run(self) -> None:
        """Offer for ever. Belongs in the process's nursery."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._offer_successors)
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
        while True:
            await self._some_ended.wait()
            self._some_ended = trio.Event()
            while self._ended:
                hints: list[Hint] = []
                try:
                    hints = await self.store.call(self.store.record.successors, _take(self._ended))
                    if hints:
                        await self.keeper.call(self.keeper.dispatch.enqueue, hints)
                except Unavailable as error:
                    log.debug("dispatch.not_told", jobs=len(hints), reason=error.detail)


def open_offers(keeper: Keeper | None, store: Store) -> Offers | None:
    """Offers, where there is a dispatch."""
    return None if keeper is None else Offers(keeper, store)


def _take(waiting: deque) -> list:  # type: ignore[type-arg]
    return [waiting.popleft() for _ in range(min(len(waiting), BATCH))]
