"""The true server on real sockets: framing, limits, hostile clients, and what must never end it."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import h2.events
import pytest
import trio

import sentinel.asgi
import sentinel.connection
import sentinel.serve
from sentinel.asgi import Application
from sentinel.channels import channels
from sentinel.chaos.subject import environment_of
from sentinel.gateway import open_gateway
from sentinel.intake import Intake
from sentinel.model import Source
from sentinel.records import Record
from sentinel.settings import Settings
from tests.gateway.conftest import StartServer
from tests.gateway.killers import KILLERS, WEBSOCKET, Http2, Killer, reset_on_close, strike
from tests.gateway.wire import Answer, Server, Wire, http, raw

CountJobs = Callable[[], int]
ROOT = Path(__file__).parents[2]

NO_HTTP = (
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
    b"\xff" * 100,
    b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
)

every_killer = pytest.mark.parametrize("killer", KILLERS.values(), ids=list(KILLERS))


def webhook(sources: Mapping[str, Source], number: int = 1, *more: str, channel: str = "telegram") -> bytes:
    """A genuine webhook as bytes."""
    return raw(channels()[channel].sample(sources[channel], "hello", number, time.time()), *more)


def job_post(key: str, body: bytes, *more: str, length: int | None = None) -> bytes:
    """A POST of a job as bytes."""
    headers = (f"Authorization: Bearer {key}", "Content-Type: application/json", *more)
    return http("POST", "/v1/jobs", *headers, body=body, length=length)


def job_body(size: int) -> bytes:
    """The body of a job that has this many bytes."""
    return b'{"input": "' + b"a" * (size - 13) + b'"}'


def chunked(key: str, *chunks: bytes) -> bytes:
    """A POST of a job whose body comes in chunks."""
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return job_post(key, b"", "Transfer-Encoding: chunked") + pieces + b"0\r\n\r\n"


class TestGood:
    async def test_every_channel(self, server: Server, sources: Mapping[str, Source], count_jobs: CountJobs):
        """Every channel's webhook is acknowledged over a socket as it is in the process."""
        for name, channel in channels().items():
            answer = await server.exchange(webhook(sources, channel=name))
            acknowledgment = channel.acknowledge(sources[name])
            assert (answer.status, answer.body) == (acknowledgment.status, acknowledgment.body)
            assert answer.headers["sentinel-job-id"]
            assert "server" not in answer.headers
        assert count_jobs() == len(sources)

    async def test_keep_alive_and_pipelining(self, server: Server, sources: Mapping[str, Source], count_jobs: CountJobs):
        """One connection serves request after request, and two that come at once are answered in order."""
        async with server.connected() as wire:
            await wire.send(webhook(sources, 1))
            first = await wire.answer()
            await wire.send(webhook(sources, 2), http("GET", "/healthz"), webhook(sources, 1))
            second, health, again = await wire.answer(), await wire.answer(), await wire.answer()
        assert [answer.status for answer in (first, second, health, again)] == [200] * 4
        assert health.json == {"status": "ok"}
        assert again.headers["sentinel-job-id"] == first.headers["sentinel-job-id"]
        assert again.headers["sentinel-duplicate"] == "true"
        assert count_jobs() == 2

    async def test_byte_by_byte(self, server: Server, sources: Mapping[str, Source]):
        """A request may arrive in any pieces."""
        async with server.connected() as wire:
            for byte in webhook(sources):
                await wire.send(bytes([byte]))
            assert (await wire.answer()).status == 200

    async def test_head(self, server: Server):
        """HEAD is answered as GET would be, without the body, and the connection goes on."""
        async with server.connected() as wire:
            await wire.send(http("HEAD", "/healthz"))
            head = await wire.answer(to_head=True)
            await wire.send(http("GET", "/healthz"))
            get = await wire.answer()
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) == len(get.body)
        assert get.status == 200

    async def test_http_1_0(self, server: Server):
        """HTTP/1.0 without Host is answered, and the connection ends with the answer."""
        async with server.connected() as wire:
            await wire.send(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert (await wire.answer()).status == 200
            assert await wire.is_closed()

    async def test_continue(self, server: Server, key: str):
        """Who asks before sending a body is told to go on."""
        async with server.connected() as wire:
            await wire.send(job_post(key, b"", "Expect: 100-continue", length=len(job_body(100))))
            assert (await wire.answer()).status == 100
            await wire.send(job_body(100))
            assert (await wire.answer()).status == 202

    async def test_http_2(self, server: Server, monkeypatch: pytest.MonkeyPatch):
        """HTTP/2 is served too, and what is wrong with a request there is said there."""
        monkeypatch.setattr(sentinel.asgi, "DRAIN_SECONDS_MAX", 0.1)
        async with server.connected() as wire:
            client = Http2(wire)
            ok = await ask(client, (b":method", b"GET"), (b":path", b"/healthz"))
            large = await ask(client, (b":method", b"POST"), (b":path", b"/v1/jobs"), (b"content-length", b"9999999"), end=False)
            again = await ask(client, (b":method", b"GET"), (b":path", b"/healthz"))
        assert (ok, large, again) == (b"200", b"413", b"200")


async def ask(client: Http2, *headers: tuple[bytes, bytes], end: bool = True) -> bytes:
    """The status of one HTTP/2 request."""
    await client.request(*headers, end=end)
    with trio.fail_after(5):
        events = await client.until(h2.events.ResponseReceived, h2.events.StreamReset)
    assert isinstance(events[-1], h2.events.ResponseReceived), events
    answer = dict(events[-1].headers or ())
    with trio.fail_after(5):
        if not any(isinstance(event, h2.events.StreamEnded) for event in events):
            await client.until(h2.events.StreamEnded, h2.events.StreamReset)
    return answer[b":status"]


class TestBodies:
    async def test_the_limit(self, server: Server, key: str, settings: Settings, count_jobs: CountJobs):
        """A body of exactly the limit is taken; one byte more is 413, declared or in chunks, and is not kept."""
        limit = settings.body_bytes_max
        taken = await server.exchange(job_post(key, job_body(limit)))
        assert taken.status == 202
        assert (await server.exchange(chunked(key, job_body(limit)[:1000], job_body(limit)[1000:]))).status == 202
        for refused in (
            job_post(key, job_body(limit + 1)),
            chunked(key, job_body(limit + 1)),
            job_post(key, b"", length=limit + 1),
        ):
            answer = await server.exchange(refused)
            assert (answer.status, answer.headers["content-type"]) == (413, "application/problem+json")
        assert count_jobs() == 2

    async def test_who_sends_too_much_hears_why(self, server: Server, key: str):
        """A client that goes on sending a body that is far too large can still read the refusal, and then the connection ends."""
        for request in (job_post(key, bytes(8_000_000)), chunked(key, *[bytes(100_000)] * 80)):
            async with server.connected() as wire:
                await wire.send(request)
                answer = await wire.answer()
                assert (answer.status, answer.headers["connection"]) == (413, "close")
                assert await wire.is_closed()

    async def test_huge_lengths(self, server: Server, key: str):
        """A declared length that no number type holds is refused, whatever comes behind it."""
        for length in ("9" * 19, "9" * 21, "1" + "0" * 5000, "-1", "+5", "0x10", "1_0", "\xb2", "5, 6", "5 5", ""):
            request = http("POST", "/v1/jobs", f"Authorization: Bearer {key}", f"Content-Length: {length}")
            answer = await server.exchange(request)
            assert 400 <= answer.status < 500, length
        assert await server.lives()

    async def test_empty(self, server: Server, sources: Mapping[str, Source], key: str):
        """A request that should have a body and has none is 400, for a webhook as for a job."""
        assert (await server.exchange(job_post(key, b""))).status == 400
        assert (await server.exchange(job_post(key, b"", length=0))).status == 400
        bare = webhook(sources).partition(b"\r\n\r\n")[0].split(b"\r\nContent-Length")[0] + b"\r\n\r\n"
        assert (await server.exchange(bare)).status == 400

    async def test_cut(self, server: Server, sources: Mapping[str, Source], count_jobs: CountJobs):
        """A client that closes in the middle of a request, at any place, leaves nothing behind."""
        whole = webhook(sources)
        for place in (1, len(whole) // 2, len(whole) - 1):
            for close in (lambda _: None, reset_on_close):
                async with server.connected() as wire:
                    await wire.send(whole[:place])
                    close(wire)
        async with server.connected() as wire:
            await wire.send(whole[:-1])
            await wire.stream.send_eof()
            assert b"200" not in await wire.read_to_end(5)
        assert await server.lives()
        assert count_jobs() == 0

    async def test_a_length_that_is_too_short(self, server: Server, key: str, count_jobs: CountJobs):
        """Only as many bytes as were declared are the body; what comes behind is no request."""
        async with server.connected() as wire:
            await wire.send(job_post(key, job_body(100), length=50))
            assert (await wire.answer()).status == 400
            assert b"HTTP/1.1 2" not in await wire.read_to_end(1)
        assert count_jobs() == 0

    async def test_slow(self, start_server: StartServer, key: str, count_jobs: CountJobs):
        """A body that does not arrive whole in time is 408, silent or dripping, and the connection ends."""
        server = await start_server(body_seconds_max=0.5)
        started = trio.current_time()
        async with server.connected() as silent, server.connected() as dripping, trio.open_nursery() as nursery:
            await silent.send(job_post(key, job_body(50), length=100))
            await dripping.send(job_post(key, b"", length=100))
            nursery.start_soon(drip, dripping)
            for wire in (silent, dripping):
                answer = await wire.answer()
                assert (answer.status, answer.headers["connection"]) == (408, "close")
            assert 0.4 < trio.current_time() - started < 3
            nursery.cancel_scope.cancel()
        assert count_jobs() == 0


async def drip(wire: Wire) -> None:
    """Send a byte now and then, until the other side has enough."""
    with suppress(trio.BrokenResourceError):
        while True:
            await wire.send(b"a")
            await trio.sleep(0.05)


class TestHeaders:
    async def test_slow(self, start_server: StartServer, monkeypatch: pytest.MonkeyPatch):
        """A connection that does not finish its header in time is closed, silent or dripping; others are served meanwhile."""
        monkeypatch.setattr(sentinel.connection, "HEAD_SECONDS_MAX", 0.5)
        monkeypatch.setattr(sentinel.serve, "HEADER_SECONDS_MAX", 0.5)
        server = await start_server()
        async with server.connected() as silent, server.connected() as dripping, trio.open_nursery() as nursery:
            await dripping.send(b"GET /healthz HTTP/1.1\r\nX: ")
            nursery.start_soon(drip, dripping)
            assert await server.lives()
            for wire in (silent, dripping):
                answer = await wire.read_to_end(5)
                assert answer == b"" or b" 408 " in answer
            assert await silent.is_closed(0.1)
            nursery.cancel_scope.cancel()

    async def test_too_many(self, server: Server):
        """More than 100 headers, or more than 16 KiB of them, are 431."""
        for extra in (["X-A: b"] * 100, ["X-A: " + "b" * 17_000], [f"X-{n}: b" for n in range(5000)]):
            assert (await server.exchange(http("GET", "/healthz", *extra))).status == 431
        for extra in (["X-A: b"] * 99, ["X-A: " + "b" * 16_000]):
            assert (await server.exchange(http("GET", "/healthz", *extra))).status == 200

    async def test_two_framings(self, server: Server, key: str, count_jobs: CountJobs):
        """Content-Length beside Transfer-Encoding is 400, and what follows is not read as a request: no smuggling."""
        smuggled = job_post(key, job_body(50))
        for headers in (("Content-Length: 5", "Transfer-Encoding: chunked"), ("Transfer-Encoding: chunked", "Content-Length: 5")):
            ambiguous = http("POST", "/v1/jobs", f"Authorization: Bearer {key}", *headers) + b"0\r\n\r\n"
            assert (await server.exchange(ambiguous)).status == 400
            async with server.connected() as wire:
                await wire.send(ambiguous, smuggled)
                assert b"HTTP/1.1 2" not in await wire.read_to_end(1)
        assert count_jobs() == 0

    async def test_versions(self, server: Server):
        """A version of HTTP that there is none of is 400."""
        for version in (b"HTTP/1.2", b"HTTP/2.0", b"HTTP/9.9"):
            request = http("GET", "/healthz").replace(b"HTTP/1.1", version)
            assert (await server.exchange(request)).status == 400, version

    async def test_control_characters(self, server: Server):
        """A path with a control character in it, however written, is 400."""
        for target in ("/%00", "/%0a", "/healthz%0d%0aX:%20y", "/%7f", "/%1b[2J"):
            assert (await server.exchange(http("GET", target))).status == 400, target

    async def test_what_nobody_sees(self, server: Server, key: str):
        """Spaces of other kinds and marks without a width, which the id of a chat may have, are no control characters."""
        for name in ("a%C2%A0b", "%E2%80%8Bzero", "a%E2%80%AEb"):
            wanted = http("DELETE", f"/v1/users/{name}", f"Authorization: Bearer {key}")
            assert (await server.exchange(wanted)).status == 202, name

    async def test_no_http(self, server: Server):
        """What is not HTTP is refused or cut off, and others are served."""
        for rubbish in NO_HTTP:
            async with server.connected() as wire:
                await wire.send(rubbish)
                await wire.stream.send_eof()
                assert b" 200 " not in await wire.read_to_end(8), rubbish
            assert await server.lives()


class TestKillers:
    @every_killer
    async def test_the_server_survives(self, server: Server, killer: Killer, monkeypatch: pytest.MonkeyPatch):
        """An input that ends a bare Hypercorn ends its own connection at most."""
        monkeypatch.setattr(sentinel.asgi, "DRAIN_SECONDS_MAX", 0.1)
        async with server.connected() as bystander:
            async with server.connected() as wire:
                await strike(killer, wire)
            assert await server.lives()
            await bystander.send(http("GET", "/healthz"))
            assert (await bystander.answer()).status == 200

    @pytest.mark.slow
    async def test_plain_hypercorn_survives_them_all(self, settings: Settings, record: Record):
        """`hypercorn --worker-class trio sentinel.asgi:app` survives all nine, because importing the application guards it."""
        command = [sys.executable, "-m", "hypercorn", "--worker-class", "trio", "--bind", "127.0.0.1:0", "sentinel.asgi:app"]
        async with started(command, settings, b"Running on ") as (server, process):
            for name, killer in KILLERS.items():
                async with server.connected() as wire:
                    await strike(killer, wire)
                assert await server.lives(), name
            async with server.connected() as wire:
                await wire.send(http("GET", "/healthz"))
                assert "server" not in (await wire.answer()).headers
            process.terminate()
            with trio.fail_after(10):
                await process.wait()

    async def test_websockets(self, server: Server):
        """A WebSocket is never opened."""
        async with server.connected() as wire:
            await wire.send(http("GET", "/healthz", *WEBSOCKET))
            assert (await wire.answer()).status != 101
        assert await server.lives()


class TestClients:
    async def test_one_that_vanishes(self, server: Server, sources: Mapping[str, Source], count_jobs: CountJobs):
        """A client that is gone before its answer, politely or not, has its job kept and disturbs nobody."""
        for number, close in enumerate((lambda _: None, reset_on_close)):
            async with server.connected() as wire:
                await wire.send(webhook(sources, number))
                close(wire)
        with trio.fail_after(5):
            while count_jobs() < 2:
                await trio.sleep(0.01)
        assert await server.lives()

    async def test_five_hundred_at_once(self, server: Server, sources: Mapping[str, Source], count_jobs: CountJobs):
        """Five hundred connections that come at once are all answered, and every job is kept."""
        answers: list[Answer] = []

        async def send(number: int) -> None:
            answers.append(await server.exchange(webhook(sources, number)))

        with trio.fail_after(20):
            async with trio.open_nursery() as senders:
                for number in range(500):
                    senders.start_soon(send, number)
        assert [answer.status for answer in answers] == [200] * 500
        assert len({answer.headers["sentinel-job-id"] for answer in answers}) == count_jobs() == 500

    async def test_more_than_can_be_handled(
        self, start_server: StartServer, record: Record, sources: Mapping[str, Source], count_jobs: CountJobs
    ):
        """A request above the limit gets 503 with Retry-After at once, /healthz does not, and later ones are served again."""
        server = await start_server(requests_max=2)
        async with server.connected() as one, server.connected() as other:
            with record._transaction():  # so that the two wait for their commit
                await one.send(webhook(sources, 1))
                await other.send(webhook(sources, 2))
                await trio.sleep(0.2)
                refused = await server.exchange(webhook(sources, 3))
                assert (refused.status, refused.headers["content-type"]) == (503, "application/problem+json")
                assert int(refused.headers["retry-after"]) > 0
                assert (await server.exchange(http("GET", "/healthz"))).status == 200
            assert [(await wire.answer()).status for wire in (one, other)] == [200, 200]
        assert count_jobs() == 2
        assert await server.lives()

    async def test_waiting_shuts_nobody_out(self, start_server: StartServer, key: str, sources: Mapping[str, Source]):
        """Callers who wait for a job have a limit of their own: above it they are answered at once, and webhooks are taken."""
        server = await start_server(requests_max=8)
        created = await server.exchange(job_post(key, job_body(50)))
        look = http("GET", created.json["status_url"], f"Authorization: Bearer {key}", "Prefer: wait=2")
        async with server.connected() as one:
            await one.send(look)
            await trio.sleep(0.2)
            with trio.fail_after(1):
                at_once = await server.exchange(look)
                assert (at_once.status, "preference-applied" in at_once.headers) == (200, False)
                assert (await server.exchange(webhook(sources))).status == 200
            assert "preference-applied" in (await one.answer()).headers


class TestEnd:
    async def test_a_dead_task_ends_the_program(self, settings: Settings, monkeypatch: pytest.MonkeyPatch):
        """When the task that keeps jobs dies, the gateway's block is left with its exception and without an open record."""

        async def die(_: Intake, *, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            await trio.lowlevel.checkpoint()
            raise RuntimeError("the intake died")

        monkeypatch.setattr(Intake, "run", die)
        with pytest.raises(ExceptionGroup) as caught, trio.fail_after(5):
            async with open_gateway(settings):
                await trio.sleep_forever()
        assert caught.group_contains(RuntimeError, match="the intake died")

        with pytest.raises(ExceptionGroup) as caught, trio.fail_after(5):
            await sentinel.serve.serve(settings)
        assert caught.group_contains(RuntimeError, match="the intake died")
        assert not [file for file in Path("/proc/self/fd").iterdir() if str(file.resolve()).startswith(settings.record[7:])]

    async def test_not_started(self):
        """An application without a gateway says 503 in its own words."""
        sent = []

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {"type": "http", "method": "GET", "path": "/healthz", "query_string": b"", "headers": [], "http_version": "1.1"}
        await Application()(scope, receive, send)
        assert sent[0]["status"] == 503

    @pytest.mark.slow
    async def test_plain_hypercorn_ends_without_a_record(self, settings: Settings, tmp_path: Path):
        """A gateway that cannot open its record does not stay up to refuse everybody."""
        (tmp_path / "file").touch()
        broken = attrs.evolve(settings, record=f"sqlite:{tmp_path / 'file' / 'below.db'}")
        command = [sys.executable, "-m", "hypercorn", "--worker-class", "trio", "--bind", "127.0.0.1:0", "sentinel.asgi:app"]
        process = await trio.lowlevel.open_process(command, env=environment(broken), stderr=-3, stdout=-3, cwd=ROOT)
        with trio.fail_after(15):
            await process.wait()  # with 0, whatever its worker ended with: Hypercorn's own doing

    @pytest.mark.slow
    async def test_stops_within_the_grace(self, settings: Settings, sources: Mapping[str, Source], key: str, count_jobs: CountJobs):
        """SIGTERM lets a request end, and the program with it, well within the grace."""
        quick = attrs.evolve(settings, grace_seconds=5.0)
        async with started([sys.executable, "-m", "sentinel", "serve"], quick, b'"urls"') as (server, process):
            body = job_body(50)
            async with server.connected() as idle, server.connected() as busy:
                await busy.send(job_post(key, body[:20], length=50))
                await trio.sleep(0.2)
                began = trio.current_time()
                process.send_signal(signal.SIGTERM)
                await trio.sleep(0.2)
                await busy.send(body[20:])
                assert (await busy.answer()).status == 202
                assert await idle.is_closed()
                with trio.fail_after(5):
                    assert await process.wait() == 0
            assert trio.current_time() - began < 4
        assert count_jobs() == 1

    @pytest.mark.slow
    async def test_stops_in_time_whatever_its_clients_do(self, settings: Settings, record: Record, key: str):
        """SIGTERM ends the program within the grace and two seconds, though a client never reads and another waits for a job."""
        quick = attrs.evolve(settings, grace_seconds=1.0)
        async with started([sys.executable, "-m", "sentinel", "serve"], quick, b'"urls"') as (server, process):
            large = json.dumps({"input": "x", "metadata": {"a": "b" * 16_000}}).encode()
            for _ in range(20):
                created = await server.exchange(job_post(key, large))
                assert created.status == 202
            async with server.connected() as deaf, server.connected() as waiting:
                await waiting.send(http("GET", created.json["status_url"], f"Authorization: Bearer {key}", "Prefer: wait=60"))
                with trio.move_on_after(1):
                    while True:
                        await deaf.send(http("GET", "/v1/jobs?limit=200", f"Authorization: Bearer {key}"))
                process.send_signal(signal.SIGTERM)
                with trio.fail_after(quick.grace_seconds + 2):
                    await process.wait()


def environment(settings: Settings) -> dict[str, str]:
    """The environment that gives another process these settings."""
    return environment_of(settings) | {"SENTINEL_LOG_FORMAT": "json", "PYTHONUNBUFFERED": "1"}


@asynccontextmanager
async def started(command: Sequence[str], settings: Settings, mark: bytes) -> AsyncIterator[tuple[Server, trio.Process]]:
    """A server in a process of its own, once a line of its log has `mark` and its URL; killed on leaving if it still runs."""
    process = await trio.lowlevel.open_process(command, env=environment(settings), stderr=-1, cwd=ROOT)
    assert process.stderr
    try:
        with trio.fail_after(20):
            said = b""
            while mark not in said or b"\n" not in said.partition(mark)[2]:
                chunk = await process.stderr.receive_some()
                assert chunk, said
                said += chunk
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_swallow, process.stderr)
            url = urlsplit(said.partition(mark)[2].decode().partition("http://")[2].join(["http://", ""]).split()[0].strip('",]'))
            assert url.hostname
            assert url.port
            yield Server(url.hostname, url.port), process
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            await process.stderr.aclose()


async def _swallow(stream: trio.abc.ReceiveStream) -> None:
    """Read what a process says, so that it never waits for us."""
    while await stream.receive_some():
        pass
