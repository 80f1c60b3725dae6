"""streaQ: concurrency and prefetch 32, no result kept, coredis optimized; on asyncio with uvloop, or on trio."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import coredis
from common import AT_ONCE, BATCH, main
from streaq import Worker

coredis.Config.optimized = True
TRIO = sys.argv[5] == "trio"


class Side:
    def __init__(self, worker):
        self.worker = worker

        @worker.task(name="job", ttl=0, silent=True)
        async def job(sent: float, text: str) -> None:
            self.handle(sent)

        self.job = job

    async def setup(self):
        pass

    async def enqueue(self, jobs):
        for start in range(0, len(jobs), BATCH):
            await self.worker.enqueue_many([self.job.enqueue(**job) for job in jobs[start : start + BATCH]])

    async def enqueue_one(self, job):
        await self.job.enqueue(**job)

    async def work(self, handle, gate):
        self.handle = handle
        gate()
        await self.worker.run_async()


@asynccontextmanager
async def side(url: str) -> AsyncIterator[Side]:
    worker = Worker(redis_url=url, concurrency=AT_ONCE, prefetch=AT_ONCE, handle_signals=False)
    if sys.argv[1] == "work":  # `run_async` opens it
        yield Side(worker)
    else:
        async with worker:
            yield Side(worker)


if TRIO:
    import trio

    main(side, trio.run, trio.sleep)
else:
    main(side)
