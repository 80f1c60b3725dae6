"""What only the PostgreSQL record has to show: every call ends in time, connections mend, and many may work at once."""

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest

from sentinel.chaos.servers import PostgresServer, new_postgres
from sentinel.edge.quota import Account, Used
from sentinel.errors import Unavailable
from sentinel.model import Chat, Claim, State
from sentinel.processes import process_name
from sentinel.records import Ending, JobFilter, open_bell, open_record
from sentinel.records.postgres import PostgresRecord
from sentinel.records.postgres_connection import Connection
from tests.records.conftest import NOW, new_job

BUSY = 0.5
BELL = "postgresql://db.test/sentinel"


@pytest.fixture
def record(url: str) -> Iterator[PostgresRecord]:
    with closing(open_record(url, BUSY)) as opened:
        assert isinstance(opened, PostgresRecord)
        yield opened


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of this test's own."""
    own = new_postgres(max_connections="10", superuser_reserved_connections="1")
    try:
        own.start()
        yield own
    finally:
        own.remove()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting is given up sooner than a database that wakes would need."""
    monkeypatch.setattr("sentinel.records.postgres_connection.CONNECT_SECONDS_MIN", 0.2)


def unavailable(call: Callable[[], object], within: float = BUSY + 0.5) -> str:
    """Why the call said that the record cannot do it now; it must say so in time."""
    started = time.perf_counter()
    with pytest.raises(Unavailable) as caught:
        call()
    assert time.perf_counter() - started < within
    return caught.value.detail


class TestTrouble:
    def test_a_server_that_is_killed(self, server):
        """While the server is dead calls fail at once; when it is back, the same record goes on."""
        with closing(open_record(server.url, BUSY)) as record:
            job = new_job()
            record.accept([job], NOW)
            server.kill()
            unavailable(lambda: record.accept([new_job()], NOW))
            unavailable(record.counts)
            server.start()
            assert record.accept([job], NOW) == [False]

    def test_a_server_that_hangs(self, server, impatient):
        """A server that takes what it is sent and says nothing holds nobody up; what it does later makes no second job."""
        with closing(open_record(server.url, BUSY)) as record:
            record.counts()
            server.pause()
            job = new_job()
            assert "did not answer in time" in unavailable(lambda: record.accept([job], NOW))
            unavailable(record.counts, within=BUSY + 2.5)  # it also has to connect, for which the driver takes two seconds at least
            server.resume()
            record.accept([job], NOW)
            assert len(record.list_jobs(JobFilter())) == 1

    @pytest.mark.parametrize("jobs", [1, 100])
    def test_a_locked_table(self, record, url, jobs):
        """A table that somebody has locked is waited for as long as a call may take, and no longer."""
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
            unavailable(lambda: record.accept([new_job() for _ in range(jobs)], NOW))
        assert record.accept([new_job()], NOW) == [True]
        assert len(record.list_jobs(JobFilter())) == 1

    def test_a_connection_that_the_server_closed(self, record, url):
        """An idle connection that was cut is no error to who accepts or reads: it is mended and the statement repeated."""
        job, chat = new_job(), Chat("t", "telegram", "s", "c")
        for call in (
            lambda: record.accept([job], NOW),
            lambda: record.find_job(job.id),
            lambda: record.memories([chat]),
            lambda: record.accept([job], NOW),
        ):
            cut(url)
            call()
        assert record.find_job(job.id)

    @pytest.mark.parametrize("jobs", [1, 100])
    @pytest.mark.parametrize("known", [0, 1])
    def test_an_answer_that_is_lost(self, url, jobs, known):
        """A write that was done though nobody heard of it is repeated, and its jobs are new; those of before are not."""
        with closing(Deaf(url, BUSY)) as record:
            given = [new_job() for _ in range(jobs)]
            old = [new_job() for _ in range(known)]
            record.accept(old, NOW)
            record.deaf = True
            assert record.accept([*old, *given], NOW + 1) == [False] * known + [True] * jobs
            assert not record.deaf
            assert record.accept(given, NOW + 2) == [False] * jobs
            assert len(record.list_jobs(JobFilter(limit=1000))) == jobs + known

    def test_a_name_service_that_hangs(self, url, monkeypatch, impatient):
        """A record whose name cannot be looked up says so in time, and no thread hangs in the driver."""
        hang = threading.Event()
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: hang.wait(20))
        for call in (lambda: open_record(url.replace("127.0.0.1", "db.test"), BUSY), lambda: open_bell(BELL).wait(1)):
            assert "db.test" in unavailable(call, within=1.5)
        hang.set()

    def test_each_address_is_tried(self, url, monkeypatch):
        """Of a name with several addresses the first that answers is used; a name that does not exist is said to be unknown."""

        def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
            if host != "two.test":
                raise socket.gaierror(-2, "Name or service not known")
            return [(0, 0, 0, "", (address, 0)) for address in ("127.0.0.2", "127.0.0.1")]

        monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
        with closing(open_record(url.replace("127.0.0.1", "two.test"), BUSY)) as record:
            assert record.counts() == {}
        assert "no.invalid is not known" in unavailable(lambda: open_record("postgresql://no.invalid/x", BUSY))

    def test_no_more_connections(self, server):
        """When the server takes no more connections, opening one fails in time and says why."""
        with closing(open_record(server.url, BUSY)) as record:
            others: list[psycopg.Connection] = []
            with pytest.raises(psycopg.OperationalError):
                while True:
                    others.append(psycopg.connect(server.url))
            assert "too many" in unavailable(lambda: open_record(server.url, BUSY))
            for other in others:
                other.close()
            assert record.counts() == {}

    def test_a_pooler_that_forgets_prepared_statements(self, record):
        """When prepared statements vanish under the connection, one call fails, and from then on none are used."""
        for _ in range(10):
            record.counts()
        record._connection.pgconn.exec_(b"DEALLOCATE ALL")
        assert "pooler" in unavailable(record.counts)
        for _ in range(10):
            record.counts()
        record._connection.pgconn.exec_(b"DEALLOCATE ALL")
        assert record.counts() == {}

    def test_no_password_in_an_error(self):
        """Why a server cannot be reached is said without the password."""
        assert "hunter2" not in unavailable(lambda: open_record("postgresql://user:hunter2@127.0.0.1:1/db", BUSY))

    def test_a_database_without_tables(self, url):
        """A record whose tables are gone says what to do."""
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("DROP TABLE jobs CASCADE")
        with closing(open_record(url, BUSY)) as record:
            assert "sentinel migrate" in unavailable(lambda: record.list_jobs(JobFilter()))

    def test_a_right_that_is_missing(self, server):
        """A right that the role lacks is the operator's trouble and not the job's: it is named, and once it is there it works."""
        server.run("CREATE ROLE app LOGIN")
        server.run("CREATE DATABASE walk OWNER app")
        with closing(open_record(f"postgresql://app@127.0.0.1:{server.port}/walk", BUSY)) as record:
            server.run("REVOKE INSERT ON jobs FROM app", "walk")
            assert "permission denied for table jobs" in unavailable(lambda: record.accept([new_job()], NOW))
            server.run("GRANT INSERT ON jobs TO app", "walk")
            assert record.accept([new_job()], NOW) == [True]

    def test_a_schema_that_the_url_names(self, server):
        """What the URL asks of its sessions holds: the tables are in the schema that it names."""
        server.run("CREATE SCHEMA app")
        with closing(open_record(f"{server.url}?options=-csearch_path%3Dapp", BUSY)) as record:
            assert record.accept([new_job()], NOW) == [True]
        assert server.run("SELECT DISTINCT schemaname FROM pg_tables WHERE tablename IN ('jobs', 'queue')") == "app\n"

    def test_a_database_that_cannot_keep_every_message(self, server):
        """A database of another encoding than UTF-8 is refused at once, not at the first message that it cannot keep."""
        server.run("CREATE DATABASE western TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
        assert "LATIN1" in unavailable(lambda: open_record(server.database("western"), BUSY))
        assert server.run("SELECT count(*) FROM pg_tables WHERE tablename = 'jobs'", "western") == "0\n"

    def test_a_role_with_settings_of_its_own(self, server):
        """What the operator has set for the role does not change what a session of ours needs."""
        server.run("ALTER ROLE sentinel SET default_transaction_isolation = 'serializable'")
        server.run("ALTER ROLE sentinel SET client_encoding = 'LATIN1'")
        with closing(open_record(server.url, BUSY)) as record:
            assert record.accept([new_job(external_id="\N{SNOWMAN}")], NOW) == [True]
            assert record._query("SHOW transaction_isolation")[0] == {"transaction_isolation": "read committed"}

    def test_a_set_up_that_breaks_promises(self, server):
        """What an operator has set or dropped on which a promise rests is named, and a clock that is wrong."""
        with closing(open_record(server.url, BUSY)) as record:
            assert record.weak_points(time.time()) == []
        server.run("ALTER ROLE sentinel SET synchronous_commit = off")
        server.run("DROP INDEX queue_ready")
        with closing(open_record(server.url, BUSY)) as record:
            found = " ".join(record.weak_points(time.time() - 63))
        assert "synchronous_commit is off" in found
        assert "index queue_ready is missing" in found
        assert "clock is 63 s behind" in found
        assert "isolation" not in found

    def test_a_value_that_no_index_takes(self, record):
        """A job that PostgreSQL will never take is at fault itself: to try again, or to hold up all others, would not help."""
        random_text = "".join(random.choices("0123456789abcdef", k=20_000))
        with pytest.raises(psycopg.errors.ProgramLimitExceeded):
            record.accept([new_job(external_id=random_text)], NOW)
        assert record.accept([new_job()], NOW) == [True]

    def test_tables_that_change_meanwhile(self, record, url):
        """A migration beside a running process, which gives a table another column, does not keep what is prepared from working."""
        job = new_job()
        record.accept([job], NOW)
        worker = record.register("here:1", process_name(), 4, "ready", NOW)
        for _ in range(8):  # until the statements are prepared
            record.find_job(job.id)
            record.claim(worker, 0, NOW)
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("ALTER TABLE jobs ADD COLUMN later int")
        found = record.find_job(job.id)
        assert found is not None
        assert found.id == job.id
        assert [claim.job.id for claim in record.claim(worker, 1, NOW)] == [job.id]


class Deaf(PostgresRecord):
    """Once, when it is made deaf: what it writes is committed, and its connection breaks before it hears so."""

    deaf = False

    def _copy(self, name: str, lines: str) -> None:
        super()._copy(name, lines)
        self._break()

    def _named(self, name: str, /, **values: Any) -> psycopg.Cursor[dict[str, Any]]:
        result = super()._named(name, **values)
        if name == "accept":
            self._break()
        return result

    def _break(self) -> None:
        if self.deaf:
            self.deaf = False
            self._connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")


def cut(url: str, keep: psycopg.Connection | None = None) -> None:
    """Close all connections to the database but one."""
    with psycopg.connect(url, autocommit=True) if keep is None else keep as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


class TestManyAtOnce:
    @pytest.mark.parametrize("passing", [1, 64])
    def test_conversations_stay_in_order_and_never_stand_still(self, url, passing, monkeypatch):
        """With gateways and workers side by side every chat is answered one at a time, in order, and to its end."""
        monkeypatch.setattr("sentinel.records.postgres_lines.PASSING_COUNT_MIN", passing)
        chats, messages = 12, 40
        running: dict[str, str] = {}
        order: dict[str, list[int]] = {f"c{chat}": [] for chat in range(chats)}
        lock, total = threading.Lock(), chats * messages

        def accept(gateway: int) -> None:
            with closing(open_record(url)) as record:
                for number in range(messages):
                    mine = [f"c{chat}" for chat in range(chats) if chat % 3 == gateway]
                    record.accept([new_job(conversation=chat, sender=str(number)) for chat in mine], NOW + number)

        def work(worker: int) -> None:
            chance = random.Random(worker)
            with closing(open_record(url)) as record:
                mine = record.register("w", process_name(), 8, "ready", NOW)
                deadline = time.monotonic() + 60
                while sum(map(len, order.values())) < total and time.monotonic() < deadline:
                    claims = record.claim(mine, chance.randint(1, 6), NOW)
                    with lock:
                        for claim in claims:
                            chat = claim.job.conversation
                            assert chat not in running, "two messages of one chat at a time"
                            running[chat] = claim.job.id
                    for claim in claims:
                        with lock:
                            del running[claim.job.conversation]
                            order[claim.job.conversation].append(int(claim.job.sender))
                        assert record.end([Ending(claim.job.id, claim.lease_token, State.SUCCEEDED)], NOW) == [True]

        with ThreadPoolExecutor(7) as pool:
            futures = [pool.submit(accept, gateway) for gateway in range(3)] + [pool.submit(work, number) for number in range(4)]
            for future in futures:
                future.result(90)
        assert all(numbers == list(range(messages)) for numbers in order.values())

    def test_each_row_once_for_many_claimers(self, url):
        """Eight workers of whom some give back what they claimed get each of many jobs to its end exactly once."""
        with closing(open_record(url)) as record:
            record.accept([new_job(tenant=f"t{number % 7}") for number in range(2000)], NOW)
        ended: list[str] = []

        def work(number: int) -> None:
            chance = random.Random(number)
            with closing(open_record(url)) as record:
                mine = record.register("w", process_name(), 8, "ready", NOW)
                empty = 0
                while empty < 20:
                    claims = record.claim(mine, 25, NOW)
                    empty = 0 if claims else empty + 1
                    states = [State.QUEUED if chance.random() < 0.2 else State.SUCCEEDED for _ in claims]
                    endings = [
                        Ending(claim.job.id, claim.lease_token, state, uncount=True)
                        for claim, state in zip(claims, states, strict=True)
                    ]
                    assert all(record.end(endings, NOW))
                    ended.extend(ending.job_id for ending in endings if ending.state is State.SUCCEEDED)

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(work, number) for number in range(8)]:
                future.result(90)
        assert len(ended) == len(set(ended)) == 2000


def end_of(claim: Claim, state: State) -> Ending:
    return Ending(claim.job.id, claim.lease_token, state, uncount=True)


def test_use_that_was_being_counted_during_a_look(record, url):
    """What a transaction has counted that was under way during a look is told by the next one, and once, whatever came after it."""
    with psycopg.connect(url) as slow, psycopg.connect(url, autocommit=True) as other:
        count = "INSERT INTO usage_news(tenant, month, end_users, jobs, tokens) VALUES (%s, '2023-11', '{\"\"}', 1, 0)"
        slow.execute(count, ("slow",))
        other.execute(count, ("quick",))
        look = record.usage("2023-11")
        assert look.used == {Account("quick"): Used(1)}
        look = record.usage("2023-11", look.mark)
        assert look.more == []
        other.execute(count, ("late",))
        slow.commit()
        record.add_up_usage()
        look = record.usage("2023-11", look.mark)
        assert sorted(look.more) == [("late", [""], 1, 0), ("slow", [""], 1, 0)]
        assert record.usage("2023-11", look.mark).more == []


def test_news_of_the_usage_is_not_added_up_before_it_could_be_told(record, url, monkeypatch):
    """What was counted by a transaction that was under way a minute ago stays news; the rest is added up."""
    clock = [1_000.0]
    monkeypatch.setattr("sentinel.records.postgres_usage.time.monotonic", lambda: clock[0])
    with psycopg.connect(url) as slow, psycopg.connect(url, autocommit=True) as other:
        count = "INSERT INTO usage_news(tenant, month, end_users, jobs, tokens) VALUES (%s, '2023-11', '{\"\"}', 1, 0)"

        def left() -> list[str]:
            return [row[0] for row in other.execute("SELECT tenant FROM usage_news ORDER BY place")]

        other.execute(count, ("quick",))
        slow.execute(count, ("slow",))
        other.execute(count, ("later",))
        for clock[0], expected in ((1_000, ["quick", "later"]), (1_059, ["quick", "later"]), (1_060, ["later"])):
            record.add_up_usage()
            assert left() == expected
        slow.commit()
        for clock[0], expected in ((1_061, ["slow", "later"]), (1_120, ["slow", "later"]), (1_121, [])):
            record.add_up_usage()
            assert left() == expected
        assert record.usage("2023-11").used == {Account(tenant): Used(1) for tenant in ("quick", "slow", "later")}


class TestBell:
    def test_it_rings_once_for_a_batch(self, record, url):
        """Whoever listens hears of new jobs within milliseconds, once per commit, and nothing otherwise."""
        with closing(open_bell(url)) as bell:
            assert not bell.wait(0.05)
            heard: list[float] = []

            def listen() -> None:
                assert bell.wait(5)
                heard.append(time.perf_counter())

            listener = threading.Thread(target=listen)
            listener.start()
            time.sleep(0.1)
            started = time.perf_counter()
            record.accept([new_job() for _ in range(50)], NOW)
            listener.join()
            assert heard[0] - started < 0.1
            record.accept([new_job(state=State.QUARANTINED)], NOW)
            assert not bell.wait(0.1)

    @pytest.mark.parametrize("looked", [True, False])
    def test_it_rings_when_a_chat_goes_on(self, record, url, looked):
        """The end of a message rings if another of its chat waits, whether a claim had met that one or not; else it does not."""
        worker = record.register("w", "x", 8, "ready", NOW)
        with closing(open_bell(url)) as bell:
            bell.wait(0.01)
            record.accept([new_job(conversation="c"), new_job(conversation="c")], NOW)
            assert bell.wait(5)
            for following in (True, False):
                (claim,) = record.claim(worker, 1, NOW)
                assert not (looked and record.claim(worker, 1, NOW))
                assert record.end([Ending(claim.job.id, claim.lease_token, State.SUCCEEDED)], NOW) == [True]
                assert bell.wait(0.1) == following

    def test_it_rings_when_a_message_is_set_aside(self, record, url):
        """A chat also goes on when a message leaves it for a person to look at."""
        with closing(open_bell(url)) as bell:
            record.accept([job := new_job(conversation="c"), new_job(conversation="c")], NOW)
            bell.wait(0.05)
            assert record.set_aside(job.id, "suspicious", NOW)
            assert bell.wait(5)

    def test_it_rings_for_the_directory(self, url):
        """A bell for the directory rings once for each change of it, and for no job."""
        with closing(open_record(url)) as record, closing(open_bell(url, "directory")) as bell:
            assert not bell.wait(0.05)
            record.add_tenant("t", NOW)
            assert bell.wait(5)
            record.accept([new_job()], NOW)
            record.note_key_uses({}, {})
            assert not bell.wait(0.1)

    def test_a_server_that_hangs(self, server, impatient):
        """A bell whose server has stopped answering holds nobody up for ever, not even one that has just connected."""
        with closing(open_record(server.url)), closing(open_bell(server.url)) as bell:
            bell._connection = Connection.connect(server.url, autocommit=True)
            bell._connection.deadline = time.monotonic() + 0.2
            server.pause()
            with pytest.raises(psycopg.Error):
                bell._connection.execute("LISTEN sentinel_jobs")
            bell.close()
            unavailable(lambda: bell.wait(0.1), within=4)
            server.resume()

    def test_a_server_that_is_gone(self, server):
        """A bell whose server is gone says so at once, and rings again when it is back."""
        with closing(open_record(server.url)) as record, closing(open_bell(server.url)) as bell:
            bell.wait(0.01)
            server.kill()
            unavailable(lambda: bell.wait(5))
            server.start()
            assert not bell.wait(0.01)
            record.accept([new_job()], NOW)
            assert bell.wait(5)
