"""An SQLite file that keeps what it says: WAL, `synchronous=FULL`, bounded waiting for locks. The only importer of sqlite3.

Knows nothing of what is kept in it.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sentinel.errors import StoreFailed

# Not the store's trouble but the caller's: to try the same again would not help.
_CALLERS_FAULTS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
RECORD_FILE = "The file of the record"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "temp_store = MEMORY",
    # Ids are spread over their whole index, so a commit touches a page for each job; the default of 2 MB forgets most of them.
    # A longer WAL would save a little more, by fewer checkpoints, but commits wait for each (docs/benchmarks.md).
    "cache_size = -16384",  # KiB, if it is below 0
)


class Damaged(StoreFailed):
    """The file is not what SQLite wrote."""


class SqliteFile:
    """
    One connection to the file at `path`, made if it is not there; `name` is what an error calls it.

    Every PRAGMA is set here: they do not outlive a connection.
    """

    def __init__(self, path: str | Path, busy_seconds: float, name: str = RECORD_FILE) -> None:
        self._busy_seconds, self._name = busy_seconds, name
        with translated(name):
            Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
            if not Path(path).exists():
                Path(path).touch(mode=0o600)  # there are secrets in it; SQLite gives the WAL the same mode
            self.connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256)
        try:
            self.connection.row_factory = sqlite3.Row
            with translated(name):
                for pragma in PRAGMAS:
                    self.execute(f"PRAGMA {pragma}")
        except BaseException:
            self.connection.close()
            raise

    def close(self) -> None:
        """Give the file back."""
        self.connection.close()

    @contextmanager
    def transaction(self, *, reading: bool = False) -> Iterator[None]:
        """
        All or nothing; inside another, a part of that. A writing one takes the lock at once: a deferred one could fail half-way
        with SQLITE_BUSY_SNAPSHOT.
        """
        if self.connection.in_transaction:
            yield
            return
        with translated(self._name):
            self.execute("BEGIN" if reading else "BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def execute(self, statement: str, values: Mapping[str, Any] | None = None) -> sqlite3.Cursor:
        """
        Run a statement; ask every few ms while others hold a lock that it needs (SQLite's own handler sleeps up to 100 ms).

        Even reading can meet a lock: when another process has just begun and recovers the WAL.
        """
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                return self.connection.execute(statement, values or ())
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.001, 0.005))

    def migrate(self, migrations: tuple[tuple[int, str, str], ...]) -> list[str]:
        """Apply what is newer than the file's version; the names of what was applied."""
        applied = []
        for number, name, statements in migrations:
            if self._version() < number:
                with self.transaction():
                    if self._version() < number:  # another process may have been faster
                        self._run_script(statements)
                        self.connection.execute(f"PRAGMA user_version = {number}")
                        applied.append(name)
        return applied

    def missing(self, migrations: tuple[tuple[int, str, str], ...]) -> list[str]:
        """The names of those that the file does not have yet."""
        version = self._version()
        return [name for number, name, _ in migrations if number > version]

    def is_whole(self) -> bool:
        """Whether SQLite finds nothing wrong with the file."""
        try:
            return bool(self.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
        except sqlite3.DatabaseError:
            return False

    def _version(self) -> int:
        with translated(self._name):
            return int(self.execute("PRAGMA user_version").fetchone()[0])

    def _run_script(self, script: str) -> None:
        """Run each statement inside the open transaction; `executescript` would commit it first."""
        statement = ""
        for line in script.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                self.connection.execute(statement)
                statement = ""


@contextmanager
def translated(name: str = RECORD_FILE) -> Iterator[None]:
    """SQLite's errors as ours: when the store cannot do it now, the caller may try again, and the operator reads why."""
    try:
        yield
    except _CALLERS_FAULTS:
        raise
    except (sqlite3.Error, OSError) as error:
        kind = Damaged if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED else StoreFailed
        what = "The disk" if isinstance(error, OSError) else name
        raise kind(f"{what} cannot be written or read now ({error}).") from error


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
