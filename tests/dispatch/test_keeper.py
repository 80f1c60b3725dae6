"""The keeper: Redis is filled when it is empty, made whole when it lost something, and left alone when it is down."""

import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import pytest
import trio

from sentinel.dispatch import Dispatch, Stale, keeper
from sentinel.dispatch.keeper import PAGE, SETTLED_SECONDS, Keeper
from sentinel.errors import Unavailable
from sentinel.model import Hint
from sentinel.records import Store
from tests.dispatch.conftest import PREFIX, hint

NOW = 1_700_000_000.0


@attrs.define(eq=False)
class Jobs:
    """A record that knows which jobs are ready, and since when."""

    ready_since: dict[Hint, float] = attrs.field(factory=dict)
    asked: int = 0
    down: bool = False
    hold: threading.Event | None = None

    def add(self, count: int, since: float = NOW - 60) -> list[str]:
        new = [hint() for _ in range(count)]
        self.ready_since |= dict.fromkeys(new, since)
        return [one.job_id for one in new]

    def ready(self, after: int, limit: int, before: float) -> tuple[list[Hint], int | None]:
        self.asked += 1
        if self.hold is not None:
            assert self.hold.wait(10)
        if self.down:
            raise Unavailable("the record is locked")
        numbered = enumerate(self.ready_since.items(), start=1)
        found = [(number, one) for number, (one, since) in numbered if number > after and since < before][:limit]
        return [one for _, one in found], found[-1][0] if len(found) == limit else None


@attrs.define(eq=False)
class Log:
    """Keeps what is logged."""

    lines: list[tuple[str, dict[str, Any]]] = attrs.field(factory=list)

    def info(self, event: str, **keys: object) -> None:
        self.lines.append((event, keys))

    warning = info

    def debug(self, event: str, **keys: object) -> None:
        """Not kept."""

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


@pytest.fixture(autouse=True)
def log(monkeypatch) -> Log:
    kept = Log()
    monkeypatch.setattr(keeper, "log", kept)
    return kept


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def make(jobs) -> Callable[[Dispatch], Keeper]:
    def make(dispatch: Dispatch) -> Keeper:
        return Keeper(dispatch, Store(jobs), clock=lambda: NOW, chance=lambda: 0.0)

    return make


@asynccontextmanager
async def running(kept: Keeper) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.run)
        yield
        nursery.cancel_scope.cancel()


# Filling and finding


async def test_an_empty_redis_is_filled(server, connect, make, jobs, log):
    """At the start with an empty Redis everything that is ready is put there, page by page."""
    ids = jobs.add(2 * PAGE + 500)
    kept = make(connect(server.url))
    with pytest.raises(Stale):
        await kept.call(kept.dispatch.waiting)
    assert kept.words() == "redis is being refilled"
    await kept._look()
    assert await kept.call(kept.dispatch.take, 3, 15) == ids[:3]
    assert await kept.call(kept.dispatch.waiting) == len(ids) - 3
    assert kept.words() == "ok"
    assert log.events == ["dispatch.refilled"]


async def test_a_full_redis_is_adopted(dispatch, server, connect, make):
    """A process that starts beside others goes on with what is there."""
    before = server.ask("GET", f"{PREFIX}epoch")
    kept = make(connect(server.url))
    await kept._look()
    assert server.ask("GET", f"{PREFIX}epoch") == before
    assert kept.words() == "ok"


async def test_refilled_by_another(dispatch, server, connect, make):
    """Who finds that another process has refilled Redis does not do it again."""
    kept = make(connect(server.url))
    await kept._look()
    dispatch.rebuild([])
    before = server.ask("GET", f"{PREFIX}epoch")
    await kept._look()
    assert server.ask("GET", f"{PREFIX}epoch") == before


async def test_what_got_lost_is_found(dispatch, make, jobs, log):
    """A job that has been ready for a while and is not in Redis is put there, and that is said once."""
    lost = jobs.add(3)
    kept = make(dispatch)
    await kept._look()
    await kept._look()
    assert dispatch.take(9, 15) == lost
    assert log.lines == [("dispatch.found", {"jobs": 3})]


async def test_what_is_new_is_given_time(dispatch, make, jobs, log):
    """A job that has only just become ready is left to whoever accepted it."""
    jobs.add(3, since=NOW - SETTLED_SECONDS / 2)
    await make(dispatch)._look()
    assert dispatch.waiting() == 0
    assert log.lines == []


async def test_a_long_sweep(dispatch, make, jobs):
    """Sweeping goes through all pages, not faster than five a second."""
    jobs.add(2 * PAGE + 1)
    began = trio.current_time()
    await make(dispatch)._look()
    assert dispatch.waiting() == 2 * PAGE + 1
    assert trio.current_time() - began >= 2 * keeper.PAGE_SECONDS


