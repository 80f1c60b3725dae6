"""The gateway: routes a request to what answers it, and owns the tasks that keep answering possible."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

import attrs
import trio

from sentinel.directory import DirectoryFollower
from sentinel.errors import Forged, MethodNotAllowed, NotFound, SentinelError, Unavailable
from sentinel.http import Request, Response, json_response, problem
from sentinel.intake import RECORD_SHARE, Intake
from sentinel.job_api import JobApi
from sentinel.logs import log
from sentinel.records import Store, open_record
from sentinel.settings import Settings
from sentinel.watch import Watch
from sentinel.webhooks import Webhooks

WORKER_SEEN_SECONDS = 15.0


@attrs.define(eq=False)
class Gateway:
    """Answers requests. `handle` is the whole interface: a value in, a value out, whatever server carries them."""

    settings: Settings
    directory: DirectoryFollower
    reader: Store
    webhooks: Webhooks
    jobs: JobApi
    clock: Callable[[], float] = time.time
    in_flight: int = 0

    async def handle(self, request: Request) -> Response:
        """The answer to `request`; never raises for anything that a request can cause."""
        if self.in_flight >= self.settings.requests_max and request.path != "/healthz":
            return problem(Unavailable("Too many requests at a time."))
        self.in_flight += 1
        try:
            return await self._route(request)
        except Forged as error:
            return problem(error).with_headers(("www-authenticate", "Bearer"))  # the API's: channels answer for themselves
        except SentinelError as error:
            return problem(error)
        except Exception as error:  # noqa: BLE001  one request's fault must not reach the others; the operator gets everything
            log.exception("request.crashed", method=request.method, path=request.path[:100], error=repr(error)[:200])
            return problem(SentinelError("Internal error."))
        finally:
            self.in_flight -= 1

    async def _route(self, request: Request) -> Response:
        match request.path.split("/")[1:]:
            case ["webhooks", channel, source] | ["webhooks", channel, source, _] if source:
                return await self.webhooks.receive(request, channel, source, self.clock())
            case ["v1", "jobs"]:
                return await self._jobs(request)
            case ["v1", "jobs", job_id] if job_id:
                _allow(request, "GET")
                return await self.jobs.show(request, job_id)
            case ["v1", "jobs", job_id, "cancel"] if job_id:
                _allow(request, "POST")
                return await self.jobs.cancel(request, job_id, self.clock())
            case ["healthz"]:
                _allow(request, "GET")
                return json_response(200, {"status": "ok"})
            case ["readyz"]:
                _allow(request, "GET")
                return await self._ready(request)
        raise NotFound("There is nothing at this path.")

    async def _jobs(self, request: Request) -> Response:
        _allow(request, "GET", "POST")
        if request.method == "POST":
            return await self.jobs.submit(request, self.clock())
        return await self.jobs.list_page(request)

    async def _ready(self, request: Request) -> Response:
        """
        200 if progress is possible: the record answers and a worker with a model is alive.

        With `?only=record` the workers do not count: what a load balancer should ask, since webhooks are kept without them.
        """
        checks = {"record": "ok", "worker": "ok"}
        with trio.move_on_after(self.settings.ack_budget) as scope:
            try:
                workers = await self.reader.call(self.reader.record.workers)
                alive = [worker.status for worker in workers if worker.last_seen > self.clock() - WORKER_SEEN_SECONDS]
                if "ready" not in alive:
                    checks["worker"] = alive[0] if alive else "no worker is running"
            except Unavailable as error:
                checks["record"] = error.detail
        if scope.cancelled_caught:
            checks["record"] = "does not answer"
        needed = ("record",) if request.parameters().get("only") == "record" else ("record", "worker")
        ready = all(checks[name] == "ok" for name in needed)
        headers = () if ready else (("retry-after", "5"),)
        return json_response(200 if ready else 503, {"ready": ready, "checks": checks}, *headers)


@asynccontextmanager
async def open_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """A gateway whose background tasks run; if one of them dies, so does the block that uses it."""
    writer = Store(open_record(settings.record, settings.ack_budget * RECORD_SHARE))
    reader = Store(open_record(settings.record, settings.ack_budget * RECORD_SHARE))
    with closing(writer.record), closing(reader.record):
        intake = Intake(writer, settings.ack_budget, settings.intake_max)
        directory, watch = DirectoryFollower(reader), Watch(reader, settings.requests_max // 4)
        await directory.refresh()
        gateway = Gateway(
            settings=settings,
            directory=directory,
            reader=reader,
            webhooks=Webhooks(directory, intake),
            jobs=JobApi(directory, intake, reader, watch),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(directory.run)
            nursery.start_soon(watch.run)
            async with trio.open_nursery() as commits:
                commits.start_soon(intake.run)
                yield gateway
                intake.close()
            nursery.cancel_scope.cancel()


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise MethodNotAllowed(methods)
