"""TLS over a socket that does not block, and over trio for the server behind the lane. Knows neither HTTP nor files."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

import trio

READ_BYTES = 65_536
HANDSHAKE = b"\x16"  # the first byte of a client that speaks TLS (RFC 8446, 5.1)
_WAITS = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
_ENDED = (ssl.SSLZeroReturnError, ssl.SSLEOFError)


class TlsSocket:
    """
    A socket's calls as a connection makes them, with TLS in between. The handshake happens within `recv`.

    `began` is what was read from the socket already. Buffers in memory, because the first bytes may be a proxy's and not TLS's.
    """

    __slots__ = ("_arrived", "_ended", "_tls", "_to_send", "_unsent", "plain")

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, began: bytes) -> None:
        self.plain = plain
        self._arrived, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._to_send, server_side=True)
        self._arrived.write(began)
        self._unsent = b""
        self._ended = False  # we have said goodbye

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self.plain.fileno()

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes, often fewer than there are; b"" at the end. Raises BlockingIOError while there is nothing."""
        if self._ended:
            return self._drop()
        while True:
            try:
                return self._tls.read(size)
            except _WAITS:
                pass
            except _ENDED:
                return b""
            finally:
                self._flush()  # its part of a handshake, or what is wrong with the other's
            data = self.plain.recv(READ_BYTES)
            self._arrived.write(data) if data else self._arrived.write_eof()

    def send(self, data: bytes | memoryview) -> int:
        """Send all of it. Raises BlockingIOError if the socket takes no more now; then call again with the same bytes."""
        if not self._unsent:
            self._tls.write(data)
        if not self._flush():
            raise BlockingIOError
        return len(data)

    def shutdown(self, how: int) -> None:
        """Say that nothing follows, in TLS and in TCP."""
        self._say_goodbye()
        self.plain.shutdown(how)

    def close(self) -> None:
        """Say goodbye as far as that goes at once, and give the socket back."""
        with suppress(OSError):
            self._say_goodbye()
        self.plain.close()

    def _say_goodbye(self) -> None:
        if not (self._unsent or self._ended):
            self._ended = True
            with suppress(ssl.SSLError):  # it waits for the other side's goodbye, and we do not; or there was no handshake
                self._tls.unwrap()
            self._flush()

    def _drop(self) -> bytes:
        """Read what still comes, since closing over it would reset the connection, and destroy what we said."""
        while self.plain.recv(READ_BYTES):
            pass
        return b""

    def _flush(self) -> bool:
        """Send what is encrypted; whether all of it is gone."""
        self._unsent += self._to_send.read()
        if self._unsent:
            with suppress(BlockingIOError):
                self._unsent = self._unsent[self.plain.send(self._unsent) :]
        return not self._unsent


class TlsStream(trio.abc.HalfCloseableStream):
    """The same connection as a stream. `socket` knows the names of its ends."""

    def __init__(self, tls: TlsSocket) -> None:
        self._tls = tls
        self.socket = tls.plain

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What came; b"" at the end."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._tls.recv(max_bytes or READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.socket)
            except OSError as error:
                raise trio.BrokenResourceError from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Return once the socket has taken all of it."""
        await trio.lowlevel.checkpoint()
        whole = bytes(data)
        while whole:
            try:
                self._tls.send(whole)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.socket)
            except OSError as error:
                raise trio.BrokenResourceError from error
            else:
                return

    async def wait_send_all_might_not_block(self) -> None:
        """Return when the socket may take something."""
        await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        """Say that nothing follows."""
        await trio.lowlevel.checkpoint()
        with suppress(OSError):
            self._tls.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Close it, whoever waits for it."""
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self._tls.close()
        await trio.lowlevel.checkpoint()
