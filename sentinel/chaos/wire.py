"""One request and its answer on a plain socket, as cheap as it gets: Content-Length answers and keep-alive, and nothing more."""

from __future__ import annotations

import re
import socket
from contextlib import suppress

import attrs
import trio

from sentinel.chaos.history import UNSENT

READ_BYTES = 65_536
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@attrs.frozen
class Answer:
    """An answer's status, its head, and whether the connection may be used again."""

    status: int
    head: bytes
    keep: bool


class Broken(Exception):
    """The connection ended before the answer was there; `sent` is when the request was gone, 0 if it never was."""

    def __init__(self, reason: str, sent: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


async def ask(host: str, port: int, data: bytes) -> Answer:
    """The answer to one request on a connection of its own. Raises Broken."""
    connection = await connect(host, port)
    with connection:
        await send_all(connection, data)
        return await read_answer(connection, 0.0)


async def connect(host: str, port: int) -> socket.socket:
    """A new connection, not blocking. Raises Broken."""
    connection = socket.socket()
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(BlockingIOError):
            connection.connect((host, port))
        await trio.lowlevel.wait_writable(connection)
        connection.getpeername()  # raises if the connection failed
    except BaseException as error:
        connection.close()
        if isinstance(error, OSError):
            raise Broken(UNSENT) from None
        raise
    return connection


async def send_all(connection: socket.socket, data: bytes) -> None:
    """Send a request. Raises Broken."""
    rest = memoryview(data)
    try:
        while rest := rest[connection.send(rest) :]:
            await trio.lowlevel.wait_writable(connection)
    except BlockingIOError:
        raise Broken("the request did not fit") from None  # a fresh answer empties the buffer; a webhook of this test is small
    except OSError:
        raise Broken(UNSENT) from None


async def read_answer(connection: socket.socket, sent: float) -> Answer:
    """The answer, whole: its end is where Content-Length says."""
    received, end = b"", -1
    while end < 0 or len(received) < end:
        await trio.lowlevel.wait_readable(connection)
        try:
            chunk = connection.recv(READ_BYTES)
        except BlockingIOError:
            continue
        except OSError:
            raise Broken("reset", sent) from None
        if not chunk:
            raise Broken("closed without an answer", sent)
        received += chunk
        if end < 0 and (blank := received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(received, 0, blank)
            end = blank + 4 + (int(length[1]) if length else 0)
    head = received[: received.find(b"\r\n\r\n")]
    return Answer(int(head[9:12]), head, not _CLOSE.search(head))


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended a connection that nobody waits on."""
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True  # the end, or bytes that nobody asked for
