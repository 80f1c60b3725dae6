"""Claims behind an old snapshot, which keeps the index entries of what was taken: each begins where the last found any."""

import statistics
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sentinel.errors import Unavailable
from sentinel.model import Claim, State
from sentinel.records import Ending, open_record
from sentinel.records.postgres import PostgresRecord
from sentinel.records.postgres_lines import COMMIT_SECONDS, DRAWN_MIN, FULL_SECONDS, MISSED_WALKED_A_SECOND, WALKED_MAX, Lines
from tests.records.conftest import NOW, new_job
from tests.records.test_postgres_plans import Bench

FAR, NEAR = WALKED_MAX + 1, WALKED_MAX
MANY = 1_500


@pytest.fixture
def bench(url: str) -> Iterator[Bench]:
    with closing(open_record(url, 60.0)) as opened:
        assert isinstance(opened, PostgresRecord)
        yield Bench(opened)


@contextmanager
def old_snapshot(url: str) -> Iterator[None]:
    """Hold a snapshot as a long report or a dump does."""
    with psycopg.connect(url) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM workers")
        yield


@pytest.fixture
def held(bench: Bench, url: str) -> Iterator[Bench]:
    """A worker that knows the lines, because what was taken from them cannot be removed."""
    with old_snapshot(url):
        bench.churn(MANY)
        for _ in range(3):
            bench.record.claim(bench.worker, 1, NOW)
        assert bench.record._lines.known is not None
        yield bench


def line(tenant: str, priority: int = 100, first: int = 1) -> dict[str, Any]:
    return {"tenant": tenant, "priority": priority, "first": first}


def claims(bench: Bench, count: int, now: float = NOW) -> list[str]:
    return [claim.job.id for claim in bench.record.claim(bench.worker, count, now)]


def end(bench: Bench, claim: Claim, state: State = State.SUCCEEDED) -> None:
    assert bench.record.end([Ending(claim.job.id, claim.lease_token, state)], NOW) == [True]


