"""The fast lane: short HTTP/1.1 requests from a socket to `Gateway.handle`, on trio and llhttp. The only importer of httptools.

Takes what RFC 9112 allows and two readers cannot read differently, within limits on everything; refuses the rest and closes. It
offers no TLS, HTTP/2 or upgrade: a connection that begins like one goes to Hypercorn with the bytes already read.
"""

from __future__ import annotations

import errno
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import unquote

import attrs
import httptools
import trio

from sentinel.errors import BadInput, HeadersTooLarge, SentinelError, TooLarge, TooSlow, Unavailable
from sentinel.http import HEADER_BYTES_MAX, HEADERS_MAX, Request, Response, problem
from sentinel.logs import log

READ_BYTES = 65_536
IDLE_SECONDS_MAX = 15.0
HEAD_SECONDS_MAX = 5.0
SEND_SECONDS_MAX = 10.0
LINGER_SECONDS_MAX = 1.0
CLOCK_SECONDS = 0.1
EXHAUSTED_SECONDS = 0.1  # out of descriptors: look again after this, instead of spinning
HTTP2_PREFACE = b"PRI"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_REASONS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

Handle = Callable[[Request], Awaitable[Response]]
HandOver = Callable[[trio.SocketStream, bytes], Awaitable[None]]


@attrs.frozen
class Limits:
    """What one request may take: bytes and seconds of its body; and all at a time: bytes of bodies on their way, connections."""

    body_bytes: int
    body_seconds: float
    all_bodies_bytes: int = 67_108_864
    connections: int = 15_000


@attrs.define(eq=False)
class Lane:
    """Serves connections until closed. `handle` answers a request; `hand_over` serves what is not for the lane."""

    handle: Handle
    hand_over: HandOver
    limits: Limits
    closing: bool = attrs.field(default=False, init=False)
    bodies_bytes: int = attrs.field(default=0, init=False)
    connections: int = attrs.field(default=0, init=False)
    _receiving: set[_Connection] = attrs.field(factory=set)
    _accepting: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def run(self, listeners: Sequence[socket.socket]) -> None:
        """Accept and serve for ever; when `close` was called, until the last request that had begun is answered."""
        async with trio.open_nursery() as clock:
            clock.start_soon(self._end_the_late)
            async with trio.open_nursery() as nursery:
                with self._accepting:
                    async with trio.open_nursery() as accepting:
                        for listener in listeners:
                            accepting.start_soon(self._accept, listener, nursery)
                for connection in self._receiving:
                    if connection.is_idle:
                        connection.wake()
            clock.cancel_scope.cancel()

    def close(self) -> None:
        """Take no more connections, close the idle ones, and each other after its answer."""
        self.closing = True
        self._accepting.cancel()

    async def _end_the_late(self) -> None:
        """Wake whoever has waited too long for its peer: one clock for all, cheaper than a cancel scope for each wait."""
        while True:
            await trio.sleep(CLOCK_SECONDS)
            now = trio.current_time()
            for connection in self._receiving:
                if connection.deadline <= now:
                    connection.wake()

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        """Drain the whole accept queue in one pass: with one connection a pass, the last of a spike waits for all others."""
        listener.setblocking(False)
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                while True:
                    accepted, _address = listener.accept()
                    accepted.setblocking(False)
                    if self.connections >= self.limits.connections:
                        _turn_away(accepted)
                        continue
                    self.connections += 1
                    nursery.start_soon(self._serve, accepted)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    log.error("lane.exhausted", error=repr(error))
                    await trio.sleep(EXHAUSTED_SECONDS)
                # anything else is that one connection's fault: it was gone before we took it (accept(2))

    async def _serve(self, accepted: socket.socket) -> None:
        """One connection, to its end. Whatever goes wrong on it ends it alone."""
        with accepted:
            try:
                if accepted.family != socket.AF_UNIX:
                    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await _Connection(self, accepted, self._receiving).run()
            except OSError:
                return  # the other side is gone; there is nobody to tell
            except Exception as error:  # noqa: BLE001  a fault in one connection must not end the others
                log.exception("connection.crashed", error=repr(error)[:200])
            finally:
                self.connections -= 1


