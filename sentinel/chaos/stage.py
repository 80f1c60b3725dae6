"""What a scenario is, and what it can lay hands on while it runs. How a thing is broken stands in `scenarios/`."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import attrs
import trio

from sentinel.chaos.checker import Finding, Rules
from sentinel.chaos.disk import Disk
from sentinel.chaos.history import Attempt, Journal
from sentinel.chaos.load import Sender
from sentinel.chaos.plan import Shape
from sentinel.chaos.platform import FakePlatform
from sentinel.chaos.proxy import Proxy
from sentinel.chaos.servers import PostgresServer, RedisServer
from sentinel.chaos.subject import Subject
from sentinel.model import Source
from sentinel.records.spool import FILE, Spool


@attrs.define(eq=False)
class Stage:
    """A running Sentinel with its servers, the load, and a seeded chance that decides when things break."""

    chance: random.Random
    shape: Shape
    folder: Path
    began: float
    record_url: str
    sources: list[Source]
    subject: Subject
    platform: FakePlatform
    sender: Sender
    attempts: list[Attempt]
    journal: Journal
    maybe_postgres: PostgresServer | None = None
    maybe_redis: RedisServer | None = None
    maybe_proxy: Proxy | None = None
    maybe_disk: Disk | None = None
    schedule: list[tuple[float, str]] = attrs.field(factory=list)
    faults: list[tuple[float, float]] = attrs.field(factory=list)
    findings: list[Finding] = attrs.field(factory=list)
    quarantined: set[str] = attrs.field(factory=set)

    @property
    def postgres(self) -> PostgresServer:
        """The Postgres of a scenario that has one."""
        assert self.maybe_postgres is not None
        return self.maybe_postgres

    @property
    def redis(self) -> RedisServer:
        """The Redis of a scenario that has one."""
        assert self.maybe_redis is not None
        return self.maybe_redis

    @property
    def proxy(self) -> Proxy:
        """The proxy of a scenario that has one."""
        assert self.maybe_proxy is not None
        return self.maybe_proxy

    @property
    def disk(self) -> Disk:
        """The small disk of a scenario that has one."""
        assert self.maybe_disk is not None
        return self.maybe_disk

    @property
    def hole_seconds(self) -> float:
        """How long a fault lasts: half of the load's time."""
        return self.shape.seconds / 2

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    def spooled(self) -> int:
        """How many jobs are still in the spool, or were put aside there."""
        folder = self.folder / "spool"
        if not (folder / FILE).exists():
            return 0
        with closing(Spool(folder, 1.0)) as spool:
            count = spool.count()
        return count.waiting + count.rejected

    def note(self, what: str) -> None:
        """Write into the schedule that is printed with the result."""
        self.schedule.append((self.now(), what))

    async def warm_up(self, share: float = 0.2) -> None:
        """Let a part of the load pass first; how much varies a little with the seed."""
        await trio.sleep(self.shape.seconds * share * self.chance.uniform(0.8, 1.2))

    @asynccontextmanager
    async def fault(self, what: str) -> AsyncIterator[None]:
        """The block is the time of the fault; what heals it belongs into the block's end."""
        began = self.now()
        self.note(what)
        try:
            yield
        finally:
            self.faults.append((began, self.now()))
            self.note("healed")

    async def hole(self, share: float = 1.0) -> None:
        """Let the fault last."""
        await trio.sleep(self.hole_seconds * share * self.chance.uniform(0.9, 1.1))


Act = Callable[[Stage], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Scenario:
    """
    One way for things to go wrong.

    Attributes:
        numbers: which of the list in docs/faults.md it is.
        act: breaks and heals while the load runs.
        before: changes the stage before anything of Sentinel starts.
        record, redis: what Sentinel runs on; `postgres_options` and `redis_options` are given to their servers.
        proxied: the server ("redis" or "postgres") that is reached through the proxy.
        disk: what lies on a small disk of `disk_megabytes`: "record", "redis", "postgres" or "spool".
        elsewhere: a worker runs as if on another machine, for which one has to be root.
        recover_seconds: within which all must be drained after the last fault and the last webhook.
        commands: what is started; `ready` is added to /readyz when it is asked whether the load may begin.
        felt: what Sentinel's log must say afterwards; a fault that nobody felt would prove nothing.
    """

    name: str
    numbers: tuple[int, ...]
    what: str
    act: Act
    before: Act | None = None
    record: str = "postgres"
    redis: bool = True
    postgres_options: Mapping[str, str] = attrs.field(factory=dict)
    redis_options: Mapping[str, str] = attrs.field(factory=dict)
    proxied: str = ""
    disk: str = ""
    disk_megabytes: int = 64
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    rules: Rules = attrs.field(factory=Rules)
    shape: Mapping[str, Any] = attrs.field(factory=dict)
    commands: tuple[str, ...] = ("up",)
    ready: str = ""
    felt: str = ""
    elsewhere: bool = False
    recover_seconds: float = 60.0
