"""Runs one scenario: servers, Sentinel's processes, load and fault, then quiet, the dump and the checker. Leaves nothing behind."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import trio

from sentinel.chaos.checker import Finding, check, percentile
from sentinel.chaos.history import Attempt, History, JobEnd, Journal, read_history, write_history
from sentinel.chaos.load import Sender
from sentinel.chaos.plan import Chain, Shape, make_plan, make_sources
from sentinel.chaos.platform import open_platform
from sentinel.chaos.props import open_props, why_not
from sentinel.chaos.report import Result, commit, figures
from sentinel.chaos.servers import free_port
from sentinel.chaos.stage import Scenario, Stage
from sentinel.chaos.subject import in_thread, open_subject
from sentinel.chaos.wire import Broken, ask
from sentinel.errors import Unavailable
from sentinel.records import JobFilter, open_record
from sentinel.settings import Settings

START_SECONDS_MAX = 30.0
SETTLE_SECONDS = 0.5
LOOK_SECONDS = 0.25
JOBS_MAX = 10_000_000
READY = b"GET /readyz%b HTTP/1.1\r\nhost: sentinel.test\r\nconnection: close\r\n\r\n"
DEFAULTS: dict[str, Any] = {"model": "fake:0", "slots": 64, "grace_seconds": 2.0, "log_level": "warning", "log_format": "json"}


@attrs.frozen
class Options:
    """How to run: the same seed and shape give the same run."""

    seed: int = 1
    shape: Shape = attrs.field(factory=Shape)
    keep: Path | None = None  # where the histories stay; else they are removed


async def run_scenario(scenario: Scenario, options: Options) -> Result:
    """The scenario's outcome; a failure of the harness itself is a finding too."""
    known = Result(
        scenario=scenario.name, numbers=scenario.numbers, seed=options.seed, commit=await in_thread(commit, Path(__file__).parent)
    )
    if reason := why_not(scenario):
        return attrs.evolve(known, skipped=reason)
    with _folder(options, scenario) as folder:
        try:
            async with open_stage(scenario, options, folder) as stage:
                return attrs.evolve(known, **await _perform(scenario, stage))
        except Exception as error:  # noqa: BLE001  the next scenario runs whatever happened to this one
            broken = Finding("harness", scenario.name, "; ".join(map(repr, _leaves(error)))[:2000])
            return attrs.evolve(known, findings=(broken,))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """What a group of errors is about."""
    for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _leaves(inner)
    if not isinstance(error, BaseExceptionGroup):
        yield error


async def _perform(scenario: Scenario, stage: Stage) -> dict[str, Any]:
    """Load and fault together, then quiet; the figures and the findings."""
    plan = await in_thread(make_plan, stage.shape, stage.sources, stage.chance.randrange(2**32))
    health: list[tuple[float, int]] = []
    async with trio.open_nursery() as watching:
        watching.start_soon(stage.subject.sample)
        watching.start_soon(_watch_health, stage, health)
        busy = await _load(scenario, stage, plan)
        drained = await _wait_drained(scenario, stage)
        await trio.sleep(SETTLE_SECONDS)
        watching.cancel_scope.cancel()
    history = await in_thread(_dump, stage, tuple(health))
    said = stage.subject.log.read_text(errors="replace")
    if scenario.felt not in said:
        stage.findings.append(Finding("harness", scenario.name, f"nobody felt the fault: no {scenario.felt} in the log"))
    rules = attrs.evolve(scenario.rules, quarantined_allowed=frozenset(stage.quarantined))
    findings = await in_thread(check, history, rules)
    healed = max((end for _begin, end in stage.faults), default=0.0)
    return figures(history, findings) | {
        "schedule": tuple(stage.schedule),
        "findings": (*findings, *stage.findings),
        "drained_seconds": drained,
        "ready_seconds": next((max(0.0, at - healed) for at, status in health if at >= healed and status == 200), None),
        "not_ready_seconds": sum(status != 200 for _at, status in health) * LOOK_SECONDS,
        "log_lines": said.count("\n"),
        "lag_p99_ms": percentile(99, stage.sender.lags) * 1000,
        "sender_core_share": busy,
    }


async def _load(scenario: Scenario, stage: Stage, plan: list[Chain]) -> float:
    """Send everything, while the fault comes and goes; the share of a core that this process used."""
    began, used = time.monotonic(), time.process_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scenario.act, stage)
        await stage.sender.run(plan)
    return (time.process_time() - used) / (time.monotonic() - began)


