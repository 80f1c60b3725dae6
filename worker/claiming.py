"""Where a worker's next jobs come from: ids from the dispatch while it is there, else the record. The claim is the record's.

Knows nothing of what a job is for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress

import attrs
import trio

from sentinel.dispatch.keeper import Keeper
from sentinel.dispatch.offers import Offers
from sentinel.errors import Unavailable
from sentinel.logs import log
from sentinel.model import Claim
from sentinel.records import Bell, Store

HINT_SECONDS = 5.0  # between taking a hint and claiming its job; then the hint is there again for others
LOOK_SECONDS = 0.02  # between two looks where nothing tells of new jobs
BELL_SECONDS = 0.25  # a bell may be deaf, so nobody relies on it for longer
# A look for so many that finds nothing may have passed over thousands. A pause as long as four of it follows, so that it takes a
# fifth of the time at most; what rings meanwhile is heard afterwards.
VAIN_COUNT_MIN = 64
VAIN_PAUSE_LOOKS = 4
VAIN_PAUSE_SECONDS_MAX = 0.05
DISPATCH_SECONDS = 0.4  # one wait for the dispatch: a job that it hides, because it hangs, must be begun within a second
IDLE_SECONDS = 0.7  # with a dispatch, the record is asked after every other wait all the same: Redis may be too full for a hint


@attrs.define(eq=False)
class Claiming:
    """Claims jobs for one worker. `bell` rings for new jobs in the record, where the store has one; `offers` go with a keeper."""

    store: Store
    keeper: Keeper | None = None
    bell: Bell | None = None
    offers: Offers | None = None
    _dispatched: bool = False
    _wanted: int = 1  # at the last claim; so many are still wanted when the bell has rung
    _rung: list[str] = attrs.field(factory=list)  # what was taken then
    _asked_record: float = float("-inf")
    _claimed: list[str] = attrs.field(factory=list)  # of what the dispatch gave
    _missed: list[str] = attrs.field(factory=list)
    _pause_seconds: float = 0.0  # before the next look at the record
    # Its own: names that somebody's callbacks have us look up may hold all threads of the common pool for long.
    _ringing: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))

    def close(self) -> None:
        """Give the connections back that are not the record's."""
        if self.bell is not None:
            self.bell.close()
        if self.keeper is not None:
            self.keeper.dispatch.close()

    async def claim(self, worker: int, count: int) -> tuple[list[Claim], bool]:
        """Up to `count` jobs, and whether it is worth asking again at once. Raises Unavailable when the record cannot be asked."""
        ids = await self._take(count)
        self._pause_seconds = 0.0
        if ids is None:
            began = trio.current_time()
            claims = await self.store.call(self._claim, worker, count, None)
            if not claims and count >= VAIN_COUNT_MIN:
                self._pause_seconds = min(VAIN_PAUSE_LOOKS * (trio.current_time() - began), VAIN_PAUSE_SECONDS_MAX)
            return claims, bool(claims)
        if not ids:
            return [], False
        claims = await self.store.call(self._claim, worker, count, ids)
        claimed = {claim.job.id for claim in claims}
        self._claimed += claimed
        self._missed += set(ids) - claimed
        return claims, True

    async def settle(self) -> None:
        """
        Tell the dispatch of the hints that were followed: claimed, or not to be had. For when the claimed jobs have begun.

        What could not be claimed and should have been, the sweep brings back; in a chat, the look at who is next.
        """
        claimed, missed = self._claimed, self._missed
        self._claimed, self._missed = [], []
        if self.keeper is None or not (claimed or missed):
            return
        try:
            await self.keeper.call(self.keeper.dispatch.done, claimed, missed)
        except Unavailable as error:
            log.debug("dispatch.not_told", jobs=len(claimed) + len(missed), reason=error.detail)
        if missed and self.offers is not None:
            self.offers.look_behind(missed)

    async def wait(self) -> None:
        """Return when there may be something to claim; never much later than it takes to look at everything once."""
        if self._dispatched and self.keeper is not None:
            with suppress(Unavailable):  # then the record is asked at once, and its bell waited for
                self._rung = await self.keeper.wait(DISPATCH_SECONDS, self._wanted, HINT_SECONDS)
            return
        await trio.sleep(self._pause_seconds)
        try:
            if self.bell is not None:
                await trio.to_thread.run_sync(self.bell.wait, BELL_SECONDS * random.uniform(0.8, 1.2), limiter=self._ringing)
            else:
                await trio.sleep(LOOK_SECONDS)
        except Unavailable:
            await trio.sleep(BELL_SECONDS * random.uniform(0.5, 1.0))

    def _claim(self, worker: int, count: int, ids: Sequence[str] | None) -> list[Claim]:
        """Claim, in the record's thread, by the time when its turn has come."""
        return self.store.record.claim(worker, count, time.time(), ids)

    async def _take(self, count: int) -> list[str] | None:
        """Ids from the dispatch; None if the record should be asked: none is there, it is down, or has had nothing for a while."""
        self._dispatched, self._wanted = False, count
        if self.keeper is None:
            return None
        ids, self._rung = self._rung, []
        try:
            ids = ids or await self.keeper.call(self.keeper.dispatch.take, count, HINT_SECONDS)
        except Unavailable:
            return None
        self._dispatched = True
        if not ids and trio.current_time() - self._asked_record >= IDLE_SECONDS:
            self._asked_record = trio.current_time()
            return None
        return ids
