"""The watchdog of the engine thread."""

from __future__ import annotations

import pytest
import trio

from worker.llama_step import AbortFlag
from worker.llama_watchdog import ABORT_SECONDS_MAX, STEP_SECONDS_MAX, Pulse, watch


class Ended(Exception):
    """The process would have ended here."""


def end() -> None:
    raise Ended


def is_raised(flag: AbortFlag) -> bool:
    return flag._byte.value == b"x"


async def test_a_step_that_hangs_is_stopped_and_then_the_process(autojump_clock):
    """A step over its time is asked to stop; if it does not, the process ends, and neither happens before its time."""
    pulse, flag, began = Pulse(trio.current_time()), AbortFlag(), trio.current_time()
    with pytest.RaisesGroup(Ended):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, pulse, flag, end, trio.current_time)
            await trio.sleep(STEP_SECONDS_MAX - 1)
            assert not is_raised(flag)
            await trio.sleep(3)
            assert is_raised(flag)
            await trio.sleep_forever()
    assert STEP_SECONDS_MAX + ABORT_SECONDS_MAX < trio.current_time() - began < STEP_SECONDS_MAX + ABORT_SECONDS_MAX + 3


async def test_steps_that_end_are_left_alone(autojump_clock):
    """An engine that is idle, or takes many steps of less than the bound, is never asked."""
    pulse, flag = Pulse(), AbortFlag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, pulse, flag, end, trio.current_time)
        await trio.sleep(500)
        for _ in range(10):
            pulse.began = trio.current_time()
            await trio.sleep(STEP_SECONDS_MAX - 2)
            pulse.began = None
        nursery.cancel_scope.cancel()
    assert not is_raised(flag)