async def _wait_drained(scenario: Scenario, stage: Stage) -> float | None:
    """Wait until nothing lives any more; how long that took, or None if it did not happen in time."""
    healed = stage.now()
    with trio.move_on_after(scenario.recover_seconds):
        while True:
            with suppress(Unavailable):
                if not await in_thread(_alive, stage):
                    return stage.now() - healed
            await trio.sleep(LOOK_SECONDS)
    return None


def _alive(stage: Stage) -> int:
    """How many jobs are not at their end, in the record and in the spool."""
    with closing(open_record(stage.record_url)) as record:
        counts = record.counts()
    return sum(count for state, count in counts.items() if state != "quarantined") + stage.spooled()


def _dump(stage: Stage, health: tuple[tuple[float, int], ...]) -> History:
    """All that is known, written to files and read back: the checker sees what a person can look at later."""
    with closing(open_record(stage.record_url)) as record:
        tenants = sorted({source.tenant for source in stage.sources})
        listed = (record.list_jobs(JobFilter(tenant=tenant, limit=JOBS_MAX)) for tenant in tenants)
        jobs = tuple(JobEnd.of(job) for jobs in listed for job in jobs)
    history = History(
        attempts=tuple(stage.attempts),
        jobs=jobs,
        arrivals=tuple(stage.platform.arrivals),
        spooled=stage.spooled(),
        samples=tuple(stage.subject.samples),
        faults=tuple(stage.faults),
        health=health,
    )
    stage.journal.flush()
    stage.platform.journal.flush()
    write_history(stage.folder, history)
    return read_history(stage.folder)


async def _watch_health(stage: Stage, seen: list[tuple[float, int]]) -> None:
    """Ask /readyz for ever; 0 stands for no answer."""
    while True:
        status = 0
        with suppress(Broken), trio.move_on_after(2):
            status = (await ask(stage.sender.host, stage.sender.port, READY % b"")).status
        seen.append((stage.now(), status))
        await trio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def open_stage(scenario: Scenario, options: Options, folder: Path) -> AsyncIterator[Stage]:
    """Everything that a scenario needs, running; all of it ends with the block."""
    began = time.monotonic()
    shape = attrs.evolve(options.shape, **scenario.shape)
    port = free_port()
    async with AsyncExitStack() as stack:
        props = await open_props(scenario, stack, folder, options.seed)
        settings = Settings(bind=f"127.0.0.1:{port}", **DEFAULTS | props.settings | dict(scenario.settings))
        journal = stack.enter_context(closing(Journal(folder / "attempts.jsonl")))
        platform = await stack.enter_async_context(open_platform(folder / "arrivals.jsonl", began))
        subject = await stack.enter_async_context(open_subject(settings, folder, began))
        sources = make_sources(shape, platform.url)
        attempts: list[Attempt] = []

        def log(attempt: Attempt) -> None:
            attempts.append(attempt)
            journal.write(attempt)

        sender = Sender("127.0.0.1", port, log, seed=options.seed, began=began)
        stage = Stage(
            random.Random(f"{options.seed} {scenario.name}"),
            shape,
            folder,
            began,
            props.record_url,
            sources,
            subject,
            platform,
            sender,
            attempts,
            journal,
            props.postgres,
            props.redis,
            props.proxy,
            props.disk,
        )
        await in_thread(_prepare, stage)
        if scenario.before:
            await scenario.before(stage)
        for command in scenario.commands:
            await subject.start(command)
        await _wait_ready(stage, scenario.ready)
        yield stage


def _prepare(stage: Stage) -> None:
    """The schema, the tenants and the sources."""
    with closing(open_record(stage.record_url)) as record:
        for tenant in {source.tenant for source in stage.sources}:
            record.add_tenant(tenant, 0)
        for source in stage.sources:
            record.put_source(source, 0)


async def _wait_ready(stage: Stage, query: str) -> None:
    """Return once Sentinel says that it is ready. Raises Unavailable."""
    with trio.move_on_after(START_SECONDS_MAX):
        while True:
            with suppress(Broken):
                if (await ask(stage.sender.host, stage.sender.port, READY % query.encode())).status == 200:
                    return
            await trio.sleep(0.05)
    raise Unavailable(f"Sentinel did not get ready; the end of its log: {stage.subject.log.read_text()[-2000:]}")


@contextmanager
def _folder(options: Options, scenario: Scenario) -> Iterator[Path]:
    """Where the run writes: below `keep`, or in a folder that goes with it."""
    if options.keep:
        folder = options.keep.absolute() / f"{scenario.name}-{options.seed}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="sentinel-chaos-", ignore_cleanup_errors=True) as name:
        yield Path(name)
