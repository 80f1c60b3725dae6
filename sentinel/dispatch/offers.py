"""Tells the dispatch of jobs that may be claimed: new ones, and those whose turn has come in their conversation.

Behind the commit and beside the answer: nobody waits for it, and what it loses the keeper's sweep finds again.
"""

from __future__ import annotations

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
    """Hints on their way. `arrived` and `ended` never block and never fail."""

    keeper: Keeper
    store: Store
    _hints: deque[Hint] = attrs.field(factory=lambda: deque(maxlen=WAITING_MAX))
    _ended: deque[str] = attrs.field(factory=lambda: deque(maxlen=WAITING_MAX))
    _some: trio.Event = attrs.field(factory=trio.Event)

    def arrived(self, jobs: Iterable[NewJob]) -> None:
        """These jobs are in the record."""
        self._hints += [Hint(job.id, job.tenant, job.priority) for job in jobs if job.state is State.QUEUED]
        self._some.set()

    def ended(self, job_id: str) -> None:
        """This job left the queue; whoever waited behind it in its conversation may be next."""
        self._ended.append(job_id)
        self._some.set()

    async def run(self) -> None:
        """Offer for ever. Belongs in the process's nursery."""
        while True:
            await self._some.wait()
            self._some = trio.Event()
            while self._hints or self._ended:
                await self._offer()

    async def _offer(self) -> None:
        ended, hints = _take(self._ended), _take(self._hints)
        try:
            if ended:
                hints += await self.store.call(self.store.record.successors, ended)
            if hints:
                await self.keeper.call(self.keeper.dispatch.enqueue, hints)
        except Unavailable as error:
            log.debug("dispatch.not_told", jobs=len(hints), reason=error.detail)


def open_offers(keeper: Keeper | None, store: Store) -> Offers | None:
    """Offers, where there is a dispatch."""
    return None if keeper is None else Offers(keeper, store)


def _take(waiting: deque) -> list:  # type: ignore[type-arg]
    return [waiting.popleft() for _ in range(min(len(waiting), BATCH))]
