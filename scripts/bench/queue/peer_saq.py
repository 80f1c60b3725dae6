"""SAQ: concurrency 32, no result kept, hiredis. It has no call that enqueues many."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common import AT_ONCE, each_at_once, main
from saq import Queue, Worker

logging.getLogger("saq").setLevel(logging.CRITICAL)  # its sweep stumbles over jobs that have just gone, and says so


class Side:
    def __init__(self, queue):
        self.queue = queue

    async def setup(self):
        pass

    async def enqueue(self, jobs):
        await each_at_once(self.enqueue_one, jobs)

    async def enqueue_one(self, job):
        await self.queue.enqueue("job", ttl=-1, **job)

    async def work(self, handle, gate):
        async def job(ctx, *, sent, text):
            handle(sent)

        gate()
        await Worker(self.queue, [("job", job)], concurrency=AT_ONCE).start()


@asynccontextmanager
async def side(url: str) -> AsyncIterator[Side]:
    queue = Queue.from_url(url)
    await queue.connect()
    yield Side(queue)


main(side)
