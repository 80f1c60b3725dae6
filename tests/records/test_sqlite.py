"""What is SQLite's alone: its pragmas, its locks, a full disk, its plans and its speed."""

import re
import sqlite3
import stat
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sentinel.errors import Unavailable
from sentinel.model import State
from sentinel.processes import process_name
from sentinel.records import JobFilter
from sentinel.records.queries import load_queries
from sentinel.records.sqlite import SqliteRecord
from tests.records.conftest import NOW, TENANT, Bench, new_job

BUSY_SECONDS = 0.2
QUERIES = load_queries("sqlite")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records" / "record.db"


@pytest.fixture
def record(path: Path) -> Iterator[SqliteRecord]:
    record = SqliteRecord(str(path), BUSY_SECONDS)
    yield record
    record.close()


@pytest.fixture
def bench(record: SqliteRecord) -> Bench:
    return Bench(record, record.register("here:1", process_name(), 4, "ready", NOW))


@pytest.fixture
def other(record: SqliteRecord, path: Path) -> Iterator[sqlite3.Connection]:
    """Somebody else's connection to the same file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


class TestOpening:
    @pytest.mark.parametrize(("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)])
    def test_what_is_committed_is_on_the_disk(self, record, pragma, value):
        """Each connection has the WAL, with an fsync for every commit, and foreign keys."""
        assert record._file.connection.execute(f"PRAGMA {pragma}").fetchone()[0] == value

    def test_nobody_else_reads_it(self, bench, path):
        """The file and its WAL, which hold the sources' secrets, are their owner's alone."""
        bench.accept(new_job())
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes == {"record.db": 0o600, "record.db-wal": 0o600, "record.db-shm": 0o600}

    def test_a_file_that_is_no_database(self, path):
        """What is not a database is said to be unusable."""
        path.parent.mkdir()
        path.write_bytes(b"not a database " * 1000)
        with pytest.raises(Unavailable, match="not a database"):
            SqliteRecord(str(path), BUSY_SECONDS)

    def test_a_folder_that_cannot_be_made(self, path):
        """A path that leads through a file is said to be unusable."""
        path.parent.touch()
        with pytest.raises(Unavailable, match="File exists"):
            SqliteRecord(str(path), BUSY_SECONDS)

    def test_locked_while_opening(self, path):
        """A fresh file that somebody else holds is Unavailable and not a crash."""
        path.parent.mkdir()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(Unavailable, match="locked"):
                SqliteRecord(str(path), BUSY_SECONDS)
        SqliteRecord(str(path), BUSY_SECONDS).close()

    def test_what_was_kept_is_there_after_opening_again(self, path):
        """A record that is closed and opened again has its jobs."""
        with closing(SqliteRecord(str(path))) as record:
            record.accept([new_job(id="kept")], NOW)
        with closing(SqliteRecord(str(path))) as record:
            assert record.find_job("kept") is not None


class TestLocked:
    def test_a_lock_is_not_waited_for_longer_than_allowed(self, bench, other):
        """While somebody else holds the write lock a write is Unavailable in time and writes nothing; then it works."""
        (kept,) = bench.accept(new_job())
        late = new_job()
        other.execute("BEGIN IMMEDIATE")
        for write in (
            lambda: bench.record.accept([late], NOW),
            bench.claim,
            lambda: bench.record.cancel(kept, TENANT, NOW),
        ):
            began = time.monotonic()
            with pytest.raises(Unavailable, match="locked"):
                write()
            assert BUSY_SECONDS <= time.monotonic() - began < BUSY_SECONDS + 0.3
        other.execute("ROLLBACK")
        assert bench.record.find_job(late.id) is None
        assert bench.state(kept) is State.QUEUED
        assert bench.record.accept([late], NOW) == [True]

    def test_reading_goes_on(self, bench, other):
        """Who only reads does not wait for the writer, and an idle worker takes no lock at all."""
        claim = bench.running()
        other.execute("BEGIN IMMEDIATE")
        assert bench.state(claim.job.id) is State.RUNNING
        assert bench.record.list_jobs(JobFilter())
        assert bench.record.directory().tenants == {TENANT}
        assert bench.claim() == []
        assert bench.record.claim_callbacks(9, 30, NOW) == []
        assert bench.record.reap(NOW) == 0

    def test_looking_for_callbacks_locks_nobody_out(self, bench, other):
        """Which callbacks are next, of however many are due, is read without the writer's lock; only claiming them takes it."""
        for host in ("a", "b"):
            (job_id,) = bench.accept(new_job(options={"callback_url": f"https://{host}.example/"}))
            bench.record.cancel(job_id, TENANT, NOW)
        other.execute("BEGIN IMMEDIATE")
        assert bench.record.claim_callbacks(9, 30, NOW, [TENANT]) == []
        with pytest.raises(Unavailable, match="locked"):
            bench.record.claim_callbacks(9, 30, NOW)
        other.execute("ROLLBACK")
        said: list[str] = []
        bench.record._file.connection.set_trace_callback(said.append)
        assert len(bench.record.claim_callbacks(9, 30, NOW)) == 2
        looked = next(place for place, statement in enumerate(said) if "row_number" in statement)
        assert looked < next(place for place, statement in enumerate(said) if statement.startswith("BEGIN"))

    def test_a_lock_that_is_let_go_in_time(self, bench, path):
        """A write that gets the lock within its time is written."""
        held, job = threading.Event(), new_job()

        def hold() -> None:
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                held.set()
                time.sleep(BUSY_SECONDS / 4)
                other.execute("ROLLBACK")

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        assert bench.record.accept([job], NOW) == [True]
        holder.join()

    @pytest.mark.parametrize("write", ["COMMIT", "ROLLBACK"])
    def test_after_a_lock_the_connection_is_clean(self, bench, other, write):
        """A write that met a lock leaves no transaction open."""
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            bench.record.accept([new_job()], NOW)
        assert not bench.record._file.connection.in_transaction
        other.execute(write)


