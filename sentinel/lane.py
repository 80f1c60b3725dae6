"""The fast lane: connections of short HTTP/1.1 requests, from the socket to `Gateway.handle`, on trio, with a bound on everything.

It offers no HTTP/2 or upgrade: a connection that begins with the HTTP/2 preface goes to Hypercorn with the bytes already read.
One task looks after all sockets with an epoll of its own. Only a request that has to be waited for has a task meanwhile, of a pool.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import attrs
import trio

from sentinel.connection import READABLE, Connection
from sentinel.edge.forwarded import is_proxy
from sentinel.errors import Unavailable
from sentinel.http import problem
from sentinel.http1 import Limits, encode_response
from sentinel.logs import Outage, describe, log
from sentinel.tls import TlsSocket, TlsStream
from sentinel.turns import Begin, Handle, Turns

CLOCK_SECONDS = 0.1
EVENTS_AT_A_TIME = 1_024
QUICK_AT_A_TIME = 32  # each may be a whole webhook; in between, a commit that is over is answered and the next one begun
# More than are looked at in the same pass, so that no spike is left in the kernel's queue; not so many that others are held up.
# Of a shared socket less: a process must not take all that others are as ready to take.
ACCEPTED_AT_A_TIME, ACCEPTED_OF_SHARED = 64, 16
SLOW_AT_A_TIME, LATE_AT_A_TIME = 8, 32  # of those who dawdle, before anybody else is looked after again
EXHAUSTED_SECONDS = 0.1  # out of descriptors: look again after this, instead of spinning
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

HandOver = Callable[[trio.SocketStream | TlsStream, bytes, str], Awaitable[None]]


@attrs.define(eq=False)
class Lane:
    """
    Serves connections until closed. `handle` answers a request; `hand_over` serves what is not for the lane.

    The latter gets the stream, what was read from it already, and the client's address ("" if it has none). `begin`, if given, is
    asked before `handle`: it answers requests that came together, now or later, and gives back those that it leaves to `handle`.
    Unless `alone`, other processes accept from the same socket. With `tls`, which is asked for each connection, only TLS is spoken.
    """

    handle: Handle
    hand_over: HandOver
    limits: Limits
    alone: bool = True
    begin: Begin = lambda exchanges: exchanges
    tls: Callable[[], ssl.SSLContext] | None = None
    closing: bool = attrs.field(default=False, init=False)
    now: float = attrs.field(default=0.0, init=False)  # trio's clock as the poller last saw it
    turns: Turns = attrs.field(init=False)
    bodies_bytes: int = attrs.field(default=0, init=False)
    connections: int = attrs.field(default=0, init=False)
    served: int = attrs.field(default=0, init=False)  # so far, like the next two
    handed_over: int = attrs.field(default=0, init=False)
    turned_away: int = attrs.field(default=0, init=False)
    _by_address: Counter[str] = attrs.field(factory=Counter, init=False)
    _served: dict[int, Connection] = attrs.field(factory=dict, init=False)
    _listeners: dict[int, socket.socket] = attrs.field(factory=dict, init=False)
    _epoll: select.epoll = attrs.field(factory=select.epoll, init=False)
    _quick: OrderedDict[Connection, int] = attrs.field(factory=OrderedDict, init=False)  # what it has not been told yet
    _slow: OrderedDict[Connection, int] = attrs.field(factory=OrderedDict, init=False)  # the same, of those who dawdle
    _exhausted: Outage = attrs.field(factory=lambda: Outage("lane.exhausted"), init=False)
    _nursery: trio.Nursery = attrs.field(init=False)
    _empty: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self.turns = Turns(self.handle, self.begin, self.limits.requests)

    async def run(self, listeners: Sequence[socket.socket]) -> None:
        """Accept and serve for ever; when `close` was called, until the last request that had begun is answered."""
        self.now = trio.current_time()
        self._listeners = {listener.fileno(): listener for listener in listeners}
        try:
            async with trio.open_nursery() as self._nursery:
                self.turns.pool = self._nursery
                async with trio.open_nursery() as looking:
                    looking.start_soon(self._poll)
                    looking.start_soon(self._end_the_late)
                    looking.start_soon(self.turns.run)
                    self._listen()
                    await self._empty.wait()
                    looking.cancel_scope.cancel()
                self.turns.close()
        finally:
            for connection in list(self._served.values()):
                connection.close()
            self.turns.clear()
            self._epoll.close()

    def close(self) -> None:
        """Take no more connections, close the idle ones, and each other after its answer."""
        self.closing = True
        for listener in self._listeners.values():
            with suppress(FileNotFoundError):  # it rests, for want of descriptors
                self._epoll.unregister(listener)
        for connection in list(self._served.values()):
            if connection.is_idle:
                connection.close()
        self._end_if_empty()

    # Looking

    async def _poll(self) -> None:
        """
        Tell connections what happened on their sockets. One wait of trio's for all of them, and no system call to begin it.

        Those in the middle of a request or an answer come behind the others, some at a time: thousands that send a byte each would
        otherwise hold up whoever sends a request whole.
        """
        epoll, served, quick, slow = self._epoll, self._served, self._quick, self._slow
        while True:
            if quick or slow:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(epoll.fileno())
            self.now = trio.current_time()
            for descriptor, events in epoll.poll(0, EVENTS_AT_A_TIME):
                connection = served.get(descriptor)
                if connection is not None:
                    waiting = slow if connection.slow else quick
                    if connection not in waiting:
                        connection.seen_at = self.now
                    waiting[connection] = waiting.get(connection, 0) | events
                elif descriptor in self._listeners and not self.closing:
                    self._accept(self._listeners[descriptor])
            if quick:
                self._tell(quick, QUICK_AT_A_TIME)
            if slow:
                self._tell(slow, SLOW_AT_A_TIME)

    def _tell(self, waiting: OrderedDict[Connection, int], at_a_time: int) -> None:
        """Tell those whose turn it is; the requests that come of it are begun together."""
        with self.turns.together():
            for _ in range(min(len(waiting), at_a_time)):
                connection, events = waiting.popitem(last=False)
                if not connection.closed:
                    self._guard(connection, connection.ready, events)

    async def _end_the_late(self) -> None:
        """Tell whoever has waited too long for its peer: one clock for all, cheaper than a cancel scope for each wait."""
        while True:
            await trio.sleep(CLOCK_SECONDS)
            self.now = trio.current_time()
            late = [each for each in self._served.values() if each.deadline <= self.now]
            for number, connection in enumerate(late, 1):
                if connection.deadline <= self.now and not connection.closed:
                    self._guard(connection, connection.late)
                if number % LATE_AT_A_TIME == 0:
                    await trio.lowlevel.checkpoint()

    def _guard(self, connection: Connection, tell: Callable[..., None], *what: int) -> None:
        """Whatever goes wrong on one connection ends it alone."""
        try:
            tell(*what)
        except Exception as error:  # noqa: BLE001  as in `Connection.crash`
            connection.crash(error)

    def watch_writable(self, connection: socket.socket | TlsSocket) -> None:
        """Say when this socket takes more."""
        self._epoll.modify(connection, READABLE | select.EPOLLOUT)

    # Accepting

    def _listen(self) -> None:
        for listener in self._listeners.values():
            listener.setblocking(False)
            if listener.family != socket.AF_UNIX:
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is accepted has it too (tcp(7))
            self._epoll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)

    def _accept(self, listener: socket.socket) -> None:
        """Take many in one pass: with one connection a pass, the last of a spike waits for all others."""
        for _ in range(ACCEPTED_AT_A_TIME if self.alone else ACCEPTED_OF_SHARED):
            try:
                accepted, peer = listener.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._exhausted.failed(describe(error))
                    self._epoll.unregister(listener)  # it would say for ever that there is a connection that cannot be had
                    self._nursery.start_soon(self._listen_later, listener)
                    return
                continue  # that one connection's fault: it was gone before we took it (accept(2))
            self._admit(accepted, peer[0] if peer else "")
        self._exhausted.over()

    async def _listen_later(self, listener: socket.socket) -> None:
        await trio.sleep(EXHAUSTED_SECONDS)
        if not self.closing:
            self._epoll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)

    def _admit(self, accepted: socket.socket, address: str) -> None:
        if self.connections >= self.limits.connections or self._has_enough(address):
            self.turned_away += 1
            _turn_away(accepted, silently=self.tls is not None)
            return
        accepted.setblocking(False)
        self.connections += 1
        self.served += 1
        self._by_address[address] += 1
        self._served[accepted.fileno()] = Connection(self, accepted, address, is_proxy(address, self.limits.proxies))
        self._epoll.register(accepted, READABLE)

    def _has_enough(self, address: str) -> bool:
        """Whether this address has all the connections that one may have."""
        if self._by_address[address] < self.limits.connections_per_address or not address:
            return False
        return not is_proxy(address, self.limits.proxies)

    def rename(self, connection: Connection, address: str) -> bool:
        """Count the connection as this address's from now on; False if that has all it may have."""
        if self._has_enough(address):
            return False
        self._by_address[address] += 1
        self._uncount(connection.address)
        connection.address = address
        return True

    def forget(self, connection: Connection, descriptor: int) -> None:
        """This connection is closed."""
        del self._served[descriptor]
        self._release(connection.address)

    def _release(self, address: str) -> None:
        self.connections -= 1
        self._uncount(address)
        self._end_if_empty()

    def _uncount(self, address: str) -> None:
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def _end_if_empty(self) -> None:
        if self.closing and not self.connections:
            self._empty.set()

    # Elsewhere

    def hand_over_soon(self, connection: Connection, accepted: socket.socket | TlsSocket, data: bytes) -> None:
        """Have the other server go on with this connection."""
        self.handed_over += 1
        self._epoll.unregister(accepted)
        del self._served[accepted.fileno()]
        self._nursery.start_soon(self._serve_elsewhere, connection.address, accepted, data)

    async def _serve_elsewhere(self, address: str, accepted: socket.socket | TlsSocket, data: bytes) -> None:
        try:
            async with _stream_of(accepted) as stream:
                await self.hand_over(stream, data, address)
        except (OSError, trio.BrokenResourceError):
            pass  # the other side is gone
        except Exception as error:  # noqa: BLE001  as above
            log.exception("connection.crashed", client=address, error=error)
        finally:
            self._release(address)


def _stream_of(accepted: socket.socket | TlsSocket) -> trio.SocketStream | TlsStream:
    if isinstance(accepted, TlsSocket):
        return TlsStream(accepted)
    return trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


def _turn_away(accepted: socket.socket, *, silently: bool) -> None:
    """Answer 503 without reading, as far as that goes at once, and close. Within TLS that would take a handshake first."""
    if silently:
        accepted.close()
        return
    with accepted, suppress(OSError):
        accepted.setblocking(False)
        accepted.send(encode_response(problem(Unavailable("Too many connections.")), keep=False))
