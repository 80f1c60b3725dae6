"""One connection of the fast lane: what arrives becomes requests, in order, and answers go out. It never waits: it is told when.

Edge-triggered: after each word of the poller it reads until there is nothing more, so a request costs one `recv` and one `send`.
"""

from __future__ import annotations

import re
import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from sentinel.edge.forwarded import is_proxy, read_opening
from sentinel.errors import BadInput, SentinelError, TooSlow, Unavailable
from sentinel.http import Request, Response, problem
from sentinel.http1 import Reader, encode_response
from sentinel.logs import log
from sentinel.tls import HANDSHAKE, TlsSocket

if TYPE_CHECKING:
    from sentinel.lane import Lane

READ_BYTES = 65_536
IDLE_SECONDS_MAX = 15.0
HEAD_SECONDS_MAX = 5.0
SEND_SECONDS_MAX = 10.0
LINGER_SECONDS_MAX = 1.0
QUEUE_SECONDS_MAX = 2.5  # a request waits so long for its turn; then its sender is told to try again, before it gives up by itself
BODY_GRACE_SECONDS, BODY_BYTES_PER_SECOND_MIN = 2.0, 1_000.0  # a body that trickles in more slowly is given up before its time
NEVER = float("inf")
BUSY = problem(Unavailable("Too many requests at a time."))
STREAMED, STREAM = b"GET /v1/jobs/", re.compile(rb"GET /v1/jobs/[^ /?]+/events[ ?]")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET


