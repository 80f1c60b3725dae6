"""What a gateway does while the record cannot take jobs: keep them in the spool, bring them over when it can, in order.

Must not lose a job that is in the spool, nor let a later message of a chat overtake one that is still there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import attrs
import trio

from sentinel.errors import Unavailable
from sentinel.group_commit import GroupCommit
from sentinel.logs import describe, log
from sentinel.model import NewJob
from sentinel.records import Store
from sentinel.records.spool import Spool

Jobs = tuple[NewJob, ...]
DRAIN_ROWS = 500
RETRY_FIRST_SECONDS, RETRY_SECONDS_MAX = 0.25, 5.0

T = TypeVar("T")


@attrs.define(eq=False)
class Spooling:
    """
    The spool in front of a record that is down.

    While `active`, every job goes to the spool, also when the record is back, until the spool is empty: that keeps the order. For
    the last few jobs the door is shut for a moment (`passage`), or a busy gateway would never be done.
    `keep_seconds_max` bounds how long `keep` takes, `door_seconds_max` how long `passage` does.
    `trouble` is why the last `keep` failed, at `trouble_at` (trio's clock); "" if it did not.
    """

    spool: Spool
    store: Store
    waiting_max: int
    keep_seconds_max: float
    door_seconds_max: float
    arrived: Callable[[Sequence[NewJob]], None] = attrs.field(default=lambda _jobs: None)
    active: bool = False
    waiting: int = 0
    reason: str = ""
    trouble: str = ""
    trouble_at: float = 0.0
    _since: float = 0.0
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))
    _commits: GroupCommit[Jobs, list[bool]] = attrs.field(init=False)
    _begun: trio.Event = attrs.field(factory=trio.Event)
    _door: trio.Event | None = None

    def __attrs_post_init__(self) -> None:
        self._commits = GroupCommit(
            self._flush, self._limiter, waiting_max=self.waiting_max, abandoned=self._withdraw, seconds_max=self.keep_seconds_max
        )
        if waiting := self.spool.count().waiting:
            self._begin("left from an earlier run")
            self.waiting = waiting

    async def passage(self) -> None:
        """Wait while the last jobs of the spool are on their way."""
        if self._door is not None:
            with trio.move_on_after(self.door_seconds_max):
                await self._door.wait()

    async def keep(self, jobs: Jobs, reason: str = "") -> list[bool]:
        """Which of the jobs are new to the spool, once all are on disk. Raises Unavailable if that takes too long."""
        self._begin(reason)
        try:
            created = await self._commits.submit(jobs)
        except Unavailable as error:
            self.trouble, self.trouble_at = error.detail, trio.current_time()
            raise
        self.trouble = ""
        self.waiting += sum(created)
        return created

    async def run(self) -> None:
        """Keep and drain until closed. Belongs in the gateway's nursery."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drain_for_ever)
            await self._commits.run()
            nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Take nothing more."""
        self._commits.close()

    def words(self) -> str:
        """The state of things for a person: "ok", or how many are spooled and why."""
        if not self.active:
            return "ok"
        spooled = f"{self.waiting} spooled for {trio.current_time() - self._since:.0f} s: {self.reason}"
        return f"{spooled} And the last webhook was not kept ({self.trouble})" if self.trouble else spooled

    def _begin(self, reason: str) -> None:
        if not self.active:
            self.active, self.reason, self._since = True, reason, trio.current_time()
            self._begun.set()
            log.warning("spool.begins", reason=reason)

    async def _drain_for_ever(self) -> None:
        pause = RETRY_FIRST_SECONDS
        while True:
            await self._begun.wait()
            try:
                await self._drain()
                pause = RETRY_FIRST_SECONDS
            except Unavailable as error:
                self.reason = error.detail
                await trio.sleep(pause * random.uniform(0.8, 1.2))
                pause = min(pause * 2, RETRY_SECONDS_MAX)
            finally:
                self._open_door()

    async def _drain(self) -> None:
        """
        Bring everything over. Raises Unavailable if the record, or the disk, does not play along.

        The door is shut for the last few, once the record has taken something: nobody is to wait for one that is away.
        """
        takes = False
        while True:
            batch = await self._in_thread(self.spool.oldest, DRAIN_ROWS)
            near_the_end = len(batch) < DRAIN_ROWS and (takes or (not batch and self._commits.idle))
            if near_the_end and self._door is None:
                self._door = trio.Event()  # only those who are being written can come now
                continue
            left = await self._bring(batch) if batch else 0
            takes = takes or bool(batch)
            if not left and self._door is not None and self._commits.idle:
                self._end()
                return

    def _end(self) -> None:
        seconds = trio.current_time() - self._since
        self.active, self.waiting, self.trouble, self._begun = False, 0, "", trio.Event()
        log.info("spool.drained", seconds=round(seconds, 1))

    def _open_door(self) -> None:
        if self._door is not None:
            self._door.set()
            self._door = None

    async def _bring(self, batch: Sequence[NewJob]) -> int:
        """Write the batch to the record and forget it here; how many are left. A job that the record refuses is put aside."""
        try:
            created = await self.store.call(self.store.record.accept, batch, time.time())
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001  one bad job must not hold up all behind it
            if len(batch) == 1:
                log.error("spool.rejected", job=batch[0].id, error=error)
                await self._in_thread(self.spool.reject, batch[0].id, describe(error), time.time())
                return (await self._in_thread(self.spool.count)).waiting
            await self._bring(batch[: len(batch) // 2])
            return await self._bring(batch[len(batch) // 2 :])
        self.waiting = await self._in_thread(self.spool.forget, [job.id for job in batch])
        self.arrived([job for job, new in zip(batch, created, strict=True) if new])
        return self.waiting

    async def _in_thread(self, call: Callable[..., T], *arguments: object) -> T:
        return await trio.to_thread.run_sync(call, *arguments, limiter=self._limiter)

    def _flush(self, batches: Sequence[Jobs]) -> list[list[bool]]:
        created = iter(self.spool.keep([job for jobs in batches for job in jobs], time.time()))
        return [[next(created) for _ in jobs] for jobs in batches]

    def _withdraw(self, late: Sequence[tuple[Jobs, list[bool]]]) -> None:
        """Remove what was written after its sender was told to try again, if a second try could not be recognised as the same."""
        if ids := [job.id for jobs, _ in late for job in jobs if not job.external_id]:
            self.spool.forget(ids)
