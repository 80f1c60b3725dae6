"""The sender, against servers that answer, refuse, stay silent and hang up; and the plan that it sends."""

from __future__ import annotations

import math
import socket
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from sentinel.channels import channels, waiting_seconds
from sentinel.chaos.history import FAIL, INFO, OK, Attempt
from sentinel.chaos.load import Patience, Sender
from sentinel.chaos.plan import CHANNELS, Chain, Planned, Shape, Webhook, make_plan, make_sources
from sentinel.http import Request, Response
from sentinel.http1 import Limits, Reader
from sentinel.lane import Lane

QUICK = Patience(answer_seconds=0.3, first_pause=0.01, pause_max=0.02, seconds=3.0)


@asynccontextmanager
async def sender_to(
    handle: Callable[[Request], Awaitable[Response]], **more: object
) -> AsyncIterator[tuple[Sender, list[Attempt]]]:
    """A sender, and what it logs, to a true lane that answers as `handle` does."""
    attempts: list[Attempt] = []

    async def nobody(stream: trio.SocketStream, _data: bytes, _client: str) -> None:
        await stream.aclose()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Lane(handle, nobody, Limits(100_000, 5.0)).run, [listener])
            port = listener.getsockname()[1]
            sender = Sender("127.0.0.1", port, attempts.append, **{"connections": 8, "patience": QUICK} | more)  # type: ignore[arg-type]
            with trio.fail_after(20):
                yield sender, attempts
            nursery.cancel_scope.cancel()


def webhook(name: str = "one") -> Webhook:
    data = b"POST /%b HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\nhi" % name.encode()
    return Webhook("t", "telegram", "s", name, name, "", 0, data)


async def taken(_request: Request) -> Response:
    return Response(200, b"", (("sentinel-job-id", "a,b"), ("sentinel-duplicate", "true")))


async def test_an_answer_is_logged_with_its_jobs() -> None:
    """What an acknowledgment says of jobs and duplicates is logged, with the times at which it was planned, sent and answered."""
    async with sender_to(taken) as (sender, attempts):
        await sender.run([Chain((Planned(0.1, webhook()),))])
    (attempt,) = attempts
    assert (attempt.outcome, attempt.status, attempt.jobs, attempt.duplicate) == (OK, 200, ("a", "b"), True)
    assert 0.1 <= attempt.planned <= attempt.sent <= attempt.answered


async def test_a_refusal_is_tried_again_with_the_same_bytes() -> None:
    """A webhook that is answered 503 is sent again, byte for byte, until it is taken; each attempt is logged."""
    seen: list[bytes] = []

    async def third_time(request: Request) -> Response:
        seen.append(request.body)
        return Response(503) if len(seen) < 3 else await taken(request)

    async with sender_to(third_time) as (sender, attempts):
        await sender.run([Chain((Planned(0, webhook()),))])
    assert [attempt.outcome for attempt in attempts] == [FAIL, FAIL, OK]
    assert seen == [b"hi"] * 3


async def test_silence_is_unknown_and_tried_again() -> None:
    """What is not answered in time may have been kept: it is logged as unknown, and sent again."""
    calls = Counter[str]()

    async def silent_first(request: Request) -> Response:
        calls["all"] += 1
        if calls["all"] == 1:
            await trio.sleep_forever()
        return await taken(request)

    async with sender_to(silent_first) as (sender, attempts):
        await sender.run([Chain((Planned(0, webhook()),))])
    assert [(attempt.outcome, attempt.reason) for attempt in attempts] == [(INFO, "no answer in time"), (OK, "")]


async def test_a_refused_connection_has_certainly_sent_nothing() -> None:
    """Where nobody listens the attempts are failures and not unknown, and the webhook counts as never acknowledged."""
    attempts: list[Attempt] = []
    sender = Sender("127.0.0.1", 1, attempts.append, patience=Patience(first_pause=0.01, pause_max=0.02, seconds=0.1))
    await sender.run([Chain((Planned(0, webhook()),))])
    assert {attempt.outcome for attempt in attempts} == {FAIL}
    assert sender.unacknowledged == 1


