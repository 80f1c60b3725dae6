"""Faults of Sentinel's own processes: killed and paused while webhooks arrive, workers at the worst moment."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from functools import partial

import attrs
import trio

from sentinel.chaos.checker import Finding, Rules
from sentinel.chaos.history import Arrival
from sentinel.chaos.plan import Planned, make_webhook
from sentinel.chaos.stage import Scenario, Stage
from sentinel.chaos.subject import in_thread
from sentinel.chaos.wire import Broken, connect
from sentinel.http import Response, json_response
from sentinel.records import LEASE_SECONDS, RESCUES_MAX

IN_FLIGHT_MAX = 192  # replies that one worker can have under way: its slots, and its deliveries beside them
RERUN_SECONDS_MAX = 55.0
# Process numbers of its own are what makes a worker on another machine: from here nobody can see whether it lives.
ELSEWHERE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL")
HELD_ELSEWHERE = """
SELECT count(*) FROM jobs WHERE state = 'running' AND worker_id = (SELECT max(id) FROM workers HAVING count(*) > 1)"""
NOT_RUN_AGAIN = HELD_ELSEWHERE + " OR state = 'queued' AND rescues > 0"
EXTRA = 50_000_000  # numbers of events that a scenario sends beside the plan
SECOND = json_response(500, {"ok": False})


async def listens_again(stage: Stage) -> None:
    """Return when the gateway takes connections."""
    with trio.fail_after(20):
        while True:
            await trio.sleep(0.05)
            with suppress(Broken):
                (await connect(stage.sender.host, stage.sender.port)).close()
                return


async def _kill_gateway(stage: Stage) -> None:
    await stage.warm_up()
    for _ in range(2):
        async with stage.fault("kill -9 of the gateway"):
            stage.subject.kill("serve")
            await listens_again(stage)
        await stage.hole(0.4)


async def _kill_one_of_two(stage: Stage) -> None:
    await stage.warm_up()
    for _ in range(2):
        async with stage.fault("kill -9 of one of two gateways"):
            pids = [pid for pid, command in stage.subject.family().items() if command == "serve --one"]
            os.kill(stage.chance.choice(pids), signal.SIGKILL)
            await trio.sleep(1.5)
        await stage.hole(0.3)


async def _pause_gateway(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("the gateway is paused (SIGSTOP)"):
        stage.subject.signal("serve", signal.SIGSTOP)
        await stage.hole(0.4)
        stage.subject.signal("serve", signal.SIGCONT)


async def _kill_worker(stage: Stage, number: int = signal.SIGKILL) -> None:
    await stage.warm_up()
    for _ in range(2):
        async with stage.fault(f"{signal.Signals(number).name} to the worker"):
            stage.subject.signal("worker", number)
            await trio.sleep(0.5)
        await stage.hole(0.4)


async def _kill_both(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("kill -9 of gateway and worker"):
        stage.subject.kill("serve", "worker")
        await listens_again(stage)


async def _kill_worker_at_the_worst_moment(stage: Stage) -> None:
    """The platform has the reply, and the worker dies before it can note that."""
    await stage.warm_up()
    for _ in range(3):
        arrived = trio.Event()

        def kill(_arrival: Arrival, arrived: trio.Event = arrived) -> None:
            stage.platform.noted = None
            stage.subject.kill("worker")
            arrived.set()

        async with stage.fault("kill -9 of the worker while the platform answers it"):
            stage.platform.noted = kill
            with trio.fail_after(20):
                await arrived.wait()
        await stage.hole(0.4)


async def _zombie_worker(stage: Stage) -> None:
    """One of two workers stops for longer than its lease, and comes back to jobs that are another's by now."""
    await stage.warm_up()
    second = stage.subject.processes[-1]
    async with stage.fault("one of two workers is paused (SIGSTOP) for longer than its lease"):
        second.send_signal(signal.SIGSTOP)
        await trio.sleep(LEASE_SECONDS + 7)
        second.send_signal(signal.SIGCONT)


async def _lost_elsewhere(stage: Stage) -> None:
    """A worker whose process nobody here can see dies with jobs in its hands; how long it takes until they have run again."""
    second = await stage.subject.start("worker", before=ELSEWHERE)
    with trio.fail_after(20):
        while await _count(stage, HELD_ELSEWHERE) == 0:  # noqa: ASYNC110  another process; there is no event
            await trio.sleep(0.05)
    held = 0
    async with stage.fault("kill -9 of a worker on another machine"):
        second.kill()
        began = stage.now()
        while left := await _count(stage, NOT_RUN_AGAIN):
            held = max(held, left)
            await trio.sleep(0.2)
    seconds = stage.now() - began
    stage.note(f"{held} jobs ran again, the last after {seconds:.1f} s")
    if seconds > RERUN_SECONDS_MAX:
        stage.findings.append(Finding("rerun", f"{held} jobs", f"ran again after {seconds:.1f} s"))


async def _count(stage: Stage, statement: str) -> int:
    return int(await in_thread(stage.postgres.run, statement, "sentinel"))


