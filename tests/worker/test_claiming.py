"""Where jobs come from, on a true PostgreSQL and Redis: by id while Redis is there, from the table at once when it is not."""

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

import sentinel.dispatch.keeper
import worker.claiming
from sentinel.chaos.servers import RedisServer, new_redis
from sentinel.dispatch import Dispatch
from sentinel.dispatch.keeper import Keeper
from sentinel.dispatch.offers import Offers
from sentinel.dispatch.redis import RedisDispatch
from sentinel.errors import Unavailable
from sentinel.model import Claim, Hint, NewJob, State
from sentinel.processes import process_name
from sentinel.records import Ending, Record, Store, open_bell, open_record
from tests.records.conftest import fresh_database, new_job
from worker.claiming import Claiming


@attrs.frozen(eq=False)
class Work:
    """A worker's claiming with all that runs beside it."""

    record: Record
    claiming: Claiming
    offers: Offers
    worker: int

    @property
    def dispatch(self) -> Dispatch:
        return self.offers.keeper.dispatch

    def accept(self, *jobs: NewJob) -> list[str]:
        self.record.accept(jobs, time.time())
        self.offers.arrived(jobs)
        return [job.id for job in jobs]

    async def next(self, seconds: float = 5.0) -> list[Claim]:
        """The next claims, as a worker's loop gets them."""
        with trio.fail_after(seconds):
            while True:
                claims, again = await self.claiming.claim(self.worker, 8)
                await self.claiming.settle()
                if claims:
                    return claims
                if not again:
                    await self.claiming.wait()

    def end(self, claim: Claim) -> None:
        assert self.record.end([Ending(claim.job.id, claim.lease_token, State.SUCCEEDED)], time.time()) == [True]
        self.offers.ended(claim.job.id)


@pytest.fixture
def server() -> RedisServer:
    server = new_redis()
    server.start()
    yield server
    server.remove()


@asynccontextmanager
async def working(server: RedisServer, folder: Path) -> AsyncIterator[Work]:
    url = fresh_database(folder)
    with closing(open_record(url)) as record, closing(open_record(url)) as own:
        store = Store(own)
        keeper = Keeper(RedisDispatch(server.url), store)
        offers = Offers(keeper, store)
        claiming = Claiming(store, keeper, open_bell(url), offers)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            nursery.start_soon(offers.run)
            with trio.fail_after(10):
                while keeper.words() != "ok" or keeper.breaker.open_since is not None:
                    await trio.sleep(0.05)
            await trio.sleep(0.3)
            yield Work(record, claiming, offers, record.register("w", process_name(), 8, "ready", time.time()))
            nursery.cancel_scope.cancel()
        claiming.close()


async def test_jobs_come_by_way_of_redis(server, tmp_path):
    """A new job is claimed by the hint that was told, and the hint is forgotten when it was followed."""
    async with working(server, tmp_path) as work:
        ids = work.accept(*[new_job() for _ in range(3)])
        while work.dispatch.waiting() < 3:  # else the worker may be faster, by the table
            await trio.sleep(0.01)
        claims = await work.next()
        while len(claims) < 3:
            claims += await work.next()
        assert sorted(claim.job.id for claim in claims) == sorted(ids)
        assert work.dispatch.waiting() == 0
        assert work.dispatch.take(10, 1.0) == []


async def test_redis_is_told_past_a_busy_event_loop(server, tmp_path):
    """What was committed is told to Redis by a thread that needs no turn of the event loop."""
    async with working(server, tmp_path) as work:
        work.accept(new_job())
        deadline = time.monotonic() + 5
        while work.dispatch.waiting() < 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)  # noqa: ASYNC251  the event loop is to have no turn


async def test_the_next_of_a_chat(server, tmp_path):
    """When a message has been answered, the next of its chat is hinted at once: nobody waits for the sweep."""
    async with working(server, tmp_path) as work:
        ids = work.accept(*[new_job(conversation="c") for _ in range(4)])
        started = trio.current_time()
        for job_id in ids:
            (claim,) = await work.next()
            assert claim.job.id == job_id
            work.end(claim)
        assert trio.current_time() - started < 2.0


async def test_a_chat_goes_on_while_somebody_looks(server, tmp_path):
    """A message whose turn comes between the look at it and the end of that look is hinted again: it waits for no sweep."""
    async with working(server, tmp_path) as work:
        first, second = work.accept(*[new_job(conversation="c") for _ in range(2)])
        while work.dispatch.waiting() < 2:
            await trio.sleep(0.01)
        (claim,) = (await work.claiming.claim(work.worker, 2))[0]
        assert claim.job.id == first
        work.end(claim)
        assert await trio.to_thread.run_sync(work.dispatch.wait, 2.0)
        await work.claiming.settle()
        assert work.dispatch.take(2, 5.0) == [second]


