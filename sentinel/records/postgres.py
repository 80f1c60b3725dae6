"""The record in PostgreSQL: one connection, mended when it breaks, every call bounded in time.

What is hot is one statement in autocommit: no transaction stays open across a round trip, and a pooler may stand in between.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, ClassVar, TypeVar, cast

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format, TransactionStatus
from psycopg.rows import dict_row, tuple_row
from psycopg.types.string import TextLoader

from sentinel.errors import StoreFailed
from sentinel.keyring import Keyring, open_keyring
from sentinel.model import Claim, NewJob, State
from sentinel.records import RESCUES_MAX, Ending, PartSettled, Progress, Reply, rows
from sentinel.records.postgres_connection import Connection, open_connection, reason, session_options
from sentinel.records.postgres_lines import Lines
from sentinel.records.postgres_looker import Looker
from sentinel.records.postgres_setup import weak_points
from sentinel.records.postgres_usage import PostgresUsage
from sentinel.records.queries import load_migrations, load_queries, numbered_by_name
from sentinel.records.sql import SqlRecord

COPY_ROWS_MIN = 16  # fewer are as fast by INSERT, which needs one round trip less and minds no duplicates
ASK_FIRST_BATCHES = 50  # after a duplicate, so many batches are looked up before they are copied: duplicates come in swarms
MIGRATION_SECONDS_MAX = 300.0
PROMOTE_SECONDS = 1.0
LOOKS_MAX = 64  # of one claim, past messages of flooded chats
_MIGRATION_LOCK = 0x53454E54
_UUID = re.compile("[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)
_UUID_SHAPE = "00000000-0000-0000-0000-000000000000"
_LENGTH, _NULL = struct.pack(">i", 16), struct.pack(">i", -1)
_HEX_AS_ZERO = str.maketrans("123456789abcdef", "0" * 15)
_SQL = {name: numbered_by_name(statement) for name, statement in load_queries("postgres").items()}
_SQL |= {look: f"{_SQL[look]},\n{_SQL['claim']}" for look in ("look_for_ids", "look_everywhere", "look_at_lines")}

T = TypeVar("T")


class PostgresRecord(PostgresUsage, SqlRecord):
    """A record in the database that `url` names. `busy_seconds` bounds each call, whatever the server or the network does."""

    _lists: ClassVar = {
        "list_jobs_live": frozenset({State.SCHEDULED, State.QUEUED, State.RUNNING, State.QUARANTINED}),
        "list_jobs_gone_wrong": frozenset({State.FAILED, State.CANCELLED}),
    }

    def __init__(self, url: str, busy_seconds: float = 10.0, keyring: Keyring | None = None) -> None:
        self._url, self._busy_seconds = url, busy_seconds
        self.keyring = keyring or open_keyring(url)
        self._connection: Connection | None = None
        self._pooled = False  # a pooler is in between that takes no startup options and keeps no prepared statements
        self._ask_first = 0
        self._promoted = float("-inf")
        self._lines = Lines()
        self._looker = Looker(self._look_aside)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def migrate(self) -> list[str]:
        if not self.missing_migrations():
            return []
        with self._transaction(seconds=MIGRATION_SECONDS_MAX):
            self._execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
            self._execute(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            self._execute("CREATE TABLE IF NOT EXISTS schema_version (number int PRIMARY KEY, name text, applied_at timestamptz)")
            applied = [name for number, name, statements in load_migrations("postgres") if self._apply(number, name, statements)]
        if applied:
            self.seal_secrets()
        return applied

    def missing_migrations(self) -> list[str]:
        version = self._schema_version()
        return [name for number, name, _ in load_migrations("postgres") if number > version]

    def _apply(self, number: int, name: str, statements: str) -> bool:
        known = self._execute("SELECT 1 FROM schema_version WHERE number = %s", (number,)).fetchone()
        if not known:
            self._execute(statements)
            self._execute("INSERT INTO schema_version VALUES (%s, %s, now())", (number, name))
        return not known

    def _schema_version(self) -> int:
        """The last migration that was applied; 0 for a fresh database."""
        known = "SELECT coalesce(to_regclass('schema_version')::text, '') AS name"
        if not self._query(known)[0]["name"]:
            return 0
        return int(self._query("SELECT coalesce(max(number), 0) AS number FROM schema_version")[0]["number"])

    # Accepting

    def _write(self, jobs: Mapping[str, NewJob], now: float) -> set[str]:
        with self._translated():
            return self._again_if_cut(lambda: self._try_to_write(jobs, now), lambda: self._write_again(jobs, now))

    def _write_again(self, jobs: Mapping[str, NewJob], now: float) -> set[str]:
        """
        Write after a try whose outcome is unknown. What it has written after all is new too: nobody was told of it yet.

        It is known by its time of writing, which is this batch's alone; and looked for last, since that try may only now commit.
        """
        new = self._try_to_write(jobs, now)
        if len(new) < len(jobs):
            new |= {row["id"] for row in self._named("written", ids=[*jobs.keys() - new], now=now).fetchall()}
        return new

    def _try_to_write(self, jobs: Mapping[str, NewJob], now: float) -> set[str]:
        self._begin_call()
        if self._ask_first > 0:
            self._ask_first -= 1
            known = {row["id"] for row in self._named("known", ids=list(jobs)).fetchall()}
            jobs = {job_id: job for job_id, job in jobs.items() if job_id not in known}
        if len(jobs) >= COPY_ROWS_MIN:
            try:
                self._copy("accept_many", rows.copy_lines(jobs.values(), now))
                return set(jobs)
            except psycopg.errors.UniqueViolation:
                self._ask_first = ASK_FIRST_BATCHES
        if not jobs:
            return set()
        given = rows.encode([rows.job_row(job) for job in jobs.values()])
        return {row["id"] for row in self._named("accept", rows=given, now=now).fetchall()}

    def _copy(self, name: str, lines: str) -> None:
        with self._open().cursor() as cursor, cursor.copy(_SQL[name]) as copy:
            copy.write(lines)

    def _again_if_cut(self, move: Callable[[], T], again: Callable[[], T] | None = None) -> T:
        """
        `move()`, and `again()` if the connection broke, since servers close idle ones, or a migration has changed what a prepared
        statement answers. Only for what may be repeated blindly.
        """
        was_open = self._connection is not None
        try:
            return move()
        except psycopg.errors.FeatureNotSupported:
            self.close()
        except (psycopg.OperationalError, psycopg.InterfaceError):
            if not was_open or not self._is_broken() or self._is_late():
                raise
        return (again or move)()

    # Working

    def claim(self, worker: int, count: int, now: float, ids: Sequence[str] | None = None) -> list[Claim]:
        if ids is not None:
            return self._claim(worker, count, count, now, ids)[0]
        if not self._promoted <= now < self._promoted + PROMOTE_SECONDS:  # a queue that is never empty must not keep these out
            self.promote(now)
        claims = self._claim_fairly(worker, count, now)
        if not claims and self.promote(now):
            claims = self._claim_fairly(worker, count, now)
        return claims

    def _claim_fairly(self, worker: int, count: int, now: float) -> list[Claim]:
        """
        Claim until there are enough or none is left, looking further each time if what was found has to wait.

        Half of what was asked for is enough, and any, once a look has found nothing: what is claimed must not be kept waiting.
        Where a look at the known lines found nothing, the next one is at everything, if that may be.
        """
        claims: list[Claim] = []
        looked = count
        for _ in range(LOOKS_MAX):
            found, parked, more = self._claim(worker, count - len(claims), looked, now, None)
            claims += found
            missed = not found and self._lines.missed(now)
            enough = 2 * len(claims) >= count or (claims and not found)
            if enough or not (parked or missed or self._lines.left or (found and more)):
                break
            looked = min(looked * 2, 1000) if parked or self._lines.passed else looked
        return claims

    def _claim(self, worker: int, count: int, looked: int, now: float, ids: Sequence[str] | None) -> tuple[list[Claim], int, bool]:
        """The jobs claimed by one statement, how many have to wait for others of their chat, and if there may be more."""
        look, where = self._look(count, looked, now, ids)
        try:
            found = self._plain(look, worker=worker, count=count, looked=looked, now=now, **where)
        except psycopg.errors.UniqueViolation:  # another worker has just begun on the same conversation
            return [], 0, False
        told = rows.decode(next(row[0] for row in found if row[0] is not None))
        if ids is None:
            self._lines.claimed(rows.decode(told["lines"] or "null"), told["mark"], told["walked"], now)
            self._lines.passed = told["passed"]
        claims = [] if found[0][1] is None else rows.claims(found, now)
        return claims, told["parked"], told["more"]

    def _look(self, count: int, looked: int, now: float, ids: Sequence[str] | None) -> tuple[str, dict[str, Any]]:
        """The way to look for what may be claimed, and what it is to be told."""
        if ids is not None:
            return "look_for_ids", {"ids": self._ids(ids)}
        if found := self._looker.found():
            self._lines.looked_aside(rows.decode(found["lines"]), found["walked"], now)
        if self._lines.begins_aside(now):
            self._looker.begin()
        elif self._lines.must_look(now):
            found = self.lines()
            self._lines.looked(rows.decode(found["lines"]), found["mark"], found["walked"], now)
        if self._lines.known is None:
            return "look_everywhere", {"passing": self._lines.passes(count)}
        return "look_at_lines", self._lines.draw(looked, now)

    def _look_aside(self) -> dict[str, Any]:
        with closing(PostgresRecord(self._url, self._busy_seconds, self.keyring)) as other:
            return other.lines()

    def lines(self) -> dict[str, Any]:
        """Where jobs wait to be claimed, by a look at everything."""
        return dict(self._one("lines"))

    def promote(self, now: float) -> int:
        self._promoted = now
        return self._run("promote", now=now)

    def heartbeat(self, worker: int, slots: int, status: str, progress: Sequence[Progress], now: float) -> bool:
        if progress:
            self._run("set_progress", **_leases(progress), progress=[report.progress for report in progress])
        return bool(self._run("see_worker", worker=worker, slots=slots, status=status, now=now))

    def save_replies(self, replies: Sequence[Reply], now: float) -> list[bool]:
        documents = {
            "results": [rows.encode(reply.result) for reply in replies],
            "parts": [rows.encode(reply.parts) for reply in replies],
            "tokens_used": _array([str(rows.tokens(reply)) for reply in replies]),
        }
        return self._fenced("save_replies", replies, **documents, now=now)

    def settle_parts(self, parts: Sequence[PartSettled], now: float) -> list[bool]:
        values = {
            "parts": [part.number for part in parts],
            "states": [part.state for part in parts],
            "errors": [part.reason for part in parts],
            "reply_tos": [rows.encode(part.reply_to) if part.reply_to is not None else None for part in parts],
        }
        return self._fenced("settle_parts", parts, **values, now=now)

    def end(self, endings: Sequence[Ending], now: float) -> list[bool]:
        values = {
            "states": _states([ending.state for ending in endings]),
            "errors": _texts([ending.error for ending in endings]),
            "run_ats": _numbers([ending.run_at for ending in endings]),
            "uncounts": _numbers([int(ending.uncount) for ending in endings]),
            "remembers": _numbers([int(ending.remember) for ending in endings]),
        }
        return self._fenced("end", endings, **values, now=now)

    def _fenced(self, name: str, items: Sequence[Any], **values: Any) -> list[bool]:
        """Whether each item's lease held, by a statement that answers with the places, from 1, of those whose lease was lost."""
        lost = {place for (place,) in self._plain(name, **_leases(items), **values)} if items else set()
        return [place not in lost for place in range(1, len(items) + 1)]

    def _rescue_orphans(self, now: float) -> int:
        return len(self._all("rescue", now=now, rescues_max=RESCUES_MAX))

    def prune(self, before: float) -> int:
        self._run("unpark")
        return super().prune(before)

    def weak_points(self, now: float) -> list[str]:
        return weak_points(self._one("weak_points"), now)

    # Statements

    @contextmanager
    def _transaction(self, *, reading: bool = False, seconds: float | None = None) -> Iterator[None]:
        if self._in_transaction():
            yield
            return
        with self._translated():
            self._begin_call(seconds)
            connection = self._open()
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if reading else "BEGIN")
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                if not connection.closed:
                    connection.execute("ROLLBACK")
                raise

    def _run(self, name: str, /, **values: Any) -> int:
        with self._translated():
            self._begin_call()
            return self._named(name, **values).rowcount

    def _all(self, name: str, /, **values: Any) -> list[dict[str, Any]]:
        return self._query(_SQL[name], _with_known_ids(_SQL[name], values))

    def _plain(self, name: str, /, **values: Any) -> list[tuple[Any, ...]]:
        """The rows of a statement that may have many, prepared at once: a dictionary for each would be a third of their cost."""
        with self._translated():
            self._begin_call()
            cursor = cast("psycopg.Cursor[tuple[Any, ...]]", self._execute(_SQL[name], values, prepare=True))
            cursor.row_factory = tuple_row
            return cursor.fetchall()

    def _ids(self, ids: Sequence[str]) -> list[str]:
        return [job_id for job_id in ids if _is_uuid(job_id)]

    def _query(self, statement: str, values: Any = None) -> list[dict[str, Any]]:
        """The rows of a statement. One that only reads is repeated once when the connection turns out to be cut."""

        def read() -> list[dict[str, Any]]:
            self._begin_call()
            return self._execute(statement, values).fetchall()

        with self._translated():
            return self._again_if_cut(read) if statement.startswith("SELECT") and not self._in_transaction() else read()

    def _named(self, name: str, /, **values: Any) -> psycopg.Cursor[dict[str, Any]]:
        return self._execute(_SQL[name], _with_known_ids(_SQL[name], values))

    def _execute(self, statement: str, values: Any = None, *, prepare: bool | None = None) -> psycopg.Cursor[dict[str, Any]]:
        return self._open().execute(statement, values, prepare=prepare)

    def _begin_call(self, seconds: float | None = None) -> None:
        """From now on `busy_seconds` are left; inside a transaction its own deadline stays."""
        if not self._in_transaction():
            self._open().deadline = time.monotonic() + (self._busy_seconds if seconds is None else seconds)

    def _in_transaction(self) -> bool:
        return self._connection is not None and self._connection.info.transaction_status == TransactionStatus.INTRANS

    def _open(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> Connection:
        arguments: dict[str, Any] = {"row_factory": dict_row, "keepalives_idle": 30, "application_name": "sentinel"}
        if not self._pooled:
            arguments["options"] = session_options(self._url, self._busy_seconds)
        try:
            connection = open_connection(self._url, self._busy_seconds, **arguments)
        except psycopg.OperationalError as error:
            if self._pooled or "unsupported startup parameter" not in str(error):
                raise
            self._pooled = True
            return self._connect()
        connection.prepare_threshold = None if self._pooled else 5
        connection.adapters.register_loader("uuid", TextLoader)
        return connection

    def _is_broken(self) -> bool:
        return self._connection is None or self._connection.closed

    def _is_late(self) -> bool:
        return self._connection is not None and time.monotonic() >= self._connection.deadline

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The driver's errors as ours: when the store cannot do it now, the caller may try again, and the operator reads why."""
        try:
            yield
        except (psycopg.errors.InvalidSqlStatementName, psycopg.errors.DuplicatePreparedStatement) as error:
            self._pooled = True  # somebody else got our connection, or we somebody else's
            self.close()
            raise StoreFailed("A pooler between here and the record keeps no prepared statements; going on without.") from error
        except psycopg.errors.UndefinedTable as error:
            raise StoreFailed("The record has no tables: run `sentinel migrate`.") from error
        except psycopg.errors.FeatureNotSupported as error:
            self.close()
            raise StoreFailed("The record's tables were changed under a prepared statement; preparing it anew.") from error
        except psycopg.errors.ProgramLimitExceeded:  # an operational error by name, but what was to be written is too large
            raise
        except psycopg.ProgrammingError as error:
            if error.sqlstate is None:  # the driver's word and not the server's: what it was given is at fault
                raise
            # A right is missing, or a column, which is the fault of no job.
            raise StoreFailed(f"The record takes no such statement now ({reason(error)}).") from error
        except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError) as error:
            if self._connection is not None and self._connection.broken:
                self.close()
            raise StoreFailed(f"The record cannot be written or read now ({reason(error)}).") from error


