"""What many rooms' tests need: a record of their own, settings, a stand-in of the platforms, and the true gateway and worker."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from sentinel.channels import channels
from sentinel.demo import demo_source
from sentinel.gateway import open_gateway
from sentinel.logs import configure_logs
from sentinel.model import Job, Source
from sentinel.records import Record, configured_record, open_record
from sentinel.settings import Settings
from sentinel.stand_in import StandIn, open_stand_in
from worker.main import work_until


@pytest.fixture(autouse=True, scope="session")
def _quiet_logs() -> None:
    configure_logs("json", "error")


@pytest.fixture(autouse=True, scope="session")
def _own_server_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The file of the server key for PostgreSQL records is the session's own, for the processes that it starts too."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))


def fresh_sqlite(path: Path) -> str:
    """The URL of a fresh record at `path`: a copy of one, because each migration waits for the disk."""
    path.touch(mode=0o600)
    path.write_bytes(_migrated())
    return f"sqlite:{path}"


@functools.cache
def _migrated() -> bytes:
    """A fresh record as it lies on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.db"
        open_record(f"sqlite:{path}").close()
        return path.read_bytes()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings for a record of this test's own and an engine that answers at once."""
    return Settings(
        record=fresh_sqlite(tmp_path / "sentinel.db"),
        bind="127.0.0.1:0",
        admin_bind="off",
        model="fake:0",
        slots=4,
        grace_seconds=2.0,
    )


@pytest.fixture
def record(settings: Settings) -> Iterator[Record]:
    """The test's own connection to the record."""
    opened = configured_record(settings)
    yield opened
    opened.close()


@pytest.fixture
async def stand_in() -> AsyncIterator[StandIn]:
    """The platforms' send APIs."""
    async with open_stand_in() as opened:
        yield opened


@attrs.frozen(eq=False)
class Sentinel:
    """A record with one source per channel, and a way to run the rest."""

    settings: Settings
    record: Record
    stand_in: StandIn
    sources: dict[str, Source]

    @asynccontextmanager
    async def working(self, **changes: object) -> AsyncIterator[trio.Event]:
        """A true worker in this process until the block is left; gives the event that stops it."""
        stopping = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work_until, stopping, attrs.evolve(self.settings, **changes))
            yield stopping
            stopping.set()

    async def send(self, channel: str, text: str = "hello", number: int = 1) -> str:
        """Post a genuine webhook through a gateway; the id of its job."""
        request = channels()[channel].sample(self.sources[channel], text, number, trio_now())
        async with open_gateway(self.settings) as gateway:
            response = await gateway.handle(request)
        assert 200 <= response.status < 300, response
        return dict(response.headers)["sentinel-job-id"]

    async def wait_for(self, job_id: str, reached: Callable[[Job], bool], seconds: float = 10.0) -> Job:
        """The job once `reached(job)` holds."""
        with trio.fail_after(seconds):
            while True:
                job = self.record.find_job(job_id)
                if job is not None and reached(job):
                    return job
                await trio.sleep(0.01)


def trio_now() -> float:
    """Now, for signatures."""
    import time

    return time.time()


def ended(job: Job) -> bool:
    """Whether nothing more will happen to the job by itself."""
    return job.state.ended


@pytest.fixture
def sentinel(settings: Settings, record: Record, stand_in: StandIn) -> Sentinel:
    """A record whose sources deliver to the stand-in."""
    record.add_tenant("demo", 0)
    sources = {name: demo_source(channel, stand_in) for name, channel in channels().items()}
    for source in sources.values():
        assert record.put_source(source, 0)
    return Sentinel(settings, record, stand_in, sources)
