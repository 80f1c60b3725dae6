"""Outgoing requests against real sockets: what is bounded, what is never followed, and where a caller's URL may not lead."""

from __future__ import annotations

import gzip
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio

from sentinel.errors import RefusedAddress, SendFailed
from sentinel.model import Outgoing
from sentinel.outbound import ANSWER_BYTES_MAX, Outbound, open_outbound
from sentinel.tenant_lookup import THREADS_OF_TENANT_MAX

LOOPBACK = ("127.0.0.1/32",)
# The same few machines, as browsers, C libraries and attackers write them.
INSIDE = (
    *("127.0.0.1", "localhost", "[::1]", "0", "0.0.0.0", "127.1", "2130706433", "0x7f.1", "0177.0.0.1"),  # noqa: S104
    *("[::ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[::]", "169.254.169.254", "10.0.0.1"),
)

SYSTEM = socket.getaddrinfo
Script = Callable[[trio.SocketStream], Awaitable[None]]


@attrs.define(eq=False)
class Peer:
    """A server on loopback: counts connections, keeps what it was sent, and answers by a script."""

    port: int = 0
    connections: int = 0
    requests: list[bytes] = attrs.field(factory=list)
    script: Script | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/path"

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection: answer every request that comes."""
        self.connections += 1
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while request := await read_request(stream):
                self.requests.append(request)
                await (self.script or succeed)(stream)


async def succeed(stream: trio.SocketStream) -> None:
    """Answer 200."""
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


async def read_request(stream: trio.SocketStream) -> bytes:
    """One whole request; b"" when the other side has closed."""
    data = b""
    while True:
        head, mark, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        if mark and len(body) >= int(length[1] if length else 0):
            return data
        chunk = await stream.receive_some()
        if not chunk:
            return b""
        data += chunk


@pytest.fixture(autouse=True)
def _system_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever name server a test puts in the place of the system's is gone after it."""
    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)


