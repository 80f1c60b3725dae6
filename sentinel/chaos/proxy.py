"""A TCP proxy that misbehaves on purpose, in front of a store: hangs, delays, cuts, resets, refuses; switched while it runs.

The words are toxiproxy's. It proxies one address and looks into nothing that it carries.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import attrs
import trio

CHUNK_BYTES = 65_536
CONNECT_SECONDS_MAX = 5.0
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


@attrs.frozen
class Toxic:
    """
    What is wrong. The default is nothing.

    Attributes:
        down: no new connection is taken, and those that are there end.
        reset: connections end with RST.
        asleep: connections are taken, and what arrives on them is carried only when the toxic ends.
        hang: what arrives is swallowed, both ways; the connections end when the toxic does.
        latency: seconds that each piece waits, each way; `jitter` more or less.
        limit_data: a connection ends after so many more bytes of replies.
    """

    down: bool = False
    reset: bool = False
    asleep: bool = False
    hang: bool = False
    latency: float = 0.0
    jitter: float = 0.0
    limit_data: int | None = None


@attrs.define(eq=False)
class Proxy:
    """Carries connections to `upstream` until told otherwise."""

    upstream: int
    port: int
    chance: random.Random
    toxic: Toxic = attrs.field(factory=Toxic)
    awake: trio.Event = attrs.field(factory=trio.Event)
    connections: int = 0
    cuts: int = 0
    _links: set[_Link] = attrs.field(factory=set)

    def cut(self) -> None:
        """End the connections that are there."""
        for link in list(self._links):
            link.end()

    def set(self, toxic: Toxic | None = None) -> None:
        """From now on this is wrong, or nothing."""
        hung, self.toxic = self.toxic.hang, toxic or Toxic()
        self.awake.set()
        self.awake = trio.Event()
        for link in list(self._links):
            link.replied = 0
            if self.toxic.down or self.toxic.reset or (hung and link.swallowed):
                link.end(reset=self.toxic.reset)

    async def serve(self, listener: trio.SocketListener) -> None:
        """Take connections for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                client = await listener.accept()
                nursery.start_soon(self._carry, client)

    async def _carry(self, client: trio.SocketStream) -> None:
        self.connections += 1
        async with client:
            if self.toxic.down or self.toxic.reset:
                _abort(client)
                return
            try:
                with trio.fail_after(CONNECT_SECONDS_MAX):
                    server = await trio.open_tcp_stream("127.0.0.1", self.upstream)
            except (OSError, trio.TooSlowError):
                _abort(client)
                return
            async with server:
                link = _Link(self, client, server)
                self._links.add(link)
                try:
                    await link.run()
                finally:
                    self._links.discard(link)


@attrs.define(eq=False)
class _Link:
    """One connection through the proxy."""

    proxy: Proxy
    client: trio.SocketStream
    server: trio.SocketStream
    swallowed: bool = False
    replied: int = 0
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def end(self, *, reset: bool = False) -> None:
        """End it now, both ways."""
        if reset:
            _abort(self.client)
        self.scope.cancel()

    async def run(self) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, self.client, self.server, False)
                nursery.start_soon(self._pump, self.server, self.client, True)

    async def _pump(self, source: trio.SocketStream, target: trio.SocketStream, replies: bool) -> None:
        with suppress(*_BROKEN):
            while data := await source.receive_some(CHUNK_BYTES):
                if not await self._pass(data, target, replies):
                    break
        self.scope.cancel()

    async def _pass(self, data: bytes, target: trio.SocketStream, replies: bool) -> bool:
        """Carry one piece through what is wrong; False when the connection is to end."""
        while (toxic := self.proxy.toxic).asleep:
            await self.proxy.awake.wait()
        if toxic.hang or self.swallowed:
            self.swallowed = True
            return toxic.hang
        if toxic.latency:
            await trio.sleep(max(0.0, toxic.latency + self.proxy.chance.uniform(-toxic.jitter, toxic.jitter)))
        if replies and toxic.limit_data is not None:
            data = data[: max(0, toxic.limit_data - self.replied)]
            self.replied += len(data)
            await target.send_all(data)
            whole = self.replied < toxic.limit_data
            self.proxy.cuts += not whole
            return whole
        await target.send_all(data)
        return True


@asynccontextmanager
async def open_proxy(upstream: int, seed: int = 0) -> AsyncIterator[Proxy]:
    """A proxy in front of a port of loopback, until the block is left."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024)
    proxy = Proxy(upstream, int(listener.socket.getsockname()[1]), random.Random(seed))
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(proxy.serve, listener)
        yield proxy
        nursery.cancel_scope.cancel()


def _abort(stream: trio.SocketStream) -> None:
    """Make closing it send RST instead of FIN."""
    with suppress(OSError):
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
