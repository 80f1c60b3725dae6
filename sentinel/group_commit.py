"""Many small writes as few big ones: items that wait together are written in one transaction by one thread, then all are answered.

Knows nothing of what it writes. A thread hop and an fsync are paid per batch, not per item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import attrs
import trio

from sentinel.errors import Unavailable
from sentinel.logs import log

Item = TypeVar("Item")
Result = TypeVar("Result")


@attrs.define(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    done: trio.Event = attrs.field(factory=trio.Event)
    result: Result | None = None
    error: Exception | None = None
    abandoned: bool = False


@attrs.define(eq=False)
class GroupCommit(Generic[Item, Result]):
    """
    Collects items and writes them with `flush`, which runs in a thread and returns one result per item, in order.

    `flush` writes all or nothing. When it raises Unavailable, every item of the batch gets that error; at any other error the batch
    is halved until only an item that is wrong by itself fails. `waiting_max` bounds the queue; `batch_max` the batch.
    `abandoned`, if given, is told in the same thread of the items that were written after their callers had given up; when it
    raises Unavailable, it is told again after the next batch.
    """

    flush: Callable[[Sequence[Item]], Sequence[Result]]
    limiter: trio.CapacityLimiter
    waiting_max: int = 10_000
    batch_max: int = 512
    abandoned: Callable[[Sequence[tuple[Item, Result]]], None] | None = None
    _late: list[tuple[Item, Result]] = attrs.field(factory=list)
    _waiting: list[_Waiting[Item, Result]] = attrs.field(factory=list)
    _wake: trio.Event = attrs.field(factory=trio.Event)
    _closing: bool = False

    async def submit(self, item: Item) -> Result:
        """
        The result for `item` once its batch is committed.

        If the caller is cancelled first, the outcome is unknown to it: the item may be written or not.

        Raises:
            Unavailable: the queue is full.
            Exception: whatever `flush` raised for this item.
        """
        if self._closing:
            raise Unavailable("Sentinel is stopping.")
        if len(self._waiting) >= self.waiting_max:
            raise Unavailable("Too many requests are waiting to be kept.")
        waiting: _Waiting[Item, Result] = _Waiting(item)
        self._waiting.append(waiting)
        self._wake.set()
        try:
            await waiting.done.wait()
        except trio.Cancelled:
            if not waiting.done.is_set():  # when both happen in the same instant, the result counts
                waiting.abandoned = True
                raise
        if waiting.error is not None:
            raise waiting.error
        return waiting.result  # type: ignore[return-value]  # set whenever error is not

    async def run(self) -> None:
        """Write batches until `close` was called and all that was waiting is written. Runs in the owner's nursery."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting:
                batch, self._waiting = self._waiting[: self.batch_max], self._waiting[self.batch_max :]
                await self._write(batch)
                if self._late:
                    await self._report_late()
            if self._closing:
                return

    def close(self) -> None:
        """Take nothing more; `run` returns when the rest is written."""
        self._closing = True
        self._wake.set()

    async def _write(self, batch: list[_Waiting[Item, Result]]) -> None:
        batch = [waiting for waiting in batch if not waiting.abandoned]
        if not batch:
            return
        try:
            results = await trio.to_thread.run_sync(self.flush, [waiting.item for waiting in batch], limiter=self.limiter)
        except Exception as error:  # noqa: BLE001  every failure belongs to those who wait for it; the writer lives on
            log.warning("commit.failed", items=len(batch), error=repr(error)[:200])
            if len(batch) > 1 and not isinstance(error, Unavailable):
                middle = len(batch) // 2
                await self._write(batch[:middle])
                await self._write(batch[middle:])
                return
            for waiting in batch:
                waiting.error = error
                waiting.done.set()
            return
        for waiting, result in zip(batch, results, strict=True):
            waiting.result = result
            waiting.done.set()
            if waiting.abandoned and self.abandoned:
                self._late.append((waiting.item, result))

    async def _report_late(self) -> None:
        assert self.abandoned is not None
        try:
            await trio.to_thread.run_sync(self.abandoned, tuple(self._late), limiter=self.limiter)
        except Unavailable as error:
            log.warning("commit.late_not_reported", items=len(self._late), reason=error.detail)
        else:
            self._late = []