def _leases(items: Sequence[Any]) -> dict[str, _Uuids]:
    """The ids and tokens of what shows a lease; a job or token that cannot exist is nobody's."""
    return {"ids": _uuids([item.job_id for item in items]), "tokens": _uuids([item.lease_token for item in items])}


class _Uuids(bytes):
    """An array of UUIDs in PostgreSQL's binary format: to read them as text took a tenth of the time of an end."""


class _UuidsDumper(Dumper):
    format, oid = Format.BINARY, 2951  # uuid[]

    def dump(self, obj: _Uuids) -> _Uuids:
        return obj


psycopg.adapters.register_dumper(_Uuids, _UuidsDumper)


def _uuids(texts: Sequence[str]) -> _Uuids:
    """An array of UUIDs, with NULL for what is none. All are looked at in one go, and one by one only if any is wrong."""
    joined = "".join(texts)
    if joined.translate(_HEX_AS_ZERO) == _UUID_SHAPE * len(texts):
        raw = bytes.fromhex(joined.replace("-", ""))
        items = [_LENGTH + raw[place : place + 16] for place in range(0, len(raw), 16)]
    else:
        items = [_LENGTH + bytes.fromhex(text.replace("-", "")) if _is_uuid(text) else _NULL for text in texts]
    return _Uuids(struct.pack(">5i", 1, 1, 2950, len(texts), 1) + b"".join(items))


