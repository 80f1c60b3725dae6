"""GET /v1/jobs/ID/events, from the bytes: through the lane and through Hypercorn alone."""

from __future__ import annotations

import json
import time
from typing import Any

import attrs
import pytest
import trio

import sentinel.job_events
from sentinel.errors import Unavailable
from sentinel.gateway import Gateway
from sentinel.http import Request
from sentinel.model import API_CHANNEL, Claim, NewJob, State, job_id
from sentinel.processes import process_name
from sentinel.records import Ending, Record, Reply
from sentinel.records.watching import Partial
from tests.gateway.conftest import StartServer
from tests.gateway.wire import Api, Server, Wire, http


@pytest.fixture
def claim(record: Record) -> Claim:
    """A job that runs and may be watched."""
    user = {"role": "user", "content": "hello"}
    job = NewJob(job_id("s"), "default", API_CHANNEL, API_CHANNEL, "", (user,), time.time(), options={"stream": True})
    record.accept([job], time.time())
    (claim,) = record.claim(record.register("w", process_name(), 1, "ready", time.time()), 1, time.time())
    return claim


def tell(record: Record, claim: Claim, text: str) -> None:
    record.save_partials([Partial(claim.job.id, claim.lease_token, text)])


def finish(record: Record, claim: Claim) -> None:
    record.save_replies([Reply(claim.job.id, claim.lease_token, {"output_text": "Hello there", "usage": {}})], time.time())
    record.end([Ending(claim.job.id, claim.lease_token, State.SUCCEEDED)], time.time())


def asked(claim: Claim, key: str, *headers: str) -> bytes:
    return http("GET", f"/v1/jobs/{claim.job.id}/events", f"Authorization: Bearer {key}", *headers)


async def read_until(wire: Wire, mark: bytes) -> bytes:
    """What came, up to the mark and with it."""
    with trio.fail_after(10):
        return await wire._read_until(mark)


def events_of(raw: bytes) -> list[tuple[str, Any]]:
    """The events in a chunked body, by name, with their data."""
    text = b"".join(line + b"\n" for line in raw.replace(b"\r\n", b"\n").split(b"\n")).decode()
    found = [block.split("\n") for block in text.split("event: ")[1:]]
    return [(lines[0], json.loads(next(line for line in lines if line.startswith("data: "))[6:])) for lines in found]


async def test_a_job_is_watched_to_its_end(server: Server, record: Record, claim: Claim, key: str) -> None:
    """Steps, text and progress come as they happen, then the result, and the stream ends."""
    async with server.connected() as wire:
        await wire.send(asked(claim, key))
        head = await read_until(wire, b"\r\n\r\n")
        assert b"200" in head.split(b"\r\n")[0]
        assert b"content-type: text/event-stream" in head.lower()
        tell(record, claim, "Hello")
        raw = await read_until(wire, b'{"delta":"Hello"}')
        tell(record, claim, "Hello there")
        raw += await read_until(wire, b'{"delta":" there"}')
        finish(record, claim)
        rest = await wire.read_to_end(3)
    assert b'"step":"claimed"' in raw
    assert events_of(rest)[-1][0] == "result"
    assert events_of(rest)[-1][1]["result"]["output_text"] == "Hello there"


async def test_coming_back(server: Server, record: Record, claim: Claim, key: str) -> None:
    """With Last-Event-ID only what was missed is told; who has had the result is told not to come again."""
    tell(record, claim, "Hello there")
    finish(record, claim)
    story = len(record.story(claim.job.id))
    async with server.connected() as wire:
        await wire.send(asked(claim, key, f"Last-Event-ID: {story}.1.6"))
        raw = await read_until(wire, b"id: end")
    assert b'{"delta":"there"}' in raw
    assert b"event: step" not in raw
    assert (await server.exchange(asked(claim, key, "Last-Event-ID: end"))).status == 204


async def test_on_a_connection_that_was_used(server: Server, record: Record, claim: Claim, key: str) -> None:
    """A stream may be asked for on a connection that has answered other requests."""
    finish(record, claim)
    async with server.connected() as wire:
        await wire.send(http("GET", "/healthz"))
        assert (await wire.answer()).status == 200
        await wire.send(asked(claim, key))
        await read_until(wire, b"id: end")
        assert b"Hello there" in await read_until(wire, b"\n\n")


