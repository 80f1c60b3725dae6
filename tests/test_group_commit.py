"""Group commit: what waits together is written together, everybody gets their own answer, and nothing is written unseen."""

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from sentinel.errors import Unavailable
from sentinel.group_commit import GroupCommit


@attrs.define(eq=False)
class Ledger:
    """Where batches are written. `gate` holds the writer back while it is closed; `began` says that it arrived there."""

    batches: list[list[int]] = attrs.field(factory=list)
    late: list[tuple[int, str]] = attrs.field(factory=list)
    gate: threading.Event = attrs.field(factory=threading.Event)
    began: threading.Event = attrs.field(factory=threading.Event)
    error: Callable[[Sequence[int]], Exception | None] = lambda _items: None
    late_errors: list[Exception] = attrs.field(factory=list)

    def flush(self, items: Sequence[int]) -> list[str]:
        self.began.set()
        assert self.gate.wait(5)
        if error := self.error(items):
            raise error
        self.batches.append(list(items))
        return [f"result {item}" for item in items]

    def abandoned(self, late: Sequence[tuple[int, str]]) -> None:
        if self.late_errors:
            raise self.late_errors.pop()
        self.late += late

    async def wait_until_writing(self) -> None:
        await trio.to_thread.run_sync(self.began.wait, 5)
        self.began.clear()


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger()
    ledger.gate.set()
    return ledger


@asynccontextmanager
async def opened(ledger: Ledger, **limits: Any) -> AsyncIterator[GroupCommit[int, str]]:
    commits = GroupCommit(ledger.flush, trio.CapacityLimiter(1), abandoned=ledger.abandoned, **limits)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commits.run)
            try:
                yield commits
            finally:
                ledger.gate.set()
                commits.close()


async def submit_all(commits: GroupCommit[int, str], items: Sequence[int]) -> dict[int, str | Exception]:
    outcomes: dict[int, str | Exception] = {}

    async def submit(item: int) -> None:
        try:
            outcomes[item] = await commits.submit(item)
        except Exception as error:  # noqa: BLE001  what came of each is what the tests are about
            outcomes[item] = error

    async with trio.open_nursery() as nursery:
        for item in items:
            nursery.start_soon(submit, item)
    return outcomes


class TestGrouping:
    async def test_what_waits_together_is_written_together(self, ledger):
        """While one batch is being written the next one gathers, so many items cost few commits; each gets its own result."""
        ledger.gate.clear()
        async with opened(ledger) as commits, trio.open_nursery() as nursery:
            nursery.start_soon(commits.submit, -1)
            await ledger.wait_until_writing()
            ledger.began.clear()
            nursery.start_soon(lambda: trio.to_thread.run_sync(ledger.gate.set))
            outcomes = await submit_all(commits, range(300))
        assert outcomes == {item: f"result {item}" for item in range(300)}
        assert len(ledger.batches) <= 3
        assert sorted(item for batch in ledger.batches for item in batch) == list(range(-1, 300))

    async def test_a_batch_is_bounded(self, ledger):
        """No batch is larger than its bound, and the order of arrival is the order of writing."""
        async with opened(ledger, batch_max=10) as commits:
            await submit_all(commits, range(35))
        assert max(map(len, ledger.batches)) <= 10
        assert len(ledger.batches) >= 4

    async def test_the_order_of_arrival(self, ledger):
        """What was submitted first is written first."""
        ledger.gate.clear()
        async with opened(ledger) as commits, trio.open_nursery() as nursery:
            for item in range(5):
                nursery.start_soon(commits.submit, item)
                await wait_all_tasks_blocked()
            ledger.gate.set()
        assert [item for batch in ledger.batches for item in batch] == list(range(5))

    async def test_closing_writes_the_rest(self, ledger):
        """What was submitted before closing is written and answered; what comes later is refused."""
        ledger.gate.clear()
        async with opened(ledger) as commits, trio.open_nursery() as nursery:
            nursery.start_soon(commits.submit, 1)
            await ledger.wait_until_writing()
            nursery.start_soon(commits.submit, 2)
            await wait_all_tasks_blocked()
            commits.close()
            with pytest.raises(Unavailable, match="stopping"):
                await commits.submit(3)
            ledger.gate.set()
        assert ledger.batches == [[1], [2]]

    async def test_a_full_queue_refuses_at_once(self, ledger):
        """More than the bound does not wait, and those who do wait are still answered."""
        ledger.gate.clear()
        async with opened(ledger, waiting_max=2) as commits, trio.open_nursery() as nursery:
            nursery.start_soon(commits.submit, 1)
            await ledger.wait_until_writing()
            for item in (2, 3):
                nursery.start_soon(commits.submit, item)
            await wait_all_tasks_blocked()
            with pytest.raises(Unavailable, match="Too many"):
                await commits.submit(4)
            ledger.gate.set()
        assert sorted(item for batch in ledger.batches for item in batch) == [1, 2, 3]


