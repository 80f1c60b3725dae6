"""Many small writes as few big ones: items that wait together are written in one transaction by one thread, then all are answered.

Knows nothing of what it writes. A thread hop and an fsync are paid per batch, not per item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

import attrs
import trio

from sentinel.errors import Unavailable
from sentinel.logs import Outage, log

# While one writer lets callers go, the other writes the next batch. Callers go in small groups: if a whole batch of them ran in
# one pass of the scheduler, the disk would idle until the last had come back with its next item.
WRITERS = 2
SETTLE_AT_A_TIME = 64
EXPIRY_LOOKS = 20  # how often within `seconds_max` somebody looks; a caller waits at most that much longer

Item = TypeVar("Item")
Result = TypeVar("Result")


@attrs.define(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    since: float
    told: Callable[[Result | Exception], None] | None
    result: Result | None = None
    error: Exception | None = None
    abandoned: bool = False
    written: bool = False

    def settle(self) -> None:
        """Tell the caller, if it still waits. What goes wrong with one is no matter of the others."""
        if self.told is not None:
            told, self.told = self.told, None
            try:
                told(cast(Result, self.result) if self.error is None else self.error)
            except Exception as error:  # noqa: BLE001  as said
                log.exception("commit.not_told", error=error)

    def give_up(self, _raise_cancel: object = None) -> trio.lowlevel.Abort:
        """The caller waits no longer."""
        self.abandoned, self.told = True, None
        return trio.lowlevel.Abort.SUCCEEDED


@attrs.define(eq=False)
class GroupCommit(Generic[Item, Result]):
    """
    Collects items and writes them with `flush`, which runs in a thread and returns one result per item, in order.

    `flush` writes all or nothing. When it raises Unavailable, every item of the batch gets that error; at any other error the
    batch is halved until only an item that is wrong by itself fails. `waiting_max` bounds the queue; `batch_max` the batch.
    `seconds_max`, if given, is how long a caller waits: one clock for all, cheaper than a cancel scope for each.
    `abandoned`, if given, is told in the same thread of the items that were written after their callers had given up; when it
    raises Unavailable, it is told again after the next batch.
    """

    flush: Callable[[Sequence[Item]], Sequence[Result]]
    limiter: trio.CapacityLimiter
    waiting_max: int = 10_000
    batch_max: int = 512
    abandoned: Callable[[Sequence[tuple[Item, Result]]], None] | None = None
    seconds_max: float | None = None
    _writing: list[_Waiting[Item, Result]] = attrs.field(factory=list)
    _turn: trio.Lock = attrs.field(factory=trio.Lock)
    _late: list[tuple[Item, Result]] = attrs.field(factory=list)
    _waiting: list[_Waiting[Item, Result]] = attrs.field(factory=list)
    _wake: trio.Event = attrs.field(factory=trio.Event)
    _outage: Outage = attrs.field(factory=lambda: Outage("commit.unavailable"))
    _closing: bool = False

    async def submit(self, item: Item) -> Result:
        """
        The result for `item` once its batch is committed.

        If the caller is cancelled first, the outcome is unknown to it: the item may be written or not.

        Raises:
            Unavailable: the queue is full, or the item was not written within `seconds_max`; then too the outcome is unknown.
            Exception: whatever `flush` raised for this item.
        """
        task = trio.lowlevel.current_task()
        waiting = self.enqueue(item, lambda _outcome: trio.lowlevel.reschedule(task))
        await trio.lowlevel.wait_task_rescheduled(waiting.give_up)
        if waiting.error is not None:
            raise waiting.error
        return waiting.result  # type: ignore[return-value]  # set whenever error is not

    def enqueue(self, item: Item, told: Callable[[Result | Exception], None]) -> _Waiting[Item, Result]:
        """
        Write `item` for a caller without a task: `told` gets what `submit` returns or raises, once, and never before this returns.

        It is called from the tasks of `run`, so it must not wait. Raises Unavailable for what is refused at once, as `submit` does.
        """
        if self._closing:
            raise Unavailable("Sentinel is stopping.")
        if len(self._waiting) >= self.waiting_max:
            raise Unavailable("Too many requests are waiting to be kept.")
        waiting: _Waiting[Item, Result] = _Waiting(item, trio.current_time(), told)
        self._waiting.append(waiting)
        self._wake.set()
        return waiting

    async def run(self) -> None:
        """Write batches until `close` was called and all that was waiting is written. Runs in the owner's nursery."""
        try:
            await self._run()
        finally:
            self._closing = True
            self._refuse_the_rest()

    def _refuse_the_rest(self) -> None:
        """Nobody may wait for a writer that is gone: a shielded caller would wait for ever."""
        for waiting in [*self._writing, *self._waiting]:
            waiting.error = waiting.error or Unavailable("Sentinel is stopping.")
            waiting.settle()

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            if self.seconds_max is not None:
                nursery.start_soon(self._expire, self.seconds_max)
            async with trio.open_nursery() as writers:
                for _ in range(WRITERS):
                    writers.start_soon(self._write_all)
            nursery.cancel_scope.cancel()

    async def _expire(self, seconds_max: float) -> None:
        while True:
            await trio.sleep(seconds_max / EXPIRY_LOOKS)
            before = trio.current_time() - seconds_max
            for waiting in [*self._writing, *self._waiting]:
                if waiting.since <= before and waiting.told is not None:
                    waiting.error = Unavailable("The record did not answer in time.")
                    waiting.abandoned = True
                    waiting.settle()

    async def _write_all(self) -> None:
        while self._waiting or not self._closing:
            if not self._waiting:
                if self._wake.is_set():
                    self._wake = trio.Event()
                await self._wake.wait()
                continue
            async with self._turn:
                batch, self._waiting = self._waiting[: self.batch_max], self._waiting[self.batch_max :]
                self._writing = batch
                await self._write(batch)
                self._writing = []
            await self._settle(batch)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being written."""
        return not self._waiting and not self._writing

    @property
    def waiting(self) -> int:
        """How many items wait for their writing to begin."""
        return len(self._waiting)

    def turn_away(self, error: Exception) -> None:
        """Give this error to all whose writing has not begun: they have somewhere better to go."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.error = error
            one.settle()

    @property
    def closed(self) -> bool:
        """Whether nothing more is taken."""
        return self._closing

    def close(self) -> None:
        """Take nothing more; `run` returns when the rest is written."""
        self._closing = True
        self._wake.set()

    async def _write(self, batch: list[_Waiting[Item, Result]]) -> None:
        """Write the batch and note for each item what came of it."""
        batch = [waiting for waiting in batch if not waiting.abandoned]
        if not batch:
            return
        try:
            results = await trio.to_thread.run_sync(self.flush, [waiting.item for waiting in batch], limiter=self.limiter)
        except Exception as error:  # noqa: BLE001  every failure belongs to those who wait for it; the writer lives on
            if isinstance(error, Unavailable):
                self._outage.failed(error.detail)
            else:
                log.warning("commit.failed", items=len(batch), error=error)
            if len(batch) > 1 and not isinstance(error, Unavailable):
                middle = len(batch) // 2
                await self._write(batch[:middle])
                await self._write(batch[middle:])
                return
            for waiting in batch:
                waiting.error = error
            return
        self._outage.over()
        for waiting, result in zip(batch, results, strict=True):
            waiting.result = result
            waiting.written = True

    async def _settle(self, batch: list[_Waiting[Item, Result]]) -> None:
        """Let the callers go, and report those who had gone before."""
        try:
            for place, waiting in enumerate(batch, start=1):
                waiting.settle()
                if waiting.abandoned and waiting.written and self.abandoned:
                    self._late.append((waiting.item, cast(Result, waiting.result)))
                if place % SETTLE_AT_A_TIME == 0:
                    await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            for waiting in batch:
                waiting.settle()
            raise
        if self._late:
            async with self._turn:
                await self._report_late()

    async def _report_late(self) -> None:
        assert self.abandoned is not None
        late = tuple(self._late)
        try:
            await trio.to_thread.run_sync(self.abandoned, late, limiter=self.limiter)
        except Unavailable as error:
            log.warning("commit.late_not_reported", items=len(self._late), reason=error.detail)
        else:
            del self._late[: len(late)]