async def test_it_says_that_it_lives(start_server: StartServer, claim: Claim, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing happens, a comment keeps the connection from looking dead."""
    monkeypatch.setattr(sentinel.job_events, "ALIVE_SECONDS", 0.1)
    server = await start_server()
    async with server.connected() as wire:
        await wire.send(asked(claim, key))
        await read_until(wire, b": alive\n\n")


async def test_who_leaves_is_forgotten(gateway: Gateway, claim: Claim) -> None:
    """A stream that is closed counts no longer."""
    streams = gateway.jobs.streams
    response = streams.open(claim.job, "", _no_document, lambda: True)
    assert response.stream is not None
    pieces = response.stream()
    assert await anext(pieces) == response.body
    assert streams._watched == {claim.job.id: 1}
    await pieces.aclose()
    assert not streams._watched
    assert not streams._tenants


async def _no_document(_job_id: str) -> dict[str, Any]:
    return {}


async def test_not_too_many(gateway: Gateway, api: Api, claim: Claim) -> None:
    """At most so many streams are open, and a tenant has no more than half of them; the others are told to come later."""
    streams = gateway.jobs.streams
    streams.streams_max = 2
    response = streams.open(claim.job, "", _no_document, lambda: True)
    assert response.stream is not None
    pieces = response.stream()
    await anext(pieces)
    refused = await api.call("GET", f"/v1/jobs/{claim.job.id}/events")
    assert refused.status == 503
    assert "retry-after" in refused.headers
    other = streams.open(attrs.evolve(claim.job, tenant="other"), "", _no_document, lambda: True)
    assert other.status == 200
    await pieces.aclose()


async def test_another_tenants_job(gateway: Gateway, claim: Claim, other_key: str) -> None:
    """Another tenant's job cannot be watched, nor one that is not there; and nobody watches without a key."""
    other = Api(gateway, other_key)
    assert (await other.call("GET", f"/v1/jobs/{claim.job.id}/events")).status == 404
    assert (await Api(gateway, "snt_x").call("GET", f"/v1/jobs/{claim.job.id}/events")).status == 401
    assert (await other.call("POST", f"/v1/jobs/{claim.job.id}/events")).status == 405


async def test_the_lane_has_an_answer_of_its_own(gateway: Gateway, api: Api, claim: Claim) -> None:
    """Where a stream is not possible, the answer is an event stream that asks to come again."""
    answer = await api.call("GET", f"/v1/jobs/{claim.job.id}/events")
    assert (answer.status, answer.body) == (200, b"retry: 1000\n\n")


@pytest.mark.parametrize("end", ["revoked", "expired", "disabled"])
@pytest.mark.parametrize("record_answers", [True, False])
async def test_a_stream_ends_with_its_key(  # noqa: PLR0917
    gateway: Gateway, record: Record, claim: Claim, key: str, end: str, record_answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its key is good no more a stream ends at the next look, though nothing happens to the job, or the record is silent."""
    monkeypatch.setattr(sentinel.job_events, "ALLOWED_SECONDS", 0.1)
    assert record.expire_key("key_default", time.time() + 1_000)
    await gateway.directory.refresh()
    answer = await gateway.handle(Request("GET", f"/v1/jobs/{claim.job.id}/events", "", {"authorization": f"Bearer {key}"}))
    assert answer.stream is not None
    pieces = answer.stream()
    while b"event: progress" not in await anext(pieces):
        pass
    if not record_answers:
        monkeypatch.setattr(gateway.jobs.streams.store.record, "glimpses", _unavailable)
    ended_at: list[float] = []

    async def read_on() -> None:
        async for piece in pieces:
            raise AssertionError(piece)
        ended_at.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_on)
        await trio.sleep(5 * sentinel.job_events.ALLOWED_SECONDS)
        assert not ended_at
        if end == "expired":
            gateway.directory.clock = lambda: time.time() + 1_001
        elif end == "revoked":
            record.revoke_key("key_default", time.time())
        else:
            record.disable_tenant("default", time.time())
        await gateway.directory.refresh()
        began = trio.current_time()
    assert ended_at[0] - began < 5


def _unavailable(*_: object) -> None:
    raise Unavailable
