"""A record of an earlier schema: what lived in it goes on after the migration."""

import uuid
from contextlib import closing
from pathlib import Path

import psycopg

from sentinel.edge.quota import Account, Used
from sentinel.model import State
from sentinel.records import Ending, JobFilter, open_record
from sentinel.records.queries import load_migrations
from tests.records.conftest import NOW, fresh_database, postgres

QUEUE_KEPT_BY_STATEMENTS = 9  # the migration; before it a trigger did it
GONE_WRONG = 13
USAGE_IN_LISTS = 16
JOB = """
INSERT INTO jobs(id, tenant, channel, source, external_id, conversation, sender, priority, received_at, created_at, verified_by,
                 fingerprint, options, input, reply_to, state, run_at)
VALUES (%s, 'default', 'api', 's', 'x', %s, '', 100, 1, 1, '', '', '{}', '[]', '{}', 'queued', 1)"""
USED = "(tenant, month, end_user, jobs, tokens) VALUES ('default', '1970-01', 'a/s/bob', 2, 30)"
CLAIM = "UPDATE jobs SET state = 'running', attempt = 1, lease_token = %s, worker_id = 1, started_at = 1 WHERE id = %s"
FAIL = "UPDATE jobs SET state = 'failed', finished_at = 1 WHERE id = %s"


def name(number: int) -> str:
    return str(uuid.UUID(int=number))


def database_before(migration: int, folder: Path) -> str:
    """The URL of a database as it was before that migration."""
    url = fresh_database(folder)
    database = url.rpartition("/")[2]
    postgres().run(f"DROP DATABASE {database}")
    postgres().run(f"CREATE DATABASE {database}")
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("CREATE TABLE schema_version (number int PRIMARY KEY, name text, applied_at timestamptz)")
        for number, title, statements in load_migrations("postgres"):
            if number < migration:
                other.execute(statements)
                other.execute("INSERT INTO schema_version VALUES (%s, %s, now())", (number, title))
    return url


def test_jobs_of_every_state_survive_it(tmp_path):
    """What lived before the queue was kept by statements goes on after it: waiting, running, tried again, put back by hand."""
    url = database_before(QUEUE_KEPT_BY_STATEMENTS, tmp_path)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("INSERT INTO workers(name, process, slots, status, last_seen) VALUES ('w', 'x', 1, 'ready', 0)")
        for number, chat in ((1, None), (2, None), (3, "c"), (4, "c"), (5, None)):
            other.execute(JOB, (name(number), chat))
        for number in (2, 3):
            other.execute(CLAIM, (name(100 + number), name(number)))
        other.execute(FAIL, (name(5),))
    with closing(open_record(url)) as record:
        assert record.counts() == {"queued": 2, "running": 2}
        assert record.end([Ending(name(number), name(100 + number), State.QUEUED, "again") for number in (2, 3)], NOW) == [
            True,
            True,
        ]
        assert record.retry(name(5), NOW)
        done: list[str] = []
        while claims := record.claim(1, 8, NOW):
            assert all(record.end([Ending(claim.job.id, claim.lease_token, State.SUCCEEDED) for claim in claims], NOW))
            done += [claim.job.id for claim in claims]
        assert sorted(done) == [name(number) for number in (1, 2, 3, 4, 5)]
        assert done.index(name(3)) < done.index(name(4))
        assert record.counts() == {}
        assert [step.step for step in record.story(name(2))[2:]] == ["retry_planned", "claimed", "succeeded"]


def test_what_had_gone_wrong_before_is_listed(tmp_path):
    """Jobs that had failed or were cancelled before there was a table of them are in it after the migration."""
    url = database_before(GONE_WRONG, tmp_path)
    with psycopg.connect(url, autocommit=True) as other:
        for number in (1, 2):
            other.execute(JOB, (name(number), None))
        other.execute(FAIL, (name(2),))
    with closing(open_record(url)) as record:
        assert [job.id for job in record.list_jobs(JobFilter(states=[State.FAILED]))] == [name(2)]


def test_what_was_used_is_still_known(tmp_path):
    """What was counted before there were lists, added up or not, is counted after the migration, and what comes is added to it."""
    url = database_before(USAGE_IN_LISTS, tmp_path)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(f"INSERT INTO usage{USED}")
        other.execute(f"INSERT INTO usage_news{USED}")
    with closing(open_record(url)) as record:
        assert record.usage("1970-01").used == {Account("default", "a/s/bob"): Used(4, 60)}
        with psycopg.connect(url, autocommit=True) as other:
            other.execute(JOB, (name(1), None))
            other.execute("UPDATE jobs SET metering = 1, tokens = 5 WHERE id = %s", (name(1),))
        assert record.usage("1970-01").used[Account("default")] == Used(0, 5)