async def test_one_sweeps(dispatch, server, connect, make, jobs):
    """Of several processes one compares Redis with the record."""
    keepers = [make(dispatch), make(connect(server.url)), make(connect(server.url))]
    for _ in range(3):
        for kept in keepers:
            await kept._look()
    assert jobs.asked == 3


async def test_one_refills(server, connect, make, jobs, log):
    """When Redis is empty and several processes see it at once, one fills it, and all are well soon."""
    jobs.add(5)
    keepers = [make(connect(server.url)) for _ in range(4)]
    async with trio.open_nursery() as nursery:
        for kept in keepers:
            nursery.start_soon(kept._look)
    for kept in keepers:
        await kept._look()
    assert log.events == ["dispatch.refilled"]
    assert {kept.words() for kept in keepers} == {"ok"}


async def test_it_runs(server, connect, make, jobs):
    """In its nursery it fills, finds and fills again by itself."""
    ids = jobs.add(2)
    kept = make(connect(server.url))
    async with running(kept):
        for _ in range(2):
            with trio.fail_after(5):
                while server.ask("EXISTS", f"{PREFIX}epoch") != ":1\r\n" or kept.words() != "ok":
                    await trio.sleep(0.01)
            assert await kept.call(kept.dispatch.take, 9, 15) == ids
            server.ask("FLUSHALL")
            with pytest.raises(Stale):
                await kept.call(kept.dispatch.waiting)


# The record fails


async def test_the_record_fails_while_redis_is_filled(server, connect, make, jobs):
    """If the record cannot say what is ready, Redis stays closed, is not blamed, and is filled by the next look."""
    jobs.add(2)
    jobs.down = True
    kept = make(connect(server.url))
    with pytest.raises(keeper._RecordFailed):
        await kept._look()
    assert kept.words() == "redis is being refilled"
    assert kept.breaker.open_since is None
    jobs.down = False
    await kept._look()
    assert await kept.call(kept.dispatch.waiting) == 2


async def test_the_record_fails_while_it_runs(dispatch, make, jobs):
    """A record that is down does not end the keeper."""
    jobs.down = True
    async with running(make(dispatch)):
        with trio.fail_after(5):
            while jobs.asked < 2:
                await trio.sleep(0.01)


async def test_nobody_waits_for_a_refill(server, connect, make, jobs):
    """While Redis is being filled calls are refused at once, and `words` says why."""
    jobs.add(2)
    jobs.hold = threading.Event()
    kept = make(connect(server.url))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept._look)
        with trio.fail_after(5):
            while not jobs.asked:
                await trio.sleep(0.01)
        began = trio.current_time()
        with pytest.raises(Stale):
            await kept.call(kept.dispatch.take, 1, 15)
        assert kept.words() == "redis is being refilled"
        assert trio.current_time() - began < 0.2
        jobs.hold.set()
    assert await kept.call(kept.dispatch.waiting) == 2


async def test_cancelled_while_filling(server, connect, make, jobs):
    """If a process ends while it fills Redis, the next does not have to wait for a lock."""
    jobs.add(PAGE + 1)
    jobs.hold = threading.Event()
    kept = make(connect(server.url))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept._look)
        with trio.fail_after(5):
            while not jobs.asked:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
        jobs.hold.set()
    other = make(connect(server.url))
    await other._look()
    assert await other.call(other.dispatch.waiting) == PAGE + 1


# Redis fails


async def test_down_and_back(new_server, connect, make, log):
    """When Redis dies that is said once, calls are refused without trying, and when it is back that is said once too."""
    server = new_server(appendfsync="always")
    kept = make(connect(server.url, 0.2))
    await kept._look()
    server.kill()
    for _ in range(20):
        with pytest.raises(Unavailable):
            await kept.call(kept.dispatch.waiting)
    assert kept.words().startswith("redis down for 0 s: claiming from the record (Redis ")
    with pytest.raises(Unavailable):
        await kept.wait(5, 8, 60)
    server.start()
    async with running(kept):
        with trio.fail_after(10):
            while kept.words() != "ok":
                await trio.sleep(0.01)
    assert log.events == ["dispatch.refilled", "dispatch.lost", "dispatch.back"]
    assert log.lines[-1][1]["seconds"] >= 0.5


