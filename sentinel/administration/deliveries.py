"""Deliveries as an administrator sees them: which results have reached their callers, what came of every attempt, and once more."""

from __future__ import annotations

from typing import Any

import attrs

from sentinel.administration import Administrator
from sentinel.errors import Conflict, NotFound
from sentinel.job_view import iso


def listing(admin: Administrator, tenant: str | None, state: str | None, limit: int) -> list[dict[str, Any]]:
    """Callbacks, the newest first."""
    found = admin.record.list_callbacks(tenant, state, limit)
    return [
        attrs.asdict(entry)
        | {"next_at": iso(entry.next_at) if entry.state == "pending" else None, "settled_at": iso(entry.settled_at)}
        for entry in found
    ]


def attempts(admin: Administrator, job_id: str) -> list[dict[str, Any]]:
    """Every attempt to bring one job's result."""
    return [attrs.asdict(entry) | {"at": iso(entry.at)} for entry in admin.record.attempts(job_id)]


def retry(admin: Administrator, job_id: str) -> None:
    """Send a job's result again, whatever came of it before; also to a receiver that was gone."""
    with admin.record.transaction():
        job = admin.record.find_job(job_id)
        if job is None or admin.record.find_callback(job.id) is None:
            raise NotFound(f"There is no callback of a job {job_id!r}.")
        if not admin.record.retry_callback(job.id, admin.now):
            raise Conflict(f"The callback of job {job.id} is being sent at this moment.")
        admin.note("delivery.retried", f"job {job.id}", job.tenant)