@pytest.fixture
def nobody_looks(monkeypatch) -> None:
    """A worker learns of nothing but by hints, and no sweep finds any that got lost."""
    monkeypatch.setattr(worker.claiming, "IDLE_SECONDS", float("nan"))  # nothing is as long, not even what has never been
    monkeypatch.setattr(sentinel.dispatch.keeper, "SETTLED_SECONDS", 60.0)


async def test_a_chat_goes_on_after_an_outage_of_the_record(server, tmp_path, monkeypatch, nobody_looks):
    """If the record goes away just after it has taken an ending, who is next of the chat is hinted as soon as it is back."""
    async with working(server, tmp_path) as work:
        (first,) = work.accept(new_job(conversation="c"))
        (claim,) = await work.next()
        assert claim.job.id == first
        second = new_job(conversation="c")
        work.record.accept([second], time.time())  # Redis is not told
        failing = 3

        def successors(ids: list[str]) -> list[Hint]:
            nonlocal failing
            if failing:
                failing -= 1
                raise Unavailable("too many clients already")
            return type(work.record).successors(work.claiming.store.record, ids)

        monkeypatch.setattr(work.claiming.store.record, "successors", successors)
        work.end(claim)
        assert [claim.job.id for claim in await work.next(2.0)] == [second.id]


async def test_a_chat_goes_on_after_a_look_in_vain(server, tmp_path, nobody_looks):
    """If a message was claimed and ended without a word to Redis, whoever follows its hint in vain brings the next of its chat."""
    async with working(server, tmp_path) as work:
        first, second = work.accept(*[new_job(conversation="c") for _ in range(2)])
        while work.dispatch.waiting() < 2:
            await trio.sleep(0.01)
        (claim,) = work.record.claim(work.worker, 1, time.time())
        assert work.record.end([Ending(first, claim.lease_token, State.SUCCEEDED)], time.time()) == [True]
        assert [claim.job.id for claim in await work.next(2.0)] == [second]


async def test_a_chat_goes_on_after_a_job_was_cancelled(server, tmp_path, nobody_looks):
    """A message that was cancelled before it began keeps nobody behind it."""
    async with working(server, tmp_path) as work:
        ids = work.accept(*[new_job(conversation="c") for _ in range(3)])
        while work.dispatch.waiting() < 3:
            await trio.sleep(0.01)
        work.record.cancel(ids[0], "default", time.time())
        (claim,) = await work.next(2.0)
        assert claim.job.id == ids[1]
        work.end(claim)
        assert [claim.job.id for claim in await work.next(2.0)] == [ids[2]]


async def test_two_workers_look_at_nothing_in_vain(server, tmp_path, monkeypatch, nobody_looks):
    """However two workers share the chats, no hint is handed out of a message that has to wait, and every chat is in order."""
    async with working(server, tmp_path) as work, trio.open_nursery() as nursery:
        jobs = [new_job(conversation=f"c{number % 10}") for number in range(60)]
        work.accept(*jobs)
        while work.dispatch.waiting() < len(jobs):
            await trio.sleep(0.01)
        order: list[str] = []
        missed: list[str] = []
        record = work.claiming.store.record
        truly = record.claim

        def claim(worker: int, count: int, now: float, ids: list[str] | None = None) -> list[Claim]:
            claims = truly(worker, count, now, ids)
            missed.extend({*(ids or ())} - {claim.job.id for claim in claims})
            return claims

        monkeypatch.setattr(record, "claim", claim)

        async def drain() -> None:
            mine = attrs.evolve(work, claiming=Claiming(work.claiming.store, work.offers.keeper, None, work.offers))
            while len(order) < len(jobs):
                with trio.move_on_after(0.5):
                    claims = await mine.next()
                    order.extend(claim.job.id for claim in claims)
                    for claim in claims:
                        mine.end(claim)

        nursery.start_soon(drain)
        nursery.start_soon(drain)
        with trio.fail_after(10):
            while len(order) < len(jobs):
                await trio.sleep(0.01)
        assert sorted(order, key=lambda job_id: next(job.conversation for job in jobs if job.id == job_id)) == [
            job.id for number in range(10) for job in jobs if job.conversation == f"c{number}"
        ]
        assert missed == []


@pytest.mark.parametrize("seconds", [0.0, 0.7])
async def test_a_job_that_was_given_back(server, tmp_path, seconds, nobody_looks):
    """A job that goes round again is hinted when it is due."""
    async with working(server, tmp_path) as work:
        (job_id,) = work.accept(new_job())
        (claim,) = await work.next()
        due = time.time() + seconds
        ending = Ending(job_id, claim.lease_token, State.QUEUED, run_at=due, uncount=True)
        assert work.record.end([ending], time.time()) == [True]
        work.offers.postponed(claim.job, due)
        assert [claim.job.id for claim in await work.next(seconds + 1.0)] == [job_id]
        assert time.time() >= due


