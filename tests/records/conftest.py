"""What every store is tried with. A new store is one more line in STORES."""

import atexit
import functools
import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import attrs
import pytest

from sentinel.chaos.servers import PoolerServer, PostgresServer, RedisServer, new_pooler, new_postgres, new_redis
from sentinel.dispatch.redis import RedisDispatch
from sentinel.model import Claim, Job, NewJob, State, job_id
from sentinel.processes import process_name
from sentinel.records import Ending, PartSettled, Record, Reply, Step, open_record
from tests.conftest import fresh_sqlite
from tests.records.dispatched import Dispatched

NOW = 1_700_000_000.0
TENANT = "default"

_names = itertools.count(1)


@functools.cache
def redis() -> RedisServer:
    """The session's own Redis."""
    server = new_redis()
    atexit.register(server.remove)
    server.start()
    return server


@functools.cache
def pooler() -> PoolerServer:
    """A pooler in front of the session's own PostgreSQL."""
    server = new_pooler(postgres())
    atexit.register(server.remove)
    server.start()
    return server


@functools.cache
def postgres() -> PostgresServer:
    """The session's own PostgreSQL, started by the first who asks."""
    server = new_postgres(max_connections="500", fsync="off")  # what a crash leaves is tested elsewhere, on servers of their own
    atexit.register(server.remove)
    server.start()
    server.run("CREATE DATABASE prepared")
    open_record(server.database("prepared")).close()  # a copy of it is a fresh record, in a fraction of the time
    return server


def fresh_database(_folder: Path) -> str:
    """The URL of a database of its own."""
    return postgres().database(_fresh("prepared"))


def pooled_database(_folder: Path) -> str:
    """The URL of a database of its own behind a pooler in transaction mode."""
    return pooler().database(_fresh("prepared"))


def _fresh(template: str) -> str:
    name = f"fresh_{next(_names)}"
    postgres().run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    return name


# The URL of a fresh and empty store, given a folder that nobody else uses.
STORES: dict[str, Callable[[Path], str]] = {
    "sqlite": lambda folder: fresh_sqlite(folder / "record.db"),
    "postgres": fresh_database,
    "pooled": pooled_database,
    "dispatched": lambda folder: f"dispatched:{fresh_database(folder)}",
}

# The URL of a store that nobody has opened yet, so that it has no schema either.
UNOPENED: dict[str, Callable[[Path], str]] = {
    "sqlite": lambda folder: f"sqlite:{folder}/record.db",
    "postgres": lambda _folder: postgres().database(_fresh("template1")),
    "pooled": lambda _folder: pooler().database(_fresh("template1")),
}

_numbers = itertools.count(1)


def new_job(**changes: Any) -> NewJob:
    """A job with an id of its own; what a test does not care about is filled in."""
    number = next(_numbers)
    plain = NewJob(
        id=job_id("test", str(number)),
        tenant=TENANT,
        channel="telegram",
        source="bot",
        external_id=f"update-{number}",
        input=({"role": "user", "content": "Hello"},),
        received_at=NOW - 0.5,
        verified_by="secret token",
    )
    return attrs.evolve(plain, **changes)


@attrs.frozen(eq=False)
class Bench:
    """A record with a living worker, and the few moves that most tests make."""

    record: Record
    worker: int

    def accept(self, *jobs: NewJob, now: float = NOW) -> list[str]:
        self.record.accept(jobs, now)
        return [job.id for job in jobs]

    def claim(self, count: int = 1, now: float = NOW) -> list[Claim]:
        return self.record.claim(self.worker, count, now)

    def running(self, now: float = NOW, **changes: Any) -> Claim:
        """The claim of a new job; there must be no other to claim."""
        self.accept(new_job(**changes), now=now)
        (claim,) = self.claim(now=now)
        return claim

    def end(self, claim: Claim, state: State, now: float = NOW, **more: Any) -> bool:
        return self.record.end([Ending(claim.job.id, claim.lease_token, state, **more)], now)[0]

    def reply(self, claim: Claim, *parts: str, text: str = "Hi") -> bool:
        return self.record.save_replies([Reply(claim.job.id, claim.lease_token, {"output_text": text}, parts)], NOW)[0]

    def settle(self, claim: Claim, number: int, state: str, **more: Any) -> bool:
        return self.record.settle_parts([PartSettled(claim.job.id, claim.lease_token, number, state, **more)], NOW)[0]

    def job(self, job_id: str) -> Job:
        job = self.record.find_job(job_id)
        assert job is not None
        return job

    def state(self, job_id: str) -> State:
        return self.job(job_id).state

    def steps(self, job_id: str) -> list[str]:
        return [step.step for step in self.record.story(job_id)]

    def last_step(self, job_id: str) -> Step:
        return self.record.story(job_id)[-1]


_SLOW = dict.fromkeys(("pooled", "dispatched"), pytest.mark.slow)


def _each(stores: dict[str, Callable[[Path], str]]) -> list[Any]:
    return [pytest.param(make, marks=_SLOW.get(name, ()), id=name) for name, make in sorted(stores.items())]


def _in_folders(folder: Path, make: Callable[[Path], str]) -> Iterator[str]:
    for number in itertools.count():
        own = folder / str(number)
        own.mkdir()
        yield make(own)


@pytest.fixture(params=_each(STORES))
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Gives the URL of another fresh store each time."""
    return _in_folders(tmp_path, request.param).__next__


@pytest.fixture(params=_each(UNOPENED))
def unopened_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Gives the URL of another store without a schema each time."""
    return _in_folders(tmp_path, request.param).__next__


def open_store(url: str, busy_seconds: float = 10.0) -> Record:
    """The record at a URL of one of STORES."""
    if not url.startswith("dispatched:"):
        return open_record(url, busy_seconds)
    _, _, inner = url.partition(":")
    dispatch = RedisDispatch(redis().url, 5.0, prefix="{" + inner.rpartition("/")[2] + "}:")
    dispatch.rebuild([])
    return cast(Record, Dispatched(open_record(inner, busy_seconds), dispatch))


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A PostgreSQL database of the test's own, for what no other store has."""
    return fresh_database(tmp_path)


@pytest.fixture
def make_record(fresh_url: Callable[[], str]) -> Iterator[Callable[..., Record]]:
    """Opens one more connection to the test's store."""
    url = fresh_url()
    opened: list[Record] = []

    def make(busy_seconds: float = 10.0) -> Record:
        opened.append(open_store(url, busy_seconds))
        return opened[-1]

    yield make
    for record in opened:
        record.close()


@pytest.fixture
def record(make_record: Callable[..., Record]) -> Record:
    return make_record()


@pytest.fixture
def bench(record: Record) -> Bench:
    return Bench(record, record.register("here:1", process_name(), 4, "ready", NOW))


@pytest.fixture(scope="session")
def dead_process() -> str:
    """The name of a process that has ended."""
    with subprocess.Popen(["sleep", "60"]) as process:
        name = process_name(process.pid)
        process.kill()
    return name
