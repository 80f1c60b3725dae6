"""Damaged HTTP/1.1 and HTTP/2, seeded: input N of a seed is always the same bytes in the same pieces, so each can be replayed."""

from __future__ import annotations

import random
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import h2.config
import h2.connection
import trio

import sentinel.asgi
import sentinel.connection
import sentinel.gateway
import sentinel.lane
from sentinel.edge.forwarded import V2
from sentinel.serve import serve
from sentinel.settings import Settings
from tests.gateway.killers import WEBSOCKET
from tests.gateway.wire import Server, http

SECONDS_MAX = 5.0
CONCURRENT = 24
JSON = ("Content-Type: application/json", "Authorization: Bearer snt_live_0")
TOKENS = (
    *(b"\r\n", b"\n", b"\r", b"\0", b":", b" ", b"\t", b",", b";", b"%00", b"%", b"?", b"\xff", b"\x80", b"//", b"0", b"-1", b"+1"),
    *(b"99999999999999999999", b"ffffffffffffffff", b"chunked", b"gzip", b"Host: b\r\n", b"Content-Length: 5\r\n", b"HTTP/1.1"),
    *(b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"X: " + b"y" * 300),
    *(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", V2, b"X-Forwarded-For: 1.1.1.1\r\n", b"/healthz"),
)  # fmt: skip

Input = tuple[bytes, ...]


def http1_seeds() -> list[bytes]:
    """Requests of every kind that the lane knows."""
    chunks = b"5;a=b\r\n{\"a\":\r\n2\r\n1}\r\n0\r\nTrailer: x\r\n\r\n"  # fmt: skip
    return [
        http("GET", "/healthz"),
        http("GET", "/readyz?only=record"),
        http("HEAD", "/healthz", "Connection: close"),
        http("GET", "/v1/jobs?limit=2", *JSON),
        http("GET", "http://gateway.example/healthz", version="1.0"),
        http("POST", "/v1/jobs", *JSON, body=b'{"input": "hello"}'),
        http("POST", "/v1/jobs", *JSON, "Expect: 100-continue", body=b'{"input": "hello"}'),
        http("POST", "/v1/jobs", *JSON, "Transfer-Encoding: chunked") + chunks,
        http("POST", "/webhooks/generic/shop", *JSON, body=b'{"a": [1, {"b": null}]}') * 3,
        http("POST", "/webhooks/salesforce/shop", "Content-Type: text/xml", body=b"<a><b/></a>"),
        http("GET", "/healthz", *WEBSOCKET),
        http("GET", "/healthz", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
        b"PROXY TCP4 203.0.113.7 10.0.0.1 5000 443\r\n" + http("GET", "/healthz"),
        V2 + b"\x21\x11" + struct.pack("!H", 12) + bytes(12) + http("GET", "/healthz", "X-Forwarded-For: 1.1.1.1, 2.2.2.2"),
        http("OPTIONS", "*") + http("DELETE", "/v1/jobs/x", "Forwarded: for=1.1.1.1"),
    ]


def http2_seeds() -> list[bytes]:
    """Whole connections of an honest client."""
    found = []
    for method, path, body in ((b"GET", b"/healthz", b""), (b"POST", b"/v1/jobs", b'{"input": "hello"}'), (b"HEAD", b"/x", b"")):
        connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        connection.initiate_connection()
        for stream in (1, 3):
            head = [
                (b":method", method),
                (b":path", path),
                (b":scheme", b"http"),
                (b":authority", b"gateway.example"),
                (b"a", b"b"),
            ]
            connection.send_headers(stream, head, end_stream=not body)
            if body:
                connection.send_data(stream, body, end_stream=True)
        connection.ping(b"12345678")
        connection.prioritize(1, weight=7)
        connection.reset_stream(3)
        found.append(connection.data_to_send())
    return found


def make_input(seed: int, number: int) -> Input:
    """The pieces of input `number`."""
    rng = random.Random(f"{seed}:{number}")
    raw = bytearray(rng.choice(_HTTP1) if rng.random() < 0.7 else _shuffle_frames(rng, rng.choice(_HTTP2)))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        _damage(rng, raw)
    cuts = sorted(rng.randrange(len(raw) + 1) for _ in range(rng.choice((0, 0, 1, 2, 5))))
    return tuple(bytes(raw[start:end]) for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True) if start < end)


def _damage(rng: random.Random, raw: bytearray) -> None:
    place = rng.randrange(len(raw) + 1)
    match rng.randrange(6):
        case 0 if place < len(raw):
            raw[place] = rng.randrange(256)
        case 1:
            del raw[place : place + rng.choice((1, 2, 8, 64))]
        case 2:
            raw[place:place] = rng.randbytes(rng.choice((1, 4, 16)))
        case 3:
            raw[place:place] = rng.choice(TOKENS)
        case 4:
            raw[place:place] = raw[place : place + 40] * rng.choice((1, 2, 30))
        case _:
            other = rng.choice(_HTTP1)
            raw[place:] = other[rng.randrange(len(other)) :]


def _shuffle_frames(rng: random.Random, raw: bytes) -> bytes:
    """The connection with some of its frames changed, doubled or moved."""
    preface, frames = raw[:24], list(_frames(raw[24:]))
    for _ in range(rng.randrange(4)):
        place = rng.randrange(len(frames))
        frame = bytearray(frames[place])
        match rng.randrange(4):
            case 0:
                frame[rng.randrange(9)] = rng.randrange(256)
            case 1:
                frame[3] = rng.randrange(12)
            case 2:
                frame[5:9] = struct.pack("!I", rng.choice((0, 1, 2, 3, 5, 2**31 - 1)))
            case _:
                frames.insert(rng.randrange(len(frames) + 1), frames[place])
        frames[place] = bytes(frame)
    return preface + b"".join(frames)


def _frames(raw: bytes) -> Iterator[bytes]:
    while raw:
        size = 9 + int.from_bytes(raw[:3])
        yield raw[:size]
        raw = raw[size:]


_HTTP1, _HTTP2 = http1_seeds(), http2_seeds()


@attrs.define(eq=False)
class Found:
    """What came of the inputs: how many answers of each status, and the numbers of those after which something was wrong."""

    statuses: Counter[int] = attrs.field(factory=Counter)
    wrong: list[tuple[int, str]] = attrs.field(factory=list)

    async def send(self, server: Server, seed: int, number: int) -> None:
        """Send one input on a connection of its own, and read all that is answered."""
        answer = b""
        with trio.move_on_after(SECONDS_MAX) as patience:
            try:
                async with server.connected() as wire:
                    for piece in make_input(seed, number):
                        await wire.send(piece)
                        await trio.lowlevel.checkpoint()
                    await wire.stream.send_eof()
                    answer = await wire.read_to_end(SECONDS_MAX + 1)
            except trio.BrokenResourceError:
                pass  # it closed the connection on us, as it may
        statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]
        self.statuses.update(statuses)
        if 500 in statuses:
            self.wrong.append((number, "answered 500"))
        if patience.cancelled_caught:
            self.wrong.append((number, "did not end"))


