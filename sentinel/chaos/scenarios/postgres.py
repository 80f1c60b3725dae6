"""Faults of PostgreSQL, the record itself: webhooks are taken all the same, if need be into the spool."""

from __future__ import annotations

import hashlib
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import trio

from sentinel.channels import channels
from sentinel.channels.shared.signing import hmac_hex
from sentinel.chaos.checker import Finding
from sentinel.chaos.plan import Planned, Webhook, encode
from sentinel.chaos.proxy import Toxic
from sentinel.chaos.stage import Act, Scenario, Stage
from sentinel.chaos.subject import in_thread
from sentinel.chaos.wire import ask
from sentinel.http import Request
from sentinel.model import Source

# Jobs that ended long ago, of a tenant that nobody sends for.
HISTORY_ROWS = 1_000_000
HISTORY = """
INSERT INTO jobs(id, tenant, channel, source, external_id, sender, priority, received_at, created_at, verified_by, fingerprint,
                 options, input, reply_to, state, run_at, finished_at)
SELECT gen_random_uuid(), 'history', 'generic', 'history', n::text, '', 100, n, n, 'bearer', '', '{}', '[]', '{}', 'succeeded', n, n
FROM generate_series(%d, %d) AS n"""
LOCK = "BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep({seconds})"
TERMINATE = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'sentinel' AND pid <> pg_backend_pid()"
# Each time, some of those who lost their sessions are not the first to have new ones.
TERMINATE_AGAIN = f"""
DO $$ BEGIN
    FOR turn IN 1..30 LOOP PERFORM ({TERMINATE}); PERFORM pg_stat_clear_snapshot(), pg_sleep(0.05); END LOOP;
END $$"""
CROWD, CROWD_SECONDS = 400, 1.5
CROWD_AFTER_SECONDS = 0.3  # whoever ends the sessions must have one first
TERMINATE_ONE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = 'sentinel' AND pid <> pg_backend_pid() ORDER BY state = 'active' DESC, random() LIMIT 1"""
# Bodies that two parsers read differently, or that no store could keep.
REFUSED = (
    b'{"object":"whatsapp_business_account","entry":"\\u0000"}',
    b'{"object":"whatsapp_business_account","entry":"\\ud800"}',
    b'{"entry":' + b"[" * 300 + b"]" * 300 + b"}",
    b'{"entry":[],"entry":[{}]}',
    b"\xff\xfe not JSON at all",
)
# JSON of a shape that nobody knows: kept for a person.
PUT_ASIDE = (b'{"entry":[{"changes":[{"field":"messages","value":{"messages":[{"id":1,"type":[]}]}}]}]}',)
UNCLEAR = "unclear"
IDLE_MS = 100
SPOOLED, BROKEN = "spool.begins", "The record cannot be written or read now"


async def _nothing(stage: Stage) -> None:
    await stage.warm_up(0.3)


async def _killed(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("kill -9 of PostgreSQL"):
        await in_thread(stage.postgres.kill)
        await stage.hole()
        await in_thread(stage.postgres.start)


async def _restarted(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("an orderly restart of PostgreSQL"):
        await in_thread(stage.postgres.stop)
        await stage.hole(0.4)
        await in_thread(stage.postgres.start)


async def _paused(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("PostgreSQL is paused (SIGSTOP)"):
        await in_thread(stage.postgres.pause)
        await stage.hole()
        await in_thread(stage.postgres.resume)


async def _terminated(stage: Stage) -> None:
    """All of Sentinel's connections end again and again, in the middle of whatever they did."""
    await stage.warm_up()
    async with stage.fault("pg_terminate_backend of all, again and again"):
        with trio.move_on_after(stage.hole_seconds):
            while True:
                await in_thread(stage.postgres.run, TERMINATE, "postgres")
                await trio.sleep(stage.chance.uniform(0.05, 0.4))


