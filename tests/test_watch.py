"""Watch: whoever waits for a job hears of its end soon, by one question for all, and waits no longer than they wanted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs
import pytest
import trio

from sentinel.errors import Unavailable
from sentinel.records import Store
from sentinel.watch import LOOK_SECONDS, Watch


@attrs.define(eq=False)
class Ends:
    """A record that knows which jobs have ended."""

    done: set[str] = attrs.field(factory=set)
    questions: list[list[str]] = attrs.field(factory=list)
    down: bool = False

    def ended(self, ids: Sequence[str]) -> set[str]:
        self.questions.append(list(ids))
        if self.down:
            raise Unavailable("locked")
        return self.done & set(ids)


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def watch(ends: Ends, nursery: trio.Nursery) -> Watch:
    watch = Watch(Store(ends))
    nursery.start_soon(watch.run)
    return watch


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = trio.current_time()
    yield
    assert trio.current_time() - began < seconds


async def test_the_end_is_heard(ends, watch, nursery):
    """Everybody who waits for a job is woken soon after it has ended."""
    woken = []

    async def wait(name: str) -> None:
        await watch.wait_ended("job", 10)
        woken.append(name)

    with within(2):
        async with trio.open_nursery() as waiters:
            waiters.start_soon(wait, "one")
            waiters.start_soon(wait, "two")
            await trio.sleep(0.01)
            ends.done.add("job")
    assert sorted(woken) == ["one", "two"]


async def test_ended_before(ends, watch):
    """A job that has ended already is not waited for."""
    ends.done.add("job")
    with within(2):
        await watch.wait_ended("job", 10)


async def test_no_longer_than_wanted(ends, watch):
    """Waiting ends when its time is over, also for a job that never ends, and for no time at all."""
    with within(1):
        await watch.wait_ended("job", 0.02)
        await watch.wait_ended("job", 0)


async def test_one_question_for_all(ends, watch):
    """However many wait, each look is one question, and each job is in it once."""
    async with trio.open_nursery() as waiters:
        for number in range(100):
            waiters.start_soon(watch.wait_ended, f"job-{number % 10}", LOOK_SECONDS * 3)
    assert len(ends.questions) < 10
    assert {len(ids) for ids in ends.questions} == {10}


async def test_nobody_asks_in_vain(ends, watch):
    """While nobody waits the record is not asked, and those who gave up are forgotten."""
    with trio.move_on_after(0.01):
        await watch.wait_ended("job", 10)
    await trio.sleep(LOOK_SECONDS * 1.5)
    asked = len(ends.questions)
    await trio.sleep(LOOK_SECONDS * 1.5)
    assert len(ends.questions) == asked
    ends.done.add("another")
    with within(2):
        await watch.wait_ended("another", 10)


async def test_a_record_that_is_down_for_a_while(ends, watch):
    """A record that does not answer for a while does not end the watching."""
    ends.down = True
    ends.done.add("job")
    with trio.fail_after(5):
        async with trio.open_nursery() as waiters:
            waiters.start_soon(watch.wait_ended, "job", 10)
            await trio.sleep(0.01)
            ends.down = False
