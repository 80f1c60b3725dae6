"""The fast lane's reader on bytes, and a lane on true sockets with a handler that only echoes."""

from __future__ import annotations

import gc
import random
import resource
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from ipaddress import ip_network
from pathlib import Path

import attrs
import pytest
import trio

from sentinel.connection import Connection
from sentinel.errors import SentinelError
from sentinel.http import Exchange, Request, Response
from sentinel.http1 import Limits, Reader
from sentinel.lane import QUICK_AT_A_TIME, SLOW_AT_A_TIME, Lane
from sentinel.turns import Begin, Handle

LIMITS = Limits(body_bytes=1000, body_seconds=0.3, connections_per_address=5_000)
POST = b"POST /webhooks/generic/demo?a=1 HTTP/1.1\r\nHost: a\r\nX-One: 1\r\nX-One: 2\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;e=1\r\nhe\r\n3\r\nllo\r\n0\r\nT: x\r\n\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


def read(*pieces: bytes) -> tuple[list[Request], SentinelError | None]:
    reader = Reader(LIMITS)
    for piece in pieces:
        reader.feed(piece)
    return [request for request, _ in reader.requests], reader.error


def test_every_split_reads_the_same() -> None:
    """Two pipelined requests give the same values however the network cuts them."""
    whole = POST + CHUNKED + GET
    expected = read(whole)
    assert [request.body for request in expected[0]] == [b"hello", b"hello", b""]
    assert expected[0][0].headers["x-one"] == "1, 2"
    assert expected[1] is None
    for cut in range(1, len(whole)):
        assert read(whole[:cut], whole[cut:]) == expected
    assert read(*(bytes([byte]) for byte in whole)) == expected


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\nhello", 400),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x00c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001, 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
    ],
)
def test_what_two_readers_could_differ_on_is_refused(raw: bytes, status: int) -> None:
    """Bad framing, versions, characters and sizes give an error with its status, whole or byte by byte."""
    for pieces in ([raw], [bytes([byte]) for byte in raw]):
        requests, error = read(*pieces)
        assert requests == []
        assert error is not None
        assert error.status == status


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"y"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX", b"y"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX:", b" "),
        (b"", b"\r\n"),
        (CHUNKED[:-2] + b"U: ", b"y"),
        (CHUNKED[:-2], b"U: y\r\n"),
        (CHUNKED[: CHUNKED.index(b";") + 1], b"y"),
        (GET, b"\r\n"),
    ],
)
def test_what_does_not_end_is_refused(begin: bytes, more: bytes) -> None:
    """A header, a name, empty lines, trailers, or a chunk's words that go on and on are given up after 64 KiB and one read more."""
    reader = Reader(LIMITS)
    reader.feed(begin)
    reader.requests.clear()  # they are answered meanwhile
    for _ in range(10):
        reader.feed(more * 8_192)
    assert reader.error is not None
    assert reader.error.status == 431
    assert reader.unread_bytes < 65_536 + 8_192 * len(more) + 1


def test_mutated_requests_never_crash_the_reader() -> None:
    """30,000 damaged requests, seeded: each gives requests or an error, never an exception."""
    rng = random.Random(20)
    for _ in range(30_000):
        raw = bytearray(rng.choice((POST, CHUNKED, GET, POST + GET)))
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(raw))
            match rng.randrange(3):
                case 0:
                    raw[place] = rng.randrange(256)
                case 1:
                    del raw[place : place + rng.randrange(8)]
                    raw = raw or bytearray(b"x")
                case _:
                    raw[place:place] = rng.randbytes(rng.randrange(4))
        cut = rng.randrange(len(raw))
        read(bytes(raw[:cut]), bytes(raw[cut:]))


