"""What /metrics answers: this process's counts, those of its siblings on the same address, and how the record is.

Processes of one `sentinel serve` write what they count into a folder, so that whichever is asked can answer for all.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import attrs
import trio

from sentinel.channels import channels
from sentinel.dispatch.keeper import Keeper
from sentinel.edge.addresses import is_public
from sentinel.errors import NotFound, Unavailable
from sentinel.health import WORKER_SEEN_SECONDS
from sentinel.http import Request, Response
from sentinel.intake import Intake
from sentinel.metrics import FAMILIES, Metrics, Sample, exposition
from sentinel.payload import decode_own_json, encode_json
from sentinel.processes import SIBLINGS
from sentinel.records import Store

WRITE_SECONDS, LOOK_SECONDS = 1.0, 0.05
ASK_SECONDS_MAX = 1.0
STALE_SECONDS = 10.0  # a sibling that was not heard of for so long is gone
ROUTE_CHARACTERS = 64  # of a path tell what it is counted as; more would only fill the memory
_ROUTES = ("v1", "healthz", "readyz", "metrics", "openapi.json")


@attrs.define(eq=False)
class Monitor:
    """Counts, and tells what was counted. `gauges` and `totals` are asked at each look: those who know put themselves there."""

    store: Store
    intake: Intake
    keeper: Keeper | None = None
    metrics: Metrics = attrs.field(factory=Metrics)
    gauges: dict[str, Callable[[], float]] = attrs.field(factory=dict)
    totals: dict[str, Callable[[], Mapping[str, int]]] = attrs.field(factory=dict)
    _late: float = 0.0
    _started: float = attrs.field(factory=time.time)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request has its answer."""
        route = _route(path[:ROUTE_CHARACTERS])
        self.metrics.count("sentinel_requests_total", route, str(status))
        self.metrics.observe("sentinel_request_seconds", seconds, route)

    def committed(self, jobs: int) -> None:
        """So many jobs were written in one commit."""
        self.metrics.observe("sentinel_commit_jobs", jobs)

    async def answer(self, request: Request) -> Response:
        """Everything, for a client on this machine or its networks: what a service does at what times is not for the world."""
        if request.client and is_public(request.client):
            raise NotFound("There is nothing at this path.")
        samples = [*self._own(), *self._siblings(), *await self._record()]
        return Response(200, exposition(samples).encode(), (("content-type", "text/plain; version=0.0.4; charset=utf-8"),))

    async def run(self) -> None:
        """Watch the loop, and write for the siblings. Belongs in the gateway's nursery."""
        folder, number = siblings()
        while True:
            await self._watch_loop(WRITE_SECONDS)
            if folder is not None:
                with suppress(OSError):  # a full disk is told elsewhere; the next second tries again
                    fresh = folder / f"{number}.new"
                    fresh.write_bytes(encode_json(self._own()))
                    fresh.rename(folder / f"{number}.json")

    async def _watch_loop(self, seconds: float) -> None:
        """For so long, see how late the event loop comes back to who has slept."""
        enough, worst = trio.current_time() + seconds, 0.0
        while (planned := trio.current_time() + LOOK_SECONDS) < enough:
            await trio.sleep_until(planned)
            late = trio.current_time() - planned
            worst = max(worst, late)
            self.metrics.observe("sentinel_loop_lag_seconds", late)
        self._late = worst

    def _own(self) -> list[Sample]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        mine = (("process", siblings()[1]),)
        gauges = {
            **{name: ask() for name, ask in self.gauges.items()},
            "sentinel_commit_waiting": self.intake.waiting,
            "sentinel_loop_late_seconds": self._late,
            "process_resident_memory_bytes": _resident_bytes(),
            "process_open_fds": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  Path makes an object of each
            "process_cpu_seconds_total": usage.ru_utime + usage.ru_stime,
            "process_start_time_seconds": self._started,
        }
        if self.intake.spooling is not None:
            gauges["sentinel_spool_jobs"] = self.intake.spooling.waiting
        if self.keeper is not None:
            gauges["sentinel_dispatch_up"] = float(self.keeper.breaker.open_since is None)
        own = [(name, (*mine, *labels), value) for name, labels, value in self.metrics.samples()]
        for name, ask in self.totals.items():
            (label,) = FAMILIES[name].labels
            own += [(name, (*mine, (label, key)), float(value)) for key, value in ask().items()]
        return own + [(name, mine, float(value)) for name, value in gauges.items()]

    def _siblings(self) -> list[Sample]:
        folder, number = siblings()
        found: list[Sample] = []
        for path in sorted(folder.glob("*.json")) if folder else ():
            with suppress(OSError):
                if path.stem != number and path.stat().st_mtime > time.time() - STALE_SECONDS:
                    found += [
                        (name, tuple((key, text) for key, text in labels), value)
                        for name, labels, value in decode_own_json(path.read_bytes())
                    ]
        return found

    async def _record(self) -> list[Sample]:
        """How many jobs and workers there are; only that it does not answer, if it does not."""
        record = self.store.record
        with trio.move_on_after(ASK_SECONDS_MAX), suppress(Unavailable):
            counts, workers = await self.store.read(record.counts), await self.store.read(record.workers)
            alive = [worker.status for worker in workers if worker.last_seen > time.time() - WORKER_SEEN_SECONDS]
            found: list[Sample] = [("sentinel_record_up", (), 1.0)]
            found += [("sentinel_jobs", (("state", state),), float(jobs)) for state, jobs in counts.items()]
            return found + [
                ("sentinel_workers", (("status", status),), float(alive.count(status))) for status in sorted(set(alive))
            ]
        return [("sentinel_record_up", (), 0.0)]


@lru_cache(1_024)
def _route(path: str) -> str:
    """What a request is counted as. Nearly all have one of a few paths."""
    first, _, rest = path[1:].partition("/")
    if first == "webhooks":
        channel = rest.partition("/")[0]
        return f"webhooks/{channel}" if channel in channels() else "webhooks"
    return first if first in _ROUTES else "other"


def siblings() -> tuple[Path | None, str]:
    """The folder that the processes of this gateway share, if there are several, and this one's number."""
    folder, _, number = os.environ.get(SIBLINGS, "").rpartition(":")
    return (Path(folder), number) if folder else (None, "1")


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
