"""taskiq: the Redis stream broker, read and run 100 at a time, acknowledged when done. It has no call that enqueues many."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common import each_at_once, main
from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

RESULTS = sys.argv[5] == "results"


class Side:
    def __init__(self, broker):
        self.broker = broker

        @broker.task(task_name="job")
        async def job(sent: float, text: str) -> None:
            self.handle(sent)

        self.job = job

    async def setup(self):
        pass  # the group is made by `startup`

    async def enqueue(self, jobs):
        await each_at_once(self.enqueue_one, jobs)

    async def enqueue_one(self, job):
        await self.job.kiq(**job)

    async def work(self, handle, gate):
        self.handle = handle
        gate()
        await run_receiver_task(self.broker, max_async_tasks=100)


@asynccontextmanager
async def side(url: str) -> AsyncIterator[Side]:
    broker = RedisStreamBroker(url, consumer_id="0", xread_count=100)
    if RESULTS:
        broker = broker.with_result_backend(RedisAsyncResultBackend(url, result_ex_time=300))
    await broker.startup()
    yield Side(broker)


main(side)
