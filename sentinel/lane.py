"""The fast lane: connections of short HTTP/1.1 requests, from the socket to `Gateway.handle`, on trio, with a bound on everything.

It offers no TLS, HTTP/2 or upgrade: a connection that begins with the HTTP/2 preface goes to Hypercorn with the bytes already read.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address

import attrs
import trio

from sentinel.errors import SentinelError, TooSlow, Unavailable
from sentinel.http import Request, Response, problem
from sentinel.http1 import Limits, Reader, encode_response
from sentinel.logs import log

READ_BYTES = 65_536
IDLE_SECONDS_MAX = 15.0
HEAD_SECONDS_MAX = 5.0
SEND_SECONDS_MAX = 10.0
LINGER_SECONDS_MAX = 1.0
CLOCK_SECONDS = 0.1
BODY_GRACE_SECONDS, BODY_BYTES_PER_SECOND_MIN = 2.0, 1_000.0  # a body that trickles in more slowly is given up before its time
EXHAUSTED_SECONDS = 0.1  # out of descriptors: look again after this, instead of spinning
HTTP2_PREFACE = b"PRI"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Handle = Callable[[Request], Awaitable[Response]]
HandOver = Callable[[trio.SocketStream, bytes], Awaitable[None]]


@attrs.define(eq=False)
class Lane:
    """Serves connections until closed. `handle` answers a request; `hand_over` serves what is not for the lane."""

    handle: Handle
    hand_over: HandOver
    limits: Limits
    closing: bool = attrs.field(default=False, init=False)
    bodies_bytes: int = attrs.field(default=0, init=False)
    connections: int = attrs.field(default=0, init=False)
    _by_address: Counter[str] = attrs.field(factory=Counter, init=False)
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
                    accepted, peer = listener.accept()
                    accepted.setblocking(False)
                    address = peer[0] if peer else ""
                    if self.connections >= self.limits.connections or self._has_enough(address):
                        _turn_away(accepted)
                        continue
                    self.connections += 1
                    self._by_address[address] += 1
                    nursery.start_soon(self._serve, accepted, address)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    log.error("lane.exhausted", error=repr(error))
                    await trio.sleep(EXHAUSTED_SECONDS)
                # anything else is that one connection's fault: it was gone before we took it (accept(2))

    def _has_enough(self, address: str) -> bool:
        """Whether this address has all the connections that one may have."""
        if self._by_address[address] < self.limits.connections_per_address or not address:
            return False
        return not any(ip_address(address.partition("%")[0]) in network for network in self.limits.proxies)

    async def _serve(self, accepted: socket.socket, address: str) -> None:
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
                self._by_address[address] -= 1
                if not self._by_address[address]:
                    del self._by_address[address]


class _Connection:
    """The state of one connection: what is being parsed, what waits for its answer, and when patience ends."""

    def __init__(self, lane: Lane, connection: socket.socket, receiving: set[_Connection]) -> None:
        self.deadline = trio.current_time() + HEAD_SECONDS_MAX
        self._lane = lane
        self._socket = connection
        self._receiving = receiving
        self._reader = Reader(lane.limits, self._may_hold)
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
        seen, began = (reader.phase, reader.begun), trio.current_time()
        while data := await self._receive():
            if not reader.begun and data.startswith(HTTP2_PREFACE):
                await self._lane.hand_over(trio.SocketStream(trio.socket.from_stdlib_socket(self._socket)), data)
                return
            reader.feed(data)
            if not await self._answer_all():
                return
            if seen != (reader.phase, reader.begun):  # another phase, or the same one of another request: patience begins anew
                seen, began = (reader.phase, reader.begun), trio.current_time()
                self.deadline = began + self._seconds(reader.phase)
            if reader.phase == "body":
                trickle = BODY_GRACE_SECONDS + reader.body_bytes / BODY_BYTES_PER_SECOND_MIN
                self.deadline = began + min(trickle, self._lane.limits.body_seconds)

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
            await self._send(encode_response(response, keep=keep, head=request.method == "HEAD"))
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
        await self._send(encode_response(problem(error), keep=False))
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
        accepted.send(encode_response(problem(Unavailable("Too many connections.")), keep=False))


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
