"""Both stores are gone, and the gateway's own disk is all there is: the spool takes webhooks, and gives each back exactly once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from sentinel.chaos.checker import Rules
from sentinel.chaos.scenarios.processes import listens_again
from sentinel.chaos.stage import Act, Scenario, Stage
from sentinel.chaos.subject import in_thread
from sentinel.records.spool import FILE

_SILENT = Rules(silence_allowed=True)


@asynccontextmanager
async def _both_down(stage: Stage) -> AsyncIterator[None]:
    """Neither store is there inside the block."""
    await stage.warm_up()
    async with stage.fault("kill -9 of PostgreSQL and Redis"):
        await in_thread(stage.redis.kill)
        await in_thread(stage.postgres.kill)
        yield
        await in_thread(stage.postgres.start)
        await in_thread(stage.redis.start)


async def _down(stage: Stage) -> None:
    async with _both_down(stage):
        await stage.hole()


async def _gateway_killed(stage: Stage) -> None:
    """The gateway dies while the spool is all there is; what was acknowledged is in it."""
    async with _both_down(stage):
        for _ in range(2):
            await stage.hole(0.3)
            stage.note("kill -9 of the gateway")
            stage.subject.kill("serve")
            await listens_again(stage)
        await stage.hole(0.2)


async def _full(stage: Stage) -> None:
    async with _both_down(stage):
        await stage.hole(0.2)
        stage.note("the spool's disk is full")
        await in_thread(stage.disk.fill)
        await stage.hole(0.5)
        await in_thread(stage.disk.free)
        stage.note("the spool's disk is free")
        await stage.hole(0.2)


async def _drain_interrupted(stage: Stage) -> None:
    """The gateway is killed again and again while it empties the spool."""
    async with _both_down(stage):
        await stage.hole()
    for number in range(5):
        if not await _is_draining(stage) and number:
            return
        await trio.sleep(stage.chance.uniform(0, 0.05))
        async with stage.fault("kill -9 of the gateway while it drains the spool"):
            stage.subject.kill("serve")
            await listens_again(stage)


async def _is_draining(stage: Stage) -> bool:
    """True when the spool has begun to get empty and is not; False if that did not happen in a few seconds."""
    most = 0
    with trio.move_on_after(3):
        while not 0 < (left := await in_thread(stage.spooled)) < most:
            most = max(most, left)
            await trio.sleep(0.01)
        stage.note(f"{left} of {most} are left in the spool")
        return True
    return False


async def _store_lost_while_draining(stage: Stage) -> None:
    """PostgreSQL dies again and again while the spool is emptied into it."""
    async with _both_down(stage):
        await stage.hole()
    for _ in range(3):
        await _is_draining(stage)
        await trio.sleep(stage.chance.uniform(0, 0.05))
        async with stage.fault("kill -9 of PostgreSQL while the spool is drained"):
            await in_thread(stage.postgres.kill)
            await trio.sleep(0.5)
            await in_thread(stage.postgres.start)


async def _garbage(stage: Stage) -> None:
    """What lies in the spool's folder before the start is no database."""
    (stage.folder / "spool" / FILE).write_bytes(stage.chance.randbytes(40_000))
    stage.note("the spool's file is garbage")


def _scenario(name: str, numbers: tuple[int, ...], what: str, act: Act, **more: Any) -> Scenario:
    return Scenario(name=name, numbers=numbers, what=what, act=act, **{"felt": "spool.begins"} | more)


SCENARIOS = (
    _scenario("both-down", (14,), "PostgreSQL and Redis killed together", _down),
    _scenario("both-down-gateway-killed", (23, 26), "and the gateway killed twice meanwhile", _gateway_killed, rules=_SILENT),
    _scenario(
        "spool-full",
        (24,),
        "and the spool's disk full: 503, never 2xx, until there is space",
        _full,
        disk="spool",
        rules=Rules(refusals_allowed=True),
    ),
    _scenario(
        "spool-corrupted", (25,), "the spool's file is garbage at the start, and then both stores go", _down, before=_garbage
    ),
    _scenario("spool-shared", (27,), "two gateways on one spool", _down, settings={"processes": 2}),
    _scenario("drain-interrupted", (28,), "the gateway killed up to five times while it drains", _drain_interrupted, rules=_SILENT),
    _scenario(
        "store-lost-while-draining", (28,), "PostgreSQL killed three times while the spool drains", _store_lost_while_draining
    ),
)
