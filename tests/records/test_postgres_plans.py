"""What the hot statements of the PostgreSQL record touch: not more for what is finished, waits, or is kept by an old snapshot."""

import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from sentinel.model import Metering, State
from sentinel.records import Ending, JobFilter, open_record
from sentinel.records.postgres import _SQL, PostgresRecord, _leases
from tests.records.conftest import NOW, new_job

NUMBERS = itertools.count()
FINISHED = """
INSERT INTO jobs(id, tenant, channel, source, external_id, sender, priority, received_at, created_at, verified_by, fingerprint,
                 options, input, reply_to, state, attempt, run_at, finished_at)
SELECT gen_random_uuid(), 't' || n %% 20, 'whatsapp', 'shop', 'x' || n, 's', 100, 1, 1, 'h', '',
       '{}', '[]', '{}', 'succeeded', 1, 1, 1
FROM generate_series(1, %s) AS n"""


@pytest.fixture
def record(url: str) -> Iterator[PostgresRecord]:
    with closing(open_record(url, 60.0)) as opened:
        assert isinstance(opened, PostgresRecord)
        yield opened


class Bench:
    """A worker, and what its statements touch."""

    def __init__(self, record: PostgresRecord) -> None:
        self.record, self.worker = record, record.register("w", "x", 8, "ready", NOW)

    def pages(self, name: str, **values: Any) -> int:
        """How many pages the statement itself touches; it is rolled back."""
        with psycopg.connect(self.record._url, options="-c enable_seqscan=off") as other:
            plan = other.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {_SQL[name]}", values).fetchone()[0][0]["Plan"]
            other.rollback()
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    def pages_of_a_claim(self, ids: list[str] | None = None) -> int:
        look = "look_everywhere" if ids is None else "look_for_ids"
        return self.pages(look, worker=self.worker, count=8, looked=8, now=NOW, ids=ids, passing=False)

    def pages_of_an_end(self) -> int:
        (claim,) = self.record.claim(self.worker, 1, NOW)
        ending = [Ending(claim.job.id, claim.lease_token, State.SUCCEEDED)]
        columns = {"states": ["succeeded"], "errors": [None], "run_ats": [0.0], "uncounts": [0], "remembers": [0]}
        return self.pages("end", **_leases(ending), **columns, now=NOW)

    def churn(self, jobs: int) -> None:
        """Take jobs from acceptance to their end."""
        for _ in range(jobs // 500):
            self.record.accept([new_job() for _ in range(500)], NOW)
            claims = self.record.claim(self.worker, 500, NOW)
            assert all(self.record.end([Ending(claim.job.id, claim.lease_token, State.SUCCEEDED) for claim in claims], NOW))


@pytest.fixture
def bench(record: PostgresRecord) -> Bench:
    return Bench(record)


def test_a_backlog_costs_a_claim_nothing(bench):
    """With 20,000 jobs of one tenant before them, the few of others are claimed by as few pages as ever."""
    bench.record.accept([new_job(tenant=f"t{number}") for number in range(8)], NOW)
    alone = bench.pages_of_a_claim()
    for _ in range(40):
        bench.record.accept([new_job(tenant="big") for _ in range(500)], NOW)
    bench.record._connection.execute("ANALYZE")
    assert bench.pages_of_a_claim() < 2 * alone + 200
    some = [new_job() for _ in range(8)]
    bench.record.accept(some, NOW)
    assert bench.pages_of_a_claim([job.id for job in some]) < 2 * alone + 200
    assert bench.pages_of_an_end() < 60


def test_live_jobs_are_listed_past_no_finished_ones(bench, url):
    """The few jobs in a state of live ones are found without a look at 20,000 that have ended after them."""
    bench.record.accept([new_job(state=State.QUARANTINED) for _ in range(3)], NOW)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(FINISHED, (20_000,))
        other.execute("ANALYZE")
    everything = {"tenant": None, "channel": None, "before": None, "limit": 50, "states": '["quarantined"]'}
    assert bench.pages("list_jobs_live", **everything) < 30
    assert bench.pages("list_jobs", **everything) > 300
    assert len(bench.record.list_jobs(JobFilter(states=[State.QUARANTINED]))) == 3


def test_jobs_gone_wrong_are_listed_past_no_others(bench, url):
    """The few jobs that have failed or were cancelled are found without a look at 20,000 that have ended well after them."""
    bench.record.accept([new_job() for _ in range(3)], NOW)
    ends = zip(bench.record.claim(bench.worker, 3, NOW), (State.FAILED, State.CANCELLED, State.SUCCEEDED), strict=True)
    bench.record.end([Ending(claim.job.id, claim.lease_token, state) for claim, state in ends], NOW)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(FINISHED, (20_000,))
        other.execute("ANALYZE")
    everything = {"tenant": None, "channel": None, "before": None, "limit": 50, "states": '["failed"]'}
    assert bench.pages("list_jobs_gone_wrong", **everything) < 30
    assert bench.pages("list_jobs", **everything) > 300
    assert len(bench.record.list_jobs(JobFilter(states=[State.FAILED]))) == 1
    assert len(bench.record.list_jobs(JobFilter(states=[State.FAILED, State.CANCELLED]))) == 2


def test_the_table_of_what_has_gone_wrong(bench, url):
    """A job is in it from its failure or cancellation, in whichever way, until somebody has it run again or it is removed."""
    kept = {
        name: new_job(**changes)
        for name, changes in {
            "failed": {},
            "cancelled while it ran": {},
            "cancelled before it began": {"state": State.SCHEDULED, "run_at": NOW + 60},
            "cancelled when it came": {"state": State.CANCELLED},
            "succeeded": {},
        }.items()
    }
    bench.record.accept(list(kept.values()), NOW)
    bench.record.accept([new_job(state=State.CANCELLED) for _ in range(20)], NOW - 1000)  # by COPY
    running = {claim.job.id: claim for claim in bench.record.claim(bench.worker, 3, NOW)}
    bench.record.cancel(kept["cancelled while it ran"].id, "default", NOW)
    bench.record.cancel(kept["cancelled before it began"].id, "default", NOW)
    states = {"failed": State.FAILED, "cancelled while it ran": State.QUEUED, "succeeded": State.SUCCEEDED}
    bench.record.end([Ending(kept[name].id, running[kept[name].id].lease_token, state) for name, state in states.items()], NOW)

    def listed() -> set[str]:
        wrong = bench.record.list_jobs(JobFilter(states=[State.FAILED, State.CANCELLED]))
        with psycopg.connect(url) as other:
            assert {sequence for (sequence,) in other.execute("SELECT sequence FROM gone_wrong")} == {job.sequence for job in wrong}
        return {job.id for job in wrong}

    wrong = {job.id for name, job in kept.items() if name != "succeeded"}
    assert len(listed()) == len(wrong) + 20
    bench.record.prune(NOW - 500)
    assert listed() == wrong
    assert bench.record.retry(kept["failed"].id, NOW)
    assert listed() == wrong - {kept["failed"].id}
    (claim,) = bench.record.claim(bench.worker, 1, NOW)
    bench.record.end([Ending(claim.job.id, claim.lease_token, State.FAILED)], NOW)
    assert listed() == wrong


def test_a_flooded_chat_costs_a_claim_nothing(bench):
    """Once the messages of a flooded chat are known to wait, a claim does not look at them again."""
    for _ in range(8):
        bench.record.accept([new_job(conversation="c") for _ in range(500)], NOW)
    assert len(bench.record.claim(bench.worker, 8, NOW)) == 1
    bench.record.accept([new_job() for _ in range(8)], NOW)
    assert len(bench.record.claim(bench.worker, 8, NOW)) == 8
    bench.record._connection.execute("VACUUM ANALYZE queue")
    bench.record.accept([new_job() for _ in range(8)], NOW)
    assert bench.pages_of_a_claim() < 400


def test_what_is_claimed_does_not_wait_for_what_has_to_wait(bench, url):
    """What a claim has found is given away as soon as a look finds no more, before all of a flooded chat was walked."""
    for _ in range(8):
        bench.record.accept([new_job(conversation="c") for _ in range(500)], NOW)
    assert len(bench.record.claim(bench.worker, 8, NOW)) == 1
    with psycopg.connect(url) as other:
        (waiting,) = other.execute("SELECT count(*) FROM queue WHERE place = 'waiting'").fetchone()
    assert waiting < 100


def test_a_large_claim_marks_nothing_behind_what_runs(bench, url, monkeypatch):
    """A large claim finds what is behind the later messages of busy chats, and marks none of them unless they are very many."""
    chats = [f"c{number}" for number in range(64)]
    bench.record.accept([new_job(conversation=chat) for chat in chats], NOW)
    assert len(bench.record.claim(bench.worker, 64, NOW)) == 64

    def found_and_marked() -> tuple[int, int]:
        bench.record.accept([new_job() for _ in range(5)], NOW)
        found = len(bench.record.claim(bench.worker, 64, NOW))
        with psycopg.connect(url) as other:
            (waiting,) = other.execute("SELECT count(*) FROM queue WHERE place = 'waiting'").fetchone()
        return found, waiting

    bench.record.accept([new_job(conversation=chat) for chat in chats for _ in range(10)], NOW)
    assert found_and_marked() == (5, 0)
    monkeypatch.setattr("sentinel.records.postgres_lines.PASSED_A_JOB_MAX", 9)
    assert found_and_marked() == (5, 65)
    assert found_and_marked() == (5, 65)


def test_a_large_claim_is_not_held_up_by_a_chat_that_stands_still(bench):
    """Behind a message that is to be tried again later, or is less urgent, large claims mark the others of its chat too."""
    bench.record.accept([new_job(conversation="c")], NOW)
    (claim,) = bench.record.claim(bench.worker, 64, NOW)
    assert all(bench.record.end([Ending(claim.job.id, claim.lease_token, State.QUEUED, run_at=NOW + 60)], NOW))
    bench.record.accept([new_job(conversation="d", priority=200)], NOW)
    for chat in ("c", "d"):
        bench.record.accept([new_job(conversation=chat) for _ in range(200)], NOW)
    bench.record.accept([new_job(priority=150)], NOW)
    assert sorted(claim.job.priority for claim in bench.record.claim(bench.worker, 64, NOW)) == [150, 200]


def test_what_runs_is_found_past_no_dead_rows(bench, url):
    """Behind an old snapshot, with statistics of an empty queue, a worker's leases and the view of workers walk its rows only."""
    other = bench.record.register("another", "y", 8, "ready", NOW)
    with psycopg.connect(url) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM workers")
        bench.churn(2_000)
        bench.record._connection.execute("ANALYZE")
        bench.record.accept([new_job() for _ in range(8)], NOW)
        assert len(bench.record.claim(other, 8, NOW)) == 8
        assert bench.pages("leases", worker=other) < 100
        with psycopg.connect(url) as reader:
            view = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT running FROM worker_overview WHERE id = %s"
            plan = reader.execute(view, (other,)).fetchone()[0][0]["Plan"]
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 100
        bench.record.bury(other, NOW)
        assert bench.record.reap(NOW) == 8


@pytest.mark.slow
def test_finished_jobs_and_an_old_snapshot(bench, url):
    """A million finished jobs cost no statement more than an index one level deeper, and claims by id walk past no dead rows."""
    bench.record.accept([new_job() for _ in range(16)], NOW)
    known = [job.id for _, job in [(0, new_job()) for _ in range(8)]]
    bench.record.accept([new_job(id=job_id) for job_id in known], NOW)
    before = bench.pages_of_a_claim(), bench.pages_of_a_claim(known), bench.pages_of_an_end()
    bench.record._connection.deadline = float("inf")
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(FINISHED, (1_000_000,))
        other.execute("ANALYZE")
    after = bench.pages_of_a_claim(), bench.pages_of_a_claim(known), bench.pages_of_an_end()
    assert all(now <= 1.2 * then + 40 for now, then in zip(after, before, strict=True)), (before, after)
    with psycopg.connect(url) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM workers")
        bench.churn(5_000)
        bench.record._connection.execute("ANALYZE queue")  # at the worst moment: it is empty, and full of dead rows
        held = [new_job() for _ in range(8)]
        bench.record.accept(held, NOW)
        assert bench.pages_of_a_claim([job.id for job in held]) <= 1.2 * after[1] + 40


def test_the_views_for_people(bench, url):
    """The views answer an operator's first questions in psql."""
    bench.record.accept([new_job(tenant="a"), new_job(tenant="a"), new_job(tenant="b", conversation="c")], NOW)
    bench.record.accept([new_job(tenant="b", conversation="c"), new_job(state=State.SCHEDULED, run_at=NOW + 60)], NOW)
    running = bench.record.claim(bench.worker, 1, NOW)[0].job
    with psycopg.connect(url) as other:
        backlog = {row[0]: row[1:5] for row in other.execute("SELECT * FROM tenant_backlog")}
        workers = other.execute("SELECT id, status, running FROM worker_overview").fetchall()
        overview = other.execute("SELECT state, attempt FROM job_overview WHERE id = %s", (running.id,)).fetchone()
        steps = [row[0] for row in other.execute("SELECT step FROM job_events WHERE job_id = %s", (running.id,))]
        health = {row[0] for row in other.execute("SELECT * FROM storage_health")}
    assert sum(row[3] for row in backlog.values()) == 1
    assert sum(sum(row) for row in backlog.values()) == 5
    assert backlog["default"] == (0, 0, 1, 0)
    assert workers == [(bench.worker, "ready", 1)]
    assert overview == ("running", 1)
    assert steps == ["received", "verified", "accepted", "claimed"]
    assert {"jobs", "queue", "outbox"} <= health


def test_a_look_at_the_usage_costs_what_is_new(bench):
    """With 50,000 people who have used something this month, and much not added up, a look at what is new touches only that."""
    used = """INSERT INTO usage(tenant, month, end_user, jobs, tokens)
    SELECT 't', '2023-11', 'u' || n, 1, 0 FROM generate_series(1, 50000) AS n"""
    news = """INSERT INTO usage_news(changed_by, tenant, month, end_users, jobs, tokens)
    SELECT 1, 't', '2023-11', ARRAY['u' || n], 1, 0 FROM generate_series(1, 25000) AS n"""
    bench.record._connection.execute(used)
    bench.record._connection.execute(news)
    bench.record._connection.execute("ANALYZE usage, usage_news")
    mark = bench.record.usage("2023-11").mark
    bench.record.accept([new_job(sender="ada", metering=Metering.USER)], NOW)
    assert bench.pages("usage_news", month="2023-11", since=mark.at, seen=list(mark.seen)) < 10
    assert bench.pages("usage_seen", since=mark.at) < 10


def test_adding_up_the_usage_costs_what_is_added_up(bench):
    """Beside 50,000 people who have used something, adding up the news of a few touches their rows."""
    used = """INSERT INTO usage(tenant, month, end_user, jobs, tokens)
    SELECT 't', '2023-11', 'u' || n, 1, 0 FROM generate_series(1, 50000) AS n"""
    bench.record._connection.execute(used)
    bench.record._connection.execute("ANALYZE usage, usage_news")
    bench.record.accept([new_job(sender=f"u{number}", metering=Metering.USER) for number in range(3)], NOW)
    assert bench.pages("add_up_usage", before=2**62) < 60


def test_much_news_of_the_usage_is_no_trouble(bench):
    """A look at 20,000 people of whom nobody has added up anything takes a fraction of a second, without statistics too."""
    for _ in range(40):
        bench.record.accept([new_job(sender=f"u{next(NUMBERS)}", metering=Metering.USER) for _ in range(500)], NOW)
    began = time.perf_counter()
    assert len(bench.record.usage("2023-11").used) == 20_001
    assert time.perf_counter() - began < 2
