"""Whatever breaks between two statements of a store, before one or after it: the promises hold, on every store."""

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

from sentinel.dispatch import Dispatch
from sentinel.dispatch.redis import RedisDispatch
from sentinel.errors import Unavailable
from sentinel.model import State
from sentinel.processes import process_name
from sentinel.records import Ending, JobFilter, Record, Reply, open_record
from sentinel.records.postgres import PostgresRecord
from sentinel.records.sqlite import SqliteRecord
from tests.records.conftest import NOW, fresh_database, new_job, redis
from tests.records.dispatched import Dispatched


class Cuts:
    """Says when to break, and counts. Nothing breaks until `chance` is there."""

    def __init__(self) -> None:
        self.chance: random.Random | None = None
        self.count = 0

    @contextmanager
    def around(self, broken: Callable[[], Exception], often: float = 0.15) -> Iterator[None]:
        """Break before the block, after it, or not at all. After it, it was done and nobody hears of it."""
        when = self.chance.random() if self.chance else 0.5
        if when < often:
            self.count += 1
            raise broken()
        yield
        if when > 1 - often:
            self.count += 1
            raise broken()


class CutPostgres(PostgresRecord):
    """Its connection breaks around statements."""

    cuts: Cuts

    def _execute(self, statement: str, values: object = None, **more: Any):
        with self.cuts.around(self._break):
            return super()._execute(statement, values, **more)

    def _break(self) -> Exception:
        if self._connection is not None:
            self._connection.close()
        return psycopg.OperationalError("cut")


class CutSqlite(SqliteRecord):
    """Its disk fails at single statements, which undoes the transaction, and after commits."""

    cuts: Cuts

    @contextmanager
    def _transaction(self, *, reading: bool = False) -> Iterator[None]:
        with self.cuts.around(lambda: Unavailable("cut")), super()._transaction(reading=reading):
            yield

    def _run(self, name: str, /, **values: Any) -> int:
        with self.cuts.around(lambda: sqlite3.OperationalError("disk I/O error"), often=0.03):
            return super()._run(name, **values)


class CutDispatch:
    """A dispatch whose calls are not done, or done without an answer."""

    def __init__(self, dispatch: Dispatch, cuts: Cuts) -> None:
        self._dispatch, self._cuts = dispatch, cuts

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: object) -> Any:
            with self._cuts.around(lambda: Unavailable("cut")):
                return getattr(self._dispatch, name)(*arguments)

        return call


def sqlite_store(folder: Path, cuts: Cuts) -> tuple[str, Record]:
    url = f"sqlite:{folder}/record.db"
    record = CutSqlite.__new__(CutSqlite)
    record.cuts = cuts
    record.__init__(f"{folder}/record.db", 5.0)  # type: ignore[misc]  # it migrates, and that may not break yet
    return url, record


def postgres_store(folder: Path, cuts: Cuts) -> tuple[str, Record]:
    url = fresh_database(folder)
    record = CutPostgres(url, 5.0)
    record.cuts = cuts
    return url, record


def dispatched_store(folder: Path, cuts: Cuts) -> tuple[str, Record]:
    url, record = postgres_store(folder, cuts)
    dispatch = RedisDispatch(redis().url, 5.0, prefix="{" + url.rpartition("/")[2] + "}:")
    dispatch.rebuild([])
    return url, cast(Record, Dispatched(record, cast(Dispatch, CutDispatch(dispatch, cuts)), lease_seconds=0.05))


@pytest.mark.parametrize("store", [sqlite_store, postgres_store, dispatched_store])
@pytest.mark.parametrize("seed", range(3))
def test_every_promise_holds(tmp_path, store, seed):
    """What was accepted ends once, replies are written once, chats keep their order, and nothing counts as an attempt too many."""
    cuts = Cuts()
    url, record = store(tmp_path, cuts)
    with closing(open_record(url)) as truth:
        worker = truth.register("w", process_name(), 8, "ready", NOW)
        jobs = [new_job(conversation=f"c{number % 5}" if number % 2 else None) for number in range(60)]
        cuts.chance = random.Random(seed)
        for start in range(0, 60, 20):
            insist(lambda start=start: record.accept(jobs[start : start + 20], NOW))
        order: list[str] = []
        while truth.counts():
            for claim in claim_surely(record, truth, worker):
                reply, end = (
                    Reply(claim.job.id, claim.lease_token, {"x": 1}, ["a"]),
                    Ending(claim.job.id, claim.lease_token, State.SUCCEEDED),
                )
                assert insist(lambda reply=reply: record.save_replies([reply], NOW)) == [True]
                insist(lambda end=end: record.end([end], NOW))
                order.append(claim.job.id)
        cuts.chance = None
        assert cuts.count > 20
        ended = truth.list_jobs(JobFilter(limit=100))
        assert {job.id for job in ended} == {job.id for job in jobs}
        assert all((job.state, job.attempt) == (State.SUCCEEDED, 1) for job in ended)
        assert all(len(truth.pending_parts(job.id)) == 1 for job in jobs)
        for chat in range(5):
            sent = [job.id for job in jobs if job.conversation == f"c{chat}"]
            assert [job_id for job_id in order if job_id in sent] == sent
        record.close()


def insist(call: Callable[[], list[bool]]) -> list[bool]:
    """Repeat what may be repeated blindly until it is heard that it was done."""
    while True:
        try:
            return call()
        except Unavailable:
            continue


def claim_surely(record: Record, truth: Record, worker: int) -> list:
    """Claim; if the answer was lost, give back what was claimed without our knowing, as a worker does."""
    try:
        return record.claim(worker, 4, NOW)
    except Unavailable:
        lost = [Ending(lease.job_id, lease.lease_token, State.QUEUED, uncount=True) for lease in truth.leases(worker)]
        truth.end(lost, NOW)
        return []
