"""Intake: "kept" is only said of what is committed, "try again" within the budget, and nothing stays behind unseen."""

import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import attrs
import pytest
import trio

from sentinel.errors import Unavailable
from sentinel.intake import RECORD_SHARE, Intake
from sentinel.model import NewJob
from sentinel.records import JobFilter, Record, Store, open_record
from tests.records.conftest import new_job

BUDGET = 0.4


@attrs.define(eq=False)
class Hanging:
    """A record on a disk that does not answer until `answers` is set."""

    record: Record
    answers: threading.Event = attrs.field(factory=threading.Event)
    began: threading.Event = attrs.field(factory=threading.Event)
    withdrawals: list[Sequence[str]] = attrs.field(factory=list)
    refused: int = 0

    def accept(self, jobs: Sequence[NewJob], now: float) -> list[bool]:
        self.began.set()
        assert self.answers.wait(10)
        return self.record.accept(jobs, now)

    def withdraw(self, ids: Sequence[str]) -> int:
        self.withdrawals.append(ids)
        if len(self.withdrawals) <= self.refused:
            raise Unavailable("locked")
        return self.record.withdraw(ids)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "record.db"


@asynccontextmanager
async def opened(path: Path, *, hanging: bool = False, waiting_max: int = 1000) -> AsyncIterator[tuple[Intake, Record, Hanging]]:
    with closing(open_record(f"sqlite:{path}", BUDGET * RECORD_SHARE)) as record:
        hangs = Hanging(record)
        intake = Intake(Store(hangs if hanging else record), BUDGET, waiting_max)  # type: ignore[arg-type]
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(intake.run)
                try:
                    yield intake, record, hangs
                finally:
                    hangs.answers.set()
                    intake.close()


def kept(path: Path) -> set[str]:
    with closing(open_record(f"sqlite:{path}")) as record:
        return {job.id for job in record.list_jobs(JobFilter(limit=10_000))}


async def test_kept_means_committed(path):
    """When accept returns, another connection sees the jobs, and what was known is told from what is new."""
    job, other = new_job(), new_job()
    async with opened(path) as (intake, _, _):
        assert await intake.accept([job]) == [True]
        assert kept(path) == {job.id}
        assert await intake.accept([job, other, other]) == [False, True, False]
        assert await intake.accept([]) == []


async def test_many_at_once_share_commits(path):
    """Many webhooks at once are all kept, and each caller gets the answer for its own jobs."""
    new, known = [new_job() for _ in range(100)], new_job()
    answers = {}
    async with opened(path) as (intake, _, _):
        await intake.accept([known])

        async def accept(job: NewJob) -> None:
            answers[job.id] = await intake.accept([job, known])

        async with trio.open_nursery() as nursery:
            for job in new:
                nursery.start_soon(accept, job)
    assert answers == {job.id: [True, False] for job in new}
    assert kept(path) == {known.id, *(job.id for job in new)}


async def test_the_same_delivery_at_once(path):
    """Of the same webhook delivered several times at once exactly one is told that it is new."""
    job = new_job()
    answers = []
    async with opened(path) as (intake, _, _):

        async def accept() -> None:
            answers.extend(await intake.accept([job]))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(accept)
    assert sorted(answers) == [False] * 19 + [True]


async def test_one_job_that_cannot_be_kept(path):
    """A job that no store could write fails alone; the others of its batch are kept."""
    bad, good = new_job(sender="\ud800"), [new_job() for _ in range(20)]
    failed = []
    async with opened(path) as (intake, _, _):

        async def accept(job: NewJob) -> None:
            try:
                await intake.accept([job])
            except ValueError:
                failed.append(job.id)

        async with trio.open_nursery() as nursery:
            for job in [*good[:10], bad, *good[10:]]:
                nursery.start_soon(accept, job)
    assert failed == [bad.id]
    assert kept(path) == {job.id for job in good}


async def test_a_locked_record_is_answered_in_time(path):
    """While another program holds the file all hear "try again" within the budget; nothing stays behind, and then it works."""
    spent = []
    async with opened(path) as (intake, _, _):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")

            async def accept() -> None:
                began = time.monotonic()
                with pytest.raises(Unavailable):
                    await intake.accept([new_job(external_id="")])
                spent.append(time.monotonic() - began)

            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(accept)
                    await trio.sleep(0.01)
            other.execute("ROLLBACK")
        job = new_job()
        assert await intake.accept([job]) == [True]
    assert len(spent) == 10
    assert max(spent) <= BUDGET
    assert kept(path) == {job.id}


