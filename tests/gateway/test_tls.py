"""TLS at the gateway's own listener: what is served within it, what is refused, and certificates that change."""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import attrs
import pytest
import trio
from cryptography import x509

import sentinel.asgi
import sentinel.certificate
import sentinel.connection
from sentinel.certificate import open_certificate
from sentinel.channels import channels
from sentinel.cli.doctor import examine
from sentinel.cli.status import examine as examine_running
from sentinel.errors import SettingsError
from sentinel.model import Source
from sentinel.serve import serve
from sentinel.settings import Settings
from sentinel.tls import TlsSocket
from tests.certificates import Authority, new_authority
from tests.gateway.killers import KILLERS, Http2, Killer, strike
from tests.gateway.test_server import CountJobs, ask, job_body, job_post, webhook
from tests.gateway.wire import Server, Wire, http

PROXY = b"PROXY TCP4 203.0.113.7 10.0.0.1 5000 443\r\n"


@attrs.frozen
class TlsServer(Server):
    """Where a server speaks TLS, and what its client trusts."""

    context: ssl.SSLContext

    @asynccontextmanager
    async def connected(self, first: bytes = b"", only: tuple[str, ...] = ()) -> AsyncIterator[Wire]:
        """A connection within TLS; `first` goes before the handshake."""
        async with await trio.open_tcp_stream(self.host, self.port) as plain:
            await plain.send_all(first)
            self.context.set_alpn_protocols(only or ["http/1.1"])
            stream = trio.SSLStream(plain, self.context, server_hostname="localhost", https_compatible=True)
            await stream.do_handshake()
            yield Wire(cast(trio.SocketStream, stream))

    @property
    def plain(self) -> Server:
        """The same address without TLS."""
        return Server(self.host, self.port)


StartTls = Callable[..., Awaitable[TlsServer]]


def client_context(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.certificate)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that has issued server.crt and server.key for localhost."""
    made = new_authority(tmp_path / "authority")
    made.issue(tmp_path)
    return made


@pytest.fixture
def secured(settings: Settings, authority: Authority, tmp_path: Path) -> Settings:
    """Settings with that certificate."""
    return attrs.evolve(settings, tls_certificate=str(tmp_path / "server.crt"), tls_key=str(tmp_path / "server.key"))


@pytest.fixture
def start(secured: Settings, authority: Authority, sources: dict[str, Source], key: str, nursery: trio.Nursery) -> StartTls:
    """Starts the true server with TLS and changed settings."""

    async def start_server(**changes: object) -> TlsServer:
        (url,) = await nursery.start(serve, attrs.evolve(secured, **changes))
        address = urlsplit(url)
        assert (address.scheme, bool(address.port)) == ("https", True)
        return TlsServer(str(address.hostname), address.port or 0, client_context(authority))

    return start_server


@pytest.fixture
async def server(start: StartTls) -> TlsServer:
    """The true server with TLS."""
    return await start()


class TestServed:
    async def test_every_channel(self, server: TlsServer, sources: Mapping[str, Source], count_jobs: CountJobs):
        """Every channel's webhook is acknowledged within TLS, several on one connection and two at once."""
        async with server.connected() as wire:
            for name in channels():
                await wire.send(webhook(sources, 1, channel=name), webhook(sources, 2, channel=name))
                answers = [await wire.answer(), await wire.answer()]
                assert [200 <= answer.status < 300 for answer in answers] == [True, True], name
        assert count_jobs() == 2 * len(sources)

    async def test_in_any_pieces(self, server: TlsServer, sources: Mapping[str, Source], key: str, settings: Settings):
        """A request may come a byte at a time, and a body of the limit in as many records as it takes."""
        async with server.connected() as wire:
            for byte in webhook(sources):
                await wire.send(bytes([byte]))
            assert (await wire.answer()).status == 200
            await wire.send(job_post(key, job_body(settings.body_bytes_max)))
            assert (await wire.answer()).status == 202
            await wire.send(job_post(key, job_body(settings.body_bytes_max + 1)))
            assert (await wire.answer()).status == 413

    async def test_a_slow_reader_gets_it_all(self, server: TlsServer):
        """Answers that the socket does not take at once arrive whole and in order."""
        async with server.connected() as wire:
            await wire.send(http("GET", "/openapi.json") * 100)
            await trio.sleep(0.3)
            answers = [await wire.answer() for _ in range(100)]
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 1
        assert answers[0].json["openapi"]

    async def test_an_ended_connection_says_so(self, server: TlsServer):
        """The last answer is followed by TLS's own end, so that its reader knows that nothing was cut off."""
        async with server.connected() as wire:
            await wire.send(http("GET", "/healthz", "Connection: close"))
            assert (await wire.answer()).status == 200
            stream = cast(trio.SSLStream[trio.SocketStream], wire.stream)
            stream._https_compatible = False  # a missing end would now be an error
            assert await stream.receive_some() == b""

    async def test_http_2(self, server: TlsServer, monkeypatch: pytest.MonkeyPatch):
        """A client that knows HTTP/2 is offered it, and is served."""
        monkeypatch.setattr(sentinel.asgi, "DRAIN_SECONDS_MAX", 0.1)
        async with server.connected(only=("h2", "http/1.1")) as wire:
            assert cast(trio.SSLStream[trio.SocketStream], wire.stream).selected_alpn_protocol() == "h2"
            client = Http2(wire)
            ok = await ask(client, (b":method", b"GET"), (b":path", b"/healthz"))
            large = await ask(client, (b":method", b"POST"), (b":path", b"/v1/jobs"), (b"content-length", b"9999999"), end=False)
        assert (ok, large) == (b"200", b"413")

    async def test_a_stream(self, server: TlsServer, key: str):
        """A job's events come as they happen."""
        created = await server.exchange(job_post(key, job_body(50)))
        async with server.connected() as wire:
            await wire.send(http("GET", f"{created.json['status_url']}/events", f"Authorization: Bearer {key}"))
            with trio.fail_after(5):
                assert b"event: " in await read_until(wire, b"event: ")

    @pytest.mark.parametrize("killer", KILLERS.values(), ids=list(KILLERS))
    async def test_killers(self, server: TlsServer, killer: Killer, monkeypatch: pytest.MonkeyPatch):
        """An input that ends a bare Hypercorn ends its own connection at most."""
        monkeypatch.setattr(sentinel.asgi, "DRAIN_SECONDS_MAX", 0.1)
        async with server.connected() as bystander:
            async with server.connected(only=("h2", "http/1.1")) as wire:
                await strike(killer, wire)
            assert await server.lives()
            await bystander.send(http("GET", "/healthz"))
            assert (await bystander.answer()).status == 200

    async def test_behind_a_proxy(self, start: StartTls):
        """A proxy that passes TLS on names the client before it, whose limit then counts; within TLS nobody may do so."""
        server = await start(connections_per_address_max=1, proxies="127.0.0.0/8")
        async with server.connected(first=PROXY) as held:
            await held.send(http("GET", "/healthz"))
            assert (await held.answer()).status == 200
            with pytest.raises(trio.BrokenResourceError):
                async with server.connected(first=PROXY):
                    pass
        async with server.connected() as wire:
            await wire.send(PROXY, http("GET", "/healthz"))
            assert (await wire.answer()).status == 400


