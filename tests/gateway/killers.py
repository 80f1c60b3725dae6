"""Nine small inputs, each of which ends a bare Hypercorn 0.18 on trio for everybody (measured; cleartext, default settings)."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Mapping

import h2.config
import h2.connection
import h2.events
import hyperframe.frame
import trio

from tests.gateway.wire import Wire, http

Killer = Callable[[Wire], Awaitable[None]]
WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
AUTHORITY = ((b":scheme", b"http"), (b":authority", b"gateway.example"))


class Http2:
    """An HTTP/2 client over cleartext with prior knowledge, that checks nothing of what it sends."""

    def __init__(self, wire: Wire) -> None:
        config = h2.config.H2Configuration(
            client_side=True, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.connection = h2.connection.H2Connection(config)
        self.connection.initiate_connection()
        self.wire = wire

    async def flush(self) -> None:
        """Send what is ready."""
        await self.wire.send(self.connection.data_to_send())

    async def request(self, *headers: tuple[bytes, bytes], end: bool = True) -> int:
        """Send a request's headers; the number of its stream."""
        stream = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream, [*AUTHORITY, *headers], end_stream=end)
        await self.flush()
        return stream

    async def until(self, *kinds: type[h2.events.Event]) -> list[h2.events.Event]:
        """What came until an event of one of these kinds, or the end of the connection."""
        seen: list[h2.events.Event] = []
        while not isinstance(seen[-1] if seen else None, kinds):
            data = await self.wire.stream.receive_some()
            if not data:
                return seen
            seen += self.connection.receive_data(data)
            await self.flush()
        return seen


async def websocket_with_a_byte_behind(wire: Wire) -> None:
    await wire.send(http("GET", "/healthz", *WEBSOCKET), b"x")


async def websocket_with_a_foreign_protocol(wire: Wire) -> None:
    await wire.send(http("GET", "/healthz", *WEBSOCKET, "Sec-WebSocket-Protocol: \xff"))


async def h2c_with_bad_settings(wire: Wire) -> None:
    await wire.send(http("GET", "/healthz", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAA"))


async def http2_data_on_an_answered_stream(wire: Wire) -> None:
    client = Http2(wire)
    stream = await client.request(
        (b":method", b"POST"), (b":path", b"/v1/jobs"), (b"content-type", b"text/plain"), (b"content-length", b"9999999"), end=False
    )
    await client.until(h2.events.StreamEnded, h2.events.StreamReset)
    frame = hyperframe.frame.DataFrame(stream, data=b"late")
    await wire.send(frame.serialize() * 3)


async def http2_path_beyond_ascii(wire: Wire) -> None:
    await Http2(wire).request((b":method", b"GET"), (b":path", b"/\xff"))


async def http2_method_beyond_ascii(wire: Wire) -> None:
    await Http2(wire).request((b":method", b"G\xc3"), (b":path", b"/healthz"))


async def http2_priorities(wire: Wire) -> None:
    client = Http2(wire)
    await client.flush()
    frames = (hyperframe.frame.PriorityFrame(2 * n + 1, depends_on=0, stream_weight=16) for n in range(1200))
    await wire.send(*(frame.serialize() for frame in frames))


async def http2_connect_without_a_path(wire: Wire) -> None:
    client = Http2(wire)
    client.connection.send_headers(1, [(b":method", b"CONNECT"), (b":authority", b"gateway.example")], end_stream=True)
    await client.flush()


async def host_beyond_ascii(wire: Wire) -> None:
    await wire.send(b"GET /healthz HTTP/1.1\r\nHost: \xff\r\n\r\n")


KILLERS: Mapping[str, Killer] = {
    killer.__name__: killer
    for killer in (
        websocket_with_a_byte_behind,
        websocket_with_a_foreign_protocol,
        h2c_with_bad_settings,
        http2_data_on_an_answered_stream,
        http2_path_beyond_ascii,
        http2_method_beyond_ascii,
        http2_priorities,
        http2_connect_without_a_path,
        host_beyond_ascii,
    )
}


async def strike(killer: Killer, wire: Wire) -> None:
    """Send it, and give the other side a moment to react."""
    with trio.move_on_after(3):
        try:
            await killer(wire)
            with trio.move_on_after(0.2):
                while await wire.stream.receive_some():
                    pass
        except trio.BrokenResourceError:
            pass  # it closed the connection on us, as it may


def reset_on_close(wire: Wire) -> None:
    """Make closing this connection a reset: how a process that died looks to the other side."""
    wire.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
