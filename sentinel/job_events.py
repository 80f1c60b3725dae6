"""A job as a stream of server-sent events: its steps, its progress, its text as it comes, and its result at the end.

https://html.spec.whatwg.org/multipage/server-sent-events.html. An event's id says all that was sent, so a client that comes back
with Last-Event-ID gets what it has missed, from any gateway. One question to the record for all streams, however many there are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import attrs
import trio

from sentinel import payload
from sentinel.errors import Unavailable
from sentinel.http import Response
from sentinel.job_view import API_STATUS, iso
from sentinel.logs import Outage
from sentinel.model import Job
from sentinel.records import Step, Store
from sentinel.records.watching import Glimpse

LOOK_SECONDS = 0.2
ALIVE_SECONDS = 15.0
ALLOWED_SECONDS = 1.0  # between two looks whether the watcher may still watch
STREAM_SECONDS_MAX = 3600.0
STREAMS_MAX = 200
ENDED_ID = "end"
ALIVE = b": alive\n\n"
# Where no stream is possible, a client that follows the specification comes again after a second.
COME_AGAIN = b"retry: 1000\n\n"
_ID = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})", re.ASCII)

Document = Callable[[str], Awaitable[dict[str, Any]]]
Allowed = Callable[[], bool]


@attrs.frozen
class Cursor:
    """What a client has had: steps of the story, and characters of the text of an attempt. `status` and `progress` are the last."""

    steps: int = 0
    attempt: int = 0
    characters: int = 0
    progress: tuple[str, float] = ("", -1.0)

    @classmethod
    def read(cls, event_id: str) -> Cursor:
        """The cursor of a Last-Event-ID; the beginning for what is none."""
        found = _ID.fullmatch(event_id)
        return cls(int(found[1]), int(found[2]), int(found[3])) if found else cls()

    @property
    def id(self) -> str:
        """The id of the event after which the client has had this."""
        return f"{self.steps}.{self.attempt}.{self.characters}"


def events_since(cursor: Cursor, glimpse: Glimpse, story: Sequence[Step]) -> tuple[list[bytes], Cursor]:
    """The events that tell the difference between what a client has had and how the job is, and the cursor after them."""
    events = []
    for step in story[cursor.steps :]:
        cursor = attrs.evolve(cursor, steps=cursor.steps + 1)
        told = {"at": iso(step.at), "step": step.step, "attempt": step.attempt, "detail": step.detail}
        events.append(encode_event("step", told, cursor.id))
    if (glimpse.attempt != cursor.attempt and cursor.characters) or len(glimpse.text) < cursor.characters:
        cursor = attrs.evolve(cursor, characters=0)
        events.append(encode_event("reset", {}, cursor.id))  # another attempt begins the text anew
    cursor = attrs.evolve(cursor, attempt=glimpse.attempt)
    if delta := glimpse.text[cursor.characters :]:
        cursor = attrs.evolve(cursor, characters=len(glimpse.text))
        events.append(encode_event("text", {"delta": delta}, cursor.id))
    if cursor.progress != (now := (API_STATUS[glimpse.state], round(glimpse.progress, 3))):
        cursor = attrs.evolve(cursor, progress=now)
        events.append(encode_event("progress", {"status": now[0], "progress": now[1]}, cursor.id))
    return events, cursor


def encode_event(name: str, value: Any, event_id: str) -> bytes:
    """One event; JSON has no line breaks of its own."""
    return b"event: %b\nid: %b\ndata: %b\n\n" % (name.encode(), event_id.encode(), payload.encode_json(value))


@attrs.define(eq=False)
class JobStreams:
    """Who watches which job. At most `streams_max` at a time, half of them of one tenant."""

    store: Store
    streams_max: int = STREAMS_MAX
    _watched: Counter[str] = attrs.field(factory=Counter)
    _tenants: Counter[str] = attrs.field(factory=Counter)
    _latest: dict[str, Glimpse] = attrs.field(factory=dict)
    _news: trio.Event = attrs.field(factory=trio.Event)
    _someone: trio.Event = attrs.field(factory=trio.Event)
    _outage: Outage = attrs.field(factory=lambda: Outage("streams.blind"))

    def open(self, job: Job, event_id: str, document: Document, allowed: Allowed) -> Response:
        """The stream of a job's events from behind that id, while it is `allowed`. Raises Unavailable if too many watch already."""
        if event_id == ENDED_ID:
            return Response(204)  # who has had the result must not come again
        if self._tenants.total() >= self.streams_max or self._tenants[job.tenant] >= max(1, self.streams_max // 2):
            raise Unavailable("Too many jobs are watched at a time.")
        headers = (("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "no"))
        return Response(200, COME_AGAIN, headers, lambda: self._events(job, Cursor.read(event_id), document, allowed))

    async def run(self) -> None:
        """Look for ever, while somebody watches. Belongs in the gateway's nursery."""
        while True:
            await self._someone.wait()
            self._someone = trio.Event()
            while self._watched:
                await self._look()
                await trio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        try:
            found = await self.store.read(self.store.record.glimpses, list(self._watched))
        except Unavailable as error:
            self._outage.failed(error.detail)
            return
        self._outage.over()
        self._latest = {glimpse.job_id: glimpse for glimpse in found}
        self._news.set()
        self._news = trio.Event()

    async def _events(self, job: Job, cursor: Cursor, document: Document, allowed: Allowed) -> AsyncGenerator[bytes, None]:
        self._watched[job.id] += 1
        self._tenants[job.tenant] += 1
        self._someone.set()
        try:
            yield COME_AGAIN
            deadline, alive_at = trio.current_time() + STREAM_SECONDS_MAX, trio.current_time() + ALIVE_SECONDS
            seen: Glimpse | None = None
            while trio.current_time() < deadline and allowed():
                glimpse = await self._next(job.id, seen, alive_at)
                if glimpse is None and trio.current_time() < alive_at:
                    continue
                alive_at = trio.current_time() + ALIVE_SECONDS
                if glimpse is None:
                    yield ALIVE
                    continue
                told = seen is not None and seen.milestone == glimpse.milestone
                story = [] if told else await self.store.read(self.store.record.story, job.id)
                seen = glimpse
                events, cursor = events_since(cursor, glimpse, story)
                for event in events:
                    yield event
                if glimpse.state.ended:
                    yield encode_event("result", await document(job.id), ENDED_ID)
                    return
        finally:
            self._leave(job)

    def _leave(self, job: Job) -> None:
        for counter, name in ((self._watched, job.id), (self._tenants, job.tenant)):
            counter[name] -= 1
            if not counter[name]:
                del counter[name]
        if job.id not in self._watched:
            self._latest.pop(job.id, None)

    async def _next(self, job_id: str, seen: Glimpse | None, alive_at: float) -> Glimpse | None:
        """The job as soon as it is not as it was seen; None if it is time for something else before that."""
        with trio.move_on_at(min(alive_at, trio.current_time() + ALLOWED_SECONDS)):
            while True:
                now = self._latest.get(job_id)
                if now is not None and now != seen:
                    return now
                await self._news.wait()
        return None
