"""Callbacks in SQL, with the log of their attempts."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sentinel.records import rows
from sentinel.records.callbacks import (
    CALLBACKS_PER_HOST,
    CALLBACKS_PER_TENANT,
    Attempt,
    Callback,
    CallbackEntry,
    CallbackState,
    LoggedAttempt,
)
from sentinel.records.statements import Statements

_STEPS = {"delivered": "callback_delivered", "failed": "callback_failed"}


class SqlCallbacks(Statements):
    """The part of a record for callbacks."""

    def find_callback(self, job_id: str) -> CallbackState | None:
        row = self._first("find_callback", id=job_id)
        return CallbackState(row["state"], row["attempts"], row["last_error"]) if row else None

    def list_callbacks(self, tenant: str | None, state: str | None, limit: int) -> list[CallbackEntry]:
        return [CallbackEntry(**row) for row in self._all("list_callbacks", tenant=tenant, state=state, limit=limit)]

    def attempts(self, job_id: str) -> list[LoggedAttempt]:
        return [LoggedAttempt(**row) for row in self._all("callback_attempts", id=job_id)]

    def retry_callback(self, job_id: str, now: float) -> bool:
        with self._transaction():
            again = self._run("retry_callback", id=job_id, now=now)
            if again:
                self._run("forget_gone", id=job_id)
                self._run("add_step", id=job_id, step="callback_retried_by_hand", now=now, detail=None)
        return bool(again)

    def claim_callbacks(self, count: int, lease_seconds: float, now: float, busy: Sequence[str] = ()) -> list[Callback]:
        if not self._first("callback_due", now=now):
            return []
        shares = {"limit": count, "per_tenant": CALLBACKS_PER_TENANT, "per_host": CALLBACKS_PER_HOST, "busy": rows.encode(busy)}
        next_ones = [row["job_id"] for row in self._all("callbacks_in_turn", now=now, **shares)]
        if not next_ones:
            return []
        with self._transaction():
            lease = {"token": uuid.uuid4().hex, "lease_until": now + lease_seconds}
            claimed = self._all("claim_callbacks", ids=self._ids(next_ones), now=now, **lease)
        return [Callback(**row) for row in claimed]

    def settle_callback(self, callback: Callback, attempt: Attempt, now: float) -> bool:
        with self._transaction():
            owner = {"id": callback.job_id, "token": callback.lease_token}
            values = {"state": attempt.state, "next_at": attempt.next_at, "error": attempt.error, "untried": int(not attempt.tried)}
            written = self._run("settle_callback", **owner, **values, now=now)
            if written and attempt.tried:
                self._log(callback, attempt, now)
        return bool(written)

    def _log(self, callback: Callback, attempt: Attempt, now: float) -> None:
        outcome = {"status": attempt.status, "seconds": attempt.seconds, "outcome": attempt.state, "error": attempt.error}
        sent = {"webhook_id": callback.webhook_id, "attempt": callback.attempts}
        self._run("log_attempt", id=callback.job_id, now=now, **sent, **outcome)
        step = _STEPS.get(attempt.state, "callback_postponed")
        self._run("add_step", id=callback.job_id, step=step, now=now, detail=attempt.error)
        if attempt.gone:
            self._run("note_gone", tenant=callback.tenant, url=callback.url, now=now)