class TestErrors:
    async def test_an_unavailable_store_fails_the_batch(self, ledger):
        """When the store is unavailable all of the batch hear so after one try, and the next batch is written."""
        tries = []

        def locked(items: Sequence[int]) -> Exception | None:
            tries.append(len(items))
            return Unavailable("locked") if len(tries) <= 2 else None

        ledger.error = locked
        ledger.gate.clear()
        async with opened(ledger) as commits:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(submit_all, commits, [-1])
                await ledger.wait_until_writing()
                nursery.start_soon(lambda: trio.to_thread.run_sync(ledger.gate.set))
                outcomes = await submit_all(commits, range(50))
            assert all(isinstance(outcome, Unavailable) for outcome in outcomes.values())
            assert tries == [1, 50]
            assert await commits.submit(99) == "result 99"

    @pytest.mark.parametrize("bad", [{0}, {511}, {17, 18, 400}, set(range(512))])
    async def test_one_bad_item_fails_alone(self, ledger, bad):
        """An item that is wrong by itself fails, and all others of its batch are written, each once."""
        tries = []

        def broken(items: Sequence[int]) -> Exception | None:
            tries.append(len(items))
            return ValueError("bad item") if bad & set(items) else None

        ledger.error = broken
        ledger.gate.clear()
        async with opened(ledger) as commits, trio.open_nursery() as nursery:
            nursery.start_soon(commits.submit, 1000)
            await ledger.wait_until_writing()
            nursery.start_soon(lambda: trio.to_thread.run_sync(ledger.gate.set))
            outcomes = await submit_all(commits, range(512))
        assert {item for item, outcome in outcomes.items() if isinstance(outcome, ValueError)} == bad
        assert all(outcomes[item] == f"result {item}" for item in set(range(512)) - bad)
        assert sorted(item for batch in ledger.batches for item in batch) == [*sorted(set(range(512)) - bad), 1000]
        if len(bad) == 1:
            assert len(tries) <= 2 + 2 * 9


class TestAbandoned:
    async def test_what_nobody_waits_for_is_not_written(self, ledger):
        """An item whose caller gave up before its batch was begun is dropped."""
        ledger.gate.clear()
        async with opened(ledger) as commits, trio.open_nursery() as nursery:
            nursery.start_soon(commits.submit, 1)
            await ledger.wait_until_writing()
            with trio.move_on_after(0.01):
                await commits.submit(2)
            ledger.gate.set()
        assert (ledger.batches, ledger.late) == ([[1]], [])

    async def test_a_late_commit_is_told(self, ledger):
        """An item that is written after its caller gave up is reported with its result; the others of its batch are not."""
        ledger.gate.clear()
        async with opened(ledger) as commits, trio.open_nursery() as nursery:
            nursery.start_soon(commits.submit, 0)
            await ledger.wait_until_writing()
            nursery.start_soon(commits.submit, 1)
            with trio.CancelScope() as scope:
                nursery.start_soon(self.cancel_while_writing, ledger, scope)
                await commits.submit(2)
            assert scope.cancelled_caught
            ledger.gate.set()
        assert sorted(item for batch in ledger.batches for item in batch) == [0, 1, 2]
        assert ledger.late == [(2, "result 2")]

    @staticmethod
    async def cancel_while_writing(ledger: Ledger, scope: trio.CancelScope) -> None:
        """Let the first batch through, and cancel once the second is being written."""
        await wait_all_tasks_blocked()
        first = threading.Event()
        first, ledger.gate = ledger.gate, first
        first.set()
        await ledger.wait_until_writing()
        scope.cancel()

    async def test_given_up_while_another_has_the_thread(self, ledger):
        """An item that was cut into a batch, waited for the thread, and lost its caller there is reported too."""
        limiter = trio.CapacityLimiter(1)
        commits = GroupCommit(ledger.flush, limiter, abandoned=ledger.abandoned)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commits.run)
            async with limiter:
                with trio.CancelScope() as scope:
                    nursery.start_soon(self.cancel_when_blocked, scope)
                    await commits.submit(1)
            commits.close()
        assert scope.cancelled_caught
        assert (ledger.batches, ledger.late) == ([[1]], [(1, "result 1")])

    @staticmethod
    async def cancel_when_blocked(scope: trio.CancelScope) -> None:
        await wait_all_tasks_blocked()
        scope.cancel()

    async def test_written_and_given_up_in_the_same_instant(self):
        """However commit and cancellation meet, an item that was written is either answered or reported, never both or neither."""
        late: list[int] = []
        answered: list[int] = []
        token = trio.lowlevel.current_trio_token()
        scopes: dict[int, trio.CancelScope] = {}

        def flush(items: Sequence[int]) -> Sequence[int]:
            token.run_sync_soon(scopes[items[0]].cancel)
            return items

        commits: GroupCommit[int, int] = GroupCommit(
            flush, trio.CapacityLimiter(1), abandoned=lambda pairs: late.extend(item for item, _ in pairs)
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commits.run)
            for item in range(300):
                with trio.CancelScope() as scopes[item]:
                    answered.append(await commits.submit(item))
            commits.close()
        assert sorted(answered + late) == list(range(300))

    async def test_a_report_that_failed_is_repeated(self, ledger):
        """When late commits cannot be reported now, the writer lives on and reports them after the next batch."""
        ledger.gate.clear()
        ledger.late_errors = [Unavailable("locked")]
        async with opened(ledger) as commits:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(commits.submit, 1)
                    await ledger.wait_until_writing()
                    scope.cancel()
            ledger.gate.set()
            assert await commits.submit(2) == "result 2"
        assert ledger.late == [(1, "result 1")]
        assert ledger.late_errors == []


