"""Plain ways to call the gateway: values in this process, or bytes on a socket with nothing in between that could repair them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from sentinel.gateway import Gateway
from sentinel.http import Request, Response


@attrs.frozen
class Answer:
    """One answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)


def answer_of(response: Response) -> Answer:
    """What `Gateway.handle` returned, with its headers by name; none may come twice."""
    headers = dict(response.headers)
    assert len(headers) == len(response.headers)
    assert headers.keys() == {name.lower() for name in headers}
    return Answer(response.status, headers, response.body)


@attrs.frozen
class Api:
    """The job API of a gateway in this process, called with one key."""

    gateway: Gateway
    key: str

    async def call(self, method: str, target: str, body: Any = None, **headers: str) -> Answer:
        """One request; a body that is not bytes goes as JSON; the header `prefer_wait` is written `Prefer-Wait`."""
        path, _, query = target.partition("?")
        raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        sent = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return answer_of(await self.gateway.handle(Request(method, path, query, sent, raw)))

    async def submit(self, **fields: Any) -> str:
        """The id of a new job."""
        answer = await self.call("POST", "/v1/jobs", {"input": "hello"} | fields)
        assert answer.status == 202
        return str(answer.json["id"])


def http(method: str, target: str, *headers: str, body: bytes = b"", version: str = "1.1", length: int | None = None) -> bytes:
    """A request as bytes, with Host and, for a body, Content-Length (`length` may lie about it)."""
    lines = [f"{method} {target} HTTP/{version}", "Host: gateway.example", *headers]
    if body or length is not None:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def raw(request: Request, *more: str) -> bytes:
    """The request that a channel's `sample` made, as bytes."""
    target = request.path + (f"?{request.query}" if request.query else "")
    return http(request.method, target, *(f"{name}: {value}" for name, value in request.headers.items()), *more, body=request.body)


@attrs.define(eq=False)
class Wire:
    """One connection."""

    stream: trio.SocketStream
    _buffer: bytes = b""

    async def send(self, *pieces: bytes) -> None:
        """Send the bytes as they are."""
        await self.stream.send_all(b"".join(pieces))

    async def answer(self, *, to_head: bool = False) -> Answer:
        """The next answer, informational ones too."""
        with trio.fail_after(10):
            head = await self._read_until(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = 0 if to_head else int(headers.get("content-length", "0"))
        with trio.fail_after(10):
            while len(self._buffer) < length:
                await self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Answer(int(status.split(" ")[1]), headers, body)

    async def is_closed(self, seconds: float = 10) -> bool:
        """Whether the other side closes in time without another word."""
        with trio.move_on_after(seconds):
            try:
                return not self._buffer and not await self.stream.receive_some()
            except trio.BrokenResourceError:
                return True
        return False

    async def read_to_end(self, seconds: float) -> bytes:
        """What comes until the other side closes, or until `seconds` are over."""
        with trio.move_on_after(seconds):
            try:
                while True:
                    await self._more()
            except (EOFError, trio.BrokenResourceError):
                pass
        return self._buffer

    async def _read_until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            await self._more()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    async def _more(self) -> None:
        chunk = await self.stream.receive_some()
        if not chunk:
            raise EOFError(f"closed after {self._buffer[:200]!r}")
        self._buffer += chunk


@attrs.frozen
class Server:
    """Where a server listens."""

    host: str
    port: int

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Wire]:
        """A connection, closed on leaving."""
        async with await trio.open_tcp_stream(self.host, self.port) as stream:
            yield Wire(stream)

    async def exchange(self, *pieces: bytes) -> Answer:
        """The answer to these bytes on a connection of their own."""
        async with self.connected() as wire:
            await wire.send(*pieces)
            return await wire.answer()

    async def lives(self) -> bool:
        """Whether a good request on a new connection is answered well."""
        answer = await self.exchange(http("GET", "/healthz"))
        return answer.status == 200 and answer.json == {"status": "ok"}
