"""Faults of Redis, which only says which job to look at next: webhooks must go on being taken, and jobs being done."""

from __future__ import annotations

import shutil
import socket
from contextlib import ExitStack, suppress
from typing import Any

import trio

from sentinel.chaos.proxy import Toxic
from sentinel.chaos.stage import Act, Scenario, Stage
from sentinel.chaos.subject import in_thread

LOGGED_BYTES = 100  # of a command in the append-only file
DEBUG_ALLOWED = {"enable-debug-command": "local"}  # refused by default since Redis 7
LUA_FOREVER = "while true do end"
CUT_BYTES_MAX, CUTS = 40, 6


async def _killed(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("kill -9 of Redis"):
        await in_thread(stage.redis.kill)
        await stage.hole()
        await in_thread(stage.redis.start)


async def _paused(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("Redis is paused (SIGSTOP)"):
        await in_thread(stage.redis.pause)
        await stage.hole()
        await in_thread(stage.redis.resume)


async def _writes_paused(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("Redis answers reads and hangs on writes (CLIENT PAUSE)"):
        await _ask(stage, "CLIENT", "PAUSE", "60000", "WRITE")
        await stage.hole()
        await _ask(stage, "CLIENT", "UNPAUSE")


async def _sleeps(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("Redis sleeps (DEBUG SLEEP)"):
        await _ask(stage, "DEBUG", "SLEEP", str(stage.hole_seconds))
        await stage.hole()
        await _answers(stage)


async def _busy(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("Redis runs an endless script and answers BUSY"):
        await _ask(stage, "EVAL", LUA_FOREVER, "0")
        await stage.hole()
        await _ask(stage, "SCRIPT", "KILL")
        await _answers(stage)


async def _full(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("Redis has no memory left (OOM)"):
        await _ask(stage, "CONFIG", "SET", "maxmemory", "1mb")
        await stage.hole()
        await _ask(stage, "CONFIG", "SET", "maxmemory", "0")


async def _disk_full(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("the disk of Redis is full (MISCONF)"):
        await in_thread(stage.disk.fill)
        await stage.hole()
        await in_thread(stage.disk.free)


async def _cut(stage: Stage) -> None:
    """The write behind a reply that is cut has happened, and nobody was told. Which lengths it is, the seed decides."""
    await stage.warm_up(0.1)
    for count in stage.chance.sample(range(CUT_BYTES_MAX + 1), CUTS):
        async with stage.fault(f"replies of Redis are cut after {count} bytes"):
            before = stage.proxy.cuts
            stage.proxy.set(Toxic(limit_data=count))
            with trio.move_on_after(2):
                while stage.proxy.cuts == before:  # noqa: ASYNC110  a plain counter, and nobody is in a hurry
                    await trio.sleep(0.02)
            stage.proxy.set()
        await stage.hole(1 / CUTS)


async def _slow(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("Redis is 200 ± 100 ms away"):
        stage.proxy.set(Toxic(latency=0.1, jitter=0.05))  # each way
        await stage.hole()
        stage.proxy.set()


async def _network(stage: Stage) -> None:
    await stage.warm_up()
    for what, toxic in (
        ("swallowed", Toxic(hang=True)),
        ("reset", Toxic(reset=True)),
        ("refused", Toxic(down=True)),
    ):
        async with stage.fault(f"connections to Redis are {what}"):
            stage.proxy.set(toxic)
            await stage.hole(0.3)
            stage.proxy.set()
        await stage.hole(0.1)


async def _refuses(stage: Stage) -> None:
    """Each refusal that a healthy-looking Redis can give."""
    await stage.warm_up(0.1)
    async with stage.fault("READONLY, as after a failover"):
        await _ask(stage, "REPLICAOF", "127.0.0.1", "1")
        await stage.hole(0.3)
        await _ask(stage, "REPLICAOF", "NO", "ONE")
    await stage.hole(0.2)
    async with stage.fault("NOAUTH"):
        await _ask(stage, "CONFIG", "SET", "requirepass", "secret")
        await _ask(stage, "CLIENT", "KILL", "TYPE", "normal")
        await stage.hole(0.3)
        await in_thread(stage.redis.kill)  # with the password in its memory only
        await in_thread(stage.redis.start)
    await stage.hole(0.2)
    async with stage.fault("NOSCRIPT: scripts and functions are gone"):
        await _ask(stage, "SCRIPT", "FLUSH")
        await _ask(stage, "FUNCTION", "FLUSH")
        await stage.hole(0.2)
    await stage.hole(0.2)
    async with stage.fault("LOADING: a restart that takes long"):
        await in_thread(stage.redis.kill)
        usual = stage.redis.options
        stage.redis.options = {**usual, "key-load-delay": str(_load_delay_us(stage))}
        await in_thread(stage.redis.start)
        stage.redis.options = usual
        await _ask(stage, "CONFIG", "SET", "key-load-delay", "0")


def _load_delay_us(stage: Stage) -> int:
    """What Redis sleeps for each command that it loads, so that all take about as long as a fault."""
    logged = sum(file.stat().st_size for file in stage.redis.folder.rglob("*.aof"))
    return min(500, round(stage.hole_seconds * 1e6 / (logged / LOGGED_BYTES + 1)))


async def _flapping(stage: Stage) -> None:
    await stage.warm_up(0.1)
    async with stage.fault("Redis comes and goes, 6 times"):
        for _ in range(6):
            await in_thread(stage.redis.kill)
            await trio.sleep(stage.shape.seconds / 20)
            await in_thread(stage.redis.start)
            await trio.sleep(stage.shape.seconds / 20)


async def _older(stage: Stage) -> None:
    """Redis comes back with what it held a while ago: finished jobs among it, and later ones missing."""
    await stage.warm_up(0.1)
    await _ask(stage, "SAVE")
    kept, current = stage.redis.folder / "kept.rdb", stage.redis.folder / "dump.rdb"
    await in_thread(shutil.copy, current, kept)
    await stage.hole(0.5)
    async with stage.fault("Redis is back with older data"):
        await in_thread(stage.redis.kill)
        await in_thread(shutil.copy, kept, current)
        await stage.hole(0.1)
        await in_thread(stage.redis.start)
        await stage.hole(0.5)


async def _wiped(stage: Stage) -> None:
    await stage.warm_up()
    for _ in range(2):
        async with stage.fault("Redis is wiped (FLUSHALL)"):
            await _ask(stage, "FLUSHALL")
            await stage.hole(0.4)


async def _no_clients_left(stage: Stage) -> None:
    """Others take every connection that Redis has, after ours were closed."""
    await stage.warm_up()
    async with stage.fault("maxclients is used up by others"):
        with ExitStack() as held:
            await _ask(stage, "CLIENT", "KILL", "TYPE", "normal")
            for _ in range(64):
                connection = held.enter_context(socket.socket())
                with suppress(OSError):
                    connection.connect(("127.0.0.1", stage.redis.port))
            await stage.hole()
    await _answers(stage)


async def _ask(stage: Stage, *words: str) -> str:
    return await in_thread(stage.redis.ask, *words)


async def _answers(stage: Stage) -> None:
    """Return when Redis serves again."""
    with trio.fail_after(30):
        while not await in_thread(stage.redis.answers):  # noqa: ASYNC110  another process; there is no event
            await trio.sleep(0.1)


def _scenario(name: str, numbers: tuple[int, ...], what: str, act: Act, **more: Any) -> Scenario:
    return Scenario(name=f"redis-{name}", numbers=numbers, what=what, act=act, **{"felt": "dispatch.lost"} | more)


SCENARIOS = (
    _scenario("killed", (1,), "kill -9 of Redis, back after a while", _killed),
    _scenario("not-durable", (2,), "Redis without a file comes back empty", _killed, redis_options={"appendonly": "no"}),
    _scenario("wiped", (2, 12), "FLUSHALL, twice", _wiped, felt="dispatch.refilled"),
    _scenario("paused", (3,), "Redis hangs (SIGSTOP) and goes on: writes take effect late", _paused),
    _scenario("writes-paused", (4,), "Redis answers reads and hangs on writes", _writes_paused),
    _scenario("sleeps", (5,), "Redis does not answer for a while (DEBUG SLEEP)", _sleeps, redis_options=DEBUG_ALLOWED),
    _scenario("busy", (5,), "Redis answers BUSY", _busy, redis_options={"busy-reply-threshold": "100"}),
    _scenario("full", (6,), "Redis is at maxmemory and refuses writes", _full),
    _scenario("disk-full", (7,), "the disk under Redis is full: MISCONF", _disk_full, disk="redis", disk_megabytes=16),
    _scenario("cut", (8,), "replies are cut after 0 to 40 bytes", _cut, proxied="redis"),
    _scenario("slow", (9,), "Redis is 200 ± 100 ms away", _slow, proxied="redis", felt=""),
    _scenario("network", (3, 8), "connections to Redis hang, are reset, are refused", _network, proxied="redis"),
    _scenario("refuses", (10,), "READONLY, NOAUTH, NOSCRIPT, LOADING", _refuses, shape={"seconds": 16.0}),
    _scenario("flapping", (11,), "Redis comes and goes, 6 times", _flapping),
    _scenario("older", (12,), "Redis returns with older data", _older, redis_options={"appendonly": "no"}),
    _scenario("no-clients-left", (13,), "others use up maxclients", _no_clients_left, redis_options={"maxclients": "32"}),
)
