"""What every record in SQL does the same: the order of the statements of one move. The statements themselves are the dialect's own.

No driver here: a store's file gives the connection, the placeholders and the errors, and overrides what its dialect does in one go.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs

from sentinel.model import Claim, Hint, Job, NewJob, State, chat_id
from sentinel.processes import is_gone
from sentinel.records import (
    MERGED_MAX,
    NOBODY,
    RESCUES_MAX,
    Ending,
    JobFilter,
    Lease,
    Part,
    PartSettled,
    Progress,
    Reply,
    Step,
    Worker,
    rows,
)
from sentinel.records.sql_callbacks import SqlCallbacks
from sentinel.records.sql_directory import SqlDirectory
from sentinel.records.sql_effects import SqlEffects
from sentinel.records.sql_memory import SqlMemory
from sentinel.records.sql_waiting import SqlWaiting
from sentinel.records.sql_watching import SqlWatching

PRUNED_TABLES = (
    "prune_usage",
    "prune_workers",
    "prune_gone_receivers",
    "prune_steps",
    "prune_outbox",
    "prune_effects",
    "prune_partials",
    "prune_callback_attempts",
    "prune_callbacks",
    "prune_jobs",
)


class SqlRecord(SqlDirectory, SqlMemory, SqlEffects, SqlWaiting, SqlWatching, SqlCallbacks):
    """A record over named statements. A subclass runs them: `_run` gives how many rows, `_all` gives the rows themselves."""

    # The statements that list jobs of some states only, without a look at all others.
    _lists: ClassVar[Mapping[str, frozenset[State]]]

    @abstractmethod
    def migrate(self) -> list[str]: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def claim(self, worker: int, count: int, now: float, ids: Sequence[str] | None = None) -> list[Claim]: ...

    @abstractmethod
    def _write(self, jobs: Mapping[str, NewJob], now: float) -> set[str]:
        """Write what is not there yet, in one commit; the ids that were new."""

    def _step(self, job_id: str, step: str, now: float, detail: str | None = None) -> None:
        self._run("add_step", id=job_id, step=step, now=now, detail=detail)

    # Accepting

    def accept(self, jobs: Sequence[NewJob], now: float) -> list[bool]:
        first: dict[str, NewJob] = {}
        for job in jobs:
            first.setdefault(job.id, job)
        new = dict.fromkeys(self._write(first, now), True)
        return [new.pop(job.id, False) for job in jobs]  # of an id that is there twice, the first was new

    def withdraw(self, ids: Sequence[str]) -> int:
        with self._transaction():
            return self._run("withdraw", ids=self._ids(ids))

    # Reading and steering

    def find_job(self, job_id: str, tenant: str | None = None) -> Job | None:
        row = self._first("find_job", id=job_id, tenant=tenant)
        return rows.job(row) if row else None

    def list_jobs(self, wanted: JobFilter) -> list[Job]:
        values = attrs.asdict(wanted) | {"states": rows.encode(wanted.states) if wanted.states is not None else None}
        return [rows.job(row) for row in self._all(self._list(wanted), **values)]

    def _list(self, wanted: JobFilter) -> str:
        """The statement that need not walk past all other jobs, where there is one."""
        if wanted.external_id is not None:
            return "list_jobs_called"
        few = [name for name, states in self._lists.items() if wanted.states and states.issuperset(wanted.states)]
        return few[0] if few else "list_jobs"

    def queue_position(self, job: Job) -> int:
        return int(self._one("queue_position", priority=job.priority, sequence=job.sequence)["ahead"])

    def ended(self, ids: Sequence[str]) -> set[str]:
        return {row["id"] for row in self._all("ended", ids=self._ids(ids))}

    def story(self, job_id: str) -> list[Step]:
        return [Step(**row) for row in self._all("story", id=job_id)]

    def counts(self) -> dict[str, int]:
        return {row["state"]: row["jobs"] for row in self._all("counts")}

    def ready(self, after: int, limit: int, before: float) -> tuple[list[Hint], int | None]:
        found = self._all("ready", after=after, limit=limit, before=before)
        return [_hint(row) for row in found if row["id"] is not None], found[-1]["sequence"] if len(found) == limit else None

    def successors(self, ids: Sequence[str]) -> list[Hint]:
        return [_hint(row) for row in self._all("successors", ids=self._ids(ids))]

    def cancel(self, job_id: str, tenant: str, now: float) -> Job | None:
        with self._transaction():
            self._cancel(job_id, tenant, now)
            return self.find_job(job_id, tenant)

    def _cancel(self, job_id: str, tenant: str, now: float) -> None:
        if self._run("cancel_waiting", id=job_id, tenant=tenant, now=now):
            self._step(job_id, "cancelled", now)
            self._run("open_callback", id=job_id, now=now)
        elif self._run("cancel_running", id=job_id, tenant=tenant, now=now):
            self._step(job_id, "cancel_requested", now)

    def set_aside(self, job_id: str, reason: str, now: float) -> bool:
        with self._transaction():
            if not self._run("set_aside", id=job_id, reason=reason, now=now):
                return False
            self._step(job_id, State.QUARANTINED, now, reason)
            self._run("open_callback", id=job_id, now=now)
            return True

    def retry(self, job_id: str, now: float) -> bool:
        with self._transaction():
            self._run("drop_apology", id=job_id)
            if not self._run("retry_ended", id=job_id, now=now):
                return False
            self._run("reopen_outbox", id=job_id)
            self._run("forget_callback", id=job_id)
            self._step(job_id, "retried_by_hand", now)
            return True

    # Working

    def register(self, name: str, process: str, slots: int, status: str, now: float) -> int:
        with self._transaction():
            return int(self._one("register_worker", name=name, process=process, slots=slots, status=status, now=now)["id"])

    def heartbeat(self, worker: int, slots: int, status: str, progress: Sequence[Progress], now: float) -> bool:
        with self._transaction():
            for report in progress:
                self._run("set_progress", id=report.job_id, token=report.lease_token, progress=report.progress)
            return bool(self._run("see_worker", worker=worker, slots=slots, status=status, now=now))

    def leases(self, worker: int) -> list[Lease]:
        found = self._all("leases", worker=worker)
        return [Lease(row["id"], row["lease_token"], row["cancel_at"] is not None) for row in found]

    def save_replies(self, replies: Sequence[Reply], now: float) -> list[bool]:
        with self._transaction():
            return [self._save_reply(reply, now) for reply in replies]

    def _save_reply(self, reply: Reply, now: float) -> bool:
        values = {"result": rows.encode(reply.result), "tokens": rows.tokens(reply)}
        if not self._run("save_reply", id=reply.job_id, token=reply.lease_token, **values):
            return False
        for number, text in enumerate(reply.parts, start=1):
            self._run("add_part", id=reply.job_id, part=number, text=text)
        self._step(reply.job_id, "generated", now, f"{len(reply.parts)} part(s) to send")
        return True

    def merge(self, claim: Claim, now: float) -> Job:
        job, merged = claim.job, 0
        with self._transaction():
            for row in self._all("mergeable", id=job.id, token=claim.lease_token, limit=MERGED_MAX):
                if self._run("merge_away", id=row["id"], now=now, result=rows.encode({"merged_into": job.id})):
                    self._step(row["id"], "merged", now, f"into {job.id}")
                    joined, reply_to = (*job.input, *rows.decode(row["input"])), rows.decode(row["reply_to"])
                    job = attrs.evolve(job, input=joined, reply_to=reply_to, told_at=row["told_at"] or job.told_at)
                    merged += 1
            if merged:
                given = {"input": rows.encode(job.input), "reply_to": rows.encode(job.reply_to)}
                self._run("merge_in", id=job.id, token=claim.lease_token, **given)
                self._step(job.id, "merged", now, f"{merged} later message(s) of the chat")
        return job

    def add_step(self, job_id: str, step: str, detail: str, now: float) -> None:
        with self._transaction():
            self._step(job_id, step, now, detail)

    def pending_parts(self, job_id: str) -> list[Part]:
        return [Part(row["part"], row["text"], row["attempts"]) for row in self._all("pending_parts", id=job_id)]

    def settle_parts(self, parts: Sequence[PartSettled], now: float) -> list[bool]:
        with self._transaction():
            return [self._settle_part(part, now) for part in parts]

    def _settle_part(self, part: PartSettled, now: float) -> bool:
        if not self._first("owns", id=part.job_id, token=part.lease_token):
            return False
        values = {"id": part.job_id, "part": part.number, "state": part.state, "error": part.reason, "now": now}
        if not self._run("settle_part", **values):
            return True  # settled already: this is a write whose outcome was unknown, repeated
        if part.reply_to is not None:
            self._run("set_reply_to", id=part.job_id, token=part.lease_token, reply_to=rows.encode(part.reply_to))
        step = {"sent": "delivered", "failed": "delivery_refused"}.get(part.state, "delivery_postponed")
        self._step(part.job_id, step, now, f"part {part.number}" + (f": {part.reason}" if part.reason else ""))
        return True

    def end(self, endings: Sequence[Ending], now: float) -> list[bool]:
        with self._transaction():
            return [self._end(ending, now) for ending in endings]

    def _end(self, ending: Ending, now: float) -> bool:
        values = attrs.asdict(ending) | {"id": ending.job_id, "token": ending.lease_token, "now": now}
        written = self._first("finish" if ending.state.ended else "again", **values)
        self._step(
            ending.job_id, rows.ending_step(ending, State(written["state"])) if written else "stale_finish", now, ending.error
        )
        self._run("open_callback", id=ending.job_id, now=now)
        if written and ending.remember:
            self._run("remember", id=ending.job_id, now=now)
        return written is not None

    def bury(self, worker: int, now: float) -> None:
        with self._transaction():
            self._run("bury_worker", worker=worker, now=now)

    def reap(self, now: float, silent: Mapping[int, float] = NOBODY) -> int:
        if not self._dead_workers(silent) and not self._first("orphans"):
            return 0
        with self._transaction():
            for worker in self._dead_workers(silent):  # asked again: one may have been heard while this waited for the lock
                self._run("bury_worker", worker=worker, now=now)
            return self._rescue_orphans(now)

    def _dead_workers(self, silent: Mapping[int, float]) -> list[int]:
        return [row["id"] for row in self._all("workers") if silent.get(row["id"]) == row["last_seen"] or is_gone(row["process"])]

    def _rescue_orphans(self, now: float) -> int:
        return sum(self._rescue(row, now) for row in self._all("orphans"))

    def _rescue(self, row: Any, now: float) -> int:
        state, error = State.QUEUED, "its worker died"
        if row["cancel_at"] is not None:
            state, error = State.CANCELLED, "cancelled"
        elif row["rescues"] + 1 >= RESCUES_MAX:
            state, error = State.QUARANTINED, f"its worker died {RESCUES_MAX} times"
        self._run("rescue", id=row["id"], state=state, error=error, now=now)
        self._step(row["id"], "rescued" if state is State.QUEUED else state, now, error)
        self._run("open_callback", id=row["id"], now=now)
        return 1

    def workers(self) -> list[Worker]:
        return [
            Worker(row["id"], row["name"], row["slots"], row["status"], row["last_seen"])
            for row in self._all("workers")
            if not is_gone(row["process"])
        ]

    def prune(self, before: float) -> int:
        with self._transaction():
            return [self._run(name, before=before) for name in PRUNED_TABLES][-1]


def _hint(row: Mapping[str, Any]) -> Hint:
    chat = chat_id(row["tenant"], row["channel"], row["source"], row["conversation"])
    return Hint(row["id"], row["tenant"], row["priority"], row["received_at"], chat)
