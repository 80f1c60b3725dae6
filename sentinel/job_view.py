"""A job as the public API and the command line show it. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sentinel.model import Job, State
from sentinel.records import Step
from sentinel.records.callbacks import CallbackState

API_STATUS = {
    State.SCHEDULED: "queued",
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
    State.QUARANTINED: "quarantined",
}
_ERROR_STATES = {State.FAILED: "job_failed", State.CANCELLED: "job_cancelled", State.QUARANTINED: "job_quarantined"}


def job_document(job: Job, queue_position: int | None = None, callback: CallbackState | None = None) -> dict[str, Any]:
    """The job as JSON values. Every key is there in every state; what is not known yet is None."""
    return {
        "id": job.id,
        "object": "job",
        "status": API_STATUS[job.state],
        "channel": job.channel,
        "source": job.source,
        "external_id": job.external_id or None,
        "conversation": job.conversation,
        "attempt": job.attempt,
        "queue_position": queue_position,
        "created_at": iso(job.created_at),
        "run_at": iso(job.run_at),
        "started_at": iso(job.started_at),
        "finished_at": iso(job.finished_at),
        "cancel_requested_at": iso(job.cancel_at),
        "progress": round(job.progress, 3),
        "result": dict(job.result) if job.result is not None else None,
        "error": _error(job),
        "screening": job.options.get("screening"),
        "callback": _callback(job, callback),
        "metadata": job.options.get("metadata", {}),
        "status_url": f"/v1/jobs/{job.id}",
        "cancel_url": f"/v1/jobs/{job.id}/cancel",
    }


def full_document(job: Job, story: list[Step], callback: CallbackState | None = None) -> dict[str, Any]:
    """The job as an operator sees it: the public document, its state, its tenant, its input, and every step."""
    steps = [{"at": iso(step.at), "step": step.step, "attempt": step.attempt, "detail": step.detail} for step in story]
    more = {"state": job.state, "tenant": job.tenant, "sender": job.sender, "rescues": job.rescues, "last_error": job.last_error}
    return job_document(job, callback=callback) | more | {"input": _input(job), "replay_of": job.replay_of, "events": steps}


def _input(job: Job) -> list[dict[str, Any]]:
    """The messages, and of a document what it is: its text may be long."""
    messages, document = [dict(message) for message in job.input], job.document
    if document is not None:
        said = f"{document.title or 'without a title'}, {len(document.text)} characters"
        messages.append({"role": "document", "content": said})
    return messages


def iso(seconds: float | None) -> str | None:
    """Seconds since the epoch as RFC 3339 in UTC, to the millisecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _error(job: Job) -> dict[str, str] | None:
    if job.state not in _ERROR_STATES:
        return None
    return {"code": _ERROR_STATES[job.state], "message": job.last_error or job.state.value}


def _callback(job: Job, callback: CallbackState | None) -> dict[str, Any] | None:
    if "callback_url" not in job.options:
        return None
    if callback is None:
        return {"status": "pending", "attempts": 0, "last_error": None}
    return {"status": callback.status, "attempts": callback.attempts, "last_error": callback.last_error}