class TestFullDisk:
    def test_nothing_is_half_written(self, bench):
        """On a full disk writes are Unavailable, whole batches leave no trace, and once there is room all goes on."""
        claim = bench.running()
        connection = bench.record._file.connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        big = ({"role": "user", "content": "x" * 20_000},)
        batch = [new_job(), new_job(input=big), new_job()]
        with pytest.raises(Unavailable, match="full"):
            bench.record.accept(batch, NOW)
        with pytest.raises(Unavailable, match="full"):
            bench.reply(claim, "part", text="y" * 20_000)
        assert bench.record.ended([job.id for job in batch]) == set()
        assert [bench.record.find_job(job.id) for job in batch] == [None] * 3
        assert bench.job(claim.job.id).result is None
        assert bench.record.pending_parts(claim.job.id) == []
        assert "generated" not in bench.steps(claim.job.id)
        connection.execute("PRAGMA max_page_count = 1000000")
        assert bench.record.accept(batch, NOW) == [True] * 3
        assert bench.reply(claim, "part", text="y" * 20_000)
        assert bench.end(claim, State.SUCCEEDED)


class TestViews:
    def test_a_job_is_found_by_the_platforms_id(self, bench, other):
        """Whoever opens the file finds a job and its whole story by the platform's own id, with times to read."""
        claim = bench.running(external_id="wamid.42")
        bench.accept(new_job(external_id="another"))
        bench.reply(claim, "one")
        bench.settle(claim, 1, "sent")
        bench.end(claim, State.SUCCEEDED, now=NOW + 1.25)
        (job,) = other.execute("SELECT * FROM job_overview WHERE external_id = 'wamid.42'").fetchall()
        assert (job["id"], job["state"], job["finished_at"]) == (claim.job.id, "succeeded", "2023-11-14T22:13:21.250Z")
        events = other.execute("SELECT * FROM job_events WHERE external_id = 'wamid.42'").fetchall()
        assert [event["step"] for event in events] == [
            *("received", "verified", "accepted", "claimed", "generated", "delivered", "succeeded"),
        ]
        assert {event["job_id"] for event in events} == {claim.job.id}
        assert events[0]["at"] == "2023-11-14T22:13:19.500Z"

    def test_the_words_in_the_file_are_peoples(self, bench, other):
        """Text lies in the file as it was written, so that people can read it and search for it."""
        bench.accept(new_job(input=({"role": "user", "content": "Grüße 🎉"},)))
        assert other.execute("SELECT count(*) FROM jobs WHERE input LIKE '%Grüße 🎉%'").fetchone()[0] == 1