async def _poison(stage: Stage) -> None:
    """Whoever delivers this one reply is killed; after RESCUES_MAX times the job must be put aside."""
    await stage.warm_up()
    source = next(source for source in stage.sources if source.channel == "whatsapp")
    webhook = make_webhook(source, EXTRA, time.time())
    stage.quarantined.add(webhook.text)
    deaths, enough = 0, trio.Event()

    async def misbehave(arrival: Arrival) -> Response | None:
        nonlocal deaths
        if arrival.text != webhook.text:
            return None
        deaths += 1
        if deaths == RESCUES_MAX:
            enough.set()
        stage.note(f"kill -9 of the worker that delivers {arrival.text}")
        stage.subject.kill("worker")
        return SECOND

    stage.platform.misbehave = misbehave
    async with stage.fault("a job that kills its worker every time"):
        await stage.sender.send(Planned(0, webhook), stage.sender.now())
        with trio.move_on_after(40):
            await enough.wait()


async def _no_model(stage: Stage) -> None:
    """The only worker has no model; a second one with a model comes later."""
    await stage.warm_up()
    async with stage.fault("the worker has no model"):
        await stage.hole()
        await stage.subject.start("worker", model="fake:0")


async def _same_event_many_times(stage: Stage) -> None:
    await stage.warm_up()
    stage.note("20 events, each 50 times at once")
    for number in range(20):
        webhook = make_webhook(stage.chance.choice(stage.sources), EXTRA + number, time.time())
        async with trio.open_nursery() as nursery:
            for copy in range(50):
                nursery.start_soon(stage.sender.send, Planned(0, webhook, copy), stage.sender.now())


_SILENT = Rules(silence_allowed=True)
_MAY_REPEAT = Rules(repeats_allowed=2 * IN_FLIGHT_MAX)
_SQLITE = {"record": "sqlite", "redis": False}

_EACH_STORE = (
    Scenario(
        name="gateway-killed",
        numbers=(29, 26),
        what="kill -9 of the gateway under its supervisor, twice",
        act=_kill_gateway,
        felt="process.died",
        rules=_SILENT,
    ),
    Scenario(
        name="worker-killed",
        numbers=(38,),
        what="kill -9 of the worker while it generates and delivers, twice",
        act=_kill_worker,
        felt="process.died",
        rules=_MAY_REPEAT,
        settings={"model": "fake:100"},
    ),
    Scenario(
        name="both-processes-killed",
        numbers=(29, 38),
        what="kill -9 of gateway and worker together",
        act=_kill_both,
        felt="process.died",
        rules=attrs.evolve(_MAY_REPEAT, silence_allowed=True),
    ),
)
_ON_SQLITE = tuple(
    attrs.evolve(scenario, name=f"sqlite-{scenario.name}", what=f"SQLite record: {scenario.what}", record="sqlite", redis=False)
    for scenario in _EACH_STORE
)
SCENARIOS = (
    *_ON_SQLITE,
    *_EACH_STORE,
    Scenario(
        name="one-gateway-of-two-killed",
        numbers=(30,),
        what="kill -9 of one of two gateways on one port, twice",
        act=_kill_one_of_two,
        felt="process.died",
        rules=_SILENT,
        settings={"processes": 2},
    ),
    Scenario(
        name="gateway-paused",
        numbers=(29,),
        what="the gateway stops (SIGSTOP) and goes on",
        act=_pause_gateway,
        rules=Rules(silence_allowed=True, refusals_allowed=True, ack_seconds=10.0),
    ),
    Scenario(
        name="worker-aborted",
        numbers=(41,),
        what="the worker aborts, as when the model's library fails (SIGABRT), twice",
        act=partial(_kill_worker, number=signal.SIGABRT),
        felt="process.died",
        rules=_MAY_REPEAT,
        settings={"model": "fake:100"},
    ),
    Scenario(
        name="worker-killed-at-the-worst-moment",
        numbers=(39,),
        what="kill -9 of the worker between the platform's answer and our commit, three times",
        act=_kill_worker_at_the_worst_moment,
        felt="process.died",
        rules=Rules(repeats_allowed=3 * IN_FLIGHT_MAX),
    ),
    Scenario(
        name="worker-zombie",
        numbers=(40,),
        what="one of two workers is paused for longer than its lease, and goes on",
        act=_zombie_worker,
        commands=("up", "worker"),
        rules=Rules(repeats_allowed=IN_FLIGHT_MAX),
        settings={"model": "fake:50"},
    ),
    Scenario(
        name="worker-lost-elsewhere",
        numbers=(38,),
        what="kill -9 of a worker on another machine: its jobs run again within 55 s",
        act=_lost_elsewhere,
        elsewhere=True,
        rules=_MAY_REPEAT,
        shape={"webhooks": 200, "seconds": 10.0},
        settings={"model": "fake:500", "slots": 8},
    ),
    Scenario(
        name="job-kills-worker",
        numbers=(42,),
        what="a job that kills its worker every time is put aside; the others go on",
        act=_poison,
        felt="process.died",
        rules=Rules(repeats_allowed=(RESCUES_MAX) * IN_FLIGHT_MAX),
    ),
    Scenario(
        name="model-missing",
        numbers=(43,),
        what="the model's file is not there: webhooks are taken, jobs wait for a worker that has one",
        act=_no_model,
        commands=("serve", "worker"),
        settings={"model": "/nonexistent/model.gguf"},
        ready="?only=record",
    ),
    Scenario(
        name="same-event-50-times",
        numbers=(51,),
        what="20 events, each sent 50 times at once",
        act=_same_event_many_times,
    ),
)
