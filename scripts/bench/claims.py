"""Claims of four jobs in two databases of one private PostgreSQL, in turn, so that what else the machine does befalls both.

In one of them a snapshot has been held since before CHURN jobs came and went. fsync is on.

claims.py TENANTS CLAIMS CHURN
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import psycopg

from sentinel.chaos.servers import PostgresServer, new_postgres
from sentinel.model import Claim, NewJob, State, job_id
from sentinel.records import Ending
from sentinel.records.postgres import PostgresRecord

COUNT, BACKLOG, BATCH, WARM = 4, 200, 500, 60
TEXT = "does it come in another color how long is delivery to lisbon please send the invoice again thanks"
NUMBERS = itertools.count(1)


@attrs.define(eq=False)
class Side:
    """A database with a worker in it."""

    record: PostgresRecord
    tenants: int
    worker: int = 0
    took_ms: list[float] = attrs.field(factory=list)

    def churn(self, jobs: int) -> None:
        for _ in range(jobs // BATCH):
            self.accept(BATCH)
            self.end(self.record.claim(self.worker, BATCH, time.time()))

    def accept(self, jobs: int) -> None:
        self.record.accept([new_job(self.tenants) for _ in range(jobs)], time.time())

    def end(self, claims: Sequence[Claim]) -> None:
        endings = [Ending(claim.job.id, claim.lease_token, State.SUCCEEDED) for claim in claims]
        self.record.end(endings, time.time())

    def step(self) -> None:
        """A claim, which is measured, its end, and as many new jobs."""
        before = self.cpu_ms()
        claims = self.record.claim(self.worker, COUNT, time.time())
        self.took_ms.append(self.cpu_ms() - before)
        self.end(claims)
        self.accept(len(claims))

    def cpu_ms(self) -> float:
        pid = self.record._connection.info.backend_pid  # noqa: SLF001  nobody else can tell
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6

    def figures(self) -> list[float]:
        took = sorted(self.took_ms[WARM:])
        return [took[len(took) // 2], took[int(len(took) * 0.99)], statistics.mean(took)]


def new_job(tenants: int) -> NewJob:
    number = next(NUMBERS)
    return NewJob(
        id=job_id("bench", str(number)),
        tenant=f"t{number % tenants:03}",
        channel="whatsapp",
        source="shop",
        external_id=f"wamid.{number}",
        input=({"role": "user", "content": TEXT},),
        received_at=time.time(),
        verified_by="hmac-sha256",
        reply_to={"to": "16505551234", "phone_number_id": "106540352242922", "message_id": f"wamid.{number}"},
    )


@contextmanager
def held(url: str) -> Iterator[None]:
    with psycopg.connect(url) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM workers")
        yield


def open_side(server: PostgresServer, name: str, tenants: int, stack: ExitStack) -> Side:
    server.run(f"CREATE DATABASE {name}")
    record = PostgresRecord(server.database(name), 60.0)
    stack.callback(record.close)
    record.migrate()
    return Side(record, tenants, record.register("w", "x", 8, "ready", time.time()))


def main(tenants: int, claims: int, churn: int) -> None:
    server = new_postgres(max_wal_size="2GB", checkpoint_timeout="30min")
    with ExitStack() as stack:
        stack.callback(server.remove)
        server.start()
        sides = {name: open_side(server, name, tenants, stack) for name in ("free", "held")}
        stack.enter_context(held(server.database("held")))
        for side in sides.values():
            side.churn(churn)
            side.accept(BACKLOG)
        began = time.monotonic()
        for _ in range(claims):
            for side in sides.values():
                side.step()
        rate, free = claims / (time.monotonic() - began), sides["free"].figures()
        print(f"{tenants} tenants, {churn:,} jobs before, {rate:.0f} claims a second on each side; ms of CPU for {COUNT} jobs")
        for name, side in sides.items():
            figures = side.figures()
            words = (
                f"{what} {ms:.3f} ({ms / least:.2f})" for what, ms, least in zip(("p50", "p99", "mean"), figures, free, strict=True)
            )
            print(f"{name}: {', '.join(words)}", flush=True)


main(*map(int, sys.argv[1:4]))