class Complaints:
    """A log in the place of the lane's and the gateway's, that keeps what should never be said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def exception(self, event: str, **values: Any) -> None:
        self.said.append(f"{event}: {values}")

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args, **_values: None


async def fuzz(settings: Settings, seed: int, numbers: range, progress: Callable[[int], None] = lambda _: None) -> Found:
    """Send these inputs to the true server, some at a time; what was found, with leaks and a dead server among what is wrong."""
    found, complaints = Found(), Complaints()
    waiting = iter(numbers)
    async with _served(settings, complaints) as server:

        async def work() -> None:
            for number in waiting:
                await found.send(server, seed, number)
                if number % 1000 == 0:
                    progress(number)

        async def round_of(workers: int) -> tuple[int, int]:
            async with trio.open_nursery() as nursery:
                for _ in range(workers):
                    nursery.start_soon(work)
            await trio.sleep(2.5)  # longer than a server lingers for the rest of a refused body
            return len(list(Path("/proc/self/fd").iterdir())), trio.lowlevel.current_statistics().tasks_living

        descriptors, tasks = await round_of(0)
        after = await round_of(CONCURRENT)
        if after[0] > descriptors or after[1] > tasks + CONCURRENT:  # handlers rest in their pool
            found.wrong.append((-1, f"{descriptors} descriptors and {tasks} tasks became {after}"))
        if not await server.lives():
            found.wrong.append((-1, "the server does not answer"))
    found.wrong += [(-1, said) for said in complaints.said]
    return found


@asynccontextmanager
async def _served(settings: Settings, complaints: Complaints) -> Any:
    """The true server in this process, with its words listened to."""
    logs = [(module, module.log) for module in (sentinel.connection, sentinel.lane, sentinel.gateway)]
    for module, _ in logs:
        module.log = complaints  # type: ignore[attr-defined]
    drain, sentinel.asgi.DRAIN_SECONDS_MAX = sentinel.asgi.DRAIN_SECONDS_MAX, 0.1
    try:
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(serve, settings)
            yield Server("127.0.0.1", int(url.rpartition(":")[2]))
            nursery.cancel_scope.cancel()
    finally:
        sentinel.asgi.DRAIN_SECONDS_MAX = drain
        for module, log in logs:
            module.log = log  # type: ignore[attr-defined]
