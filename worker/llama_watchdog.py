"""Ends a step of the model that does not end by itself: first by asking, then, since a thread cannot be stopped, with the process.

Whoever supervises the process starts it again, and the jobs' leases are given to others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import attrs
import trio

from sentinel.logs import log
from worker.llama_step import AbortFlag

LOOK_SECONDS = 1.0
# A step is 63 tokens of prompts, or a token for each slot: seconds, even with a large model on a slow machine.
STEP_SECONDS_MAX = 60.0
ABORT_SECONDS_MAX = 30.0  # a decode on a CPU stops within milliseconds; one on a GPU cannot be stopped, and may yet end
STUCK = 70  # the exit code: an internal software error (sysexits.h)


@attrs.define
class Pulse:
    """When the step that runs began; None between steps. Set in the engine thread, looked at in the event loop."""

    began: float | None = None

    def step_seconds(self, now: float) -> float:
        """For how long the present step has been running."""
        began = self.began
        return 0.0 if began is None else now - began


async def watch(pulse: Pulse, abort: AbortFlag, end_process: Callable[[], None], clock: Callable[[], float]) -> None:
    """Looks at `pulse` for ever. Belongs beside the engine thread, in its nursery."""
    is_asked = False
    while True:
        await trio.sleep(LOOK_SECONDS)
        seconds = pulse.step_seconds(clock())
        if seconds > STEP_SECONDS_MAX + ABORT_SECONDS_MAX:
            log.error("model.stuck", seconds=round(seconds), consequence="the worker ends")
            end_process()
        if seconds > STEP_SECONDS_MAX and not is_asked:
            log.error("model.slow_step", seconds=round(seconds), consequence="it is stopped and tried again")
            abort.stop()
        is_asked = seconds > STEP_SECONDS_MAX


async def watch_for_ever(pulse: Pulse, abort: AbortFlag) -> None:
    """`watch`, with the clock of the engine thread and the end of this very process."""
    await watch(pulse, abort, lambda: os._exit(STUCK), time.monotonic)
