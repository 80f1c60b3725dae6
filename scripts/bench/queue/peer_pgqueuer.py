"""PgQueuer on asyncpg (one manager, batches of 500) or psycopg (five managers, batches of 250); durable, `pgq autovac` settings."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common import BATCH, main
from pgqueuer import QueueManager
from pgqueuer.queries import Queries

ASYNCPG = sys.argv[5] == "asyncpg"
MANAGERS, BATCH_SIZE = (1, 500) if ASYNCPG else (5, 250)


async def connect(url):
    if ASYNCPG:
        import asyncpg
        from pgqueuer.db import AsyncpgDriver

        return AsyncpgDriver(await asyncpg.connect(url))
    import psycopg
    from pgqueuer.db import PsycopgDriver

    return PsycopgDriver(await psycopg.AsyncConnection.connect(url, autocommit=True))


class Side:
    def __init__(self, url, driver):
        self.url, self.driver = url, driver

    async def setup(self):
        queries = Queries(self.driver)
        await queries.install()
        await self.driver.execute(queries.qbe.build_optimize_autovacuum_query())

    async def enqueue(self, jobs):
        queries = Queries(self.driver)
        for start in range(0, len(jobs), BATCH):
            batch = [json.dumps(job).encode() for job in jobs[start : start + BATCH]]
            await queries.enqueue(["job"] * len(batch), batch, [0] * len(batch))

    async def enqueue_one(self, job):
        await Queries(self.driver).enqueue("job", json.dumps(job).encode())

    async def work(self, handle, gate):
        managers = [QueueManager(Queries(await connect(self.url))) for _ in range(MANAGERS)]
        for manager in managers:

            @manager.entrypoint("job")
            async def job(job):
                handle(json.loads(job.payload)["sent"])

        gate()
        await asyncio.gather(*(manager.run(batch_size=BATCH_SIZE) for manager in managers))


@asynccontextmanager
async def side(url: str) -> AsyncIterator[Side]:
    yield Side(url, await connect(url))


main(side)