async def test_a_chain_waits_for_each_answer_and_others_do_not() -> None:
    """Webhooks of a chain are sent in order and one at a time, while those of others go side by side."""
    open_now: set[str] = set()
    order: list[str] = []

    async def slow(request: Request) -> Response:
        name = request.path[1:]
        assert not (name.startswith("chat") and any(other.startswith("chat") for other in open_now))
        open_now.add(name)
        await trio.sleep(0.05)
        open_now.discard(name)
        order.append(name)
        return await taken(request)

    chat = Chain(tuple(Planned(0, webhook(f"chat{number}")) for number in range(4)))
    async with sender_to(slow) as (sender, attempts):
        await sender.run([chat, *(Chain((Planned(0, webhook(f"other{number}")),)) for number in range(4))])
    assert [name for name in order if name.startswith("chat")] == ["chat0", "chat1", "chat2", "chat3"]
    assert {attempt.outcome for attempt in attempts} == {OK}


async def test_times_count_from_the_plan() -> None:
    """With one connection to a slow server, what waits for the connection is late by the plan, and not by the request."""

    async def slow(request: Request) -> Response:
        await trio.sleep(0.05)
        return await taken(request)

    async with sender_to(slow, connections=1) as (sender, attempts):
        await sender.run([Chain((Planned(0, webhook(str(number))),)) for number in range(6)])
    assert max(attempt.answered - attempt.sent for attempt in attempts) < 0.2
    assert max(attempt.answered - attempt.planned for attempt in attempts) > 0.25


@pytest.mark.slow  # it is timed, and wants a core for itself
async def test_it_is_cheap() -> None:
    """1,500 webhooks a second take it, together with the server in the same process, less than the whole core."""
    plan = [Chain((Planned(number / 1500, webhook(str(number))),)) for number in range(1500)]
    async with sender_to(taken, connections=200) as (sender, attempts):
        used, began = time.process_time(), time.perf_counter()
        await sender.run(plan)
        share = (time.process_time() - used) / (time.perf_counter() - began)
    assert len({attempt.event for attempt in attempts}) == 1500  # some more than once, if the machine stood still meanwhile
    print(f"\n1,500/s: {share:.0%} of a core for the sender and the server")
    assert share < 0.9


def test_the_plan_is_what_platforms_would_send() -> None:
    """Each webhook verifies and parses, events and texts are distinct, chats come in order, two in a hundred come again."""
    shape = Shape(webhooks=1_000, seconds=5.0, tenants=3)
    sources = make_sources(shape, "http://127.0.0.1:1")
    by_path = {f"/webhooks/{source.channel}/{source.name}": source for source in sources}
    plan = make_plan(shape, sources, seed=7)
    links = [link for chain in plan for link in chain.links]
    first = [link for link in links if not link.copy]
    assert len(first) == len({link.webhook.event for link in first}) == len({link.webhook.text for link in first}) == 1_000
    assert len(links) - len(first) == 20
    chats: dict[str, list[Planned]] = defaultdict(list)
    for link in first:
        reader = Reader(Limits(100_000, 1.0))
        reader.feed(link.webhook.data)
        ((request, _keep),) = reader.requests
        source = by_path[request.path]
        assert channels()[source.channel].verify(request, source, time.time())
        (event,) = channels()[source.channel].parse(request, source).events
        assert (event.external_id, event.text) == (link.webhook.event, link.webhook.text)
        if link.webhook.conversation:
            assert event.conversation == link.webhook.conversation
            chats[link.webhook.conversation].append(link)
    assert sum(map(len, chats.values())) > 100
    assert {link.webhook.channel for link in first} == set(CHANNELS)
    for messages in chats.values():
        assert [link.webhook.place for link in messages] == list(range(len(messages)))
        assert [link.at for link in messages] == sorted(link.at for link in messages)


def test_a_seed_is_a_plan() -> None:
    """The same seed plans the same texts at the same times, another seed others."""
    shape = Shape(webhooks=200)
    sources = make_sources(shape, "http://127.0.0.1:1")
    same = [[(chain.links[0].at, chain.links[0].webhook.text) for chain in make_plan(shape, sources, seed)] for seed in (1, 1, 2)]
    assert same[0] == same[1] != same[2]


def test_no_chat_is_told_how_long_it_waits() -> None:
    """Sources of a run send answers only, since the checker takes a notice of waiting for a reply that nobody asked for."""
    sources = make_sources(Shape(), "http://127.0.0.1:1")
    assert {waiting_seconds(source.settings, 30.0) for source in sources} == {math.inf}