async def test_a_disk_that_hangs_is_answered_in_time(path):
    """While the disk does not answer all hear so within the budget; later, what was kept too late without a key is withdrawn."""
    keyed, keyless, never = new_job(), new_job(external_id=""), new_job(external_id="")
    spent = []
    async with opened(path, hanging=True) as (intake, record, hangs):

        async def accept(*jobs: NewJob) -> None:
            began = time.monotonic()
            with pytest.raises(Unavailable, match="in time"):
                await intake.accept(jobs)
            spent.append(time.monotonic() - began)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, keyed, keyless)
            await trio.to_thread.run_sync(hangs.began.wait, 5)
            nursery.start_soon(accept, never)
        assert max(spent) <= BUDGET
        hangs.answers.set()
        known = new_job(external_id="")
        assert await intake.accept([known]) == [True]
        with trio.fail_after(5):
            while await trio.to_thread.run_sync(record.find_job, keyless.id, limiter=intake.store.limiter):
                await trio.sleep(0.005)
        assert await intake.accept([keyed]) == [False]
    assert kept(path) == {keyed.id, known.id}


async def test_a_late_duplicate_is_not_withdrawn(path):
    """A job that was there before is never withdrawn for a late second acceptance of it."""
    job = new_job(external_id="")
    with closing(open_record(f"sqlite:{path}")) as record:
        record.accept([job], 1.0)
    async with opened(path, hanging=True) as (intake, _, hangs):
        with pytest.raises(Unavailable):
            await intake.accept([job])
        hangs.answers.set()
    assert kept(path) == {job.id}


async def test_a_full_queue_is_answered_at_once(path):
    """More waiting webhooks than the bound are refused without waiting."""
    async with opened(path, hanging=True, waiting_max=1) as (intake, _, hangs), trio.open_nursery() as nursery:
        nursery.start_soon(intake.accept, [new_job()])
        await trio.to_thread.run_sync(hangs.began.wait, 5)
        nursery.start_soon(intake.accept, [new_job()])
        await trio.testing.wait_all_tasks_blocked()
        began = time.monotonic()
        with pytest.raises(Unavailable, match="Too many"):
            await intake.accept([new_job()])
        assert time.monotonic() - began < BUDGET / 4
        hangs.answers.set()


async def test_a_withdrawal_that_meets_a_lock(path):
    """When the record is locked just as a late job should be withdrawn, that is done after the next commit."""
    keyless, next_one = new_job(external_id=""), new_job()
    async with opened(path, hanging=True) as (intake, _, hangs):
        hangs.refused = 1
        with pytest.raises(Unavailable):
            await intake.accept([keyless])
        hangs.answers.set()
        assert await intake.accept([next_one]) == [True]
    assert hangs.withdrawals == [[keyless.id]] * 2
    assert kept(path) == {next_one.id}


async def test_without_a_task_kept_means_committed(path):
    """`keep` tells what `accept` returns, once the jobs are committed."""
    job, known = new_job(), new_job()
    told = []
    async with opened(path) as (intake, _, _):
        await intake.accept([known])
        intake.keep([job, known], lambda outcome: told.append((outcome, kept(path))))
        assert told == []
    assert told == [([True, False], {job.id, known.id})]


async def test_without_a_task_a_disk_that_hangs(path):
    """`keep` tells within the budget that the disk does not answer; what was kept too late without a key is withdrawn."""
    keyed, keyless = new_job(), new_job(external_id="")
    told = []
    async with opened(path, hanging=True) as (intake, _, hangs):
        began = time.monotonic()
        intake.keep([keyed, keyless], lambda outcome: told.append((outcome, time.monotonic() - began)))
        await trio.sleep(BUDGET)
        ((outcome, seconds),) = told
        assert isinstance(outcome, Unavailable)
        assert seconds <= BUDGET
        hangs.answers.set()
    assert len(told) == 1
    assert kept(path) == {keyed.id}


async def test_without_a_task_when_it_is_stopping(path):
    """After closing, `keep` tells that Sentinel is stopping."""
    told = []
    async with opened(path) as (intake, _, _):
        intake.close()
        intake.keep([new_job()], told.append)
    intake.keep([new_job()], told.append)
    assert [str(error) for error in told] == [str(Unavailable("Sentinel is stopping."))] * 2
    assert kept(path) == set()
