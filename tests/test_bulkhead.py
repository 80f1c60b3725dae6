"""Bulkheads and circuit breakers: a receiver that fails or hangs is left alone, and nobody else notices."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from sentinel.bulkhead import AT_A_TIME, FAILURES_IN_A_ROW, WAIT_SECONDS_MAX, Bulkhead
from sentinel.errors import HostRests, RefusedAddress, SendFailed


async def fail(bulkhead: Bulkhead, name: str, error: Exception) -> None:
    """Go that way, and fail on it."""
    with pytest.raises(type(error)):
        async with bulkhead.enter(name):
            raise error


async def test_it_opens_after_failures_in_a_row(autojump_clock: trio.testing.MockClock) -> None:
    """After several failures in a row a way rests; other ways are open; after the pause one trial decides."""
    bulkhead = Bulkhead()
    for _ in range(FAILURES_IN_A_ROW):
        assert bulkhead.resting() == []
        await fail(bulkhead, "a x.example", SendFailed())
    assert bulkhead.resting() == ["a x.example"]
    with pytest.raises(HostRests) as rests:
        async with bulkhead.enter("a x.example"):
            pytest.fail("nobody goes there")
    assert 0 < rests.value.seconds <= 1
    async with bulkhead.enter("b x.example"):
        pass
    await trio.sleep(1)
    assert bulkhead.resting() == []
    async with bulkhead.enter("a x.example"):
        with pytest.raises(HostRests):
            async with bulkhead.enter("a x.example"):
                pytest.fail("one trial at a time")
    async with bulkhead.enter("a x.example"):
        pass


async def test_one_success_between_is_enough(autojump_clock: trio.testing.MockClock) -> None:
    """Failures that are not in a row leave a way open, and so does an address that was refused: nobody failed there."""
    bulkhead = Bulkhead()
    for _ in range(3):
        for _ in range(FAILURES_IN_A_ROW - 1):
            await fail(bulkhead, "a", SendFailed())
        async with bulkhead.enter("a"):
            pass
    for _ in range(2 * FAILURES_IN_A_ROW):
        await fail(bulkhead, "a", RefusedAddress())
    assert bulkhead.resting() == []


async def test_a_receiver_that_hangs_holds_its_own_only(autojump_clock: trio.testing.MockClock) -> None:
    """Only so many requests at a time go one way; one more waits a moment and is sent away; another way has room."""
    bulkhead = Bulkhead()
    async with trio.open_nursery() as nursery:

        async def hang() -> None:
            async with bulkhead.enter("slow"):
                await trio.sleep_forever()

        for _ in range(AT_A_TIME):
            nursery.start_soon(hang)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        with pytest.raises(HostRests):
            async with bulkhead.enter("slow"):
                pytest.fail("there is no room")
        assert trio.current_time() - began == pytest.approx(WAIT_SECONDS_MAX)
        async with bulkhead.enter("fast"):
            pass
        nursery.cancel_scope.cancel()
    async with bulkhead.enter("slow"):
        pass


async def test_it_remembers_no_more_than_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ways without trouble are forgotten, and of those with trouble there is a limit."""
    monkeypatch.setattr("sentinel.bulkhead.WAYS_REMEMBERED", 100)
    bulkhead = Bulkhead()
    for number in range(200):
        async with bulkhead.enter(f"well {number}"):
            pass
    assert len(bulkhead._ways) < 10
    for number in range(150):
        await fail(bulkhead, f"ill {number}", SendFailed())
    assert len(bulkhead._ways) == 100
