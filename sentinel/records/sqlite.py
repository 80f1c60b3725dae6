"""The record in one SQLite file: WAL, `synchronous=FULL`, one writer at a time. The only importer of sqlite3.

Made for one machine: gateway and worker are processes on it, and a worker's death is seen in the process table.
"""

from __future__ import annotations

import random
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import attrs

from sentinel.errors import Unavailable
from sentinel.model import Claim, Job, Key, NewJob, Source, State
from sentinel.processes import is_gone
from sentinel.records import (
    CALLBACKS_PER_TENANT,
    LEASE_SECONDS,
    RESCUES_MAX,
    Callback,
    CallbackState,
    Directory,
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
from sentinel.records.queries import load_migrations, load_queries

_SQL = load_queries("sqlite")
_PRUNED_TABLES = ("prune_workers", "prune_steps", "prune_outbox", "prune_callbacks", "prune_jobs")
# Not the store's trouble but the caller's: to try the same again would not help.
_CALLERS_FAULTS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


class SqliteRecord:
    """A record on the file at `path`, made if it is not there. Every PRAGMA is set here: they do not outlive a connection."""

    def __init__(self, path: str, busy_seconds: float = 10.0) -> None:
        self._busy_seconds = busy_seconds
        with _translated():
            Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
            if not Path(path).exists():
                Path(path).touch(mode=0o600)  # the sources' secrets are in it; SQLite gives the WAL the same mode
            self._connection = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256
            )
        try:
            self._connection.row_factory = sqlite3.Row
            with _translated():
                for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "temp_store = MEMORY"):
                    self._execute(f"PRAGMA {pragma}")
            self.migrate()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def migrate(self) -> list[str]:
        applied = []
        for number, name, statements in load_migrations("sqlite"):
            if self._schema_version() < number:
                with self._transaction():
                    if self._schema_version() < number:  # another process may have been faster
                        _run_script(self._connection, statements)
                        self._connection.execute(f"PRAGMA user_version = {number}")
                        applied.append(name)
        return applied

    # Accepting

    def accept(self, jobs: Sequence[NewJob], now: float) -> list[bool]:
        first: dict[str, NewJob] = {}
        for job in jobs:
            first.setdefault(job.id, job)
        with self._transaction():
            known = set(rows.decode(self._one("known", ids=rows.encode(list(first)))["ids"]))
            new = [rows.job_row(job) for job in first.values() if job.id not in known]
            if new:
                self._run("accept", rows=rows.encode(new), now=now)
        created = {job_id: job_id not in known for job_id in first}
        return [created.pop(job.id, False) for job in jobs]  # of an id that is there twice, the first was new

    def withdraw(self, ids: Sequence[str]) -> int:
        with self._transaction():
            return self._run("withdraw", ids=rows.encode(ids)).rowcount

    # Reading and steering

    def find_job(self, job_id: str, tenant: str | None = None) -> Job | None:
        row = self._first("find_job", id=job_id, tenant=tenant)
        return rows.job(row) if row else None

    def list_jobs(self, wanted: JobFilter) -> list[Job]:
        values = attrs.asdict(wanted) | {"states": rows.encode(wanted.states) if wanted.states is not None else None}
        return [rows.job(row) for row in self._all("list_jobs_called" if wanted.external_id is not None else "list_jobs", **values)]

    def queue_position(self, job: Job) -> int:
        return int(self._one("queue_position", priority=job.priority, sequence=job.sequence)["ahead"])

    def ended(self, ids: Sequence[str]) -> set[str]:
        return {row["id"] for row in self._all("ended", ids=rows.encode(ids))}

    def story(self, job_id: str) -> list[Step]:
        return [Step(**row) for row in self._all("story", id=job_id)]

    def counts(self) -> dict[str, int]:
        return {row["state"]: row["jobs"] for row in self._all("counts")}

    def cancel(self, job_id: str, tenant: str, now: float) -> Job | None:
        with self._transaction():
            if self._run("cancel_waiting", id=job_id, tenant=tenant, now=now).rowcount:
                self._step(job_id, "cancelled", now)
                self._run("open_callback", id=job_id, now=now)
            elif self._run("cancel_running", id=job_id, tenant=tenant, now=now).rowcount:
                self._step(job_id, "cancel_requested", now)
            return self.find_job(job_id, tenant)

    def retry(self, job_id: str, now: float) -> bool:
        with self._transaction():
            if not self._run("retry_ended", id=job_id, now=now).rowcount:
                return False
            self._run("reopen_outbox", id=job_id)
            self._run("forget_callback", id=job_id)
            self._step(job_id, "retried_by_hand", now)
            return True

    def find_callback(self, job_id: str) -> CallbackState | None:
        row = self._first("find_callback", id=job_id)
        return CallbackState(row["state"], row["attempts"], row["last_error"]) if row else None

    # Working

    def register(self, name: str, process: str, slots: int, status: str, now: float) -> int:
        with self._transaction():
            cursor = self._run("register_worker", name=name, process=process, slots=slots, status=status, now=now)
            return int(cursor.lastrowid or 0)

    def heartbeat(self, worker: int, slots: int, status: str, progress: Sequence[Progress], now: float) -> bool:
        with self._transaction():
            for report in progress:
                self._run("set_progress", id=report.job_id, token=report.lease_token, progress=report.progress)
            return bool(self._run("see_worker", worker=worker, slots=slots, status=status, now=now).rowcount)

    def leases(self, worker: int) -> list[Lease]:
        found = self._all("leases", worker=worker)
        return [Lease(row["id"], row["lease_token"], row["cancel_at"] is not None) for row in found]

    def claim(self, worker: int, count: int, now: float) -> list[Claim]:
        if not self._first("anything_to_claim", now=now):  # looking takes no lock, so an idle worker is in nobody's way
            return []
        with self._transaction():
            if not self._first("lives", worker=worker):
                return []
            self._run("promote", now=now)
            tenants = [row["tenant"] for row in self._all("waiting_tenants")]
            random.shuffle(tenants)  # when there are more tenants than free slots, chance is fair and needs no memory
            queues = ([row["id"] for row in self._all("claimable", tenant=tenant, limit=count)] for tenant in tenants)
            waiting = list(islice(filter(None, queues), count))
            return [self._claim_one(job_id, worker, now) for job_id in rows.round_robin(waiting)[:count]]

    def _claim_one(self, job_id: str, worker: int, now: float) -> Claim:
        token = uuid.uuid4().hex
        row = self._one("claim", id=job_id, worker=worker, token=token, now=now)
        self._step(job_id, "claimed", now, f"worker {worker}")
        return Claim(rows.job(row), token)

    def save_replies(self, replies: Sequence[Reply], now: float) -> list[bool]:
        with self._transaction():
            return [self._save_reply(reply, now) for reply in replies]

    def _save_reply(self, reply: Reply, now: float) -> bool:
        if not self._run("save_reply", id=reply.job_id, token=reply.lease_token, result=rows.encode(reply.result)).rowcount:
            return False
        for number, text in enumerate(reply.parts, start=1):
            self._run("add_part", id=reply.job_id, part=number, text=text)
        self._step(reply.job_id, "generated", now, f"{len(reply.parts)} part(s) to send")
        return True

    def pending_parts(self, job_id: str) -> list[Part]:
        return [Part(row["part"], row["text"], row["attempts"]) for row in self._all("pending_parts", id=job_id)]

    def settle_parts(self, parts: Sequence[PartSettled], now: float) -> list[bool]:
        with self._transaction():
            return [self._settle_part(part, now) for part in parts]

    def _settle_part(self, part: PartSettled, now: float) -> bool:
        if not self._first("owns", id=part.job_id, token=part.lease_token):
            return False
        values = {"id": part.job_id, "part": part.number, "state": part.state, "error": part.reason, "now": now}
        if not self._run("settle_part", **values).rowcount:
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
        return written is not None

    def bury(self, worker: int, now: float) -> None:
        with self._transaction():
            self._run("bury_worker", worker=worker, now=now)

    def reap(self, now: float) -> int:
        if not self._dead_workers(now) and not self._first("orphans"):
            return 0
        with self._transaction():
            for worker in self._dead_workers(now):  # asked again: one may have been heard while this waited for the lock
                self._run("bury_worker", worker=worker, now=now)
            return sum(self._rescue(row, now) for row in self._all("orphans"))

    def _dead_workers(self, now: float) -> list[int]:
        return [row["id"] for row in self._all("workers") if row["last_seen"] < now - LEASE_SECONDS or is_gone(row["process"])]

    def _rescue(self, row: sqlite3.Row, now: float) -> int:
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

    def claim_callbacks(self, count: int, lease_seconds: float, now: float, busy: Sequence[str] = ()) -> list[Callback]:
        if not self._first("callback_due", now=now):
            return []
        with self._transaction():
            token = uuid.uuid4().hex
            share = {"limit": count, "per_tenant": CALLBACKS_PER_TENANT, "busy": rows.encode(busy)}
            claimed = self._all("claim_callbacks", token=token, lease_until=now + lease_seconds, now=now, **share)
        return [Callback(**row) for row in claimed]

    def settle_callback(self, callback: Callback, state: str, next_at: float | None, error: str | None, now: float) -> bool:
        with self._transaction():
            owner = {"id": callback.job_id, "token": callback.lease_token}
            written = self._run("settle_callback", **owner, state=state, next_at=next_at, error=error, now=now).rowcount
            if written:
                step = {"delivered": "callback_delivered", "failed": "callback_failed"}.get(state, "callback_postponed")
                self._step(callback.job_id, step, now, error)
        return bool(written)

    def prune(self, before: float) -> int:
        with self._transaction():
            return [self._run(name, before=before).rowcount for name in _PRUNED_TABLES][-1]

    # Administering

    def directory_version(self) -> int:
        return int(self._one("directory_version")["version"])

    def directory(self) -> Directory:
        with self._transaction("BEGIN"):
            tenants, networks = self._all("tenants"), self._all("networks")
            sources = [
                Source(row["tenant"], row["channel"], row["name"], rows.decode(row["settings"])) for row in self._all("sources")
            ]
            keys = {row["hash"]: rows.key(row) for row in self._all("keys") if row["revoked_at"] is None}
        return Directory(
            tenants=frozenset(row["name"] for row in tenants),
            sources={(source.channel, source.name): source for source in sources},
            keys=keys,
            networks={
                name: [row["network"] for row in networks if row["tenant"] == name] for name in {n["tenant"] for n in networks}
            },
            callback_secrets={row["name"]: row["callback_secret"] for row in tenants if row["callback_secret"]},
        )

    def keys(self) -> list[Key]:
        return [rows.key(row) for row in self._all("keys")]

    def add_tenant(self, name: str, now: float) -> bool:
        with self._transaction():
            return bool(self._run("add_tenant", name=name, now=now).rowcount)

    def put_source(self, source: Source, now: float) -> bool:
        with self._transaction():
            values = attrs.asdict(source, recurse=False) | {"settings": rows.encode(source.settings), "now": now}
            return bool(self._run("put_source", **values).rowcount)

    def remove_source(self, source: Source) -> bool:
        with self._transaction():
            return bool(self._run("remove_source", channel=source.channel, name=source.name, tenant=source.tenant).rowcount)

    def add_key(self, key: Key, key_hash: str, now: float) -> None:
        with self._transaction():
            self._run("add_key", id=key.id, tenant=key.tenant, hash=key_hash, hint=key.hint, now=now)

    def revoke_key(self, key_id: str, now: float) -> bool:
        with self._transaction():
            return bool(self._run("revoke_key", id=key_id, now=now).rowcount)

    def callback_secret(self, tenant: str, candidate: str) -> str:
        with self._transaction():
            self._run("set_callback_secret", tenant=tenant, secret=candidate)
            secrets = {row["name"]: row["callback_secret"] for row in self._all("tenants")}
            return str(secrets[tenant])

    def allow_network(self, tenant: str, network: str) -> None:
        with self._transaction():
            self._run("allow_network", tenant=tenant, network=network)

    # Statements

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
        """All or nothing. IMMEDIATE takes the write lock at once: a deferred one could fail half-way with SQLITE_BUSY_SNAPSHOT."""
        with _translated():
            self._execute(begin)
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _execute(self, statement: str, values: Mapping[str, Any] | None = None) -> sqlite3.Cursor:
        """
        Run a statement; ask every few ms while others hold a lock that it needs (SQLite's own handler sleeps up to 100 ms).

        Even reading can meet a lock: when another process has just begun and recovers the WAL.
        """
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                return self._connection.execute(statement, values or ())
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.001, 0.005))

    def _schema_version(self) -> int:
        with _translated():
            return int(self._execute("PRAGMA user_version").fetchone()[0])

    def _run(self, name: str, /, **values: Any) -> sqlite3.Cursor:
        return self._execute(_SQL[name], values)

    def _all(self, name: str, /, **values: Any) -> list[sqlite3.Row]:
        with _translated():
            return self._run(name, **values).fetchall()

    def _first(self, name: str, /, **values: Any) -> sqlite3.Row | None:
        return next(iter(self._all(name, **values)), None)

    def _one(self, name: str, /, **values: Any) -> sqlite3.Row:
        return self._all(name, **values)[0]

    def _step(self, job_id: str, step: str, now: float, detail: str | None = None) -> None:
        self._run("add_step", id=job_id, step=step, now=now, detail=detail)


@contextmanager
def _translated() -> Iterator[None]:
    """SQLite's errors as ours: when the store cannot do it now, the caller may try again, and the operator reads why."""
    try:
        yield
    except _CALLERS_FAULTS:
        raise
    except (sqlite3.Error, OSError) as error:
        raise Unavailable(f"The record cannot be written or read now ({error}).") from error


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _run_script(connection: sqlite3.Connection, script: str) -> None:
    """Run each statement inside the open transaction; `executescript` would commit it first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