def fill(record: SqliteRecord, jobs: int, conversations: int) -> None:
    for start in range(0, jobs, 1000):
        batch = [new_job(conversation=f"c{number % conversations}") for number in range(start, start + 1000)]
        record.accept(batch, NOW)


def median_ms(call: Any, times: int) -> float:
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent) * 1000


class TestSpeed:
    def test_a_claim_does_not_depend_on_the_backlog(self, bench):
        """With 20,000 queued jobs of 300 chats a claim takes a few ms, and next to nothing once every chat is at work."""
        fill(bench.record, 20_000, 300)
        assert median_ms(lambda: bench.claim(4), 30) < 50
        while claims := bench.claim(100):
            assert claims
        assert median_ms(bench.claim, 10) < 5

    def test_a_flooded_chat_is_nobodys_trouble(self, bench):
        """Thousands of messages in one chat are not walked past to find the next job of another."""
        fill(bench.record, 10_000, 1)
        assert len(bench.claim(4)) == 1
        assert median_ms(bench.claim, 10) < 5
        bench.accept(*[new_job(conversation=f"other {number}") for number in range(20)])
        assert median_ms(bench.claim, 10) < 25


class TestPlans:
    VALUES = (
        dict.fromkeys(("now", "count", "worker", "limit", "before", "progress", "priority", "sequence", "tokens"), 1)
        | dict.fromkeys(("id", "ids", "tenant", "token", "states", "external_id", "channel", "result"), "[]")
    )  # fmt: skip

    @pytest.mark.parametrize(
        "name",
        [
            *("known", "withdraw", "find_job", "list_jobs_called", "ended", "story", "cancel_waiting", "cancel_running"),
            *("set_progress", "leases", "orphans", "anything_to_claim", "promote", "waiting_tenants", "claimable", "claim"),
            *("save_reply", "owns", "pending_parts", "callback_due", "find_callback", "prune_jobs", "queue_position"),
            *("list_jobs_live", "list_jobs_gone_wrong", "line_up"),
        ],
    )
    def test_nothing_scans_the_jobs(self, bench, name):
        """Each statement that runs often finds its rows by an index."""
        plan = plan_of(bench, QUERIES[name], self.VALUES)
        assert not [line for line in plan if SCAN.match(line)], plan

    def test_the_story_is_found_by_the_platforms_id(self, bench):
        """Whoever asks the view for one external id does not make SQLite read every job."""
        plan = plan_of(bench, "SELECT * FROM job_events WHERE external_id = 'x'")
        assert not [line for line in plan if SCAN.match(line)], plan


# A whole table is read; an index may be walked, since these are partial or asked for in its order.
SCAN = re.compile(r"SCAN (jobs|j|e|job_steps|outbox|callbacks)\b(?!.* USING)")


def plan_of(bench: Bench, statement: str, values: dict[str, Any] | None = None) -> list[str]:
    rows = bench.record._file.connection.execute("EXPLAIN QUERY PLAN " + statement, values or {}).fetchall()
    return [row["detail"] for row in rows]