@attrs.define
class Resolver:
    """Names as a hostile DNS server answers them: the answers of each question in turn, the last one for ever."""

    answers: list[list[str]]
    asked: int = 0

    def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        """The next answer; an empty one means that the name does not exist. Numbers are read as the system reads them."""
        with suppress(OSError):
            return SYSTEM(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        addresses = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        families = {address: socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses}
        return [(family, socket.SOCK_STREAM, 6, "", (address, int(port))) for address, family in families.items()]


def resolve(*answers: list[str]) -> Resolver:
    """From now on, in this test, every name is resolved like this."""
    resolver = Resolver(list(answers))
    socket.getaddrinfo = resolver.getaddrinfo
    return resolver


@pytest.fixture
async def peer(nursery: trio.Nursery) -> Peer:
    """A server on every loopback address of IPv4 and, where there is one, IPv6."""
    made = Peer()
    (listener,) = await trio.open_tcp_listeners(0, host="0.0.0.0")  # noqa: S104  so that 127.0.0.2 is another address of ours
    made.port = listener.socket.getsockname()[1]
    listeners = [listener]
    with suppress(OSError):
        listeners += await trio.open_tcp_listeners(made.port, host="::1")
    nursery.start_soon(trio.serve_listeners, made.serve, listeners)
    return made


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    """An outbound whose exchanges may take a second."""
    async with open_outbound(1.0) as opened:
        yield opened


def guarded(url: str) -> Outgoing:
    """A request to a URL that a caller chose."""
    return Outgoing(url, b"{}", guarded=True)


class TestExchange:
    async def test_sends_and_returns(self, peer: Peer, outbound: Outbound):
        """The request arrives as it was given, and the answer comes back whatever its status is."""

        async def teapot(stream: trio.SocketStream) -> None:
            await stream.send_all(b"HTTP/1.1 418 No\r\nX-Kind: Tea\r\ncontent-length: 3\r\n\r\nno!")

        peer.script = teapot
        answer = await outbound.send(Outgoing(peer.url, b'{"a":1}', {"authorization": "Bearer t", "content-type": "text/x"}))
        assert (answer.status, answer.headers["x-kind"], answer.body) == (418, "Tea", b"no!")
        head, _, body = peer.requests[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /path HTTP/1.1\r\n")
        assert body == b'{"a":1}'
        for line in (b"authorization: Bearer t", b"content-type: text/x", b"accept-encoding: identity", b"user-agent: sentinel"):
            assert line.lower() in head.lower()

    @pytest.mark.parametrize("framing", ["length", "chunked", "close"])
    async def test_long_answers_are_cut(self, peer: Peer, outbound: Outbound, framing: str):
        """However an answer is framed, no more than the limit of it is read."""

        async def flood(stream: trio.SocketStream) -> None:
            if framing == "chunked":
                await stream.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                await stream.send_all(b"".join(b"3e8\r\n" + b"a" * 1000 + b"\r\n" for _ in range(1000)) + b"0\r\n\r\n")
            else:
                length = b"content-length: 1000000\r\n" if framing == "length" else b""
                await stream.send_all(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + b"a" * 1_000_000)
                await stream.send_eof()

        peer.script = flood
        for outgoing, networks in ((Outgoing(peer.url, b""), ()), (guarded(peer.url), LOOPBACK)):
            answer = await outbound.send(outgoing, networks)
            assert answer.body == b"a" * ANSWER_BYTES_MAX

    async def test_endless_headers(self, peer: Peer, outbound: Outbound):
        """An answer whose headers do not end is broken, not read for ever."""

        async def flood(stream: trio.SocketStream) -> None:
            await stream.send_all(b"HTTP/1.1 200 OK\r\n")
            while True:
                await stream.send_all(b"x: " + b"a" * 10_000 + b"\r\n")

        peer.script = flood
        with pytest.raises(SendFailed, match="broke"):
            await outbound.send(Outgoing(peer.url, b""))

    @pytest.mark.parametrize("is_guarded", [False, True])
    async def test_one_deadline_for_all_of_it(self, peer: Peer, is_guarded: bool):
        """An answer that drips, so that no single read is slow, ends with the time of the whole exchange."""

        async def drip(stream: trio.SocketStream) -> None:
            for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + b"a" * 1000:
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.02)

        peer.script = drip
        started = trio.current_time()
        async with open_outbound(0.3) as outbound:
            with pytest.raises(SendFailed, match="timed out"):
                await outbound.send(Outgoing(peer.url, b"", guarded=is_guarded), LOOPBACK)
        assert trio.current_time() - started < 2

    async def test_redirects_are_answers(self, peer: Peer, outbound: Outbound):
        """A redirect is not followed."""
        elsewhere = f"location: {peer.url}/elsewhere\r\ncontent-length: 0\r\n\r\n".encode()

        async def redirect(stream: trio.SocketStream) -> None:
            await stream.send_all(b"HTTP/1.1 307 Go\r\n" + elsewhere)

        peer.script = redirect
        assert (await outbound.send(Outgoing(peer.url, b""))).status == 307
        assert (await outbound.send(guarded(peer.url), LOOPBACK)).status == 307
        assert len(peer.requests) == 2

    async def test_nothing_is_decoded(self, peer: Peer, outbound: Outbound):
        """A compressed answer stays as it is: it could be a bomb."""
        bomb = gzip.compress(b"0" * 100_000)

        async def compressed(stream: trio.SocketStream) -> None:
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb) + bomb)

        peer.script = compressed
        assert (await outbound.send(Outgoing(peer.url, b""))).body == bomb

    async def test_no_cookies(self, peer: Peer, outbound: Outbound):
        """A cookie that one answer sets is not sent with the next request, which may be another tenant's."""

        async def sweet(stream: trio.SocketStream) -> None:
            await stream.send_all(b"HTTP/1.1 200 OK\r\nset-cookie: session=1; Path=/\r\ncontent-length: 0\r\n\r\n")

        peer.script = sweet
        await outbound.send(Outgoing(peer.url, b""))
        await outbound.send(Outgoing(peer.url, b""))
        assert b"cookie" not in peer.requests[1].lower()

    async def test_no_proxy(self, peer: Peer, monkeypatch: pytest.MonkeyPatch):
        """A proxy that the environment names is not used."""
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        async with open_outbound(1.0) as outbound:
            assert (await outbound.send(Outgoing(peer.url, b""))).status == 200
            assert (await outbound.send(guarded(peer.url), LOOPBACK)).status == 200

    async def test_failures(self, peer: Peer, outbound: Outbound):
        """Whatever goes wrong on the way is SendFailed, in words that tell nothing of the other side."""

        async def hang_up(stream: trio.SocketStream) -> None:
            await stream.aclose()

        async def rubbish(stream: trio.SocketStream) -> None:
            await stream.send_all(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

        async def silence(_: trio.SocketStream) -> None:
            await trio.sleep_forever()

        for script, word in ((hang_up, "broke"), (rubbish, "broke"), (silence, "timed out")):
            peer.script = script
            for outgoing in (Outgoing(peer.url, b""), guarded(peer.url)):
                with pytest.raises(SendFailed, match=word) as caught:
                    await outbound.send(outgoing, LOOPBACK, script.__name__)
                assert "SSH" not in caught.value.detail
        for outgoing in (Outgoing("http://127.0.0.1:1/", b""), guarded("http://127.0.0.1:1/")):
            with pytest.raises(SendFailed, match="refused"):
                await outbound.send(outgoing, LOOPBACK)

    async def test_no_such_name(self, outbound: Outbound):
        """A name that does not exist is SendFailed: it may exist the next time."""
        resolve([])
        for outgoing in (Outgoing("https://receiver.example/", b""), guarded("https://receiver.example/")):
            with pytest.raises(SendFailed):
                await outbound.send(outgoing)

    async def test_what_cannot_be_sent(self, peer: Peer, outbound: Outbound):
        """A URL or header that no request can have fails that request and nothing else."""
        for url in (
            "",
            "x",
            "ftp://127.0.0.1/",
            "http://",
            "http://[::1/",
            "http://127.0.0.1:99999/",
            "http://\udc80/",
            "http:///p",
        ):
            with pytest.raises((RefusedAddress, SendFailed)):
                await outbound.send(Outgoing(url, b""))
            with pytest.raises((RefusedAddress, SendFailed)):
                await outbound.send(guarded(url), LOOPBACK)
        for value in ("é", "a\r\nx: y", "\udc80", "☃"):
            with pytest.raises((RefusedAddress, SendFailed)):
                await outbound.send(Outgoing(peer.url, b"", {"authorization": value}))
        assert (await outbound.send(Outgoing(peer.url, b""))).status == 200


class TestGuard:
    async def test_inside_addresses(self, peer: Peer, outbound: Outbound):
        """However an inside address is written, a guarded request does not even connect to it, and nobody tries again."""
        for host in INSIDE:
            for url in (f"http://{host}:{peer.port}/", f"https://{host}:{peer.port}/", f"https://{host}/", f"https://{host}:8443/"):
                with pytest.raises(RefusedAddress):
                    await outbound.send(guarded(url))
        for host in ("127.0.0.1.", "①②⑦.0.0.1"):  # not every resolver knows what these are
            with pytest.raises((RefusedAddress, SendFailed)):
                await outbound.send(guarded(f"http://{host}:{peer.port}/"))
        assert peer.connections == 0

    @pytest.mark.parametrize("answer", [["93.184.215.14", "127.0.0.1"], ["127.0.0.1", "93.184.215.14"], ["2606:4700::1", "::1"]])
    async def test_a_name_with_one_inside_address(self, peer: Peer, outbound: Outbound, answer: list[str]):
        """A name is refused when one of its addresses is inside, wherever in the answer it stands."""
        resolve(answer)
        for url in ("https://receiver.example/", f"https://receiver.example:{peer.port}/"):
            with pytest.raises(RefusedAddress):
                await outbound.send(guarded(url))
        assert peer.connections == 0

    async def test_rebinding(self, peer: Peer, outbound: Outbound):
        """A name is asked for once, and the address that was checked is the one that is connected to."""
        resolver = resolve(["127.0.0.1"], ["127.0.0.2"])
        assert (await outbound.send(guarded(f"http://receiver.example:{peer.port}/"), LOOPBACK)).status == 200
        assert resolver.asked == 1
        assert f"receiver.example:{peer.port}".encode() in peer.requests[0]
        with pytest.raises(RefusedAddress):
            await outbound.send(guarded(f"http://receiver.example:{peer.port}/"), LOOPBACK)
        assert peer.connections == 1

    async def test_another_address_is_tried(self, peer: Peer, outbound: Outbound):
        """When the first of several allowed addresses does not answer, the next one is tried."""
        resolve(["127.0.0.9", "127.0.0.1"])
        (other,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = other.socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, peer.serve, [other])
            answer = await outbound.send(guarded(f"http://receiver.example:{port}/"), ("127.0.0.0/8",))
            nursery.cancel_scope.cancel()
        assert answer.status == 200

    async def test_public_only_by_https(self, outbound: Outbound):
        """A public address is reached by https on 443 or 8443 and in no other way."""
        for url in ("http://93.184.215.14/", "https://93.184.215.14:22/", "http://[2606:4700::1]:443/"):
            with pytest.raises(RefusedAddress):
                await outbound.send(guarded(url), LOOPBACK)

    async def test_an_allowed_network(self, peer: Peer, outbound: Outbound):
        """A tenant's allowed network is reached by plain http on any port, and what is beside it is not."""
        assert (await outbound.send(guarded(peer.url), LOOPBACK)).body == b"ok"
        with pytest.raises(RefusedAddress):
            await outbound.send(guarded(f"http://127.0.0.2:{peer.port}/"), LOOPBACK)
        with pytest.raises(RefusedAddress):
            await outbound.send(guarded(peer.url), ("10.0.0.0/8", "fd00::/8"))
        assert peer.connections == 1

    async def test_connections_are_not_shared(self, peer: Peer, outbound: Outbound):
        """A guarded request has a connection of its own, so that no tenant uses one that another was allowed to open."""
        for _ in range(2):
            await outbound.send(guarded(peer.url), LOOPBACK)
        assert peer.connections == 2
        with pytest.raises(RefusedAddress):
            await outbound.send(guarded(peer.url))
        for _ in range(2):
            await outbound.send(Outgoing(peer.url, b""))
        assert peer.connections == 3  # the operator's own requests share theirs

    async def test_a_slow_resolver(self):
        """A resolver that does not answer ends with the exchange's own time."""
        socket.getaddrinfo = Silent([]).getaddrinfo
        async with open_outbound(0.2) as outbound:
            with pytest.raises(SendFailed):
                await outbound.send(guarded("https://receiver.example/"))


class TestNames:
    """Whoever chooses a name, its look-up takes a thread of its tenant's share, and of no one else's."""

    @pytest.mark.parametrize("is_guarded", [False, True])
    async def test_names_that_hang(self, peer: Peer, nursery: trio.Nursery, is_guarded: bool):
        """A tenant's hosts that are not found out hold up neither another tenant's requests, nor what else needs a thread."""
        hanging = Hanging()
        socket.getaddrinfo = hanging.getaddrinfo
        trio.to_thread.current_default_thread_limiter().total_tokens = 2

        async def fail(outbound: Outbound, number: int) -> None:
            with suppress(SendFailed):
                await outbound.send(Outgoing(f"https://hangs-{number}.example/", b"", guarded=is_guarded), (), "a")

        async with open_outbound(20.0) as outbound:
            for number in range(THREADS_OF_TENANT_MAX + 10):
                nursery.start_soon(fail, outbound, number)
            with trio.fail_after(2):
                while len(hanging.asked) < THREADS_OF_TENANT_MAX:
                    await trio.sleep(0.01)
                ours = Outgoing(f"http://ours.example:{peer.port}/", b"", guarded=is_guarded)
                assert (await outbound.send(ours, LOOPBACK, "b")).body == b"ok"
                assert (await outbound.send(attrs.evolve(ours, guarded=False))).body == b"ok"  # the operator's own
                assert await trio.to_thread.run_sync(lambda: "done") == "done"
            assert sum(name.startswith("hangs") for name in hanging.asked) == THREADS_OF_TENANT_MAX
            nursery.cancel_scope.cancel()
            hanging.may_go_on.set()


@attrs.define(eq=False)
class Hanging:
    """A name service that hangs for some names until it may go on; all others are here."""

    asked: list[str] = attrs.field(factory=list)
    may_go_on: threading.Event = attrs.field(factory=threading.Event)

    def getaddrinfo(self, host: Any, port: Any, *_: Any, **options: Any) -> list[Any]:
        """As the system's, which is asked for numbers only."""
        if options.get("flags", 0) & socket.AI_NUMERICHOST or (_ and _[-1] & socket.AI_NUMERICHOST):
            return SYSTEM(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        name = host.decode() if isinstance(host, bytes) else host
        self.asked.append(name)
        if name.startswith("hangs"):
            self.may_go_on.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


class Silent(Resolver):
    """Takes longer than anybody waits."""

    def getaddrinfo(self, *_: Any, **__: Any) -> Any:
        time.sleep(1)
        raise socket.gaierror
