"""A stand-in of the platforms' send APIs on loopback: takes what Sentinel delivers, and answers as the platform would.

For the demo, load tests and fault tests. The first part of a path is a label that says whose delivery it is.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from sentinel import payload
from sentinel.channels.shared.reading import dig
from sentinel.http import Response, json_response

_ANSWERS: tuple[tuple[str, Response], ...] = (
    (r"/v[\d.]+/[^/]+/messages", json_response(200, {"messaging_product": "whatsapp", "messages": [{"id": "wamid.stand-in"}]})),
    (r"/bot[^/]+/sendChatAction", json_response(200, {"ok": True, "result": True})),
    (r"/bot[^/]+/sendMessage", json_response(200, {"ok": True, "result": {"message_id": 1}})),
    (r"/api/chat\.postMessage", json_response(200, {"ok": True, "ts": "1764000000.000100"})),
    (
        r"/services/data/v[\d.]+/sobjects/CaseComment",
        json_response(201, {"id": "00a000000000001AAA", "success": True, "errors": []}),
    ),
    (r".*", json_response(200, {"received": True})),
)
_TEXTS = (("text", "body"), ("text",), ("CommentBody",), ("data", "output_text"))


@attrs.frozen
class Delivery:
    """One request that arrived: whose it is, the path behind the label, and what it carried."""

    label: str
    path: str
    headers: dict[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)

    @property
    def text(self) -> str:
        """The reply inside, wherever this platform puts it; "" if there is none."""
        value = payload.decode_json(self.body)
        return next((text for path in _TEXTS if isinstance(text := dig(value, *path), str)), "")

    @property
    def is_indicator(self) -> bool:
        """Whether it only shows that an answer is being made."""
        return is_indicator(self.path, self.body)


def is_indicator(path: str, body: bytes) -> bool:
    """Whether a request to a platform only shows that an answer is being made."""
    return b'"typing_indicator"' in body or path.endswith(("/sendChatAction", "/assistant.threads.setStatus"))


Judge = Callable[[Delivery], Response | None]


@attrs.define(eq=False)
class StandIn:
    """What has arrived so far. `misbehave`, if set, may answer in the platform's place: for tests of errors."""

    url: str = ""
    deliveries: list[Delivery] = attrs.field(factory=list)
    indicators: list[Delivery] = attrs.field(factory=list)
    misbehave: Judge | None = None

    def base(self, label: str) -> str:
        """The base URL that makes deliveries arrive under this label."""
        return f"{self.url}/{label}"

    def of(self, label: str) -> list[Delivery]:
        """What arrived under the label, in order."""
        return [delivery for delivery in self.deliveries if delivery.label == label]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        label, _, path = scope["path"].lstrip("/").partition("/")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        delivery = Delivery(label, f"/{path}", headers, await _read(receive))
        answer = self.misbehave(delivery) if self.misbehave else None
        if answer is None:
            (self.indicators if delivery.is_indicator else self.deliveries).append(delivery)
            answer = next(response for pattern, response in _ANSWERS if re.fullmatch(pattern, delivery.path))
        raw = [(name.encode(), value.encode()) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        await send({"type": "http.response.body", "body": answer.body})
        return None


@asynccontextmanager
async def open_stand_in() -> AsyncIterator[StandIn]:
    """A stand-in that listens on a free port of loopback until the block is left."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.backlog = 4096
    config.errorlog = config.accesslog = None
    stopped = trio.Event()
    stand_in = StandIn()
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[Any]) -> None:
            await serve(cast(Any, stand_in), config, shutdown_trigger=stopped.wait, task_status=task_status)

        (stand_in.url,) = await nursery.start(run)
        try:
            yield stand_in
        finally:
            nursery.cancel_scope.cancel()


async def _read(receive: Any) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


async def _lifespan(receive: Any, send: Any) -> None:
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})
