"""What the event loop and the engine thread pass to each other: a job one way, news of it the other. Nothing here blocks."""

from __future__ import annotations

import math
import queue
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from sentinel.errors import GenerationFailed
from worker.engine import Prompt
from worker.llama_step import AbortFlag

if TYPE_CHECKING:
    from worker.chat_template import Part


@attrs.frozen
class News:
    """What one step did for a job. With a `finish_reason` or an `error` it is the last."""

    prompt_tokens: int = 0
    tokens: int = 0
    piece: str = attrs.field(default="", repr=False)
    finish_reason: str | None = None
    error: GenerationFailed | None = None


@attrs.define(eq=False)
class Job:
    """
    A generation that somebody waits for; or, with `is_count`, only the count of its prompt's tokens.

    `is_withdrawn` is set in the event loop and looked at in the engine thread; `is_prefilling`, the other way round.
    """

    parts: Sequence[Part] = attrs.field(repr=False)
    prompt: Prompt = attrs.field(repr=False)
    grammar: str | None = attrs.field(default=None, repr=False)
    is_count: bool = False
    is_withdrawn: bool = False
    is_prefilling: bool = False
    _news: tuple[trio.MemorySendChannel[News], trio.MemoryReceiveChannel[News]] = attrs.field(
        # Unbounded, but a job has at most `tokens_max` news and one more.
        factory=lambda: trio.open_memory_channel[News](math.inf),
        init=False,
        repr=False,
    )

    @property
    def news(self) -> trio.MemoryReceiveChannel[News]:
        """Ends early if the engine is closed."""
        return self._news[1]

    def deliver(self, news: News) -> None:
        """Called in the event loop."""
        if not self.is_withdrawn:
            self._news[0].send_nowait(news)

    def abandon(self) -> None:
        """Called in the event loop when nobody waits any more, or no more news will come."""
        self.is_withdrawn = True
        self._news[0].close()


class Inbox:
    """The engine thread's door: jobs in the order of their arrival, the wish that it stops a decode, and the wish to end."""

    def __init__(self) -> None:
        self.abort = AbortFlag()
        self.is_closed = False
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def put(self, job: Job) -> None:
        """Hands `job` over; never waits."""
        self._jobs.put(job)

    def close(self) -> None:
        """Asks the engine thread to end, now: wakes it if it waits, stops it if it computes."""
        self.is_closed = True
        self.abort.stop()
        self._jobs.put(None)

    def take(self, *, wait: bool) -> Iterator[Job]:
        """
        All that has arrived; if that is nothing and `wait`, sleeps until something does.

        Clears the abort flag first. So whoever withdraws a job, or closes, and raises the flag after that is not missed:
        either the flag stays up for the next decode, or what it was raised for is seen before.
        """
        self.abort.clear()
        try:
            job = self._jobs.get(block=wait)
            while job is not None:
                yield job
                job = self._jobs.get(block=False)
        except queue.Empty:
            return
