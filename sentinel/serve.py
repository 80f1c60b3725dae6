"""Runs the gateway's server until it is told to stop, and then in bounded time: the fast lane in front, Hypercorn behind it."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack

import trio
from hypercorn.config import Config

from sentinel.asgi import Application
from sentinel.edge.forwarded import networks
from sentinel.gateway import open_gateway
from sentinel.http1 import Limits
from sentinel.hypercorn_guard import HandOver
from sentinel.lane import Lane
from sentinel.listening import BACKLOG, is_inherited, open_listener, url_of
from sentinel.logs import log
from sentinel.settings import Settings, without_password
from sentinel.stop import stop_requested

HEADER_SECONDS_MAX = 5.0


async def serve(settings: Settings, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve until SIGTERM or SIGINT; `task_status` gets the URLs once connections are taken."""
    config = _config(settings)
    shared = settings.processes > 1
    listener = open_listener(settings.bind, shared=shared)
    timer = threading.Timer(settings.grace_seconds + 1, _exit_hard)
    timer.daemon = True
    with ExitStack() as opened:
        opened.enter_context(listener)
        opened.callback(timer.cancel)
        async with open_gateway(settings) as gateway, trio.open_nursery() as nursery:
            behind = HandOver(Application(gateway), config)
            lane = Lane(gateway.handle, behind.serve, _limits(settings), alone=not (shared and is_inherited(settings.bind)))
            listener.listen(BACKLOG)
            nursery.start_soon(lane.run, [listener])
            urls = [url_of(listener)]
            log.info("gateway.listening", urls=urls, record=without_password(settings.record))
            task_status.started(urls)
            await stop_requested()
            timer.start()
            lane.close()
            await behind.close()
            nursery.cancel_scope.deadline = trio.current_time() + settings.grace_seconds


def _exit_hard() -> None:
    """Make sure of the end: Hypercorn waits for ever for a client that does not read its answer."""
    log.warning("gateway.exit_forced", reason="a client did not read its answer within the grace")
    os.kill(os.getpid(), signal.SIGKILL)


def _limits(settings: Settings) -> Limits:
    return Limits(
        body_bytes=settings.body_bytes_max,
        body_seconds=settings.body_seconds_max,
        all_bodies_bytes=settings.bodies_bytes_max,
        connections=settings.connections_max,
        connections_per_address=settings.connections_per_address_max,
        requests=settings.requests_max,
        proxies=networks(settings.proxies),
    )


def _config(settings: Settings) -> Config:
    config = Config()
    config.keep_alive_timeout = HEADER_SECONDS_MAX
    config.graceful_timeout = settings.grace_seconds
    config.include_server_header = False
    config.h2_max_concurrent_streams = 32
    config.h2_max_header_list_size = 16_384
    config.errorlog = None
    config.accesslog = None
    return config
