"""The job API: submit a job, look at it, wait for it, list, cancel. A key's tenant sees its own jobs; another's are 404."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import trio

from sentinel.admission import Admission, Arrival
from sentinel.directory import DirectoryFollower
from sentinel.edge.checks import Caller
from sentinel.edge.screening import SCREENED_CHARACTERS_MAX, screen
from sentinel.errors import BadInput, Forbidden, Forged, KeyReused, NotFound, SentinelError, Unavailable
from sentinel.http import Headers, Request, Response, json_response
from sentinel.intake import Intake
from sentinel.job_events import JobStreams
from sentinel.job_lists import JobLists
from sentinel.job_request import DOCUMENT_BYTES_MAX, JobRequest, parse_job_request
from sentinel.job_view import API_STATUS, iso, job_document
from sentinel.model import API_CHANNEL, JOBS_READ, JOBS_WRITE, Job, Key, NewJob, State, job_id, random_id
from sentinel.records import JobFilter, Store
from sentinel.watch import Watch
from sentinel.webhooks import check_media, screening_option

WAIT_SECONDS_MAX = 60
LIST_LIMIT_MAX = 200
IDEMPOTENCY_KEY_MAX = 255

_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,4})(?:$|[,;\s])", re.ASCII)
ENDED = {name for state, name in API_STATUS.items() if state.ended}


@attrs.frozen(eq=False)
class JobApi:
    """The routes under /v1/jobs."""

    directory: DirectoryFollower
    intake: Intake
    store: Store
    watch: Watch
    streams: JobStreams
    lists: JobLists
    admission: Admission
    document_bytes_max: int = DOCUMENT_BYTES_MAX
    look_seconds_max: float = 0.1

    async def submit(self, request: Request, now: float) -> Response:
        """202 with the job once it is kept; 200 with the finished job if `Prefer: wait` saw it end."""
        key = self.directory.authenticate(request, JOBS_WRITE)
        tenant = key.tenant
        check_media(request, ("application/json",))
        wanted = parse_job_request(request.body, self.document_bytes_max)
        job = _new_job(wanted, request, tenant, now)
        created, limits = await self._keep(job, key, now)
        if not created:
            await self._check_same_body(job)
        waited = await self._wait(request, job.id, tenant, JOBS_WRITE)
        document = _just_accepted(job)
        # The job is committed: neither an error nor a record that hangs may make its sender post it again.
        with suppress(Unavailable, NotFound, Forged, Forbidden), trio.move_on_after(self.look_seconds_max):
            self._insist_on_key(request, JOBS_WRITE, waited)
            document = await self._document(await self._find(job.id, tenant))
        headers = [("location", f"/v1/jobs/{job.id}"), ("sentinel-job-id", job.id), *limits, *waited]
        if not created:
            headers.append(("sentinel-duplicate", "true"))
        return json_response(200 if waited and document["status"] in ENDED else 202, document, *headers)

    async def show(self, request: Request, job_id: str) -> Response:
        """The job in whatever state it is; `Prefer: wait=N` waits for its end first."""
        tenant = self.directory.authenticate(request, JOBS_READ).tenant
        await self._find(job_id, tenant)
        waited = await self._wait(request, job_id, tenant, JOBS_READ)
        self._insist_on_key(request, JOBS_READ, waited)
        return json_response(200, await self._document(await self._find(job_id, tenant)), *waited)

    async def events(self, request: Request, job_id: str) -> Response:
        """The job's events as they happen, from behind the one that Last-Event-ID names; the last is its result."""
        tenant = self.directory.authenticate(request, JOBS_READ).tenant

        async def document(found_id: str) -> dict[str, Any]:
            return await self._document(await self._find(found_id, tenant))

        allowed = partial(self.directory.still_allows, request, JOBS_READ)
        return self.streams.open(await self._find(job_id, tenant), request.header("last-event-id").strip(), document, allowed)

    async def cancel(self, request: Request, job_id: str, now: float) -> Response:
        """The job after the request to stop it; asking again, or too late, changes nothing."""
        tenant = self.directory.authenticate(request, JOBS_WRITE).tenant
        job = await self.store.call(self.store.record.cancel, job_id, tenant, now)
        if job is None:
            raise NotFound("There is no job of that id.")
        return json_response(202 if job.state is State.RUNNING else 200, await self._document(job))

    async def list_page(self, request: Request) -> Response:
        """The tenant's jobs, newest first, a page at a time."""
        tenant = self.directory.authenticate(request, JOBS_READ).tenant
        wanted = await self._filter(request.parameters(), tenant)
        jobs = await self.lists.find(tenant, attrs.evolve(wanted, limit=wanted.limit + 1))
        page = jobs[: wanted.limit]
        body = {"object": "list", "data": [job_document(job) for job in page], "has_more": len(jobs) > len(page)}
        return json_response(200, body | {"last_id": page[-1].id if page else None})

    async def _keep(self, job: NewJob, key: Key, now: float) -> tuple[bool, Headers]:
        """Whether the job is new, once it is kept, and the headers that tell of the limits. Raises what a check says against it."""
        try:
            admitted = self.admission.admit(Arrival(Caller.API, job.verified_by, job.tenant, key.id), now)
        except SentinelError:
            # Who asks again for what was kept before must not be told that it was refused.
            if job.external_id and await self.store.read(self.store.record.find_job, job.id, job.tenant) is not None:
                return False, ()
            raise
        created: list[bool] = []
        try:
            created = await self.intake.accept([attrs.evolve(job, metering=admitted.metering)])
        finally:
            self.admission.settle(admitted, created)
        return created[0], admitted.headers

    async def _find(self, job_id: str, tenant: str) -> Job:
        job = await self.store.read(self.store.record.find_job, job_id, tenant)
        if job is None:
            raise NotFound("There is no job of that id.")
        return job

    async def _document(self, job: Job) -> dict[str, Any]:
        position = callback = None
        if job.state is State.QUEUED:
            position = 1 + await self.store.read(self.store.record.queue_position, job)
        if "callback_url" in job.options:
            callback = await self.store.read(self.store.record.find_callback, job.id)
        return job_document(job, position, callback)

    async def _check_same_body(self, job: NewJob) -> None:
        kept = await self.store.read(self.store.record.find_job, job.id, job.tenant)
        if kept is not None and kept.fingerprint != job.fingerprint:
            raise KeyReused(f"The Idempotency-Key was used for job {job.id} with a different body.")

    def _insist_on_key(self, request: Request, scope: str, waited: Sequence[tuple[str, str]]) -> None:
        """Raise as at the door if the key was revoked while its bearer waited."""
        if waited:
            self.directory.authenticate(request, scope)

    async def _wait(self, request: Request, job_id: str, tenant: str, scope: str) -> list[tuple[str, str]]:
        """Wait as the header `Prefer: wait=SECONDS` asks (RFC 7240, 4.3); the header that says it was done, or none."""
        asked = _WAIT.search(request.header("prefer").lower())
        if asked is None:
            return []
        seconds = min(int(asked[1]), WAIT_SECONDS_MAX)
        waited = await self.watch.wait_ended(job_id, seconds, tenant, partial(self.directory.still_allows, request, scope))
        return [("preference-applied", f"wait={seconds}")] if waited else []

    async def _filter(self, parameters: Mapping[str, str], tenant: str) -> JobFilter:
        if unknown := sorted(parameters.keys() - {"status", "channel", "external_id", "limit", "after"}):
            raise BadInput(f"There is no parameter {unknown[0][:40]!r}; there are status, channel, external_id, limit and after.")
        given = {name: value for name, value in parameters.items() if value}
        limit = given.get("limit", "50")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 5 and 1 <= int(limit) <= LIST_LIMIT_MAX):
            raise BadInput(f"limit must be a whole number from 1 to {LIST_LIMIT_MAX}.")
        states = None
        if status := given.get("status"):
            states = [state for state, name in API_STATUS.items() if name == status]
            if not states:
                raise BadInput(f"status must be one of {', '.join(sorted(set(API_STATUS.values())))}.")
        after = given.get("after")
        before = (await self._find(after, tenant)).sequence if after else None
        return JobFilter(tenant, states, given.get("channel"), given.get("external_id"), before, int(limit))


