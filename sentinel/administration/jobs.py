"""Jobs across tenants: what an operator looks at, stops, puts back, sets aside or runs again."""

from __future__ import annotations

from typing import Any

from sentinel.administration import Administrator
from sentinel.errors import Conflict, NotFound
from sentinel.job_view import full_document, iso
from sentinel.model import Job, NewJob, random_id
from sentinel.records import JobFilter
from sentinel.webhooks import RAW_ROLE


def document(job: Job) -> dict[str, Any]:
    """The job in one row: where it is, not what was said."""
    named = ("id", "tenant", "channel", "source", "external_id", "conversation", "attempt", "rescues")
    times = {name: iso(getattr(job, name)) for name in ("created_at", "started_at", "finished_at")}
    row = {name: getattr(job, name) for name in named} | times
    return row | {"state": job.state.value, "last_error": job.last_error, "replay_of": job.replay_of}


def listing(admin: Administrator, wanted: JobFilter) -> list[Job]:
    """The jobs that match, newest first."""
    return admin.record.list_jobs(wanted)


def find(admin: Administrator, given: str) -> Job:
    """The job of that id, or the newest one whose platform calls it so. Raises NotFound."""
    job = admin.record.find_job(given) or next(iter(admin.record.list_jobs(JobFilter(external_id=given, limit=1))), None)
    if job is None:
        raise NotFound(f"There is no job {given[:255]!r}.")
    return job


def story(admin: Administrator, given: str) -> dict[str, Any]:
    """The whole job, step by step, with what was said. Raises NotFound."""
    job = find(admin, given)
    return full_document(job, admin.record.story(job.id), admin.record.find_callback(job.id))


def cancel(admin: Administrator, given: str) -> Job:
    """End a waiting job; a running one stops within a second, an ended one stays as it is."""
    with admin.record.transaction():
        found = find(admin, given)
        job = admin.record.cancel(found.id, found.tenant, admin.now) or found
        _note(admin, "job.cancelled", job)
    return job


def retry(admin: Administrator, given: str) -> Job:
    """Put it back with its attempts counted anew; what was sent already is not sent again. Raises Conflict."""
    with admin.record.transaction():
        job = find(admin, given)
        if not admin.record.retry(job.id, admin.now):
            can = "a failed, cancelled or quarantined one can, unless it was never understood"
            raise Conflict(f"Job {job.id} is {job.state} and cannot be retried; {can}.")
        _note(admin, "job.retried", job)
        return find(admin, job.id)


def quarantine(admin: Administrator, given: str, reason: str) -> Job:
    """Set a job aside that nobody has begun, for a person to look at. Raises Conflict for one that is not waiting."""
    with admin.record.transaction():
        job = find(admin, given)
        if not admin.record.set_aside(job.id, reason, admin.now):
            raise Conflict(f"Job {job.id} is {job.state}; only one that waits can be quarantined. Cancel a running one.")
        _note(admin, "job.quarantined", job, reason=reason)
        return find(admin, job.id)


def replay(admin: Administrator, given: str) -> Job:
    """Run the same input as a new job, with a new id and its own reply. Raises Conflict for what was never understood."""
    with admin.record.transaction():
        job, new_id = find(admin, given), random_id()
        if any(message.get("role") == RAW_ROLE for message in job.input):
            raise Conflict(f"Job {job.id} was never understood; there is nothing to run.")
        admin.record.accept([_replayed(job, new_id, admin.now)], admin.now)
        _note(admin, "job.replayed", job, new_job=new_id)
        return find(admin, new_id)


def _note(admin: Administrator, action: str, job: Job, **detail: Any) -> None:
    admin.note(action, f"job {job.id}", job.tenant, was=job.state.value, **detail)


def _replayed(job: Job, new_id: str, now: float) -> NewJob:
    return NewJob(
        id=new_id,
        tenant=job.tenant,
        channel=job.channel,
        source=job.source,
        external_id=job.external_id,
        input=job.input,
        received_at=now,
        verified_by="replay",
        conversation=job.conversation,
        sender=job.sender,
        reply_to=job.reply_to,
        options=job.options,
        fingerprint=job.fingerprint,
        priority=job.priority,
        replay_of=job.id,
    )
