"""The fake platform: takes every channel's replies fast, logs each, and misbehaves when told to. One answer fits all channels."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import attrs
import trio

from sentinel.chaos.history import Arrival, Journal
from sentinel.http import Request, Response, json_response
from sentinel.http1 import Limits
from sentinel.lane import Lane
from sentinel.stand_in import is_indicator

TAKEN = json_response(200, {"ok": True, "result": {"message_id": 1}, "messages": [{"id": "wamid.fake"}], "ts": "1764000000.000100"})
_ECHO = re.compile(rb"echo: ([^\"\\ ]+)")  # what the fake engine says; a run's texts have no spaces

Misbehave = Callable[[Arrival], Awaitable[Response | None]]


@attrs.define(eq=False)
class FakePlatform:
    """Listens on a port of loopback. `misbehave` may answer in its place; what it answers is no arrival."""

    url: str
    journal: Journal
    began: float
    arrivals: list[Arrival] = attrs.field(factory=list)
    misbehave: Misbehave | None = None
    noted: Callable[[Arrival], None] | None = None

    async def handle(self, request: Request) -> Response:
        """Answer one delivery."""
        found = _ECHO.search(request.body)
        label = request.path.split("/", 2)[1]
        text = found[1].decode() if found else ""
        arrival = Arrival(label, request.header("webhook-id"), text, time.monotonic() - self.began)
        answer = await self.misbehave(arrival) if self.misbehave else None
        if answer is not None:
            return answer
        if is_indicator(request.path, request.body):
            return TAKEN
        self.arrivals.append(arrival)
        self.journal.write(arrival)
        if self.noted:
            self.noted(arrival)
        return TAKEN


@asynccontextmanager
async def open_platform(journal_path: Path, began: float) -> AsyncIterator[FakePlatform]:
    """A fake platform until the block is left."""
    with closing(Journal(journal_path)) as journal, socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        platform = FakePlatform(f"http://127.0.0.1:{listener.getsockname()[1]}", journal, began)
        lane = Lane(platform.handle, _hang_up, Limits(1_048_576, 10.0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lane.run, [listener])
            yield platform
            nursery.cancel_scope.cancel()


async def _hang_up(stream: trio.abc.Stream, _data: bytes, _client: str) -> None:
    """Nobody speaks HTTP/2 to it."""
    await stream.aclose()
