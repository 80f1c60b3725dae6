"""Wakes those who wait for a job to end. One question to the record for all of them, however many they are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

import attrs
import trio

from sentinel.errors import Unavailable
from sentinel.logs import Outage
from sentinel.records import Store

LOOK_SECONDS = 0.05
ALLOWED_SECONDS = 1.0  # between two looks whether a caller may still wait


@attrs.define(eq=False)
class Watch:
    """Who waits for which job. Waiting is by looking, so it works across processes and with every record."""

    store: Store
    waiting_max: int = 500
    _callers: Counter[str] = attrs.field(factory=Counter)
    _waiting: dict[str, set[trio.Event]] = attrs.field(factory=lambda: defaultdict(set))
    _someone: trio.Event = attrs.field(factory=trio.Event)
    _outage: Outage = attrs.field(factory=lambda: Outage("watch.blind"))

    async def wait_ended(self, job_id: str, seconds: float, tenant: str = "", allowed: Callable[[], bool] = lambda: True) -> bool:
        """
        Return when the job has ended, or after `seconds`, or soon after it is no more `allowed` to wait.

        False at once if too many wait: at most `waiting_max` in all and half of them for one tenant, so that waiting never shuts
        out webhooks.
        """
        if self._callers.total() >= self.waiting_max or self._callers[tenant] >= max(1, self.waiting_max // 2):
            return False
        self._callers[tenant] += 1
        try:
            await self._wait(job_id, seconds, allowed)
        finally:
            self._callers[tenant] -= 1
        return True

    async def _wait(self, job_id: str, seconds: float, allowed: Callable[[], bool]) -> None:
        ended = trio.Event()
        self._waiting[job_id].add(ended)
        self._someone.set()
        try:
            with trio.move_on_after(seconds):
                while allowed() and not ended.is_set():
                    with trio.move_on_after(ALLOWED_SECONDS):
                        await ended.wait()
        finally:
            self._waiting[job_id].discard(ended)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def run(self) -> None:
        """Look for ever, while somebody waits. Belongs in the gateway's nursery."""
        while True:
            await self._someone.wait()
            self._someone = trio.Event()
            while self._waiting:
                await self._look()
                await trio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        try:
            ended = await self.store.call(self.store.record.ended, list(self._waiting))
        except Unavailable as error:
            self._outage.failed(error.detail)
            return
        self._outage.over()
        for job_id in ended:
            for waiter in self._waiting.get(job_id, ()):
                waiter.set()
