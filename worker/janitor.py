"""Takes jobs back from workers that died, wakes those that are due, and removes what is to be erased or older than the retention.

Every worker may do it.
"""

from __future__ import annotations

import time

import attrs
import trio

from sentinel.errors import Unavailable
from sentinel.logs import Outage, log
from sentinel.records import Store
from worker.silence import Silence

REAP_SECONDS = 2.0
PRUNE_SECONDS = 600.0
ERASE_SECONDS = 0.5  # at a time: whoever asks for much must not keep the workers from their jobs
DAY_SECONDS = 86_400.0


@attrs.define(eq=False)
class Janitor:
    """Cleans up in the record."""

    store: Store
    retention_days: int
    memory_days: int
    _silence: Silence = attrs.field(factory=Silence)

    async def run(self) -> None:
        """Clean up for ever, starting now: what a worker left behind that was here before us should not wait."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._prune_for_ever)
            await self._tidy_for_ever()

    async def _tidy_for_ever(self) -> None:
        outage = Outage("janitor.record_unavailable")
        while True:
            try:
                await self.store.call(self.store.record.promote, time.time())
                await self._reap()
                await self.store.call(self.store.record.add_up_usage)
                await self._erase()
            except Unavailable as error:
                outage.failed(error.detail)
                self._silence = Silence()
            else:
                outage.over()
            await trio.sleep(REAP_SECONDS)

    async def _reap(self) -> None:
        """
        Take back what dead workers held.

        Just after an outage everybody has been silent, the living too; they get the time of one lease to be heard again.
        """
        silent = self._silence.listen(await self.store.call(self.store.record.workers), trio.current_time())
        if rescued := await self.store.call(self.store.record.reap, time.time(), silent):
            log.warning("jobs.rescued", jobs=rescued)

    async def _erase(self) -> None:
        """Erase for a little while, in short calls, between which others use the record."""
        until = trio.current_time() + ERASE_SECONDS
        while trio.current_time() < until and await self.store.call(self.store.record.erase, time.time()):
            await trio.lowlevel.checkpoint()

    async def _prune_for_ever(self) -> None:
        """Beside the rest, which must not wait for the end of a million jobs."""
        while True:
            try:
                await self._prune()
            except Unavailable as error:
                log.debug("janitor.not_pruned", reason=error.detail)
            await trio.sleep(PRUNE_SECONDS)

    async def _prune(self) -> None:
        while pruned := await self.store.call(self.store.record.prune, time.time() - self.retention_days * DAY_SECONDS):
            log.info("jobs.pruned", jobs=pruned)
            await trio.sleep(1)
        while pruned := await self.store.call(self.store.record.prune_memory, time.time() - self.memory_days * DAY_SECONDS):
            log.info("turns.pruned", turns=pruned)
            await trio.sleep(1)
