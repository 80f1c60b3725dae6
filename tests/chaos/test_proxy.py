"""The proxy: what it carries, and each way in which it does not."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from sentinel.chaos.proxy import Proxy, Toxic, open_proxy


@asynccontextmanager
async def proxied_echo() -> AsyncIterator[Proxy]:
    """A proxy in front of a server that sends back what it gets."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        async with open_proxy(listener.socket.getsockname()[1], seed=1) as proxy:
            with trio.fail_after(10):
                yield proxy
        nursery.cancel_scope.cancel()


async def opened(proxy: Proxy) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", proxy.port)


async def said(stream: trio.SocketStream, data: bytes) -> bytes:
    """What comes back for `data`; less than that if the connection ends."""
    await stream.send_all(data)
    back = b""
    while len(back) < len(data) and (piece := await stream.receive_some()):
        back += piece
    return back


async def test_it_carries_both_ways() -> None:
    """What is sent through the proxy arrives and comes back whole, on one connection."""
    async with proxied_echo() as proxy, await opened(proxy) as stream:
        assert await said(stream, b"x" * 200_000) == b"x" * 200_000
        assert await said(stream, b"again") == b"again"
        assert proxy.connections == 1


async def test_latency_and_jitter() -> None:
    """With latency an answer takes at least that long, and without it again no longer than before."""
    async with proxied_echo() as proxy, await opened(proxy) as stream:
        proxy.set(Toxic(latency=0.1, jitter=0.05))
        started = time.perf_counter()
        assert await said(stream, b"slow") == b"slow"
        assert 0.1 <= time.perf_counter() - started <= 0.5
        proxy.set()
        started = time.perf_counter()
        await said(stream, b"fast")
        assert time.perf_counter() - started < 0.1


async def test_hang_swallows_and_ends_with_the_toxic() -> None:
    """Nothing comes back while it hangs; afterwards the connection ends, because what it lost cannot be made good."""
    async with proxied_echo() as proxy, await opened(proxy) as stream, await opened(proxy) as idle:
        assert await said(idle, b"here") == b"here"
        proxy.set(Toxic(hang=True))
        await stream.send_all(b"lost")
        with trio.move_on_after(0.2) as waiting:
            await stream.receive_some()
        assert waiting.cancelled_caught
        proxy.set()
        assert await stream.receive_some() == b""
        assert await said(idle, b"nothing of mine was lost") == b"nothing of mine was lost"


@pytest.mark.parametrize("limit", [0, 1, 7, 40])
async def test_limit_data_cuts_a_reply(limit: int) -> None:
    """A reply ends after that many bytes."""
    async with proxied_echo() as proxy, await opened(proxy) as stream:
        proxy.set(Toxic(limit_data=limit))
        assert await said(stream, b"y" * 100) == b"y" * limit


async def test_reset_ends_connections_hard() -> None:
    """A reset breaks the connections that are open, and those that are made while it lasts."""
    async with proxied_echo() as proxy, await opened(proxy) as stream:
        await said(stream, b"hello")
        proxy.set(Toxic(reset=True))
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        async with await opened(proxy) as refused:
            with pytest.raises(trio.BrokenResourceError):
                await refused.receive_some()


async def test_down_takes_nobody_until_it_is_up() -> None:
    """While it is down, connections end and new ones break; once it is up again, new ones work."""
    async with proxied_echo() as proxy, await opened(proxy) as stream:
        await said(stream, b"hello")
        proxy.set(Toxic(down=True))
        assert await stream.receive_some() == b""
        async with await opened(proxy) as refused:
            with pytest.raises(trio.BrokenResourceError):
                await said(refused, b"hello")
                await refused.receive_some()
        proxy.set()
        async with await opened(proxy) as again:
            assert await said(again, b"hello") == b"hello"


async def test_an_upstream_that_is_away_ends_the_connection() -> None:
    """Where nobody listens behind the proxy, whoever connects to it is hung up on."""
    async with open_proxy(1) as proxy, await opened(proxy) as stream:
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


async def test_asleep_and_awake() -> None:
    """While it sleeps it takes connections and what is sent on them, and carries that when it wakes; `cut` ends what is there."""
    async with proxied_echo() as proxy, await opened(proxy) as before:
        assert await said(before, b"hello") == b"hello"
        proxy.set(Toxic(asleep=True))
        proxy.cut()
        assert await before.receive_some() == b""
        async with await opened(proxy) as stream:
            await stream.send_all(b"early")
            with trio.move_on_after(0.1) as scope:
                await stream.receive_some()
            assert scope.cancelled_caught
            proxy.set()
            assert await stream.receive_some() == b"early"
