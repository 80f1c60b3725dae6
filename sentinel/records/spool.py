"""The spool: jobs on the gateway's own disk while the record cannot take them. The last resort before a 503.

Only keeps and gives back, in order; `sentinel.spooling` brings it to the record. Any number of processes may share a folder.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from sentinel.logs import log
from sentinel.model import NewJob
from sentinel.records import rows
from sentinel.records.queries import load_migrations, load_queries
from sentinel.records.sqlite_file import Damaged, SqliteFile, translated

_SQL = load_queries("spool")
FILE = "spool.db"
NAME = "The file of the spool"  # in errors


@attrs.frozen
class Spooled:
    """How much is in the spool: `waiting` for the record, the oldest kept at `since`, and `rejected` by it for good."""

    waiting: int = 0
    rejected: int = 0
    since: float | None = None


class Spool:
    """The spool in `folder`. Synchronous, for one thread at a time; raises Unavailable when the disk cannot take more."""

    def __init__(self, folder: str | Path, busy_seconds: float) -> None:
        self._path, self._busy_seconds = Path(folder) / FILE, busy_seconds
        self._file = self._open()

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def keep(self, jobs: Sequence[NewJob], now: float) -> list[bool]:
        """Write all jobs in one commit; True for each that was not here yet."""
        given = rows.encode([[job.id, rows.encode(rows.job_row(job))] for job in jobs])
        try:
            created = self._keep(given, now)
        except Damaged:
            self._set_aside()
            created = self._keep(given, now)
        new = dict.fromkeys(created, True)
        return [new.pop(job.id, False) for job in jobs]  # of an id that is there twice, the first was new

    def _keep(self, given: str, now: float) -> set[str]:
        with self._file.transaction():
            return {row["id"] for row in self._file.execute(_SQL["keep"], {"rows": given, "now": now})}

    def oldest(self, limit: int) -> list[NewJob]:
        """The jobs that have waited longest, in order."""
        with translated(NAME):
            return [rows.new_job(rows.decode(row["job"])) for row in self._file.execute(_SQL["oldest"], {"limit": limit})]

    def forget(self, ids: Sequence[str]) -> int:
        """Remove jobs that the record has, or that nobody was promised; how many are still waiting."""
        with self._file.transaction():
            self._file.execute(_SQL["forget"], {"ids": rows.encode(ids)})
        return self.count().waiting

    def reject(self, job_id: str, reason: str, now: float) -> None:
        """Put a job aside that the record will never take."""
        with self._file.transaction():
            self._file.execute(_SQL["reject"], {"id": job_id, "reason": reason, "now": now})
            self._file.execute(_SQL["forget"], {"ids": rows.encode([job_id])})

    def count(self) -> Spooled:
        """How much is here."""
        with translated(NAME):
            return Spooled(**self._file.execute(_SQL["count"]).fetchone())

    def _open(self) -> SqliteFile:
        """The file, with its tables; one that is damaged is set aside, and what can be read of it is brought over."""
        try:
            file = SqliteFile(self._path, self._busy_seconds, NAME)
        except Damaged:
            return self._start_afresh()
        if not file.is_whole():
            file.close()
            return self._start_afresh()
        file.migrate(load_migrations("spool"))
        return file

    def _set_aside(self) -> None:
        self._file.close()
        self._file = self._start_afresh()

    def _start_afresh(self) -> SqliteFile:
        aside = self._path.with_name(f"{FILE}.damaged-{time.time_ns()}")
        for suffix in ("", "-wal", "-shm"):
            part = self._path.with_name(FILE + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        file = SqliteFile(self._path, self._busy_seconds, NAME)
        file.migrate(load_migrations("spool"))
        saved = 0
        with file.transaction():
            for job_id, job in _readable(aside):
                file.execute(_SQL["keep"], {"rows": rows.encode([[job_id, job]]), "now": time.time()})
                saved += 1
        log.error("spool.damaged", set_aside=aside.name, saved=saved)
        return file


def _readable(path: Path) -> Iterator[tuple[str, str]]:
    """What can still be read of a damaged spool: from the front until it breaks, then from the back."""
    for order in ("ASC", "DESC"):
        try:
            damaged = SqliteFile(path, 1.0, NAME)
        except Damaged:
            return
        try:
            with translated(NAME):
                for row in damaged.execute(f"SELECT id, job FROM spool ORDER BY sequence {order}"):  # noqa: S608  no input
                    rows.new_job(rows.decode(row["job"]))  # whatever is not a job raises here
                    yield row["id"], row["job"]
        except Exception as error:  # noqa: BLE001  damage may look like anything; the other end may be whole
            log.warning("spool.unreadable", order=order, error=error)
        else:
            return
        finally:
            damaged.close()
