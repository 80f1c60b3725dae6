"""Faults of one tenant, which the others must not feel: it floods, or its platform hangs."""

from __future__ import annotations

import time

import trio

from sentinel.chaos.checker import Rules
from sentinel.chaos.history import Arrival
from sentinel.chaos.load import Sender
from sentinel.chaos.plan import Chain, Planned, make_webhook
from sentinel.chaos.stage import Scenario, Stage
from sentinel.http import Response, json_response

LOUD = "tenant-00"
EXTRA = 60_000_000  # numbers of the events beside the plan
FLOOD_PER_SECOND, HANG_PER_SECOND = 100.0, 100.0
HANG_SECONDS = 6.0
REFUSED = json_response(503, {"ok": False})


async def _floods(stage: Stage) -> None:
    """One tenant sends far more than the worker can do."""
    await stage.warm_up(0.4)
    async with stage.fault(f"{LOUD} floods, {FLOOD_PER_SECOND:.0f} webhooks a second"):
        await _send_for(stage, FLOOD_PER_SECOND)


async def _platform_hangs(stage: Stage) -> None:
    """The platform of one tenant takes replies and says nothing, until each delivery ends by our own deadline."""
    await stage.warm_up(0.4)

    async def misbehave(arrival: Arrival) -> Response | None:
        if arrival.label != LOUD:
            return None
        await trio.sleep(HANG_SECONDS)
        return REFUSED

    stage.platform.misbehave = misbehave
    async with stage.fault(f"the platform of {LOUD} hangs, and {HANG_PER_SECOND:.0f} more webhooks a second come of it"):
        await _send_for(stage, HANG_PER_SECOND)
    stage.platform.misbehave = None


async def _send_for(stage: Stage, per_second: float) -> None:
    """Send for the loud tenant while the fault lasts; by a sender of its own, so it is not this program that holds others up."""
    sources = [source for source in stage.sources if source.tenant == LOUD]
    count, now, usual = int(per_second * stage.hole_seconds), time.time(), stage.sender
    webhooks = (make_webhook(stage.chance.choice(sources), EXTRA + number, now) for number in range(count))
    plan = [Chain((Planned(number / per_second, webhook),)) for number, webhook in enumerate(webhooks)]
    await Sender(usual.host, usual.port, usual.log, connections=100, began=usual.began).run(plan)


# So slow that it is the engine which is short, and not the machine: then whose turn it is decides who waits.
_SHAPE = {"webhooks": 200, "seconds": 8.0}
_ENGINE = {"model": "fake:800", "slots": 32}  # 40 a second at most

SCENARIOS = (
    Scenario(
        name="tenant-floods",
        numbers=(46,),
        what="one tenant sends four times as much as all others together, and more than the worker can do",
        act=_floods,
        rules=Rules(loud=LOUD),
        shape=_SHAPE,
        settings=_ENGINE,
    ),
    Scenario(
        name="tenant-platform-hangs",
        numbers=(46,),
        what="the platform of one tenant hangs, with more replies under way to it than a worker has places",
        act=_platform_hangs,
        rules=Rules(loud=LOUD),
        shape=_SHAPE,
        settings={"model": "fake:20", "slots": 16, "send_seconds_max": 3.0},
    ),
)