class _Connection:
    """The state of one connection: what is being parsed, what waits for its answer, and when patience ends."""

    def __init__(self, lane: Lane, connection: socket.socket, receiving: set[_Connection]) -> None:
        self.deadline = trio.current_time() + HEAD_SECONDS_MAX
        self._lane = lane
        self._socket = connection
        self._receiving = receiving
        self._reader = _Reader(lane.limits, self._may_hold)
        self._held_bytes = 0

    def _may_hold(self, size: int) -> bool:
        """Count so many more bytes of a body; False if all connections together hold too many already."""
        self._held_bytes += size
        self._lane.bodies_bytes += size
        return self._lane.bodies_bytes <= self._lane.limits.all_bodies_bytes

    def _let_go(self) -> None:
        self._lane.bodies_bytes -= self._held_bytes
        self._held_bytes = 0

    @property
    def is_idle(self) -> bool:
        """Whether no request has begun that is not answered."""
        return self._reader.phase == "idle"

    def wake(self) -> None:
        """End the wait for the peer."""
        trio.lowlevel.notify_closing(self._socket)

    async def run(self) -> None:
        """Read and answer until one side has had enough."""
        try:
            await self._run()
        finally:
            self._let_go()

    async def _run(self) -> None:
        reader = self._reader
        seen = (reader.phase, reader.begun)
        while data := await self._receive():
            if not reader.begun and data.startswith(HTTP2_PREFACE):
                await self._lane.hand_over(trio.SocketStream(trio.socket.from_stdlib_socket(self._socket)), data)
                return
            reader.feed(data)
            if not await self._answer_all():
                return
            if seen != (reader.phase, reader.begun):  # another phase, or the same one of another request: patience begins anew
                seen = (reader.phase, reader.begun)
                self.deadline = trio.current_time() + self._seconds(reader.phase)

    async def _receive(self) -> bytes:
        """What arrives; b"" if the connection is to end, after saying so to a peer that was too slow."""
        if self.is_idle and self._lane.closing:
            return b""
        self._receiving.add(self)
        try:
            return await _receive_some(self._socket)
        except trio.ClosedResourceError:  # woken
            if not self.is_idle:
                await self._refuse(TooSlow("The request did not arrive in time."))
            return b""
        finally:
            self._receiving.discard(self)

    def _seconds(self, phase: str) -> float:
        return {"idle": IDLE_SECONDS_MAX, "head": HEAD_SECONDS_MAX, "body": self._lane.limits.body_seconds}[phase]

    async def _answer_all(self) -> bool:
        """Answer every whole request that was read, in order; False when the connection is to end."""
        reader = self._reader
        while reader.requests:
            request, keep = reader.requests.popleft()
            response = await self._lane.handle(attrs.evolve(request, method="GET") if request.method == "HEAD" else request)
            keep = keep and not self._lane.closing
            await self._send(_encode(response, keep=keep, head=request.method == "HEAD"))
            if not keep:
                await self._linger()
                return False
            if not reader.requests and reader.phase == "idle":
                self._let_go()
            if reader.requests:
                await trio.lowlevel.checkpoint()  # many small requests in one packet take their turn with the other connections
        if reader.error is not None:
            await self._refuse(reader.error)
            return False
        if reader.continue_wanted:
            reader.continue_wanted = False
            await self._send(CONTINUE)
        return True

    async def _refuse(self, error: SentinelError) -> None:
        await self._send(_encode(problem(error), keep=False))
        await self._linger()

    async def _send(self, data: bytes) -> None:
        """Send all of it; a peer that does not read is given up after SEND_SECONDS_MAX."""
        rest = _send_some(self._socket, memoryview(data))
        if not rest:
            return
        with trio.move_on_after(SEND_SECONDS_MAX):
            while rest:
                await trio.lowlevel.wait_writable(self._socket)
                rest = _send_some(self._socket, rest)
            return
        raise ConnectionAbortedError

    async def _linger(self) -> None:
        """Close our side and read a moment longer: closing with unread input resets the connection and would destroy the answer."""
        self._socket.shutdown(socket.SHUT_WR)
        with trio.move_on_after(LINGER_SECONDS_MAX):
            while await _receive_some(self._socket):
                pass


def _turn_away(accepted: socket.socket) -> None:
    """Answer 503 without reading, as far as that goes at once, and close."""
    with accepted, suppress(OSError):
        accepted.send(_encode(problem(Unavailable("Too many connections.")), keep=False))


def _send_some(connection: socket.socket, data: memoryview) -> memoryview:
    """Send what can be sent at once; what is left."""
    try:
        return data[connection.send(data) :]
    except BlockingIOError:
        return data


async def _receive_some(connection: socket.socket) -> bytes:
    """What arrives next; b"" at the end."""
    while True:
        await trio.lowlevel.wait_readable(connection)
        try:
            return connection.recv(READ_BYTES)
        except BlockingIOError:
            continue  # readable a moment ago, and not any more


