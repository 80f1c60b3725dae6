"""The record in one SQLite file, one writer at a time.

Made for one machine: gateway and worker are processes on it, and a worker's death is seen in the process table.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, ClassVar

from sentinel.keyring import Keyring, open_keyring
from sentinel.model import Claim, NewJob, State
from sentinel.records import rows
from sentinel.records.queries import load_migrations, load_queries
from sentinel.records.sql import SqlRecord
from sentinel.records.sqlite_file import SqliteFile, translated

_SQL = load_queries("sqlite")


class SqliteRecord(SqlRecord):
    """A record on the file at `path`, made if it is not there."""

    _lists: ClassVar = {
        "list_jobs_live": frozenset({State.SCHEDULED, State.QUEUED, State.RUNNING}),
        "list_jobs_gone_wrong": frozenset({State.QUARANTINED, State.FAILED, State.CANCELLED}),
    }

    def __init__(self, path: str, busy_seconds: float = 10.0, keyring: Keyring | None = None, *, prepared: bool = True) -> None:
        self.keyring = keyring or open_keyring(f"sqlite:{path}")
        self._file = SqliteFile(path, busy_seconds)
        try:
            if prepared:
                self.migrate()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def migrate(self) -> list[str]:
        applied = self._file.migrate(load_migrations("sqlite"))
        if applied:
            self.seal_secrets()
        return applied

    def missing_migrations(self) -> list[str]:
        return self._file.missing(load_migrations("sqlite"))

    def _write(self, jobs: Mapping[str, NewJob], now: float) -> set[str]:
        with self._transaction():
            known = set(rows.decode(self._one("known", ids=self._ids(list(jobs)))["ids"]))
            new = [rows.job_row(job) for job in jobs.values() if job.id not in known]
            if new:
                self._run("accept", rows=rows.encode(new), now=now)
                self._run("line_up", count=len(new))
        return jobs.keys() - known

    def claim(self, worker: int, count: int, now: float, ids: Sequence[str] | None = None) -> list[Claim]:
        if not self._first("anything_to_claim", now=now):  # looking takes no lock, so an idle worker is in nobody's way
            return []
        with self._transaction():
            if not self._first("lives", worker=worker):
                return []
            self._run("promote", now=now)
            tenants = [row["tenant"] for row in self._all("waiting_tenants")]
            wanted = self._ids(ids) if ids is not None else None
            random.shuffle(tenants)  # when there are more tenants than free slots, chance is fair and needs no memory
            queues = ([row["id"] for row in self._all("claimable", tenant=tenant, limit=count, ids=wanted)] for tenant in tenants)
            suspects = [row["id"] for row in self._all("suspect", worker=worker)]
            waiting = list(islice(filter(None, queues), count))
            return [self._claim_one(job_id, worker, now) for job_id in [*suspects, *rows.round_robin(waiting)][:count]]

    def _claim_one(self, job_id: str, worker: int, now: float) -> Claim:
        token = uuid.uuid4().hex
        row = self._one("claim", id=job_id, worker=worker, token=token, now=now)
        self._step(job_id, "claimed", now, f"worker {worker}")
        return Claim(rows.job(row), token)

    def promote(self, now: float) -> int:
        with self._transaction():
            return self._run("promote", now=now)

    def weak_points(self, now: float) -> list[str]:
        return []  # a file's settings are ours alone

    # Statements

    def _transaction(self, *, reading: bool = False) -> AbstractContextManager[None]:
        return self._file.transaction(reading=reading)

    def _run(self, name: str, /, **values: Any) -> int:
        return self._file.execute(_SQL[name], values).rowcount

    def _all(self, name: str, /, **values: Any) -> list[Any]:
        with translated():
            return self._file.execute(_SQL[name], values).fetchall()

    def _ids(self, ids: Sequence[str]) -> str:
        return rows.encode(ids)
