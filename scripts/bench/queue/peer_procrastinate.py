"""procrastinate: its own PsycopgConnector, a pool of 30, concurrency 30, jobs deleted when done, LISTEN/NOTIFY on."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import procrastinate
from common import BATCH, main

CONCURRENCY = 30
logging.getLogger("procrastinate").setLevel(logging.ERROR)  # it warns of an app in the main module


class Side:
    def __init__(self, app):
        self.app = app

        @app.task(name="job")
        async def job(sent, text):
            self.handle(sent)

        self.job = job

    async def setup(self):
        await self.app.schema_manager.apply_schema_async()

    async def enqueue(self, jobs):
        for start in range(0, len(jobs), BATCH):
            await self.job.batch_defer_async(*jobs[start : start + BATCH])

    async def enqueue_one(self, job):
        await self.job.defer_async(**job)

    async def work(self, handle, gate):
        self.handle = handle
        gate()
        await self.app.run_worker_async(concurrency=CONCURRENCY, delete_jobs="always", install_signal_handlers=False)


@asynccontextmanager
async def side(url: str) -> AsyncIterator[Side]:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url, min_size=CONCURRENCY, max_size=CONCURRENCY))
    async with app.open_async():
        yield Side(app)


main(side)