@asynccontextmanager
async def open_lane(
    limits: Limits = LIMITS, handle: Handle | None = None, begin: Begin = lambda exchanges: exchanges
) -> AsyncIterator[tuple[Lane, tuple[str, int]]]:
    """A lane on a free port; unless told otherwise, its handler answers with the request's body."""

    async def echo(request: Request) -> Response:
        if request.path == "/slow":
            await trio.sleep(0.2)
        return Response(200, request.method.encode() + b" " + request.path.encode() + b" " + request.body)

    async def hand_over(stream: trio.SocketStream, data: bytes, _client: str) -> None:
        await stream.send_all(b"handed over: " + data)

    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    lane = Lane(handle or echo, hand_over, limits, begin=begin)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lane.run, [listener])
        yield lane, listener.getsockname()
        nursery.cancel_scope.cancel()
    listener.close()


async def exchange(address: tuple[str, int], *pieces: bytes) -> bytes:
    """Everything the lane answers to the pieces until it closes."""
    stream = await trio.open_tcp_stream(*address)
    async with stream:
        for piece in pieces:
            await stream.send_all(piece)
        with trio.fail_after(5):
            return b"".join([data async for data in stream])


async def test_keep_alive_and_pipelining() -> None:
    """Requests on one connection are answered in order, and the connection ends when the client asks."""
    async with open_lane() as (_, address):
        answers = await exchange(address, POST + CHUNKED, b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert answers.index(b"POST /webhooks/generic/demo hello") < answers.index(b"POST /x hello") < answers.index(b"GET /last")


async def test_head_has_no_body() -> None:
    """HEAD is answered like GET, with the length and without the body."""
    async with open_lane() as (_, address):
        answer = await exchange(address, b"HEAD /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert b"content-length: 7" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_expect_continue() -> None:
    """A client that waits for 100 Continue gets it, and 413 instead when its body would be too large."""
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    async with open_lane() as (_, address):
        stream = await trio.open_tcp_stream(*address)
        await stream.send_all(head % 5)
        assert await stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send_all(b"hello")
        assert b"POST /x hello" in b"".join([data async for data in stream])
        await stream.aclose()
        assert (await exchange(address, head % 5000)).startswith(b"HTTP/1.1 413 ")


async def test_slow_requests_end_with_408() -> None:
    """A body that does not arrive within its time gets 408, and the connection ends."""
    async with open_lane() as (_, address):
        assert (await exchange(address, POST[:-2])).startswith(b"HTTP/1.1 408 ")


async def test_http2_is_handed_over_with_its_bytes() -> None:
    """A connection that begins with the HTTP/2 preface goes to the other server, nothing lost."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    async with open_lane() as (_, address):
        stream = await trio.open_tcp_stream(*address)
        await stream.send_all(preface)
        assert await stream.receive_some() == b"handed over: " + preface
        await stream.aclose()


async def test_an_upgrade_is_answered_as_if_it_were_not_there() -> None:
    """A WebSocket upgrade is not taken: the request is answered as plain HTTP and the connection ends."""
    async with open_lane() as (_, address):
        raw = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nextra"
        answer = await exchange(address, raw)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in answer


async def test_closing_lets_begun_requests_end() -> None:
    """When the lane closes, idle connections end at once and a request under way gets its answer."""
    async with open_lane() as (lane, address):
        idle = await trio.open_tcp_stream(*address)
        busy = await trio.open_tcp_stream(*address)
        await busy.send_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await trio.sleep(0.05)
        lane.close()
        with trio.fail_after(0.15):
            assert await idle.receive_some() == b""
        with trio.fail_after(2):
            answer = b"".join([data async for data in busy])
        assert b"GET /slow" in answer
        assert b"connection: close" in answer
        await idle.aclose()
        await busy.aclose()


async def test_a_thousand_connections_at_once() -> None:
    """1,000 connections in one burst are all accepted and answered."""
    async with open_lane() as (_, address):
        answers: list[bytes] = []

        async def one() -> None:
            answers.append(await exchange(address, b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))

        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(one)
    assert len(answers) == 1000
    assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in answers)


async def test_a_large_answer_reaches_a_slow_reader() -> None:
    """An answer larger than the socket's buffer arrives whole when its reader takes its time."""
    big = b"x" * 8_000_000

    async def handle(_request: Request) -> Response:
        return Response(200, big)

    async with open_lane(handle=handle) as (_, address):
        stream = await trio.open_tcp_stream(*address)
        async with stream:
            await stream.send_all(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            await trio.sleep(0.1)
            answer = b"".join([data async for data in stream])
    assert answer.endswith(b"\r\n\r\n" + big)


async def test_who_never_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not read its answer holds its connection for a bounded time, and nobody else's."""
    monkeypatch.setattr("sentinel.connection.SEND_SECONDS_MAX", 0.2)

    async def handle(_request: Request) -> Response:
        return Response(200, b"x" * 20_000_000)

    async with open_lane(handle=handle) as (_, address):
        stream = await trio.open_tcp_stream(*address)
        async with stream:
            await stream.send_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            await trio.sleep(0.5)
            received = 0
            with pytest.raises(trio.BrokenResourceError):
                while data := await stream.receive_some():
                    received += len(data)
                raise trio.BrokenResourceError  # an orderly end is as good as a reset
    assert received < 20_000_000


async def test_all_bodies_together_are_bounded() -> None:
    """When the bodies on their way hold too much memory, a further one gets 503 with Retry-After; it ends when they have gone."""
    begun = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n" + b"x" * 800
    async with open_lane(Limits(body_bytes=1000, body_seconds=5, all_bodies_bytes=1700)) as (lane, address):
        first, second = await trio.open_tcp_stream(*address), await trio.open_tcp_stream(*address)
        await first.send_all(begun)
        await second.send_all(begun)
        await trio.sleep(0.05)
        refused = await exchange(address, begun)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after" in refused
        await first.send_all(b"x" * 100)
        assert (await first.receive_some()).startswith(b"HTTP/1.1 200 ")
        await second.aclose()
        await trio.sleep(0.05)
        assert lane.bodies_bytes == 0
        await first.aclose()


async def test_connections_are_bounded() -> None:
    """A connection above the limit gets 503 at once, and a later one is served when another has gone."""
    async with open_lane(Limits(body_bytes=1000, body_seconds=5, connections=2)) as (lane, address):
        first, second = await trio.open_tcp_stream(*address), await trio.open_tcp_stream(*address)
        await trio.sleep(0.05)
        third = await trio.open_tcp_stream(*address)
        with trio.fail_after(2):
            assert (await third.receive_some()).startswith(b"HTTP/1.1 503 ")
        for stream in (first, second, third):
            await stream.aclose()
        await trio.sleep(0.05)
        assert lane.connections == 0
        assert b" 200 " in await exchange(address, b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")


async def test_connections_of_one_address_are_bounded() -> None:
    """One address has only its share of the connections, gets it back when it lets go, and a proxy's address has no such bound."""
    limits = attrs.evolve(LIMITS, connections_per_address=2)
    async with open_lane(limits) as (_, address):
        held = [await trio.open_tcp_stream(*address) for _ in range(2)]
        await trio.sleep(0.05)
        assert (await exchange(address)).startswith(b"HTTP/1.1 503 ")
        for stream in held:
            await stream.aclose()
        await trio.sleep(0.05)
        assert b"200 OK" in await exchange(address, b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    async with open_lane(attrs.evolve(limits, proxies=(ip_network("127.0.0.0/8"),))) as (_, address):
        held = [await trio.open_tcp_stream(*address) for _ in range(5)]
        assert b"200 OK" in await exchange(address, b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        for stream in held:
            await stream.aclose()


async def test_a_body_that_trickles_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that arrives more slowly than the least rate gets 408 long before the time that a body may take."""
    monkeypatch.setattr("sentinel.connection.BODY_GRACE_SECONDS", 0.2)
    started = trio.current_time()
    async with open_lane(attrs.evolve(LIMITS, body_seconds=60.0)) as (_, address):
        stream = await trio.open_tcp_stream(*address)
        await stream.send_all(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n")
        async with trio.open_nursery() as nursery:

            async def trickle() -> None:
                while True:
                    await stream.send_all(b"x")
                    await trio.sleep(0.02)

            nursery.start_soon(trickle)
            with trio.fail_after(5):
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 408 ")
            nursery.cancel_scope.cancel()
        await stream.aclose()
    assert trio.current_time() - started < 2


async def test_a_proxy_says_whose_connection_it_is() -> None:
    """The client that a configured proxy names is the request's, and has the limit; nobody else can name one, nor that client."""
    seen: list[str] = []

    async def handle(request: Request) -> Response:
        seen.append(request.client)
        return Response(200)

    named = b"PROXY TCP4 203.0.113.7 10.0.0.1 5000 443\r\n"
    limits = attrs.evolve(LIMITS, connections_per_address=1, proxies=(ip_network("127.0.0.0/8"),))
    async with open_lane(limits, handle) as (_, address):
        held = await trio.open_tcp_stream(*address)
        for piece in (named[:10], named[10:] + GET[:1], GET[1:]):
            await held.send_all(piece)
            await trio.sleep(0.01)
        assert b"200 OK" in await held.receive_some()
        assert (await exchange(address, named + GET)).startswith(b"HTTP/1.1 503 ")
        assert b"200 OK" in await exchange(address, b"GET /x HTTP/1.0\r\nX-Forwarded-For: 203.0.113.8\r\n\r\n")
        assert (await exchange(address, b"GET /x HTTP/1.0\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
        await held.aclose()
        await trio.sleep(0.05)
        assert b"200 OK" in await exchange(address, named + b"GET /x HTTP/1.0\r\nX-Forwarded-For: 203.0.113.8\r\n\r\n")
    async with open_lane(LIMITS, handle) as (_, address):
        assert (await exchange(address, named + GET)).startswith(b"HTTP/1.1 400 ")
        assert b"200 OK" in await exchange(address, b"GET /x HTTP/1.0\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
    assert seen == ["203.0.113.7", "203.0.113.8", "203.0.113.7", "127.0.0.1"]


async def test_too_many_requests_at_a_time() -> None:
    """A request above the limit gets 503 and its connection goes on; a waiting one is refused when its turn comes too late."""
    begun = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
    async with open_lane(attrs.evolve(LIMITS, requests=1)) as (_, address):
        busy = await trio.open_tcp_stream(*address)
        await busy.send_all(begun)
        await trio.sleep(0.05)
        answers = await exchange(
            address, GET.replace(b"/healthz", b"/x") * 2 + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        assert (answers.count(b"HTTP/1.1 503 "), answers.count(b"retry-after: "), answers.count(b"HTTP/1.1 200 ")) == (2, 2, 1)
        assert b"GET /slow" in await busy.receive_some()
        await busy.aclose()


async def test_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer handlers than requests the others wait for their turn, and who waited too long is told to try again."""
    monkeypatch.setattr("sentinel.turns.HANDLED_MAX", 2)
    slow = b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answers: list[bytes] = []
    async with open_lane() as (_, address):

        async def ask() -> None:
            answers.append(await exchange(address, slow))

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(ask)
        assert sum(b"200 OK" in answer for answer in answers) == 6
        monkeypatch.setattr("sentinel.connection.QUEUE_SECONDS_MAX", 0.05)  # the lane looks at the clock every 0.1 s
        answers.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask)
        assert sorted(answer[:12] for answer in answers) == [b"HTTP/1.1 200"] * 2 + [b"HTTP/1.1 503"] * 2


@pytest.mark.slow
async def test_without_descriptors_it_waits() -> None:
    """Out of descriptors it does not spin, serves those who are there, and takes the others when it can again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with open_lane() as (lane, address):
        first = await trio.open_tcp_stream(*address)
        used = len(list(Path("/proc/self/fd").iterdir()))
        clients = [socket.socket() for _ in range(30)]
        for client in clients:
            client.setblocking(False)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 30 + 10, hard))
        try:
            for client in clients:
                with suppress(BlockingIOError):
                    client.connect(address)
            before = time.process_time()
            await trio.sleep(0.5)
            assert time.process_time() - before < 0.25, "it spins"
            assert lane.connections < 31
            await first.send_all(GET)
            assert b"200 OK" in await first.receive_some()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with trio.fail_after(5):
            while lane.connections < 31:
                await trio.sleep(0.02)
        for client in clients:
            client.close()
        await first.aclose()


async def test_answers_go_at_once() -> None:
    """Every accepted socket has TCP_NODELAY, which it gets from its listener: the kernel holds back no small answer."""
    async with open_lane() as (lane, address), await trio.open_tcp_stream(*address):
        await trio.sleep(0.05)
        (connection,) = lane._served.values()
        assert connection._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)  # type: ignore[union-attr]


async def test_many_requests_at_once_hold_up_nobody() -> None:
    """Hundreds of connections that send many requests each do not keep one request of another from its turn."""
    handled: list[str] = []

    async def handle(request: Request) -> Response:
        handled.append(request.path)
        return Response(200)

    flood = b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n" * 20
    async with open_lane(handle=handle) as (_, address), AsyncExitStack() as held:
        streams = [await held.enter_async_context(await trio.open_tcp_stream(*address)) for _ in range(300)]
        good = await held.enter_async_context(await trio.open_tcp_stream(*address))
        for stream in streams:
            stream.socket._sock.send(flood)
        with trio.fail_after(10):
            while len(handled) < 400:
                await trio.lowlevel.checkpoint()
            before = len(handled)
            await good.send_all(b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"200 OK" in await good.receive_some()
            assert handled.index("/good") - before < 300
            while handled.count("/flood") < 6_000:
                await trio.sleep(0.01)


async def test_requests_behind_others_need_not_wait_for_them() -> None:
    """Second requests of many connections that take long are handled at the same time."""
    here, all_here = 0, trio.Event()

    async def handle(request: Request) -> Response:
        nonlocal here
        if request.path == "/slow":
            here += 1
            if here == 200:
                all_here.set()
            await all_here.wait()
        return Response(200)

    two = GET + b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    async with open_lane(handle=handle) as (_, address):
        with trio.fail_after(20):  # a few at a time would wait for ever
            async with trio.open_nursery() as nursery:
                for _ in range(200):
                    nursery.start_soon(exchange, address, two)


async def test_who_dawdles_comes_behind_who_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of hundreds of connections that send a byte each, few are looked at before one that sends a whole request; then all are."""
    told: list[bool] = []
    ready = Connection.ready
    monkeypatch.setattr(Connection, "ready", lambda connection, events: told.append(connection.slow) or ready(connection, events))
    async with open_lane() as (lane, address), AsyncExitStack() as held:
        streams = [await held.enter_async_context(await trio.open_tcp_stream(*address)) for _ in range(500)]
        good = await held.enter_async_context(await trio.open_tcp_stream(*address))
        for stream in streams:
            await stream.send_all(b"GET / HTTP/1.1\r\nX: ")
        await trio.sleep(0.2)
        told.clear()
        for stream in streams:
            stream.socket._sock.send(b"y")
        good.socket._sock.send(GET)
        assert b"200 OK" in await good.receive_some()
        assert told.index(False) <= SLOW_AT_A_TIME
        with trio.fail_after(5):
            while told.count(True) < 500:
                await trio.lowlevel.checkpoint()
        assert lane.connections == 501


class Later:
    """A `begin` that takes what is under /later and answers when it is told to; /now it answers at once, /bad it fails."""

    def __init__(self) -> None:
        self.answers: list[Exchange] = []

    def __call__(self, exchanges: Sequence[Exchange]) -> list[Exchange]:
        return [exchange for exchange in exchanges if not self.begins(exchange)]

    def begins(self, exchange: Exchange) -> bool:
        path = exchange.request.path
        if path == "/bad":
            raise ZeroDivisionError
        if path == "/now":
            exchange.answer(Response(200, b"now " + exchange.request.body))
        elif path == "/later":
            self.answers.append(exchange)
        return path in ("/now", "/later")

    async def begun(self, count: int) -> None:
        """Wait until so many wait for their answer."""
        with trio.fail_after(5):
            while len(self.answers) < count:
                await trio.sleep(0.005)

    def answer(self, count: int = 1) -> None:
        """Answer the first of them with their bodies."""
        now, self.answers = self.answers[:count], self.answers[count:]
        for one in now:
            one.answer(Response(200, b"later " + one.request.body))


def post(path: str, body: bytes = b"", *more: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *more, "", "")
    return "\r\n".join(lines).encode() + body


async def test_answers_without_a_task() -> None:
    """What is begun is answered now or when it is told to be, in the order of its connection, and the rest by `handle`."""
    later = Later()
    async with open_lane(begin=later) as (lane, address), await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(post("/now", b"1") + post("/later", b"2") + post("/x", b"3") + post("/later", b"4"))
        await later.begun(1)
        assert (await stream.receive_some()).endswith(b"now 1")
        later.answer()
        await later.begun(1)
        got = await stream.receive_some()
        assert got.index(b"later 2") < got.index(b"POST /x 3")
        later.answer()
        assert (await stream.receive_some()).endswith(b"later 4")
        await stream.send_all(post("/later", b"5", "Connection: close"))
        await later.begun(1)
        later.answer()
        assert (await stream.receive_some()).endswith(b"later 5")
        assert await stream.receive_some() == b""
        assert (lane.turns.busy, lane.turns.handled) == (0, 0)


async def test_a_connection_that_ends_before_its_answer() -> None:
    """A client that leaves while its request is under way harms nobody, and its place is free when the answer comes."""
    later = Later()
    async with open_lane(begin=later) as (lane, address):
        gone = [await trio.open_tcp_stream(*address) for _ in range(3)]
        for stream in gone:
            await stream.send_all(post("/later") * 2)
        await later.begun(3)
        for stream in gone:
            stream.socket._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
            await stream.aclose()
        await trio.sleep(0.05)
        later.answer(3)
        await trio.sleep(0.05)
        later.answer(3)  # a reset is only seen when it is read or written
        await trio.sleep(0.05)
        assert (lane.turns.busy, lane.turns.handled, lane.connections, later.answers) == (0, 0, 0, [])
        assert b"now" in await exchange(address, post("/now", b"", "Connection: close"))


async def test_what_came_together_is_begun_together() -> None:
    """The requests that one look at the sockets has found are begun by one call, as many as are looked at in it."""
    sizes: list[int] = []

    def begin(exchanges: Sequence[Exchange]) -> list[Exchange]:
        sizes.append(len(exchanges))
        for one in exchanges:
            one.answer(Response(200))
        return []

    async with open_lane(begin=begin) as (_, address), AsyncExitStack() as held:
        streams = [await held.enter_async_context(await trio.open_tcp_stream(*address)) for _ in range(QUICK_AT_A_TIME + 8)]
        await trio.sleep(0.05)
        for stream in streams:
            stream.socket._sock.send(post("/now"))
        for stream in streams:
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
    assert sizes == [QUICK_AT_A_TIME, 8]


async def test_what_is_closed_is_freed_at_once() -> None:
    """Connections that are over leave nothing for the garbage collector, which would hold up everybody for thousands of them."""
    bad = (b"GET / HTTP/1.1\r\n\r\n", b"nonsense\r\n\r\n", b"PRI * HTTP/2.0\r\n")
    async with open_lane() as (lane, address):
        gc.collect()
        gc.disable()
        try:
            for request in (post("/x", b"", "Connection: close"), *bad) * 10:
                await exchange(address, request)
            with trio.fail_after(5):
                while lane.connections:
                    await trio.sleep(0.01)
            left = [one for one in gc.get_objects() if isinstance(one, Connection | Reader)]
        finally:
            gc.enable()
        assert len(left) <= 4, left  # what loops looked at last


async def test_a_begin_that_fails_ends_one_connection() -> None:
    """When `begin` fails, or an answer cannot be sent, that connection ends alone, and its place is free."""
    later = Later()
    async with open_lane(begin=later) as (lane, address):
        assert await exchange(address, post("/bad")) == b""
        stream = await trio.open_tcp_stream(*address)
        await stream.send_all(post("/later"))
        await later.begun(1)
        later.answers.pop().answer(Response(200, b"", (("bad", "line\r\nbreak"),)))
        assert await stream.receive_some() == b""
        await stream.aclose()
        assert b"now" in await exchange(address, post("/now", b"", "Connection: close"))
        await trio.sleep(0.05)
        assert (lane.turns.busy, lane.turns.handled, lane.connections) == (0, 0, 0)


async def test_turns_without_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for its answer has one of the places; the others have their turn when it is answered, but /healthz at once."""
    monkeypatch.setattr("sentinel.turns.HANDLED_MAX", 2)
    later = Later()
    answers: list[bytes] = []
    async with open_lane(begin=later) as (_, address):

        async def ask(request: bytes) -> None:
            answers.append(await exchange(address, request))

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(ask, post("/later", b"%d" % number, "Connection: close"))
            await trio.sleep(0.05)
            assert len(later.answers) == 2
            assert b"200 OK" in await exchange(address, post("/healthz", b"", "Connection: close"))
            for _ in range(3):
                await later.begun(2)
                assert len(later.answers) == 2
                later.answer(2)
        assert sum(b"200 OK" in answer for answer in answers) == 6


async def test_many_that_are_answered_at_once() -> None:
    """Thousands of requests that came together and are answered at once use up no stack, and let others have their turn."""
    async with open_lane(begin=Later()) as (_, address), trio.open_nursery() as nursery:
        stream = await trio.open_tcp_stream(*address)
        nursery.start_soon(stream.send_all, post("/now") * 5_000 + post("/x", b"", "Connection: close"))
        with trio.fail_after(20):
            answers = b"".join([data async for data in stream])
        assert answers.count(b"200 OK") == 5_001
        await stream.aclose()


async def test_closing_waits_for_answers() -> None:
    """When the lane closes, what is under way without a task gets its answer; when it is cancelled, the answer goes nowhere."""
    later = Later()
    async with open_lane(begin=later) as (lane, address), AsyncExitStack() as held:
        first, second = [await held.enter_async_context(await trio.open_tcp_stream(*address)) for _ in range(2)]
        await first.send_all(post("/later", b"1"))
        await second.send_all(post("/later", b"2") * 2)
        await later.begun(2)
        lane.close()
        await trio.sleep(0.05)
        later.answer()
        answer = b"".join([data async for data in first])
        assert answer.endswith(b"later 1")
        assert b"connection: close" in answer
    later.answer()


async def test_who_waits_unread_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """While others are handled one after the other, the wait begins when the poller has seen a request, not when it is read."""
    monkeypatch.setattr("sentinel.lane.QUICK_AT_A_TIME", 1)
    monkeypatch.setattr("sentinel.connection.QUEUE_SECONDS_MAX", 0.2)

    def begin(exchanges: Sequence[Exchange]) -> list[Exchange]:
        for one in exchanges:
            time.sleep(0.05)  # the work of a webhook, which nothing else can interrupt
            one.answer(Response(200))
        return []

    async with open_lane(begin=begin) as (_, address), AsyncExitStack() as held:
        streams = [await held.enter_async_context(await trio.open_tcp_stream(*address)) for _ in range(12)]
        await trio.sleep(0.05)
        for stream in streams:
            stream.socket._sock.send(post("/now"))
        answers = [(await stream.receive_some())[:12] for stream in streams]
        assert answers == sorted(answers)
        assert 2 <= answers.count(b"HTTP/1.1 200") <= 6
        assert answers.count(b"HTTP/1.1 503") == 12 - answers.count(b"HTTP/1.1 200")


async def test_who_waits_for_an_own_answer_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that comes while the one before it on its connection takes long has its turn from then on, and is answered."""
    monkeypatch.setattr("sentinel.connection.QUEUE_SECONDS_MAX", 0.1)
    async with open_lane() as (_, address), await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(post("/slow"))
        await trio.sleep(0.02)
        await stream.send_all(post("/behind", b"", "Connection: close"))
        await trio.sleep(0.13)
        await exchange(address, post("/other", b"", "Connection: close"))  # the poller looks at its clock
        answers = b""
        with trio.fail_after(5):
            while piece := await stream.receive_some():
                answers += piece
    assert answers.count(b"HTTP/1.1 200") == 2, answers
    assert b"POST /behind" in answers
