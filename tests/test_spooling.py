"""The spool in front of a record that is down: nothing is refused, nothing is lost, nothing is doubled, and order survives."""

import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from sentinel.errors import Unavailable
from sentinel.health import Health
from sentinel.intake import RECORD_SHARE, Intake
from sentinel.model import NewJob
from sentinel.records import JobFilter, Record, Store, open_record
from sentinel.records.spool import Spool
from sentinel.settings import Settings
from tests.records.conftest import NOW, new_job

BUDGET = 0.4


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again soon whether the record is back."""
    monkeypatch.setattr("sentinel.spooling.RETRY_FIRST_SECONDS", 0.02)
    monkeypatch.setattr("sentinel.spooling.RETRY_SECONDS_MAX", 0.1)


Accept = Callable[[Intake, Sequence[NewJob]], Awaitable[list[bool]]]


async def keep(intake: Intake, jobs: Sequence[NewJob]) -> list[bool]:
    """As `Intake.accept`, by `Intake.keep`: what it tells, which it may tell once."""
    told: list[list[bool] | Exception] = []
    was_told = trio.Event()

    def tell(outcome: list[bool] | Exception) -> None:
        told.append(outcome)
        was_told.set()

    intake.keep(jobs, tell)
    await was_told.wait()
    await trio.lowlevel.checkpoint()
    (outcome,) = told
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@pytest.fixture(params=[Intake.accept, keep], ids=["accept", "keep"])
def accept(request: pytest.FixtureRequest) -> Accept:
    """Both ways to have jobs kept: by a task that waits, and by one that is told."""
    return request.param


@attrs.define(eq=False)
class Moody:
    """A record that can be made to fail, to hang, or to refuse one job for what it is."""

    record: Record
    down: bool = False
    hangs: bool = False
    refuses: str = ""
    asked: bool = False
    batches: list[list[str]] = attrs.field(factory=list)
    goes_on: threading.Event = attrs.field(factory=threading.Event)

    def accept(self, jobs: Sequence[NewJob], now: float) -> list[bool]:
        if self.down:
            raise Unavailable("connection refused")
        if self.hangs:
            self.asked = True
            assert self.goes_on.wait(10)
        if any(job.id == self.refuses for job in jobs):
            raise ValueError("not that one")
        self.batches.append([job.id for job in jobs])
        return self.record.accept(jobs, now)

    def withdraw(self, ids: Sequence[str]) -> int:
        return self.record.withdraw(ids)


@attrs.frozen(eq=False)
class Front:
    """An intake with a spool in front of a moody record."""

    intake: Intake
    record: Moody
    spool: Spool
    told: list[str]

    async def drained(self) -> None:
        with trio.fail_after(10):
            while self.intake.spooling.active:
                await trio.sleep(0.01)

    def kept(self) -> list[str]:
        """The ids in the record, in its order."""
        return [job.id for job in reversed(self.record.record.list_jobs(JobFilter(limit=100_000)))]


@asynccontextmanager
async def opened(folder: Path, *, down: bool = False) -> AsyncIterator[Front]:
    spool = Spool(folder / "spool", 1.0)
    with closing(open_record(f"sqlite:{folder}/record.db")) as record, closing(spool), trio.fail_after(30):
        moody, told = Moody(record, down=down), []
        intake = Intake(
            Store(moody),  # type: ignore[arg-type]
            BUDGET,
            10_000,
            spool,
            lambda jobs: told.extend(job.id for job in jobs),
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(intake.run)
            try:
                yield Front(intake, moody, spool, told)
            finally:
                moody.goes_on.set()
                intake.close()


async def test_while_the_record_works_the_spool_is_empty(tmp_path, accept):
    """With a record that answers, jobs go there and nowhere else."""
    async with opened(tmp_path) as front:
        job = new_job()
        assert await accept(front.intake, [job, job]) == [True, False]
        assert (front.kept(), front.spool.count().waiting, front.told) == ([job.id], 0, [job.id])
        assert front.intake.spooling.words() == "ok"


async def test_a_record_that_fails(tmp_path, accept):
    """Jobs are kept on disk while the record refuses, duplicates known, and reach the record by themselves, once and in order."""
    async with opened(tmp_path, down=True) as front:
        jobs = [new_job() for _ in range(20)]
        for job in jobs:
            assert await accept(front.intake, [job]) == [True]
        assert await accept(front.intake, [jobs[3]]) == [False]
        assert front.spool.count().waiting == 20
        assert "20 spooled" in front.intake.spooling.words()
        assert "connection refused" in front.intake.spooling.words()
        front.record.down = False
        await front.drained()
        assert front.kept() == [job.id for job in jobs]
        assert front.spool.count().waiting == 0
        assert sorted(front.told) == sorted(job.id for job in jobs)
        assert await accept(front.intake, [jobs[0]]) == [False]


async def test_a_record_that_hangs(tmp_path, accept):
    """When the record says nothing, all are answered inside the budget from the spool, and the late write doubles nothing."""
    async with opened(tmp_path) as front:
        front.record.hangs = True
        jobs = [new_job() for _ in range(50)]
        seconds: list[float] = []

        async def send(job: NewJob) -> None:
            started = time.perf_counter()
            assert await accept(front.intake, [job]) == [True]
            seconds.append(time.perf_counter() - started)

        async with trio.open_nursery() as nursery:
            for job in jobs:
                nursery.start_soon(send, job)
        assert max(seconds) < BUDGET
        front.record.goes_on.set()
        await front.drained()
        assert sorted(front.kept()) == sorted(job.id for job in jobs)


async def test_nobody_waits_while_the_record_hangs(tmp_path, accept):
    """While the record does not answer, nobody waits for the last of the spool to be brought over: nothing is on its way."""
    async with opened(tmp_path, down=True) as front:
        spooling = front.intake.spooling
        await accept(front.intake, [new_job()])
        front.record.hangs, front.record.down, spooling.door_seconds_max = True, False, 30
        with trio.fail_after(5):
            while not front.record.asked:  # the drain is at it
                await trio.sleep(0.01)
        with trio.fail_after(BUDGET):
            await spooling.passage()
        front.record.goes_on.set()
        await front.drained()


async def test_a_job_without_identity_survives_a_late_write(tmp_path, accept):
    """A job that was spooled and then written late all the same was promised, so it is not withdrawn."""
    async with opened(tmp_path) as front:
        front.record.hangs = True
        job = new_job(external_id="")
        assert await accept(front.intake, [job]) == [True]
        front.record.goes_on.set()
        await front.drained()
        assert front.kept() == [job.id]


async def test_nobody_overtakes(tmp_path, accept):
    """A message that comes when the record is back, but the spool not empty, stays behind those in the spool."""
    async with opened(tmp_path, down=True) as front:
        sent = []
        for number in range(300):
            job = new_job(conversation="c")
            sent.append(job.id)
            await accept(front.intake, [job])
            front.record.down = number < 150 or number % 3 == 0
        front.record.down = False
        await front.drained()
        assert front.kept() == sent


async def test_a_busy_gateway_gets_out_of_the_spool(tmp_path, accept):
    """The spool becomes empty under a load that never pauses."""
    async with opened(tmp_path, down=True) as front:
        stop, sent = trio.Event(), 0

        async def send_for_ever() -> None:
            nonlocal sent
            while not stop.is_set():
                await accept(front.intake, [new_job()])
                sent += 1

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(send_for_ever)
            await trio.sleep(0.3)
            front.record.down = False
            await front.drained()
            stop.set()
        assert len(front.kept()) == sent


async def test_one_that_the_record_will_never_take(tmp_path, accept):
    """A job that the record refuses for what it is is put aside, and all others arrive."""
    async with opened(tmp_path, down=True) as front:
        jobs = [new_job() for _ in range(9)]
        front.record.refuses = jobs[4].id
        for job in jobs:
            await accept(front.intake, [job])
        front.record.down = False
        await front.drained()
        assert front.kept() == [job.id for job in jobs if job is not jobs[4]]
        assert front.spool.count().rejected == 1


async def test_both_are_down(tmp_path, accept):
    """When neither takes it the sender is told to try again, inside the budget, nothing is kept, and `/readyz` knows."""
    async with opened(tmp_path, down=True) as front:
        intake, health = front.intake, Health(Settings(), Store(front.record), front.intake)  # type: ignore[arg-type]
        front.spool._file.connection.execute("PRAGMA query_only = ON")
        started = time.perf_counter()
        with pytest.raises(Unavailable, match="The file of the spool cannot be written"):
            await accept(intake, [new_job()])
        assert time.perf_counter() - started < BUDGET
        assert health.needed(only_keeping=True) == ("spool",)
        assert "the last webhook was not kept (The file of the spool" in intake.spooling.words()
        front.spool._file.connection.execute("PRAGMA query_only = OFF")
        job = new_job()
        assert await accept(intake, [job]) == [True]
        assert (health.needed(only_keeping=True), "not kept" in intake.spooling.words()) == ((), False)
        front.record.down = False
        await front.drained()
        assert front.kept() == [job.id]


async def test_what_an_earlier_run_left(tmp_path, accept):
    """A gateway that starts with a spool that is not empty brings it to the record before anything newer."""
    with closing(Spool(tmp_path / "spool", 1.0)) as spool:
        old = [new_job() for _ in range(3)]
        spool.keep(old, NOW)
    async with opened(tmp_path) as front:
        job = new_job()
        await accept(front.intake, [job])
        await front.drained()
        assert front.kept() == [*[job.id for job in old], job.id]


@pytest.mark.parametrize("step", ["after the read", "after the write"])
async def test_a_drain_that_is_cut_off(tmp_path, step):
    """A drain that stops anywhere is begun again by the next run, without loss or double."""
    jobs = [new_job() for _ in range(5)]
    with closing(Spool(tmp_path / "spool", 1.0)) as spool, closing(open_record(f"sqlite:{tmp_path}/record.db")) as record:
        spool.keep(jobs, NOW)
        batch = spool.oldest(3)
        if step == "after the write":
            record.accept(batch, NOW)
    async with opened(tmp_path) as front:
        await front.drained()
        assert front.kept() == [job.id for job in jobs]


async def test_closing_while_jobs_fall_back(tmp_path):
    """A job whose commit hangs while the intake is closed is refused, or is in the spool or the record: nobody is told nothing."""
    async with opened(tmp_path) as front:
        front.record.hangs = True
        told: dict[str, list[bool] | Exception] = {}
        jobs = [new_job() for _ in range(20)]
        for job in jobs:
            front.intake.keep([job], partial(told.__setitem__, job.id))
        with trio.fail_after(5):
            while not front.record.asked:
                await trio.sleep(0.005)
        await trio.sleep(BUDGET * RECORD_SHARE)
        front.record.down = True
        front.intake.close()
    assert told.keys() == {job.id for job in jobs}
    with closing(Spool(tmp_path / "spool", 1.0)) as spool, closing(open_record(f"sqlite:{tmp_path}/record.db")) as record:
        somewhere = {job.id for job in [*spool.oldest(100), *record.list_jobs(JobFilter())]}
    assert {job_id for job_id, outcome in told.items() if isinstance(outcome, list)} <= somewhere