async def read_until(wire: Wire, mark: bytes) -> bytes:
    read = b""
    while mark not in read:
        chunk = await wire.stream.receive_some()
        assert chunk, read
        read += chunk
    return read


class TestRefused:
    async def test_plain_http(self, server: TlsServer):
        """Plain HTTP where TLS is spoken is 400 with the reason, in HTTP; others are served."""
        for request in (http("GET", "/healthz"), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
            answer = await server.plain.exchange(request)
            assert (answer.status, answer.headers["connection"]) == (400, "close")
            assert "TLS" in answer.json["detail"]
        assert await server.lives()

    async def test_tls_where_there_is_none(self, settings: Settings, authority: Authority, nursery: trio.Nursery):
        """A client that speaks TLS to a plain listener is let go without a word that it could not read."""
        (url,) = await nursery.start(serve, settings)
        address = urlsplit(url)
        server = TlsServer(str(address.hostname), address.port or 0, client_context(authority))
        with pytest.raises(trio.BrokenResourceError) as caught, trio.fail_after(5):
            async with server.connected():
                pass
        assert "EOF" in str(caught.value.__cause__) or "reset" in str(caught.value.__cause__)
        assert await server.plain.lives()

    async def test_old_versions(self, server: TlsServer):
        """TLS 1.1 is refused, 1.2 and 1.3 are not."""
        for version, taken in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # such as: that TLS 1.1 is old
                context.minimum_version = context.maximum_version = version
            client = attrs.evolve(server, context=context)
            if taken:
                assert await client.lives()
            else:
                with pytest.raises(trio.BrokenResourceError):
                    await client.lives()

    async def test_a_handshake_that_does_not_end(self, server: TlsServer, monkeypatch: pytest.MonkeyPatch):
        """Whoever does not finish its handshake is closed in time, and so is rubbish; others are served."""
        monkeypatch.setattr(sentinel.connection, "HEAD_SECONDS_MAX", 0.3)
        arrived, hello = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = server.context.wrap_bio(arrived, hello, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        whole = hello.read()
        for begun in (whole, whole[:50], whole[:1], b"\x16" + os.urandom(500)):
            async with server.plain.connected() as wire:
                await wire.send(begun)
                began = trio.current_time()
                assert b"HTTP" not in await wire.read_to_end(3)
                assert trio.current_time() - began < 2.5
        assert await server.lives()

    async def test_connections_of_one_address(self, start: StartTls):
        """An address has its share of connections, handshakes that have not ended among them."""
        server = await start(connections_per_address_max=2, proxies="192.0.2.0/24")
        async with server.plain.connected() as silent, server.connected() as served:
            await served.send(http("GET", "/healthz"))
            assert (await served.answer()).status == 200
            with pytest.raises(trio.BrokenResourceError):
                await server.lives()
            assert not await silent.is_closed(0.1)
        with trio.fail_after(5):
            while True:
                with suppress(trio.BrokenResourceError):
                    assert await server.lives()
                    break
                await trio.sleep(0.05)


def shown(server: TlsServer) -> int:
    """The serial number of the certificate that a new connection is shown."""
    with (
        socket.create_connection((server.host, server.port), timeout=5) as plain,
        server.context.wrap_socket(plain, server_hostname="localhost") as stream,
    ):
        der = stream.getpeercert(binary_form=True)
    assert der
    return x509.load_der_x509_certificate(der).serial_number


class TestCertificates:
    async def test_a_new_one(self, server: TlsServer, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A changed certificate is shown to new connections, on SIGHUP at once and else soon; connections that stand go on."""
        monkeypatch.setattr(sentinel.certificate, "LOOK_SECONDS", 0.1)
        async with server.connected() as wire:
            seen = [await trio.to_thread.run_sync(shown, server)]
            for hang_up in (True, False):
                authority.issue(tmp_path)
                if hang_up:
                    os.kill(os.getpid(), signal.SIGHUP)
                with trio.fail_after(5):
                    while (serial := await trio.to_thread.run_sync(shown, server)) in seen:
                        await trio.sleep(0.05)
                seen.append(serial)
            await wire.send(http("GET", "/healthz"))
            assert (await wire.answer()).status == 200

    async def test_a_broken_one(self, server: TlsServer, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """While the files on disk cannot be used, the certificate that is in force stays; the next good one is taken."""
        monkeypatch.setattr(sentinel.certificate, "LOOK_SECONDS", 0.05)
        first = await trio.to_thread.run_sync(shown, server)
        (tmp_path / "server.key").write_text("no key")
        os.kill(os.getpid(), signal.SIGHUP)
        (tmp_path / "server.crt").unlink()
        await trio.sleep(0.3)
        assert await trio.to_thread.run_sync(shown, server) == first
        authority.issue(tmp_path)
        with trio.fail_after(5):
            while await trio.to_thread.run_sync(shown, server) == first:
                await trio.sleep(0.05)

    async def test_metric(self, server: TlsServer):
        """/metrics says when the certificate ends."""
        answer = await server.exchange(http("GET", "/metrics"))
        line = next(line for line in answer.body.decode().splitlines() if line.startswith("sentinel_certificate_end_seconds"))
        assert 0 < float(line.split()[-1]) - time.time() < 3 * 86_400

    def test_what_is_wrong_is_said(self, secured: Settings, authority: Authority, tmp_path: Path):
        """A pair that cannot be used is refused with its file and the reason, by the server's start and by the doctor."""
        (tmp_path / "other").mkdir()
        authority.issue(tmp_path / "other")
        (tmp_path / "rubbish").write_text("rubbish")
        key, locked = str(tmp_path / "server.key"), str(tmp_path / "locked")
        authority._openssl("pkey", "-in", key, "-aes256", "-passout", "pass:x", "-out", locked)
        for changes, reason in (
            ({"tls_certificate": None}, "of no use without"),
            ({"tls_certificate": str(tmp_path / "missing")}, "missing cannot be read"),
            ({"tls_key": str(tmp_path / "missing")}, "missing cannot be read"),
            ({"tls_certificate": str(tmp_path / "rubbish")}, "rubbish has no certificate"),
            ({"tls_key": str(tmp_path / "rubbish")}, "rubbish is no key"),
            ({"tls_key": str(tmp_path / "other" / "server.key")}, "is not the certificate's"),
            ({"tls_key": locked}, "is encrypted"),
            ({"tls_key": None}, "server.crt is no key"),
        ):
            wrong = attrs.evolve(secured, **changes)  # type: ignore[arg-type]
            with pytest.raises(SettingsError, match=reason):
                open_certificate(wrong)
            with pytest.raises(SettingsError, match=reason):
                trio.run(serve, wrong)
            assert {finding.what: finding.verdict for finding in examine(wrong)}["certificate"] == "wrong"

    def test_one_file_for_both(self, secured: Settings, authority: Authority, tmp_path: Path):
        """Without a setting for it, the key is looked for behind the certificate, and the doctor is content."""
        with (tmp_path / "server.crt").open("ab") as both:
            both.write((tmp_path / "server.key").read_bytes())
        assert open_certificate(attrs.evolve(secured, tls_key=None)) is not None
        assert {finding.what: finding.verdict for finding in examine(secured)}["certificate"] == "warning"  # it lasts two days
        authority.issue(tmp_path, days=90)
        assert {finding.what: finding.verdict for finding in examine(secured)}["certificate"] == "ok"

    async def test_an_expired_one(self, secured: Settings, authority: Authority, tmp_path: Path, nursery: trio.Nursery):
        """An expired certificate does not keep the gateway from starting, and the doctor says that clients refuse it."""
        authority.issue(tmp_path, days=0)
        (url,) = await nursery.start(serve, secured)
        address = urlsplit(url)
        server = TlsServer(str(address.hostname), address.port or 0, client_context(authority))
        with pytest.raises(trio.BrokenResourceError):
            await server.lives()
        server.context.check_hostname = False
        server.context.verify_mode = ssl.CERT_NONE
        assert await server.lives()
        said = {finding.what: finding for finding in examine(secured)}["certificate"]
        assert (said.verdict, "clients refuse it" in said.detail) == ("wrong", True)

    async def test_the_status_asks_within_tls(self, secured: Settings, server: TlsServer):
        """`sentinel status` finds the gateway behind TLS."""
        asked = attrs.evolve(secured, bind=f"{server.host}:{server.port}")
        said = await trio.to_thread.run_sync(lambda: next(examine_running(asked)))
        assert (said.what, "nobody" in said.detail) == ("gateway", False)


@pytest.mark.slow
async def test_processes_hear_of_a_new_certificate(secured: Settings, authority: Authority, tmp_path: Path) -> None:
    """SIGHUP to `sentinel serve --processes 2` brings the new certificate to both, and ends neither."""
    from sentinel.chaos.servers import free_port
    from tests.processes.harness import start as start_command
    from tests.processes.harness import stop

    port = free_port()
    process = await start_command(attrs.evolve(secured, bind=f"127.0.0.1:{port}", processes=2), tmp_path / "log", "serve")
    server = TlsServer("127.0.0.1", port, client_context(authority))
    try:
        with trio.fail_after(20):
            while (tmp_path / "log").read_text().count("gateway.listening") < 2:
                await trio.sleep(0.1)
        first = await trio.to_thread.run_sync(shown, server)
        authority.issue(tmp_path)
        process.send_signal(signal.SIGHUP)
        with trio.fail_after(1.5):  # sooner than they would have looked by themselves
            while (tmp_path / "log").read_text().count("certificate.read") < 2:
                await trio.sleep(0.05)
        assert {await trio.to_thread.run_sync(shown, server) for _ in range(20)}.isdisjoint({first})
        assert "process.died" not in (tmp_path / "log").read_text()
    finally:
        assert await stop(process) == 0


def test_damaged_handshakes(secured: Settings, authority: Authority) -> None:
    """2,000 handshakes damaged at any place, seeded, end in an error of the socket's kind or wait for more, never in another."""
    certificate, rng = open_certificate(secured), random.Random(20)
    assert certificate is not None
    context, outcomes = client_context(authority), Counter[str]()
    for _ in range(2_000):
        arrived, left = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(arrived, left, server_hostname="localhost")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            server = TlsSocket(ours, certificate.context, b"")
            outcomes[exchange_damaged(client, arrived, left, theirs, server, rng)] += 1
    assert outcomes["served"] > 20
    assert outcomes["refused"] > 200
    assert outcomes.total() == 2_000


def exchange_damaged(  # noqa: PLR0917  two ends, with what each has
    client: ssl.SSLObject, arrived: ssl.MemoryBIO, left: ssl.MemoryBIO, wire: socket.socket, server: TlsSocket, rng: random.Random
) -> str:
    """What became of one connection whose client's bytes are damaged now and then."""
    for _ in range(6):
        with suppress(ssl.SSLError, BlockingIOError):  # Python 3.13 takes an old errno for the reason if this has failed before
            client.do_handshake()
            client.write(b"GET")
        sent = bytearray(left.read())
        if sent and rng.random() < 0.4:
            sent[rng.randrange(len(sent))] ^= 1 << rng.randrange(8)
        wire.send(sent[: rng.randrange(len(sent) + 1)] if rng.random() < 0.1 else sent)
        try:
            if server.recv(1000) == b"GET":
                return "served"
        except BlockingIOError:
            pass
        except OSError:
            return "refused"
        with suppress(BlockingIOError):
            arrived.write(wire.recv(65_536))
    server.close()
    return "waits"
