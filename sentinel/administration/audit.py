"""The audit as people see it."""

from __future__ import annotations

from typing import Any

from sentinel.job_view import iso
from sentinel.records.directory import AuditEntry


def document(entry: AuditEntry) -> dict[str, Any]:
    """One entry: who, what, when, to what."""
    return {
        "id": str(entry.sequence),
        "at": iso(entry.at),
        "actor": entry.actor,
        "action": entry.action,
        "tenant": entry.tenant,
        "subject": entry.subject,
        "detail": dict(entry.detail),
    }
