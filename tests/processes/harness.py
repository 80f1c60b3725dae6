"""Runs the true `sentinel up` as its own processes, sends to it as platforms do, and finds its processes to kill them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from sentinel.channels import channels
from sentinel.chaos.servers import free_port
from sentinel.chaos.subject import environment_of
from sentinel.demo import demo_source, wait_ready
from sentinel.errors import SendFailed
from sentinel.model import Outgoing, Source
from sentinel.outbound import Outbound, open_outbound
from sentinel.records import JobFilter, Record, configured_record
from sentinel.settings import Settings
from sentinel.stand_in import StandIn, open_stand_in

ROOT = Path(__file__).parents[2]


@attrs.define(eq=False)
class Running:
    """A running Sentinel and what is needed to talk to it."""

    settings: Settings
    record: Record
    stand_in: StandIn
    outbound: Outbound
    sources: Mapping[str, Source]
    log: Path
    process: trio.Process

    @property
    def base(self) -> str:
        return f"http://{self.settings.bind}"

    def children(self) -> dict[str, int]:
        """The pids of the gateway and the worker, by the name of their command."""
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            if parent == self.process.pid and b"sentinel" in command:
                found[command[command.index(b"sentinel") + 1].decode()] = int(folder.name)
        return found

    def kill(self, *names: str) -> None:
        """SIGKILL these children."""
        for name in names:
            os.kill(self.children()[name], signal.SIGKILL)

    def request(self, channel: str, number: int, text: str) -> Outgoing:
        """A genuine webhook, ready to be sent."""
        request = channels()[channel].sample(self.sources[channel], text, number, time.time())
        query = f"?{request.query}" if request.query else ""
        return Outgoing(f"{self.base}{request.path}{query}", request.body, request.headers)

    async def post(self, outgoing: Outgoing, patience_seconds: float = 30.0) -> Acknowledged:
        """Send as a platform does: again, with the same bytes, until it is acknowledged."""
        with trio.fail_after(patience_seconds):
            while True:
                started = time.perf_counter()
                try:
                    answer = await self.outbound.send(outgoing, tenant=str(next(_attempts)))  # no breaker: a platform does not rest
                except SendFailed:
                    await trio.sleep(0.05)
                    continue
                if 200 <= answer.status < 300:
                    return Acknowledged(answer.headers["sentinel-job-id"], time.perf_counter() - started, dict(answer.headers))
                assert answer.status == 503, answer
                assert "retry-after" in answer.headers
                await trio.sleep(0.05)

    async def wait_all_ended(self, job_ids: Sequence[str], seconds: float) -> None:
        with trio.fail_after(seconds):
            while len(self.record.ended(job_ids)) < len(set(job_ids)):
                await trio.sleep(0.1)

    def all_jobs(self) -> dict[str, str]:
        """The state of every job in the record, by id."""
        return {job.id: str(job.state) for job in self.record.list_jobs(JobFilter(limit=1_000_000))}


_attempts = itertools.count()


@attrs.frozen
class Acknowledged:
    job_id: str
    seconds: float
    headers: dict[str, str]


@asynccontextmanager
async def running_sentinel(folder: Path, ready: bool = True, **changes: object) -> AsyncIterator[Running]:
    """`sentinel up` in a folder of its own, with one source per channel, until the block is left."""
    changes = {"record": f"sqlite:{folder / 'sentinel.db'}", "bind": f"127.0.0.1:{free_port()}", "model": "fake:20"} | changes
    settings = Settings(**changes)  # type: ignore[arg-type]
    record = configured_record(settings)
    record.add_tenant("demo", 0)
    async with open_stand_in() as stand_in, open_outbound(15.0) as outbound:
        sources = {name: demo_source(channel, stand_in) for name, channel in channels().items()}
        for source in sources.values():
            record.put_source(source, 0)
        log = folder / "sentinel.log"
        process = await start(settings, log, "up")
        running = Running(settings, record, stand_in, outbound, sources, log, process)
        try:
            if ready:
                checks = await wait_ready(settings, 30)
                assert checks is None, (checks, log.read_text()[-2000:])
            yield running
        finally:
            with trio.CancelScope(shield=True):
                await stop(running.process)
            record.close()


async def start(settings: Settings, log: Path, *arguments: str) -> trio.Process:
    """One `sentinel` command with these settings, its log in a file."""
    with log.open("ab") as file:
        command = [sys.executable, "-m", "sentinel", *arguments]
        return await trio.lowlevel.open_process(command, env=environment(settings), stderr=file, stdin=subprocess.DEVNULL, cwd=ROOT)


async def stop(process: trio.Process, seconds: float = 20.0) -> int:
    """SIGTERM, and how it ended; SIGKILL and a failure if it does not."""
    if process.returncode is None:
        process.terminate()
    with trio.move_on_after(seconds):
        return await process.wait()
    process.kill()
    raise AssertionError("the process did not stop in time")


def environment(settings: Settings) -> dict[str, str]:
    """The environment that gives another process these settings."""
    return dict(os.environ) | environment_of(settings)
