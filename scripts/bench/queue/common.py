"""What every side of the queue benchmark does in the same way: a side is a file that calls `main`. Needs nothing but Python."""

from __future__ import annotations

import asyncio
import mmap
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

TEXT = "does it come in another color how long is delivery to lisbon please send the invoice again thanks " * 2
BATCH = 1_000  # of an enqueue call, where there is one for many
AT_ONCE = 32  # enqueue calls under way, where there is none
PICKUP_SECONDS_MAX = 10.0
WORKERS_MAX, SAMPLES_MAX = 4, 2_000


class Tally:
    """A file in memory that the processes share: of each worker how many jobs it began and when the first; and the pickup times."""

    def __init__(self, path: str) -> None:
        size = 8 * (2 * WORKERS_MAX + 1 + SAMPLES_MAX)
        file = Path(path)
        if not file.exists() or file.stat().st_size < size:
            file.write_bytes(bytes(size))
        with file.open("r+b") as opened:
            self._cells = memoryview(mmap.mmap(opened.fileno(), size)).cast("d")

    def clear(self) -> None:
        """Forget everything."""
        for place in range(len(self._cells)):
            self._cells[place] = 0.0

    def handler(self, worker: int) -> Callable[[float], None]:
        """What a job does: it says that it has begun, and when it was enqueued if that is asked for."""
        cells, count, first, picked = self._cells, 2 * worker, 2 * worker + 1, 2 * WORKERS_MAX

        def handle(sent: float) -> None:
            if not cells[count]:
                cells[first] = time.monotonic()
            cells[count] += 1
            if sent:
                cells[picked] += 1
                cells[picked + int(cells[picked])] = time.monotonic() - sent

        return handle

    @property
    def begun(self) -> int:
        """How many jobs have begun, in all workers."""
        return int(sum(self._cells[2 * worker] for worker in range(WORKERS_MAX)))

    @property
    def first(self) -> float:
        """When the first job began."""
        return min(self._cells[2 * worker + 1] for worker in range(WORKERS_MAX) if self._cells[2 * worker])

    @property
    def pickups(self) -> list[float]:
        """Seconds from just before enqueueing to the handler's start."""
        return list(self._cells[2 * WORKERS_MAX + 1 :][: int(self._cells[2 * WORKERS_MAX])])


class Queue(Protocol):
    """One side. A job is {"sent": 0.0 or when it was enqueued, "text": about 200 bytes}."""

    async def setup(self) -> None:
        """Make its tables or groups."""

    async def enqueue(self, jobs: list[dict[str, Any]]) -> None:
        """Enqueue all, the fastest documented way."""

    async def enqueue_one(self, job: dict[str, Any]) -> None:
        """Enqueue one, the usual way."""

    async def work(self, handle: Callable[[float], None], gate: Callable[[], None]) -> None:
        """Open what is needed, pass the gate, and work for ever, calling `handle(job["sent"])` in each job's handler."""


def new_jobs(count: int) -> list[dict[str, Any]]:
    """Jobs that nobody times."""
    return [{"sent": 0.0, "text": TEXT} for _ in range(count)]


async def each_at_once(call: Callable[[Any], Awaitable[Any]], items: list[Any]) -> None:
    """`call` for every item, AT_ONCE of them under way (asyncio)."""
    left = iter(items)

    async def run() -> None:
        for item in left:
            await call(item)

    await asyncio.gather(*(run() for _ in range(AT_ONCE)))


def main(
    side: Callable[[str], AbstractAsyncContextManager[Queue]],
    run: Callable[[Callable[[], Awaitable[None]]], None] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """`FILE setup|enqueue|pickup|work URL TALLY NUMBER [OPTION…]`; prints how many seconds enqueueing took, or that it is ready."""
    phase, url, path, number = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    tally = Tally(path)

    def gate() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    async def act() -> None:
        async with side(url) as queue:
            if phase == "setup":
                await queue.setup()
            elif phase == "enqueue":
                jobs = new_jobs(number)
                began = time.monotonic()
                await queue.enqueue(jobs)
                print(time.monotonic() - began)
            elif phase == "pickup":
                await _pick_up(queue, tally, number, sleep)
            else:
                await queue.work(tally.handler(number), gate)

    if run is not None:
        run(act)
    else:
        import uvloop

        uvloop.run(act())


async def _pick_up(queue: Queue, tally: Tally, samples: int, sleep: Callable[[float], Awaitable[None]]) -> None:
    for number in range(1, samples + 1):
        sent = time.monotonic()
        await queue.enqueue_one({"sent": sent, "text": TEXT})
        while len(tally.pickups) < number:
            if time.monotonic() - sent > PICKUP_SECONDS_MAX:
                raise SystemExit(f"Job {number} was not begun within {PICKUP_SECONDS_MAX:.0f} s.")
            await sleep(0.002)
        await sleep(random.uniform(0.015, 0.045))
