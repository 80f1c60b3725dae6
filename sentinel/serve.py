"""Runs the gateway's server until it is told to stop, and then in bounded time. The only importer of Hypercorn's server."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from typing import Any, cast

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve

from sentinel.asgi import Application
from sentinel.gateway import open_gateway
from sentinel.logs import log
from sentinel.settings import Settings
from sentinel.stop import stop_requested

BACKLOG = 4096
HEADER_SECONDS_MAX = 5.0


async def serve(settings: Settings, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve until SIGTERM or SIGINT; `task_status` gets the URLs once connections are taken."""
    async with open_gateway(settings) as gateway, trio.open_nursery() as nursery:
        application = Application(gateway)
        run = partial(
            hypercorn_serve, cast(Any, application), _config(settings), shutdown_trigger=partial(_stop, settings.grace_seconds)
        )
        urls = await nursery.start(run)
        log.info("gateway.listening", urls=urls, record=settings.record)
        task_status.started(urls)


async def _stop(grace_seconds: float) -> None:
    """Return when asked to stop, with a timer running: Hypercorn waits for ever for a client that does not read its answer."""
    await stop_requested()
    timer = threading.Timer(grace_seconds + 1, _exit_hard)
    timer.daemon = True
    timer.start()


def _exit_hard() -> None:
    log.warning("gateway.exit_forced", reason="a client did not read its answer within the grace")
    os.kill(os.getpid(), signal.SIGKILL)


def _config(settings: Settings) -> Config:
    config = Config()
    config.bind = [settings.bind]
    config.backlog = BACKLOG
    config.keep_alive_timeout = HEADER_SECONDS_MAX
    config.graceful_timeout = settings.grace_seconds
    config.include_server_header = False
    config.h2_max_concurrent_streams = 32
    config.h2_max_header_list_size = 16_384
    config.errorlog = None
    config.accesslog = None
    return config