class _Reader:
    """llhttp's events made into requests. `error` is set by the first thing that is wrong; nothing is read after it."""

    def __init__(self, limits: Limits, may_hold: Callable[[int], bool] = lambda _size: True) -> None:
        self.requests: deque[tuple[Request, bool]] = deque()
        self.error: SentinelError | None = None
        self.continue_wanted = False
        self.phase = "idle"
        self._limits = limits
        self._may_hold = may_hold
        self._parser = httptools.HttpRequestParser(self)
        self.begun = 0

    def feed(self, data: bytes) -> None:
        """Read what arrived. Anything may come in; what is not HTTP/1.1 becomes `error`."""
        if self.error is not None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._end_here()
        except httptools.HttpParserError as error:
            if str(error) == "Data after `Connection: close`":
                return  # what comes behind the last request of a connection is nobody's
            self.error = self.error or BadInput(f"The request is not valid HTTP/1.1 ({_reason(error)}).")

    def _end_here(self) -> None:
        """An Upgrade that we do not offer is answered as if it were not there (RFC 9110, 7.8), and the connection ends with it."""
        if self.requests:
            request, _ = self.requests.pop()
            self.requests.append((request, False))
        else:
            self.error = self.error or BadInput("This server offers no upgrade.")

    # llhttp's events

    def on_message_begin(self) -> None:
        self.begun += 1
        self.phase = "head"
        self._url = b""
        self._headers: dict[str, str] = {}
        self._header_count = self._header_bytes = self._body_bytes = self._hosts = 0
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > HEADER_BYTES_MAX:
            self._fail(HeadersTooLarge("The URL is too long."))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase == "body":
            return  # a trailer; nothing here reads trailers
        self._header_count += 1
        self._header_bytes += len(name) + len(value)
        if self._header_count > HEADERS_MAX or self._header_bytes > HEADER_BYTES_MAX:
            self._fail(HeadersTooLarge(f"At most {HEADERS_MAX} headers and {HEADER_BYTES_MAX} bytes of them are taken."))
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._hosts += key == "host"
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        self.phase = "body"
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._fail(BadInput("The HTTP version must be 1.0 or 1.1."))
        elif self._hosts > 1 or (version == "1.1" and not self._hosts):
            self._fail(BadInput("The request must have one Host header."))
        elif self._headers.get("transfer-encoding", "chunked").lower() != "chunked":
            self._fail(BadInput("No transfer encoding but chunked is taken."))
        elif int(self._headers.get("content-length", "0")[:20] or 0) > self._limits.body_bytes:
            self._fail(self._too_large())
        elif self._headers.get("expect", "").lower() == "100-continue" and version == "1.1":
            self.continue_wanted = True

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.body_bytes:
            self._fail(self._too_large())
        elif self.error is None and not self._may_hold(len(body)):
            self._fail(Unavailable("Too many bodies are on their way."))
        elif self.error is None:
            self._body.append(body)
        self.continue_wanted = False

    def on_message_complete(self) -> None:
        self.phase = "idle"
        self.continue_wanted = False
        if self.error is not None:
            return
        path, _, query = self._url.decode("latin-1").partition("?")
        path = unquote(_plain_path(path))
        if not path.isprintable():
            self._fail(BadInput("The path has control characters."))
            return
        method = self._parser.get_method().decode("ascii")
        request = Request(method, path, query, self._headers, b"".join(self._body))
        self.requests.append((request, self._parser.should_keep_alive()))

    def _fail(self, error: SentinelError) -> None:
        self.error = self.error or error
        self._body.clear()

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self._limits.body_bytes} bytes.")


def _plain_path(target: str) -> str:
    """The path of a request target; an absolute one (RFC 9112, 3.2.2) loses its scheme and host."""
    if target.startswith(("http://", "https://")):
        return "/" + target.partition("://")[2].partition("/")[2]
    return target


_date: tuple[int, bytes] = (0, b"")


def _date_header() -> bytes:
    """The Date header, made anew once a second."""
    global _date  # noqa: PLW0603  a cache of one line, the same for every connection
    now = int(time.time())
    if _date[0] != now:
        _date = (now, f"date: {formatdate(now, usegmt=True)}\r\n".encode())
    return _date[1]


def _encode(response: Response, *, keep: bool, head: bool = False) -> bytes:
    """The response as bytes. Header values come from our own code; a line break in one would be a fault, and is refused."""
    lines = [_REASONS[response.status], _date_header()]
    for name, value in response.headers:
        line = f"{name}: {value}\r\n"
        if line.count("\n") != 1 or line.count("\r") != 1:
            raise ValueError(f"the header {name} has a line break")
        lines.append(line.encode("latin-1"))
    lines.append(
        b"content-length: %d\r\n" % len(response.body)
        if keep
        else b"content-length: %d\r\nconnection: close\r\n" % len(response.body)
    )
    lines.append(b"\r\n")
    if not head:
        lines.append(response.body)
    return b"".join(lines)


def _reason(error: Exception) -> str:
    return str(error)[:80].replace("`", "'")