def _states(states: Sequence[State]) -> str:
    """An array of states; an empty one if all have succeeded, as in most batches."""
    return _array(states) if any(state is not State.SUCCEEDED for state in states) else _array([])


def _texts(texts: Sequence[str | None]) -> str | Sequence[str | None]:
    """An array of texts; an empty one if all are missing, as in most batches: `unnest` then gives NULL for each."""
    return list(texts) if any(text is not None for text in texts) else _array([])


def _numbers(numbers: Sequence[float]) -> str:
    """An array of numbers; an empty one if all are 0, as in most batches: `unnest` then gives NULL for each."""
    return _array([repr(number) for number in numbers]) if any(numbers) else _array([])


def _array(words: Sequence[str]) -> str:
    """An array as PostgreSQL writes it, of words that need no quotes: a sixth of the worker's time went into the driver's way."""
    return "{" + ",".join(words) + "}"


def _with_known_ids(statement: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, where an id that can be no job's (it is no UUID) stands for nothing at all."""
    unknown = [name for name in ("id", "token") if f"%({name})s::uuid" in statement and not _is_uuid(values[name])]
    return dict(values) | dict.fromkeys(unknown)


def _is_uuid(text: str | None) -> bool:
    return text is not None and _UUID.fullmatch(text) is not None