async def test_nobody_waits_for_writers_that_are_gone() -> None:
    """When the writers are cancelled, even shielded callers are told, and new ones are refused."""
    release = threading.Event()
    commits: GroupCommit[int, int] = GroupCommit(
        lambda items: [release.wait(5) and item for item in items], trio.CapacityLimiter(1)
    )
    refused = 0

    async def insist(item: int) -> None:
        nonlocal refused
        with trio.CancelScope(shield=True):
            try:
                await commits.submit(item)
            except Unavailable:
                refused += 1

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commits.run)
            for item in range(3):
                nursery.start_soon(insist, item)
            await trio.sleep(0.05)
            nursery.start_soon(insist, 99)
            await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
            release.set()
    assert refused >= 1
    with pytest.raises(Unavailable):
        await commits.submit(1)


class TestTold:
    """`enqueue`: callers without a task."""

    async def test_each_is_told_its_own(self, ledger):
        """Whoever has no task to wait in is told its own result, once, and after `enqueue` has returned."""
        told: list[tuple[int, str | Exception]] = []
        async with opened(ledger) as commits:
            for item in range(100):
                commits.enqueue(item, lambda outcome, item=item: told.append((item, outcome)))
            assert told == []
        assert told == [(item, f"result {item}") for item in range(100)]

    async def test_one_that_fails_harms_nobody(self, ledger, caplog):
        """When one of them fails at what it is told, the others are told all the same, and the writer lives on."""
        told: list[str | Exception] = []

        def fail(_outcome: object) -> None:
            raise ZeroDivisionError

        async with opened(ledger) as commits:
            for item in range(10):
                commits.enqueue(item, fail if item % 2 else told.append)
            assert await commits.submit(10) == "result 10"
        assert told == [f"result {item}" for item in range(0, 10, 2)]

    async def test_an_error_is_told(self, ledger):
        """What `submit` would raise is told: of the store, of one item, and of those who are turned away."""
        told: dict[int, str | Exception] = {}
        ledger.error = lambda items: ValueError("bad item") if 3 in items else None
        ledger.gate.clear()
        async with opened(ledger) as commits:
            for item in (1, 3):
                commits.enqueue(item, lambda outcome, item=item: told.update({item: outcome}))
            await ledger.wait_until_writing()
            commits.enqueue(5, lambda outcome: told.update({5: outcome}))
            commits.turn_away(Unavailable("elsewhere"))
            assert str(told.pop(5)) == str(Unavailable("elsewhere"))
            ledger.gate.set()
        assert told[1] == "result 1"
        assert isinstance(told[3], ValueError)

    async def test_who_is_given_up_is_told_once_and_reported(self, ledger):
        """What is not written in time is told as Unavailable; when it is written after all, that is reported and told to nobody."""
        told: list[str | Exception] = []
        ledger.gate.clear()
        async with opened(ledger, seconds_max=0.05) as commits:
            commits.enqueue(1, told.append)
            with trio.fail_after(5):
                while not told:
                    await trio.sleep(0.005)
            assert isinstance(told[0], Unavailable)
            ledger.gate.set()
        assert len(told) == 1
        assert ledger.late == [(1, "result 1")]

    async def test_refused_at_once(self, ledger):
        """A queue that is full, or that is closing, refuses and tells nothing."""
        told: list[object] = []
        ledger.gate.clear()
        async with opened(ledger, waiting_max=1) as commits:
            commits.enqueue(1, told.append)
            await ledger.wait_until_writing()
            commits.enqueue(2, told.append)
            with pytest.raises(Unavailable, match="Too many"):
                commits.enqueue(3, told.append)
            commits.close()
            with pytest.raises(Unavailable, match="stopping"):
                commits.enqueue(4, told.append)
            ledger.gate.set()
        assert told == ["result 1", "result 2"]

    async def test_all_are_told_when_the_writers_are_cancelled(self, ledger, monkeypatch):
        """When the writers are cancelled, those whose batch was written and those whose was not are told, each once."""
        told: list[tuple[int, str | Exception]] = []
        monkeypatch.setattr("sentinel.group_commit.SETTLE_AT_A_TIME", 2)
        commits = GroupCommit(ledger.flush, trio.CapacityLimiter(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commits.run)

            def note(item: int, outcome: str | Exception) -> None:
                told.append((item, outcome))
                if len(told) == 2:
                    nursery.cancel_scope.cancel()

            for item in range(8):
                commits.enqueue(item, lambda outcome, item=item: note(item, outcome))
            await trio.sleep_forever()
        assert told == [(item, f"result {item}") for item in range(8)]