async def _no_connections_left(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("max_connections is used up by others"):
        with ExitStack() as held:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(in_thread, stage.postgres.run, TERMINATE_AGAIN, "postgres")
                await trio.sleep(CROWD_AFTER_SECONDS)
                await in_thread(_crowd, held, stage.postgres.port)
            await stage.hole()


async def _locked(stage: Stage) -> None:
    await stage.warm_up()
    seconds = stage.hole_seconds
    async with stage.fault("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"):
        await in_thread(stage.postgres.run, LOCK.format(seconds=seconds), "sentinel")


async def _disk_full(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("the disk of the database is full"):
        await in_thread(stage.disk.fill)
        await stage.hole()
        await in_thread(stage.disk.free)


async def _network(stage: Stage) -> None:
    await stage.warm_up()
    for what, toxic in (
        ("swallowed", Toxic(hang=True)),
        ("reset", Toxic(reset=True)),
        ("refused", Toxic(down=True)),
        ("cut after 3,000 bytes of replies", Toxic(limit_data=3_000)),
    ):
        async with stage.fault(f"connections to PostgreSQL are {what}"):
            stage.proxy.set(toxic)
            await stage.hole(0.25)
            stage.proxy.set()
        await stage.hole(0.1)


async def _cold_start(stage: Stage) -> None:
    """As a serverless database does it: the connections end, new ones are taken, and are answered when the database is awake."""
    await stage.warm_up()
    async with stage.fault("PostgreSQL falls asleep, and takes long to wake"):
        stage.proxy.set(Toxic(asleep=True))
        stage.proxy.cut()
        await stage.hole()
        stage.proxy.set()


async def _far(stage: Stage) -> None:
    await stage.warm_up(0.1)
    async with stage.fault("PostgreSQL is 50 ms away"):
        stage.proxy.set(Toxic(latency=0.025))  # each way
        await stage.hole(1.6)
    stage.proxy.set()


async def _idle_disconnects(stage: Stage) -> None:
    """The server's own setting: whatever is idle for a moment is ended, in the middle of every pause between two batches."""
    await stage.warm_up(0.1)
    async with stage.fault(f"PostgreSQL ends sessions that are idle for {IDLE_MS} ms"):
        await stage.hole(1.6)


async def _many_workers(stage: Stage) -> None:
    """Four workers claim from one record, and their transactions are rolled back at random."""
    await stage.warm_up(0.1)
    async with stage.fault("four workers, and random rollbacks"):
        with trio.move_on_after(stage.hole_seconds):
            while True:
                await in_thread(stage.postgres.run, TERMINATE_ONE, "postgres")
                await trio.sleep(stage.chance.uniform(0.02, 0.2))


async def _history(stage: Stage) -> None:
    """In pieces: psql has a minute for each."""
    for start in range(0, HISTORY_ROWS, 100_000):
        await in_thread(stage.postgres.run, HISTORY % (start + 1, start + 100_000), "sentinel")
    stage.note(f"{HISTORY_ROWS} finished jobs are in the record")


async def _poison(stage: Stage) -> None:
    """Genuine webhooks with bodies that must not reach a table as they are: refused or put aside, while the others go on."""
    await stage.warm_up()
    source = next(source for source in stage.sources if source.channel == "whatsapp")
    stage.quarantined.add(UNCLEAR)
    for number, body in enumerate((*REFUSED, *PUT_ASIDE)):
        with trio.fail_after(5):
            status = (await ask(stage.sender.host, stage.sender.port, encode(_signed(source, body)))).status
        stage.note(f"{status} for {body[:40]!r}")
        if status != (400 if number < len(REFUSED) else 200):
            stage.findings.append(Finding("answer", repr(body[:40]), f"status {status}"))
    for body in PUT_ASIDE:
        await stage.sender.send(Planned(0, _put_aside(source, body)), stage.sender.now())


def _put_aside(source: Source, body: bytes) -> Webhook:
    """The webhook of which nobody can say what it means, for the log: it has a job, for a person to look at, and no reply."""
    request = _signed(source, body)
    (event,) = channels()[source.channel].parse(request, source).events
    identity = event.external_id or event.identity or hashlib.sha256(body).hexdigest()
    return Webhook(source.tenant, source.channel, source.name, identity, UNCLEAR, "", 0, encode(request))


def _signed(source: Source, body: bytes) -> Request:
    signature = "sha256=" + hmac_hex(source.setting("app_secret").encode(), body)
    headers = {"content-type": "application/json", "x-hub-signature-256": signature}
    return Request("POST", f"/webhooks/whatsapp/{source.name}", headers=headers, body=body)


def _crowd(held: ExitStack, port: int) -> None:
    """Stand in line for sessions, so that whoever loses one does not get it back for long."""
    for _ in range(CROWD):
        held.enter_context(_idle_session(port))
        time.sleep(CROWD_SECONDS / CROWD)


@contextmanager
def _idle_session(port: int) -> Iterator[None]:
    """A session that does nothing, if the server still gives one: the startup message of the protocol, version 3.0."""
    words = b"user\0sentinel\0database\0postgres\0\0"
    with socket.socket() as connection, suppress(OSError):
        connection.settimeout(2)
        connection.connect(("127.0.0.1", port))
        connection.sendall(struct.pack("!ii", 8 + len(words), 196_608) + words)
        yield


def _scenario(name: str, numbers: tuple[int, ...], what: str, act: Act, **more: Any) -> Scenario:
    return Scenario(name=f"postgres-{name}", numbers=numbers, what=what, act=act, **more)


SCENARIOS = (
    _scenario("calm", (), "PostgreSQL alone, no fault: what the others are compared with", _nothing, redis=False),
    _scenario("and-redis-calm", (), "PostgreSQL and Redis, no fault: what the others are compared with", _nothing),
    _scenario("killed", (14,), "kill -9 of PostgreSQL, back after a while: the spool takes over", _killed, felt=SPOOLED),
    _scenario("restarted", (15,), "an orderly restart of PostgreSQL", _restarted, felt=SPOOLED),
    _scenario("terminated", (15,), "all sessions end again and again, mid-transaction", _terminated, felt=BROKEN),
    _scenario("paused", (16,), "PostgreSQL hangs (SIGSTOP) and goes on: commits take effect late", _paused, felt=SPOOLED),
    _scenario(
        "no-connections-left",
        (17,),
        "others use up max_connections",
        _no_connections_left,
        postgres_options={"max_connections": "20"},
        felt=SPOOLED,
    ),
    _scenario("locked", (18,), "the table of jobs is locked", _locked, felt=SPOOLED),
    _scenario("disk-full", (19,), "the disk of the database fills up, and is freed", _disk_full, disk="postgres", felt=SPOOLED),
    _scenario(
        "network", (15, 16), "connections to PostgreSQL hang, are reset, refused, cut", _network, proxied="postgres", felt=SPOOLED
    ),
    _scenario("cold-start", (16,), "the database sleeps and takes long to wake", _cold_start, proxied="postgres", felt=SPOOLED),
    _scenario("far", (), "PostgreSQL is 50 ms away, there and back", _far, proxied="postgres"),
    _scenario(
        "idle-disconnects",
        (15,),
        "the server ends sessions that are idle for a moment",
        _idle_disconnects,
        postgres_options={"idle_session_timeout": str(IDLE_MS)},
        shape={"webhooks": 300, "seconds": 10.0},
        felt=BROKEN,
    ),
    _scenario(
        "many-workers",
        (20,),
        "four workers on one record, with random rollbacks",
        _many_workers,
        commands=("up", "worker", "worker", "worker"),
        felt=BROKEN,
    ),
    _scenario("million-rows", (22,), "a million finished jobs in the record, no other fault", _nothing, before=_history),
    _scenario("poison", (21,), "bodies that no table could keep, between the others", _poison),
)
