"""Makes Hypercorn on trio survive its connections, and gives it connections that the fast lane has read from already.

Hypercorn 0.18 lets any exception but OSError from one connection's protocol code rise into the nursery that serves all of them.
Nine small inputs (an extra byte behind a WebSocket upgrade, a bad HTTP2-Settings, a byte ≥ 0x80 in an HTTP/2 path …) end the
program for everybody.
"""

from __future__ import annotations

from typing import Any, cast

import hypercorn.trio.run
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from sentinel.logs import log
from sentinel.tls import TlsStream

SEND_SECONDS_MAX = 10.0
STREAMS_MAX, HEADER_LIST_BYTES_MAX = 32, 16_384  # of one HTTP/2 connection
AFTER_SECONDS_MAX = 1.0


class GuardedTCPServer(TCPServer):
    """
    One connection whose faults are its own, and that ends.

    Hypercorn sends behind a shield, for ever if nobody reads, and its HTTP/2 goes on waiting for what to send when the client has
    gone in the middle of an error: so each send has a deadline, and what is left of a connection after its last byte has one.
    """

    def __init__(self, app: Any, config: Config, context: WorkerContext, state: Any, stream: Any) -> None:
        _limit(config)
        super().__init__(app, config, context, state, cast(Any, _Patient(stream)))
        self._whole = trio.CancelScope()

    async def run(self) -> None:
        """Serve the connection; log what it raises, close it, and let the others live."""
        try:
            with self._whole:
                await super().run()
        except* Exception as errors:  # noqa: BLE001  whatever it is, it belongs to this connection
            log.warning("connection.crashed", error=errors)

    async def _read_data(self) -> None:
        try:
            await super()._read_data()
        finally:
            self._whole.deadline = trio.current_time() + AFTER_SECONDS_MAX


def _limit(config: Config) -> None:
    """What holds for every connection, whoever started Hypercorn: less than by default, and it does not say what it is."""
    config.include_server_header = False
    config.h2_max_concurrent_streams = min(config.h2_max_concurrent_streams, STREAMS_MAX)
    config.h2_max_header_list_size = min(config.h2_max_header_list_size, HEADER_LIST_BYTES_MAX)


def guard_hypercorn() -> None:
    """From now on, Hypercorn in this process serves connections with GuardedTCPServer. Idempotent."""
    hypercorn.trio.run.TCPServer = GuardedTCPServer  # type: ignore[attr-defined]


class HandOver:
    """Serves single connections with Hypercorn, without its listeners and its lifespan."""

    def __init__(self, application: Any, config: Config) -> None:
        self._application = ASGIWrapper(application)
        self._config = config
        self._context = WorkerContext(None)

    async def serve(self, stream: trio.SocketStream | TlsStream, data: bytes, client: str) -> None:
        """Serve the client's connection to its end, as if `data` had not been read from it yet."""
        replayed = cast(Any, _Replayed(stream, data, client))
        await GuardedTCPServer(self._application, self._config, self._context, cast(Any, {}), replayed)

    async def close(self) -> None:
        """Tell the connections that the server ends."""
        await self._context.terminated.set()


class _Patient:
    """A stream, of whatever kind, that gives up a reader who takes nothing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def send_all(self, data: bytes) -> None:
        with trio.move_on_after(SEND_SECONDS_MAX):
            await self._stream.send_all(data)
            return
        raise trio.BrokenResourceError("the other side does not read")


class _Replayed(trio.abc.HalfCloseableStream):
    """A stream that gives what was read from it once more. Has the attribute that Hypercorn looks at besides a stream's own."""

    def __init__(self, stream: trio.SocketStream | TlsStream, data: bytes, client: str) -> None:
        self._stream = stream
        self._data = data
        self.socket = _Named(stream.socket, client) if client else stream.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._data:
            size = max_bytes or len(self._data)
            data, self._data = self._data[:size], self._data[size:]
            return data
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: Any) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Named:
    """The names of a socket's two ends, with the client's address where a proxy's would be."""

    def __init__(self, socket: Any, client: str) -> None:
        self.family = trio.socket.AF_INET6 if ":" in client else trio.socket.AF_INET
        self._client = client
        self._server = socket.getsockname()

    def getpeername(self) -> tuple[str, int]:
        return self._client, 0

    def getsockname(self) -> tuple[str, int]:
        return self._server if isinstance(self._server, tuple) else (self._server, 0)
