"""The spool: jobs on the gateway's own disk while the record cannot take them. The last resort before a 503.

Only keeps and gives back, in order; `sentinel.spooling` brings it to the record. Any number of processes may share a folder.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import attrs

from sentinel.errors import StoreFailed, Unavailable
from sentinel.logs import log
from sentinel.model import NewJob
from sentinel.records import rows
from sentinel.records.queries import load_migrations, load_queries
from sentinel.records.sqlite_file import Damaged, SqliteFile, translated

_SQL = load_queries("spool")
FILE = "spool.db"
NAME = "The file of the spool"  # in errors
RESERVE_BYTES = 8_388_608  # to remove jobs takes space first: SQLite's log grows, and then the file by what stands in the log
FREE_PAGES_MAX = 1_000  # an empty spool keeps; more is given back to the disk


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
        """Write all jobs in one commit; True for each that was not here yet. Leaves the disk the space to remove them again."""
        self._check_room()
        given = rows.encode([[job.id, rows.encode(rows.job_row(job))] for job in jobs])
        try:
            created = self._keep(given, now)
        except Damaged:
            self._set_aside()
            created = self._keep(given, now)
        new = dict.fromkeys(created, True)
        return [new.pop(job.id, False) for job in jobs]  # of an id that is there twice, the first was new

    def _check_room(self) -> None:
        """Raise Unavailable while the disk is so full that what is here could not be removed any more."""
        with translated(NAME):
            free = shutil.disk_usage(self._path.parent).free
            logged = self._path.with_name(f"{FILE}-wal")
            needed = RESERVE_BYTES + (logged.stat().st_size if logged.exists() else 0)
        if free < needed:
            raise StoreFailed(f"The disk of the spool has {free / 1e6:.0f} MB left, which it takes to empty it.")

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
        waiting = self.count().waiting
        if not waiting:
            self._shrink()
        return waiting

    def reject(self, job_id: str, reason: str, now: float) -> None:
        """Put a job aside that the record will never take."""
        with self._file.transaction():
            self._file.execute(_SQL["reject"], {"id": job_id, "reason": reason, "now": now})
            self._file.execute(_SQL["forget"], {"ids": rows.encode([job_id])})

    def count(self) -> Spooled:
        """How much is here."""
        with translated(NAME):
            return Spooled(**self._file.execute(_SQL["count"]).fetchone())

    def _shrink(self) -> None:
        """Give the disk back what an outage has taken; SQLite keeps the pages of removed rows otherwise."""
        with suppress(Unavailable), translated(NAME):  # another process has it in use: the next time will do
            if self._file.execute("PRAGMA freelist_count").fetchone()[0] > FREE_PAGES_MAX:
                self._file.execute("VACUUM")
                self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

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