@pytest.mark.parametrize("redis", [True, False])
async def test_an_idle_worker_takes_the_next_of_a_chat(server, tmp_path, monkeypatch, redis):
    """A worker that sleeps because every chat is busy is woken when a job ends, however seldom it looks by itself."""
    monkeypatch.setattr(worker.claiming, "BELL_SECONDS", 30.0)
    monkeypatch.setattr(worker.claiming, "IDLE_SECONDS", 30.0)
    async with working(server, tmp_path) as work:
        bell, store = work.claiming.bell, work.claiming.store
        idle = work if redis else attrs.evolve(work, claiming=Claiming(store, None, bell))
        first, second = work.accept(*[new_job(conversation="c") for _ in range(2)])
        (claim,) = await idle.next()
        assert claim.job.id == first
        found: list[Claim] = []

        async def take() -> None:
            found.extend(await idle.next(1.5))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await trio.sleep(0.3)
            assert not found
            work.end(claim)
        assert [claim.job.id for claim in found] == [second]


@pytest.mark.parametrize("trouble", ["killed", "paused", "full"])
async def test_redis_fails(server, tmp_path, trouble):
    """When Redis dies, hangs or takes no writes, the next job is claimed from the table within a second."""
    async with working(server, tmp_path) as work:
        work.accept(new_job())
        await work.next()
        {"killed": server.kill, "paused": server.pause, "full": lambda: server.ask("CONFIG", "SET", "maxmemory", "1")}[trouble]()
        for _ in range(3):
            started = trio.current_time()
            (job_id,) = work.accept(new_job())
            assert [claim.job.id for claim in await work.next()] == [job_id]
            assert trio.current_time() - started < 1.0
        if trouble == "paused":
            server.resume()


async def test_redis_hangs_while_a_worker_waits_for_it(server, tmp_path):
    """A worker that is told nothing by a gateway elsewhere notices by itself that Redis hangs, within a second."""
    async with working(server, tmp_path) as work:
        work.accept(new_job())
        await work.next()
        for _ in range(3):
            claims: list[Claim] = []

            async def wait(claims: list[Claim] = claims) -> None:
                claims += await work.next()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.sleep(0.1)
                server.pause()
                started, job = trio.current_time(), new_job()
                work.record.accept([job], time.time())
            assert trio.current_time() - started < 1.0
            assert [claim.job.id for claim in claims] == [job.id]
            server.resume()
            with trio.fail_after(10):
                while work.offers.keeper.breaker.open_since is not None:
                    await trio.sleep(0.05)


async def test_a_job_of_which_redis_knows_nothing(server, tmp_path):
    """What a gateway elsewhere could not tell Redis, because it is full, is begun within a second by who waits for Redis."""
    async with working(server, tmp_path) as work:
        for pause in (0.1, 0.3, 0.5):
            work.accept(new_job())
            await work.next()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work.next)
                await trio.sleep(pause)
                started = trio.current_time()
                work.record.accept([new_job()], time.time())
            assert trio.current_time() - started < 1.0


async def test_suspects_are_found_although_redis_knows_none(server, tmp_path):
    """A job that only the record hands out is claimed while Redis is well and empty."""
    async with working(server, tmp_path) as work:
        (job_id,) = work.accept(new_job())
        for _ in range(2):
            gone = work.record.register("gone", process_name(), 1, "ready", time.time())
            work.record.claim(gone, 1, time.time())
            work.record.bury(gone, time.time())
            work.record.reap(time.time())
        assert [claim.job.id for claim in await work.next()] == [job_id]


async def test_a_full_pool_of_threads_does_not_hold_up_the_bell():
    """The wait for new jobs has a thread of its own: look-ups of names that hang take none from it."""

    class Ringing:
        def wait(self, _seconds: float) -> bool:
            return True

    claiming = Claiming(None, bell=Ringing())  # type: ignore[arg-type]
    hang, pool = threading.Event(), trio.to_thread.current_default_thread_limiter()
    async with trio.open_nursery() as nursery:
        for _ in range(int(pool.total_tokens)):
            nursery.start_soon(trio.to_thread.run_sync, hang.wait)
        await trio.testing.wait_all_tasks_blocked()
        try:
            with trio.fail_after(2):
                await claiming.wait()
        finally:
            hang.set()


@pytest.mark.parametrize(("count", "found", "pause"), [(64, [], 0.04), (64, ["claim"], 0.0), (8, [], 0.0)])
async def test_a_look_for_many_in_vain_is_not_repeated_at_once(autojump_clock, count, found, pause):
    """After a look for many jobs that found nothing there is a pause of four times as long; after any other there is none."""

    class Slow:
        record = None

        async def call(self, *_: object) -> list[str]:
            await trio.sleep(0.01)
            return found

    claiming = Claiming(Slow())  # type: ignore[arg-type]
    assert await claiming.claim(1, count) == (found, bool(found))
    began = trio.current_time()
    await claiming.wait()
    assert trio.current_time() - began == pytest.approx(pause + worker.claiming.LOOK_SECONDS)