@pytest.mark.parametrize("leading", [True, False], ids=["leading", "following"])
async def test_a_redis_that_only_reads(new_server, connect, make, log, leading):
    """A Redis that answers and takes no writes stays down, and is said to be once, until it takes them."""
    server = new_server()
    other, kept = make(connect(server.url, 0.2)), make(connect(server.url, 0.2))
    first = kept if leading else other
    await first._look()
    await kept._look()
    server.ask("REPLICAOF", "127.0.0.1", "1")
    async with running(kept):
        with trio.fail_after(10):
            while kept.breaker.open_since is None:
                await trio.sleep(0.01)
        since = kept.breaker.open_since
        await trio.sleep(3)  # for several trials
        assert kept.breaker.open_since == since
        assert kept.words().endswith("claiming from the record (Redis is a replica, which takes no writes)")
        server.ask("REPLICAOF", "NO", "ONE")
        with trio.fail_after(10):
            while kept.words() != "ok":
                await trio.sleep(0.01)
    assert log.events == ["dispatch.refilled", "dispatch.lost", "dispatch.back"]


async def test_a_full_redis(new_server, connect, make, log):
    """A Redis that has no memory left stays down, though it answers whoever only reads, and is said to be once."""
    server = new_server()
    kept = make(connect(server.url, 0.2))
    await kept._look()
    server.ask("CONFIG", "SET", "maxmemory", "1")
    async with running(kept):
        with trio.move_on_after(4):
            while True:
                with suppress(Unavailable):
                    await kept.call(kept.dispatch.take, 1, 15)
                await trio.sleep(0.02)
        assert kept.words().endswith("claiming from the record (Redis is out of memory)")
        server.ask("CONFIG", "SET", "maxmemory", "0")
        with trio.fail_after(keeper.PAUSE_SECONDS_MAX + 1.5 * keeper.LOOK_SECONDS + 1):
            while kept.words() != "ok":
                await trio.sleep(0.01)
    assert log.events == ["dispatch.refilled", "dispatch.lost", "dispatch.back"]


async def test_a_hang_is_paid_for_once(new_server, connect, make):
    """When Redis hangs, those who stand in line behind the first are refused with it, and do not try one after another."""
    server = new_server()
    kept = make(connect(server.url, 0.3))
    await kept._look()
    server.pause()
    refused = []

    async def ask() -> None:
        with pytest.raises(Unavailable):
            await kept.call(kept.dispatch.waiting)
        refused.append(trio.current_time())

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert len(refused) == 20
    assert max(refused) - began < 0.6
    server.resume()


async def test_nobody_waits_for_the_trial(new_server, connect, make):
    """While one call tries whether Redis is back, the others are refused at once."""
    server = new_server()
    kept = make(connect(server.url, 0.5))
    await kept._look()
    server.pause()
    with pytest.raises(Unavailable):
        await kept.call(kept.dispatch.waiting)
    await trio.sleep(0.6)
    async with trio.open_nursery() as nursery:

        async def trial() -> None:
            with pytest.raises(Unavailable):
                await kept.call(kept.dispatch.waiting)

        nursery.start_soon(trial)
        await trio.sleep(0.1)
        began = trio.current_time()
        await trial()
        assert trio.current_time() - began < 0.2
    server.resume()


async def test_the_bell(dispatch, server, connect, make):
    """Waiting is woken by an enqueue, and holds up no call."""
    kept = make(dispatch)
    heard = []

    async def wait() -> None:
        heard.append(await kept.wait(5, 8, 60))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(0.05)
        began = time.monotonic()
        await kept.call(kept.dispatch.enqueue, [one := hint()])
    assert heard == [[one.job_id]]
    assert time.monotonic() - began < 2


async def test_who_stops_takes_nothing(dispatch, make):
    """A ring that comes when its waiter is cancelled takes no job away from the others."""
    kept = make(dispatch)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept.wait, 5, 8, 60)
            await trio.sleep(0.1)
            scope.cancel()
            dispatch.enqueue([hint()])
    assert dispatch.waiting() == 1


async def test_a_bell_that_breaks(new_server, connect, make, log):
    """If waiting is the first to notice that Redis is gone, the calls know it too."""
    server = new_server()
    kept = make(connect(server.url, 0.2))
    await kept._look()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(Unavailable):
                await kept.wait(5, 8, 60)

        nursery.start_soon(wait)
        await trio.sleep(0.1)
        await trio.to_thread.run_sync(server.kill)
    assert kept.words().startswith("redis down")
    assert log.events == ["dispatch.refilled", "dispatch.lost"]


async def test_a_redis_that_may_drop_hints(new_server, connect, make, log, monkeypatch):
    """A maxmemory-policy that evicts is said once, loudly, and stays to be read until somebody has mended it."""
    monkeypatch.setattr(keeper, "POLICY_SECONDS", 0.0)
    server = new_server()
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    kept = make(connect(server.url))
    for _ in range(4):
        await kept._look()
    assert log.events.count("dispatch.evicts") == 1
    assert "noeviction" in kept.words()
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await kept._look()
    assert kept.words() == "ok"
