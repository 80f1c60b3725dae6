"""What the spike is sent to: a Sentinel of its own, started with servers of its own, or one that runs already.

Replies go to a fake platform here, so that they can be counted; no real platform is contacted.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from sentinel.chaos.history import History, JobEnd
from sentinel.chaos.plan import Shape, make_sources
from sentinel.chaos.platform import FakePlatform, open_platform
from sentinel.chaos.run import Options, open_stage
from sentinel.chaos.stage import Scenario, Stage
from sentinel.chaos.subject import in_thread
from sentinel.errors import BadInput
from sentinel.model import Source
from sentinel.records import JobFilter, configured_record, open_record
from sentinel.settings import Settings

JOBS_MAX = 10_000_000


@attrs.frozen(eq=False)
class Target:
    """Where to send, on whose behalf, and how to look behind the door. `spooled` counts what waits on the gateway's disk."""

    name: str
    host: str
    port: int
    record_url: str
    sources: Sequence[Source]
    platform: FakePlatform
    began: float
    spooled: Callable[[], int]
    follows: bool = False  # it runs already, and hears of the new sources within seconds

    def depth(self) -> int:
        """How many jobs have not ended. Raises Unavailable."""
        with closing(open_record(self.record_url, prepared=False)) as record:
            counts = record.counts()
        return sum(count for state, count in counts.items() if state != "quarantined") + self.spooled()

    def jobs(self) -> tuple[JobEnd, ...]:
        """Every job of the spike's tenants."""
        tenants = sorted({source.tenant for source in self.sources})
        with closing(open_record(self.record_url, prepared=False)) as record:
            listed = [record.list_jobs(JobFilter(tenant=tenant, limit=JOBS_MAX)) for tenant in tenants]
        return tuple(JobEnd.of(job) for jobs in listed for job in jobs)


@attrs.frozen
class Own:
    """What a Sentinel of the spike's own runs on."""

    store: str = "sqlite"  # or "postgres", or "both": PostgreSQL and Redis
    model: str = "fake:20"
    slots: int = 64
    processes: int = 1
    settings: dict[str, str] = attrs.field(factory=dict)


@asynccontextmanager
async def open_own(own: Own, shape: Shape, seed: int) -> AsyncIterator[Target]:
    """`sentinel up` with a record, and perhaps servers, that go with the block."""
    scenario = Scenario(
        name="spike",
        numbers=(),
        what="a spike",
        act=_nothing,
        record="sqlite" if own.store == "sqlite" else "postgres",
        redis=own.store == "both",
        settings={
            "model": own.model,
            "slots": own.slots,
            "processes": own.processes,
            "connections_max": 20_000,
            "connections_per_address_max": 20_000,
            **own.settings,
        },
    )
    folder = Path(tempfile.mkdtemp(prefix="sentinel-spike-"))
    try:
        async with open_stage(scenario, Options(seed, shape), folder) as stage:
            name = f"{own.store}, {own.processes} gateway process{'es' * (own.processes > 1)}, model {own.model}, {own.slots} slots"
            sender = stage.sender
            yield Target(
                name, sender.host, sender.port, stage.record_url, stage.sources, stage.platform, stage.began, stage.spooled
            )
    finally:
        await in_thread(shutil.rmtree, folder, True)


@asynccontextmanager
async def open_running(url: str, settings: Settings, shape: Shape) -> AsyncIterator[Target]:
    """
    A Sentinel that runs already, at a plain http URL, with sources of new tenants that are removed from its record at the end.

    Raises BadInput.
    """
    host, port = _address(url)
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="sentinel-spike-"))
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        platform = await stack.enter_async_context(open_platform(folder / "arrivals.jsonl", began))
        tag = f"spike-{secrets.token_hex(3)}"
        sources = [
            attrs.evolve(source, tenant=f"{tag}-{source.tenant}", name=f"{tag}-{source.name}")
            for source in make_sources(shape, platform.url)
        ]
        await in_thread(_add, settings, sources)
        try:
            yield Target(url, host, port, settings.record, sources, platform, began, lambda: 0, follows=True)
        finally:
            await in_thread(_remove, settings, sources)


def history_of(target: Target, history: History) -> History:
    """The history with what the record and the platform hold at the end."""
    return attrs.evolve(history, jobs=target.jobs(), arrivals=tuple(target.platform.arrivals), spooled=target.spooled())


async def _nothing(_stage: Stage) -> None:
    """A spike breaks nothing."""


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise BadInput(f"{url!r} is no http:// URL; the spike speaks plain HTTP to the gateway itself.")
    return parts.hostname, parts.port or 80


def _add(settings: Settings, sources: Sequence[Source]) -> None:
    with closing(configured_record(settings)) as record:
        for tenant in {source.tenant for source in sources}:
            record.add_tenant(tenant, time.time())
        for source in sources:
            record.put_source(source, time.time())


def _remove(settings: Settings, sources: Sequence[Source]) -> None:
    with closing(configured_record(settings)) as record:
        for source in sources:
            record.remove_source(source)
