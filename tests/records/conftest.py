"""What every store is tried with. A new store is one more line in STORES."""

import atexit
import functools
import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from sentinel.chaos.servers import PostgresServer, new_postgres
from sentinel.model import Claim, Job, NewJob, State, job_id
from sentinel.processes import process_name
from sentinel.records import Ending, PartSettled, Record, Reply, Step, open_record

NOW = 1_700_000_000.0
TENANT = "default"

_names = itertools.count(1)


@functools.cache
def postgres() -> PostgresServer:
    """The session's own PostgreSQL, started by the first who asks."""
    server = new_postgres()
    atexit.register(server.remove)
    server.start()
    server.run("CREATE DATABASE prepared")
    open_record(server.database("prepared")).close()  # a copy of it is a fresh record, in a fraction of the time
    return server


def fresh_database(_folder: Path) -> str:
    """A database of its own."""
    server, name = postgres(), f"fresh_{next(_names)}"
    server.run(f"CREATE DATABASE {name} TEMPLATE prepared STRATEGY file_copy")
    return server.database(name)


# The URL of a fresh and empty store, given a folder that nobody else uses.
STORES: dict[str, Callable[[Path], str]] = {"sqlite": lambda folder: f"sqlite:{folder}/record.db", "postgres": fresh_database}

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


@pytest.fixture(params=sorted(STORES))
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Gives the URL of another fresh store each time."""
    numbers = itertools.count()

    def make() -> str:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        return STORES[request.param](folder)

    return make


@pytest.fixture
def make_record(fresh_url: Callable[[], str]) -> Iterator[Callable[..., Record]]:
    """Opens one more connection to the test's store."""
    url = fresh_url()
    opened: list[Record] = []

    def make(busy_seconds: float = 10.0) -> Record:
        opened.append(open_record(url, busy_seconds))
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
