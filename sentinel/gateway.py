"""The gateway: routes a request to what answers it, and owns the tasks that keep answering possible."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import attrs
import trio

from sentinel.admission import Admission
from sentinel.billing import Billing
from sentinel.conversation_api import ConversationApi
from sentinel.directory import DirectoryFollower
from sentinel.directory_copy import DirectoryCopy
from sentinel.dispatch import open_shared_count
from sentinel.dispatch.keeper import open_keeper
from sentinel.dispatch.offers import open_offers
from sentinel.edge.limits import Limiter
from sentinel.edge.plans import parse_line
from sentinel.errors import Forbidden, Forged, MethodNotAllowed, NotFound, SentinelError, Unavailable
from sentinel.health import Health
from sentinel.http import Exchange, Request, Response, json_response, problem
from sentinel.intake import RECORD_SHARE, SPOOL_SHARE, Intake
from sentinel.job_api import JobApi
from sentinel.job_events import JobStreams
from sentinel.job_lists import JobLists
from sentinel.key_uses import KeyUses
from sentinel.keyring import Keyring, open_keyring
from sentinel.logs import begin_request, lines_of, log, number_request
from sentinel.monitor import Monitor
from sentinel.openapi import openapi_json
from sentinel.records import Store, is_served, open_bell, open_record
from sentinel.records.spool import Spool
from sentinel.settings import Settings
from sentinel.shared_limits import SharedLimits
from sentinel.usage import UsageFollower
from sentinel.watch import Watch
from sentinel.webhooks import Webhook, Webhooks

WAITING_MAX = 500  # callers who wait for a job to end: a fourth of the lane's handlers, so that they keep no webhook out
BUSY = problem(Unavailable("Too many requests at a time."))


@attrs.define(eq=False)
class Gateway:
    """Answers requests. `handle` is the whole interface: a value in, a value out, whatever server carries them."""

    settings: Settings
    directory: DirectoryFollower
    webhooks: Webhooks
    jobs: JobApi
    conversations: ConversationApi
    health: Health
    monitor: Monitor
    clock: Callable[[], float] = time.time
    in_flight: int = 0

    async def handle(self, request: Request) -> Response:
        """The answer to `request`; never raises for anything that a request can cause."""
        if self.in_flight >= self.settings.requests_max and request.path != "/healthz":
            return BUSY
        self.in_flight += 1
        begin_request()
        began = time.perf_counter()
        try:
            response = await self._route(request)
        except Exception as error:  # noqa: BLE001  one request's fault must not reach the others
            response = _answer_to(error, request)
        finally:
            self.in_flight -= 1
        self.monitor.answered(request.path, response.status, time.perf_counter() - began)
        return response

    def begin(self, exchanges: Sequence[Exchange]) -> list[Exchange]:
        """
        As `handle`, for requests that came together, and without tasks: each is answered now, or by the task that has kept it.

        Those that are given back only `handle` can answer: what is no webhook, or has to wait for more than its commit.
        """
        left, begun = [], []
        now, began = self.clock(), time.perf_counter()
        for exchange in exchanges:
            named = _webhook(exchange.request.path)
            if named is None or self.webhooks.has_to_wait(*named):
                left.append(exchange)
            elif self.in_flight >= self.settings.requests_max:
                exchange.answer(BUSY)
            else:
                self.in_flight += 1
                webhook = Webhook(exchange.request, *named, now, number_request())
                begun.append(_UnderWay(self, exchange, webhook, began))
        self.webhooks.take([each.webhook for each in begun])
        for each in begun:
            try:
                each.taken()
            except Exception as error:  # noqa: BLE001  as in `handle`
                each.exchange.crash(error)
        return left

    async def _route(self, request: Request) -> Response:
        if (named := _webhook(request.path)) is not None:
            return await self.webhooks.receive(Webhook(request, *named, self.clock()))
        match request.names():
            case ["v1", *path] if path:
                return await self._api(request, path)
            case ["healthz"]:
                _allow(request, "GET")
                return json_response(200, {"status": "ok"})
            case ["metrics"]:
                _allow(request, "GET")
                return await self.monitor.answer(request)
            case ["openapi.json"]:
                _allow(request, "GET")
                return Response(200, openapi_json(), (("content-type", "application/json"),))
            case ["readyz"]:
                _allow(request, "GET")
                return await self._ready(request)
        raise NotFound("There is nothing at this path.")

    async def _api(self, request: Request, path: list[str]) -> Response:
        match path:
            case ["jobs"]:
                return await self._jobs(request)
            case ["jobs", job_id] if job_id:
                _allow(request, "GET")
                return await self.jobs.show(request, job_id)
            case ["jobs", job_id, "events"] if job_id:
                _allow(request, "GET")
                return await self.jobs.events(request, job_id)
            case ["jobs", job_id, "cancel"] if job_id:
                _allow(request, "POST")
                return await self.jobs.cancel(request, job_id, self.clock())
            case ["conversations" | "users" | "erasures", *_]:
                return await self.conversations.handle(request, path, self.clock())
        raise NotFound("There is nothing at this path.")

    async def _jobs(self, request: Request) -> Response:
        _allow(request, "GET", "POST")
        if request.method == "POST":
            return await self.jobs.submit(request, self.clock())
        return await self.jobs.list_page(request)

    async def _ready(self, request: Request) -> Response:
        """
        200 if progress is possible: the record answers and a worker with a model is alive.

        With `?only=record` it is enough that webhooks are kept, in the record or in the spool: what a load balancer should ask.
        """
        checks = await self.health.checks(self.clock())
        needed = self.health.needed(request.parameters().get("only") == "record")
        ready = all(checks[name] == "ok" for name in needed)
        headers = () if ready else (("retry-after", "5"),)
        return json_response(200 if ready else 503, {"ready": ready, "checks": checks}, *headers)


@attrs.define(eq=False)
class _UnderWay:
    """A webhook that no task waits for."""

    gateway: Gateway
    exchange: Exchange
    webhook: Webhook
    began: float

    def taken(self) -> None:
        """It is known what is to be kept."""
        webhook = self.webhook
        if webhook.goes_on:
            try:
                self.gateway.webhooks.keep(webhook, self.kept)
            except Exception as error:  # noqa: BLE001  as in `handle`
                self._end(self._fault(error))
        elif webhook.fault is not None:
            self._end(self._fault(webhook.fault))
        else:
            assert webhook.answer is not None, "a biller's webhook has to wait"
            self._end(webhook.answer)

    def kept(self, outcome: list[bool] | Exception) -> None:
        """The commit is over, or was given up."""
        try:
            response = self.gateway.webhooks.end(self.webhook, outcome)
        except Exception as error:  # noqa: BLE001  as in `handle`
            response = self._fault(error)
        self._end(response)

    def _fault(self, error: Exception) -> Response:
        with lines_of(self.webhook.number):
            return _answer_to(error, self.webhook.request)

    def _end(self, response: Response) -> None:
        self.gateway.in_flight -= 1
        self.gateway.monitor.answered(self.webhook.request.path, response.status, time.perf_counter() - self.began)
        self.exchange.answer(response)


def _webhook(path: str) -> tuple[str, str] | None:
    """The channel and the source of a webhook, from its path; None if it is another path. What may follow is a secret."""
    match path.split("/"):
        case ["", "webhooks", channel, source] | ["", "webhooks", channel, source, _] if source and "\0" not in path:
            return channel, source
    return None


def _answer_to(error: Exception, request: Request) -> Response:
    """What is answered where there is an error instead of an answer; of a fault of ours, the operator gets everything."""
    if isinstance(error, Forged | Forbidden):  # the API's: channels answer for themselves
        log.info("request.refused", status=error.status, reason=error.detail, client=request.client)
        return problem(error).with_headers(*([("www-authenticate", "Bearer")] if isinstance(error, Forged) else []))
    if isinstance(error, SentinelError):
        return problem(error)
    place = "/".join(request.path[:100].split("/")[:4])  # without the secret that may follow a source's name
    log.exception("request.crashed", method=request.method, path=place, client=request.client, error=error, exc_info=error)
    return problem(SentinelError("Internal error."))


@asynccontextmanager
async def open_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """A gateway whose background tasks run; if one of them dies, so does the block that uses it."""
    seconds = settings.ack_budget * RECORD_SHARE
    keyring = open_keyring(settings.record, settings.secret_key)
    writer, reader, lister = (Store(open_record(settings.record, seconds, prepared=False, keyring=keyring)) for _ in range(3))
    spool, copy = _open_spool(settings, keyring)
    with ExitStack() as opened:
        for each in (writer.record, reader.record, lister.record, spool):
            if each is not None:
                opened.callback(each.close)
        uses = KeyUses(reader)
        bell = open_bell(settings.record, "directory")
        opened.callback(bell.close if bell else lambda: None)
        directory = DirectoryFollower(reader, copy=copy, bell=bell, keyring=keyring, uses=uses)
        streams = JobStreams(reader)
        watch = Watch(reader, min(WAITING_MAX, settings.requests_max // 4))
        answers = await directory.start()
        admission = Admission(lambda: directory.current, parse_line(settings.default_plan), limiter=Limiter(settings.processes))
        usage = UsageFollower(reader, admission, settings.processes)
        if answers:  # else it will be known as soon as the record answers
            await usage.start()
        limits = SharedLimits(open_shared_count(settings.redis), admission.limiter) if settings.redis else None
        opened.callback(limits.limits.close if limits else lambda: None)
        keeper = open_keeper(settings.redis, reader)
        offers = open_offers(keeper, reader)
        opened.callback(keeper.dispatch.close if keeper else lambda: None)
        intake = Intake(writer, settings.ack_budget, settings.intake_max, spool, offers.arrived if offers else None)
        gateway = Gateway(
            settings=settings,
            directory=directory,
            webhooks=Webhooks(directory, intake, admission, Billing(reader), settings.text_characters_max),
            jobs=JobApi(directory, intake, reader, watch, streams, JobLists(lister), admission, settings.document_bytes_max),
            conversations=ConversationApi(directory, reader),
            health=Health(settings, reader, intake, keeper),
            monitor=Monitor(reader, intake, keeper),
        )
        intake.committed = gateway.monitor.committed
        gateway.monitor.gauges["sentinel_requests_in_flight"] = lambda: gateway.in_flight
        async with trio.open_nursery() as nursery:
            for task in (directory, uses, watch, streams, usage, limits, keeper, offers, gateway.monitor):
                if task is not None:
                    nursery.start_soon(task.run)
            async with trio.open_nursery() as commits:
                await commits.start(intake.run)
                yield gateway
                intake.close()
            with suppress(Unavailable):
                await uses.write()
            await usage.leave()
            nursery.cancel_scope.cancel()


def _open_spool(settings: Settings, keyring: Keyring) -> tuple[Spool | None, DirectoryCopy | None]:
    """What lets a gateway go on without its record: the spool, and a copy of the directory beside it."""
    if settings.spool == "off" or not is_served(settings.record):
        return None, None
    spool = Spool(settings.spool, settings.ack_budget * SPOOL_SHARE)
    return spool, DirectoryCopy(Path(settings.spool), keyring)


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise MethodNotAllowed(methods)