def _new_job(wanted: JobRequest, request: Request, tenant: str, now: float) -> NewJob:
    key = request.header("idempotency-key")
    if len(key) > IDEMPOTENCY_KEY_MAX:
        raise BadInput(f"The Idempotency-Key is longer than {IDEMPOTENCY_KEY_MAX} characters.")
    return NewJob(
        id=job_id(tenant, API_CHANNEL, "", key) if key else random_id(),
        tenant=tenant,
        channel=API_CHANNEL,
        source=API_CHANNEL,
        external_id=key,
        input=wanted.input,
        received_at=now,
        verified_by="api key",
        conversation=wanted.conversation,
        options={**wanted.options, **screening_option(screen(_said(wanted)))},
        fingerprint=hashlib.sha256(request.body).hexdigest(),
        priority=wanted.priority,
    )


def _said(wanted: JobRequest) -> str:
    """What the user said, the newest last, and before it the end of the document."""
    said = [message["content"] for message in wanted.input if message["role"] == "user"]
    if document := wanted.options.get("document"):
        said.insert(0, document["text"][-SCREENED_CHARACTERS_MAX:])
    return "\n".join(said)[-SCREENED_CHARACTERS_MAX:]


def _just_accepted(job: NewJob) -> dict[str, Any]:
    """The document of a job that was kept but cannot be read this moment."""
    created = {"id": job.id, "object": "job", "status": API_STATUS[job.state], "created_at": iso(job.received_at)}
    return created | {"status_url": f"/v1/jobs/{job.id}", "cancel_url": f"/v1/jobs/{job.id}/cancel"}
