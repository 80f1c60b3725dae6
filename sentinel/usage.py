"""Follows what was used this month, and how many gateways there are, so that no request has to ask.

When the record is down, the last known stays; the checks decide what that is good for.
"""

from __future__ import annotations

import time
from contextlib import suppress

import attrs
import trio

from sentinel.admission import Admission
from sentinel.edge.quota import month_of
from sentinel.errors import Unavailable
from sentinel.logs import Outage
from sentinel.processes import process_name
from sentinel.records import Store
from sentinel.records.metering import NEWS_SECONDS, Mark

FOLLOW_SECONDS = 1.0
FOLLOW_SECONDS_MAX = 3.0
LOOK_PART = 25  # a look may take one in so many parts of the time: after one that took long the next comes later
IDLE_SECONDS = 10.0  # as long as nobody is limited
BEAT_SECONDS = 4.0


@attrs.define(eq=False)
class UsageFollower:
    """Keeps an admission's ledger, and its number of processes, up to date."""

    store: Store
    admission: Admission
    processes_min: int = 1  # so many there are on this machine alone, heard of or not
    name: str = attrs.field(factory=process_name)
    _beat_at: float = float("-inf")
    _mark: Mark | None = None
    _began_at: float = float("-inf")
    _due_at: float = float("-inf")

    async def start(self) -> None:
        """Look for the first time; without an answer it is not known what was used."""
        with suppress(Unavailable):
            await self.refresh()

    async def run(self) -> None:
        """Follow for ever. Belongs in the gateway's nursery."""
        outage = Outage("usage.stale")
        while True:
            await trio.sleep(FOLLOW_SECONDS if self.admission.is_limited else IDLE_SECONDS)
            if trio.current_time() < self._due_at and not self.admission.ledger.is_short:
                continue
            try:
                await self.refresh()
            except Unavailable as error:
                self._mark = None  # what answers next may be a copy that knows less than the record did
                outage.failed(error.detail)
            else:
                outage.over()

    async def refresh(self) -> None:
        """Look at the record. Raises Unavailable."""
        if self.admission.is_limited and trio.current_time() - self._beat_at >= BEAT_SECONDS:
            seen = await self.store.call(self.store.record.see_gateway, self.name)
            self.admission.limiter.processes = max(self.processes_min, seen)
            self._beat_at = trio.current_time()
        ledger, month, began_ns, began = self.admission.ledger, month_of(time.time()), time.monotonic_ns(), trio.current_time()
        ledger.turn_to(month)
        ledger.look()
        follows = ledger.looked_at_ns is not None and began - self._began_at < NEWS_SECONDS / 2  # what it asks takes time too
        look = await self.store.call(self.store.record.usage, month, self._mark if follows else None)
        ledger.learn(month, look.rows, began_ns, look.more)
        self._mark, self._began_at = look.mark, began
        took = trio.current_time() - began
        self._due_at = began + min(took * LOOK_PART, FOLLOW_SECONDS_MAX)
        self.admission.limiter.sweep(time.monotonic_ns())

    async def leave(self) -> None:
        """Say that this gateway has no share any more; if that cannot be said now, its silence will."""
        if self._beat_at > float("-inf"):
            with suppress(Unavailable):
                await self.store.call(self.store.record.forget_gateway, self.name)