class TestWhatIsKnown:
    def test_nothing_while_looks_are_cheap(self):
        """Dead entries that the next look does not meet again were removed: then everything is looked at each time."""
        lines = Lines()
        for walked in (FAR, NEAR, FAR, 0, FAR):
            lines.claimed(None, None, walked, NOW)
            assert not lines.must_look(NOW)
            assert (lines.known, lines.mark(NOW)) == (None, None)

    def test_lines_while_dead_entries_stay(self):
        """After two looks that pass many, all lines are listed, now and then again, and no more once nothing dead is met."""
        lines = Lines()
        lines.claimed(None, None, FAR, NOW)
        lines.claimed(None, None, FAR, NOW)
        assert lines.must_look(NOW)
        lines.looked([line("a")], 7, FAR, NOW)
        assert (lines.known, lines.mark(NOW)) == ({"a": {100: 1}}, 7)
        assert not lines.begins_aside(NOW + FULL_SECONDS - 0.01)
        assert lines.must_look(NOW - 1)  # the clock was set back
        assert not lines.begins_aside(NOW - 1)
        assert not lines.must_look(NOW + FULL_SECONDS)
        assert lines.begins_aside(NOW + FULL_SECONDS)
        assert not lines.begins_aside(NOW + FULL_SECONDS)
        lines.looked_aside([line("a")], NEAR, NOW + FULL_SECONDS)
        assert lines.known is None
        assert not lines.must_look(NOW + 100)

    def test_a_look_aside_takes_nothing_back(self):
        """What claims have told while somebody looked at everything stays known, and so does a job with an older number."""
        lines = Lines()
        lines.looked([line("a", first=5), line("b")], 7, FAR, NOW)
        lines.draw(2, NOW)
        lines.claimed([line("a", first=6), line("new", first=9)], 9, 0, NOW)
        assert lines.begins_aside(NOW + FULL_SECONDS)
        lines.looked_aside([line("a", first=5), line("back", first=2)], FAR, NOW + FULL_SECONDS)
        assert lines.known == {"a": {100: 5}, "new": {100: 9}, "back": {100: 2}}
        assert lines.mark(NOW + FULL_SECONDS) == 9

    def test_far_walks_are_rare(self):
        """A look at everything is the rarer, the more it has to pass."""
        lines = Lines()
        lines.looked([], 7, 1_000_000, NOW)
        assert not lines.must_look(NOW + 19)
        assert lines.must_look(NOW + 21)

    def test_lines_that_gave_nothing_are_listed_anew(self):
        """A look at the lines that found nothing is followed by one at everything, if the last one was long enough ago."""
        lines = Lines()
        assert not lines.missed(NOW)
        lines.looked([], 7, MISSED_WALKED_A_SECOND // 10, NOW)
        assert not lines.missed(NOW + 0.09)
        assert not lines.must_look(NOW + 0.09)
        assert lines.missed(NOW + 0.11)
        assert lines.must_look(NOW + 0.11)

    def test_the_mark_leaves_time_to_commit(self):
        """Each answer's greatest number counts a moment later, when jobs with smaller ones have been committed."""
        lines = Lines()
        lines.looked([], 7, FAR, NOW)
        lines.claimed([], 9, 0, NOW + 1)
        assert lines.mark(NOW + 1 + COMMIT_SECONDS / 2) == 7
        assert lines.mark(NOW + 1 + COMMIT_SECONDS * 2) == 9

    def test_a_look_is_told_of_some_tenants(self):
        """However many tenants wait, a look is told of few, and what it says of them and of new ones is known then."""
        lines = Lines(choose=lambda tenants, count: sorted(tenants)[:count])
        lines.looked([line(f"t{number:03}", priority) for number in range(100) for priority in (5, 100)], 7, FAR, NOW)
        told = lines.draw(2, NOW)
        assert told["tenants"] == [f"t{number:03}" for number in range(DRAWN_MIN) for _ in range(2)]
        assert told["priorities"] == [5, 100] * DRAWN_MIN
        assert (told["firsts"], told["mark"]) == ([1] * 2 * DRAWN_MIN, 7)
        lines.claimed([line("t000", 100, 9), line("t050", 5, 9), line("new", 100, 9)], 9, 0, NOW)
        assert lines.left
        assert lines.known is not None
        assert {"t000", "t050", "new"} == lines.known.keys() - {f"t{number:03}" for number in range(DRAWN_MIN, 100) if number != 50}
        assert (lines.known["t000"], lines.known["t050"]) == ({100: 9}, {5: 1, 100: 1})

    def test_all_known_lines_come_before_a_look_at_everything(self):
        """While there are lines that the last look was not told of, the next one is told of them."""
        lines = Lines()
        lines.looked([line(f"t{number}") for number in range(DRAWN_MIN + 1)], 7, FAR, NOW)
        lines.draw(1, NOW + 1)
        lines.claimed([], 7, 0, NOW + 1)
        assert not lines.missed(NOW + 1)
        lines.draw(1, NOW + 1)
        lines.claimed([], 7, 0, NOW + 1)
        assert lines.missed(NOW + 1)


class TestWhatIsFound:
    def test_what_arrives_is_found_at_once(self, held):
        """A new job of a tenant that had none is claimed by the next claim; the lines are those of all that still wait."""
        mine = new_job(tenant="new")
        held.record.accept([mine, *(new_job(tenant="other") for _ in range(3))], NOW)
        assert mine.id in claims(held, 2)
        assert {tenant: [*firsts] for tenant, firsts in held.record._lines.known.items()} == {"new": [100], "other": [100]}
        assert len(claims(held, 8)) == 2
        assert claims(held, 8) == []
        assert held.record._lines.known == {}

    def test_fair_and_by_priority_and_age(self, held):
        """Each tenant gets its share, its most urgent jobs first and of those the oldest."""
        flood = [new_job(tenant="flood") for _ in range(20)]
        urgent = [new_job(tenant="flood", priority=5), new_job(tenant="flood", priority=1)]
        few = [new_job(tenant="few"), new_job(tenant="few")]
        held.record.accept([*flood, *urgent, *few], NOW)
        assert sorted(claims(held, 4)) == sorted(job.id for job in [*urgent, *few])
        assert claims(held, 3) == [job.id for job in flood[:3]]
        assert held.record._lines.known is not None

    def test_a_chat_in_order(self, held):
        """One message of a chat at a time; an idle worker finds the next, whose number is old, as soon as it can be claimed."""
        chat = [new_job(conversation="c") for _ in range(3)]
        held.record.accept(chat, NOW)
        for number, job in enumerate(chat):
            now = NOW + 0.1 * number
            (claim,) = held.record.claim(held.worker, 8, now)
            assert claim.job.id == job.id
            assert claims(held, 8, now) == []
            end(held, claim)
        assert held.record._lines.known is not None

    def test_what_comes_back_is_found_by_the_next_look_at_everything(self, held):
        """A job that goes back to its line with its old number is not forgotten, not even where there always is something else."""
        (back, _) = jobs = [new_job(), new_job()]
        held.record.accept(jobs, NOW)
        first, second = held.record.claim(held.worker, 2, NOW)
        end(held, second)
        assert claims(held, 8, NOW + 2 * COMMIT_SECONDS) == []
        end(held, first, State.FAILED)
        assert held.record.retry(back.id, NOW)
        later = [new_job() for _ in range(3)]
        held.record.accept(later, NOW)
        assert claims(held, 1, NOW + 5 * COMMIT_SECONDS) == [later[0].id]
        assert claims(held, 1, NOW + 2 * FULL_SECONDS) == [later[1].id]
        held.record._looker.wait()
        assert claims(held, 1, NOW + 2 * FULL_SECONDS) == [back.id]

    def test_a_late_commit_is_found(self, held, url):
        """A job whose transaction was open while later ones came and went is claimed, however long that was."""
        late = new_job()
        with closing(open_record(url, 60.0)) as slow, slow._transaction():
            slow.accept([late], NOW)
            held.record.accept([new_job()], NOW)
            assert len(claims(held, 8)) == 1
            assert claims(held, 8, NOW + FULL_SECONDS) == []
        assert claims(held, 8, NOW + 2 * FULL_SECONDS) == [late.id]

    def test_no_claim_waits_for_a_look_at_everything(self, held, monkeypatch):
        """While lines are known, the list of all is asked for on another connection; a claim that is faster goes on without."""
        seen, looked = threading.Event(), threading.Event()
        look = held.record._look_aside

        def slowly() -> dict[str, Any]:
            seen.set()
            assert looked.wait(10)
            return look()

        monkeypatch.setattr(held.record._looker, "look", slowly)
        jobs = [new_job() for _ in range(4)]
        held.record.accept(jobs, NOW)
        found = claims(held, 1)
        monkeypatch.setattr(held.record, "_one", None)  # a look of its own would fail
        for number in (1, 2):
            found += claims(held, 1, NOW + number * FULL_SECONDS)
            assert seen.wait(10)
        looked.set()
        held.record._looker.wait()
        assert found + claims(held, 1, NOW + 3 * FULL_SECONDS) == [job.id for job in jobs]
        assert held.record._lines._walks > 1

    def test_a_look_aside_that_fails(self, held, monkeypatch):
        """If there is no other connection to be had, claims go on, and the next moment is the next try."""
        tries: list[float] = []

        def fail() -> dict[str, Any]:
            tries.append(NOW)
            raise Unavailable("too many clients already")

        monkeypatch.setattr(held.record._looker, "look", fail)
        jobs = [new_job() for _ in range(4)]
        held.record.accept(jobs, NOW)
        found = claims(held, 1, NOW)
        for number in (1, 2, 3):
            found += claims(held, 1, NOW + number * FULL_SECONDS)
            held.record._looker.wait()
        assert found == [job.id for job in jobs]
        assert len(tries) == 3

    def test_once_the_snapshot_is_gone(self, bench, url):
        """When what was taken can be removed again, claims look at everything again."""
        with old_snapshot(url):
            bench.churn(MANY)
            for _ in range(3):
                bench.record.claim(bench.worker, 1, NOW)
        assert bench.record._lines.known is not None
        for number in range(1, 4):
            bench.churn(500)
            bench.record.claim(bench.worker, 1, NOW + number * FULL_SECONDS)
        assert bench.record._lines.known is None


def test_dead_entries_cost_a_claim_nothing(held):
    """With ten times the dead entries, a claim that is told where to look touches as few pages; one that is not, many more."""
    few = _pages(held)
    for _ in range(9):
        held.churn(MANY)
    many = _pages(held)
    assert many[0] <= 1.1 * few[0] + 20, (few, many)
    assert many[1] > 1.5 * few[1], (few, many)


def _pages(bench: Bench) -> tuple[int, int]:
    """What a claim of eight touches, told where to look and not told."""
    lines = bench.record._lines
    bench.record.claim(bench.worker, 1, NOW + FULL_SECONDS)
    bench.record._looker.wait()  # else what it finds may come while we count
    bench.record.accept([new_job(tenant=f"t{number}") for number in range(8)], NOW)
    now = NOW + FULL_SECONDS + 2 * COMMIT_SECONDS
    told = bench.pages("look_at_lines", worker=bench.worker, count=8, looked=8, now=now, **lines.draw(8, now))
    untold = bench.pages_of_a_claim()
    while given_back := bench.record.claim(bench.worker, 500, NOW):
        for claim in given_back:
            end(bench, claim)
    return told, untold


@pytest.mark.slow
def test_an_old_snapshot_does_not_slow_claims(bench, url):
    """Behind a snapshot that is held while 20,000 jobs come and go, the p99 of a claim's CPU stays below three times."""
    before = _p99_ms(bench, NOW)
    with old_snapshot(url):
        for _ in range(5):
            bench.churn(4_000)
        behind = _p99_ms(bench, NOW + 1_000)
        assert bench.record._lines.known is not None
    print(f"\np99 of a claim: {before:.2f} ms of CPU before, {behind:.2f} behind the snapshot")
    assert behind < 3 * before  # 1.3 to 2 times, as the looks at everything fall; it was more than five, and grew with each job


def _p99_ms(bench: Bench, now: float) -> float:
    """The 99th percentile of the milliseconds of CPU that the server takes for a claim of four, 200 times a second."""
    spent = Path(f"/proc/{bench.record._connection.info.backend_pid}/schedstat")
    took = []
    for _ in range(30):
        bench.record.accept([new_job(tenant=f"t{number % 20}") for number in range(400)], NOW)
        for _ in range(100):
            now += 0.005
            began = int(spent.read_text().split()[0])
            found = bench.record.claim(bench.worker, 4, now)
            took.append(int(spent.read_text().split()[0]) - began)
            assert all(bench.record.end([Ending(claim.job.id, claim.lease_token, State.SUCCEEDED) for claim in found], now))
    return statistics.quantiles(took, n=100)[98] / 1e6