class Connection:
    """The state of one connection: what is being parsed, what waits for its answer or its reader, and when patience ends."""

    __slots__ = (
        "_began", "_busy", "_first", "_held_bytes", "_hung_up", "_lane", "_lingering", "_opened", "_out", "_reader", "_reading",
        "_secure", "_seen", "_socket", "_unread", "address", "closed", "deadline", "seen_at", "slow",
    )  # fmt: skip

    def __init__(self, lane: Lane, accepted: socket.socket, address: str, from_proxy: bool) -> None:
        self.address = address
        self.closed = False
        self.slow = False  # in the middle of a request that did not come at once, or of an answer that its reader did not take
        self.deadline = lane.now + HEAD_SECONDS_MAX
        self.seen_at = lane.now  # when the poller saw that something came, which may have to wait before it is read
        self._began = lane.now
        self._lane = lane
        self._socket: socket.socket | TlsSocket = accepted
        self._reader = Reader(lane.limits, self._may_hold)
        self._reader.client, self._reader.from_proxy = address, from_proxy
        self._first, self._opened = b"", False
        self._seen = ("idle", 0)
        self._held_bytes = 0
        self._out: memoryview | None = None  # what the socket did not take yet; nothing is read or begun before it is gone
        self._busy = self._unread = self._hung_up = self._lingering = self._secure = self._reading = False

    @property
    def is_idle(self) -> bool:
        """Whether no request has begun that is not answered."""
        return self._reader.phase == "idle" and not self._busy and self._out is None

    # What the poller and the clock say

    def ready(self, events: int) -> None:
        """Something happened on the socket. The events are hints: what a call on the socket says is what counts."""
        if events & ~select.EPOLLOUT:
            self._unread = True
            self._hung_up = self._hung_up or bool(events & ~(select.EPOLLIN | select.EPOLLOUT))
        if self._out is not None and events & select.EPOLLOUT:
            self._send(b"")
        if self._unread and not self._busy and self._out is None:
            self._read()

    def late(self) -> None:
        """The deadline has passed."""
        if self.is_idle or self._lingering or self._out is not None:
            self.close()
        else:
            self._refuse(TooSlow("The request did not arrive in time."))

    # What the lane's handlers ask for and say

    @property
    def in_time(self) -> bool:
        """Whether the request that was just taken has not waited for its turn so long that its sender will not wait for more."""
        return self._lane.now < self._began + QUEUE_SECONDS_MAX

    @property
    def has_more(self) -> bool:
        """Whether another request waits behind the one that was answered, and can be."""
        return bool(self._reader.requests) and self._out is None and not (self.closed or self._lingering)

    def next_request(self) -> tuple[Request, bool] | None:
        """The next request to be answered and whether the connection goes on after it; None if there is none now."""
        return self._reader.requests.popleft() if self.has_more else None

    def answer(self, request: Request, keep: bool, response: Response) -> None:
        """Send the answer; when the connection does not go on, end it in order."""
        if self.closed:
            return
        keep = keep and not self._lane.closing
        self._began = self.seen_at = self._lane.now  # what came meanwhile waited for this answer, and not for its turn
        self._send(encode_response(response, keep=keep, head=request.method == "HEAD"))
        if not keep:
            self._linger()

    def done(self) -> None:
        """Nothing of this connection is being handled any more: go on with what came meanwhile."""
        self._busy = False
        if self.closed or self._out is not None:
            return
        if not self._lingering:
            self._go_on()
        if self._unread:
            self._read()

    def crash(self, error: Exception) -> None:
        """End this connection: a fault in one must not end the others."""
        log.exception("connection.crashed", client=self.address, error=error)
        self.close()

    def close(self) -> None:
        """Give everything back. Idempotent."""
        if not self.closed:
            self.closed = True
            self._let_go()
            self._reader.close()
            self._lane.forget(self, self._socket.fileno())
            self._socket.close()

    # Reading

    def _read(self) -> None:
        """Read to the end, or to a whole request; one that is answered at once may come back here, and is in the loop already."""
        if self._reading:
            return
        self._reading = True
        try:
            while self._unread and not self._busy and self._out is None and not self.closed:
                self._read_once()
        finally:
            self._reading = False

    def _read_once(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            self._unread = False
        except OSError:  # the other side is gone; there is nobody to tell
            self.close()
        else:
            if not data:
                self.close()
            elif not self._lingering:
                self._unread = self._hung_up or len(data) == READ_BYTES
                self._take(data)

    def _take(self, data: bytes) -> None:
        if not self._opened:
            data = self._open(data)
        if data and self._is_stream(data):
            self.closed = True
            self._let_go()
            self._reader.close()
            self._lane.hand_over_soon(self, self._socket, data)
            return
        if data:
            self._reader.feed(data)
        if not self.closed:
            self._go_on()

    def _is_stream(self, data: bytes) -> bool:
        """Whether a request begins here whose answer is a stream, which is not for the lane."""
        return data.startswith(STREAMED) and self.is_idle and STREAM.match(data) is not None

    def _open(self, data: bytes) -> bytes:
        """What is for the reader of a connection's first bytes: nothing while they are too few, or if it goes elsewhere."""
        reader = self._reader
        try:
            opening = read_opening(self._first + data, reader.from_proxy and not self._secure)
        except BadInput as error:
            reader.error = error
            return b""
        if opening is None:
            self._first += data
            return b""
        self._first = b""
        if opening.client and not self._is_now_of(opening.client):
            reader.error = Unavailable("Too many connections.")
        elif not self._secure and (opening.rest[:1] == HANDSHAKE or self._lane.tls is not None):
            self._begin_tls(opening.rest)
        elif opening.http2:
            self.closed = True
            reader.close()
            self._lane.hand_over_soon(self, self._socket, opening.rest)
        else:
            self._opened = True
            return opening.rest
        return b""

    def _begin_tls(self, data: bytes) -> None:
        """Go on in TLS; whoever speaks it where it is not offered, or does not where it is, is sent away."""
        if self._lane.tls is None:
            self.close()
        elif data[:1] != HANDSHAKE:
            self._reader.error = BadInput("This address speaks TLS: use https.")
        else:
            assert isinstance(self._socket, socket.socket)
            self._socket = TlsSocket(self._socket, self._lane.tls(), data)
            self._secure = self._unread = self._hung_up = True  # what TLS holds, no poller tells: always read to the end

    def _is_now_of(self, client: str) -> bool:
        """Count the connection as this client's, and not as its proxy's; False if the client has all it may have."""
        reader = self._reader
        reader.client, reader.from_proxy = client, is_proxy(client, self._lane.limits.proxies)
        return client == self.address or self._lane.rename(self, client)

    def _go_on(self) -> None:
        """What follows from what was read: the next request's turn, a refusal, or more patience."""
        reader = self._reader
        while reader.requests and self._out is None and not (self._lingering or self.closed):
            self._began, self.deadline, self._busy = self.seen_at, NEVER, True
            if self._is_taken(reader.requests[0][0]):
                return  # and may be answered already
            self._busy = False
            self.answer(*reader.requests.popleft(), BUSY)
        if self._out is not None or self._lingering or self.closed:
            return
        if reader.error is not None:
            self._refuse(reader.error)
            return
        if reader.continue_wanted:
            reader.continue_wanted = False
            self._send(CONTINUE)
        if reader.phase == "idle" and not self._first:
            self._rest()
        else:
            self._be_patient()

    def _is_taken(self, request: Request) -> bool:
        if request.client != self.address and not self._lane.rename(self, request.client):
            return False
        return self._lane.turns.take(self, request)

    def _rest(self) -> None:
        self._let_go()
        self.slow = False
        self.deadline = self._lane.now + (IDLE_SECONDS_MAX if self._reader.begun else HEAD_SECONDS_MAX)
        if self._lane.closing:
            self.close()

    def _be_patient(self) -> None:
        """How long the rest of this request may take: patience begins anew with its head and with its body, not with each byte."""
        reader, now = self._reader, self._lane.now
        self.slow = True
        if self._seen != (reader.phase, reader.begun):
            self._seen, self._began = (reader.phase, reader.begun), now
        if reader.phase == "body":
            trickle = BODY_GRACE_SECONDS + reader.body_bytes / BODY_BYTES_PER_SECOND_MIN
            self.deadline = self._began + min(trickle, self._lane.limits.body_seconds)
        else:
            self.deadline = self._began + HEAD_SECONDS_MAX

    def _may_hold(self, size: int) -> bool:
        """Count so many more bytes of a body; False if all connections together hold too many already."""
        self._held_bytes += size
        self._lane.bodies_bytes += size
        return self._lane.bodies_bytes <= self._lane.limits.all_bodies_bytes

    def _let_go(self) -> None:
        self._lane.bodies_bytes -= self._held_bytes
        self._held_bytes = 0

    # Sending

    def _refuse(self, error: SentinelError) -> None:
        self._send(encode_response(problem(error), keep=False))
        self._linger()

    def _send(self, data: bytes) -> None:
        """Send it behind what is waiting, as far as the socket takes it; the poller tells when it takes more."""
        rest = memoryview(data) if self._out is None else self._out
        try:
            rest = rest[self._socket.send(rest) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if rest:
            if self._out is None:
                self.deadline = self._lane.now + SEND_SECONDS_MAX
                self._lane.watch_writable(self._socket)
                self.slow = True
            self._out = rest
        elif self._out is not None:
            self._out = None
            self._sent()

    def _sent(self) -> None:
        """The reader that was slow has everything now."""
        if self._lingering:
            self._lingering = False
            self._linger()
        elif not self._busy:
            self._go_on()

    def _linger(self) -> None:
        """Close our side and read a moment longer: closing with unread input resets the connection and would destroy the answer."""
        if self.closed or self._lingering:
            return
        self._lingering = True
        if self._out is None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
            self.deadline = self._lane.now + LINGER_SECONDS_MAX
            self._unread = True
            if not self._busy:
                self._read()
