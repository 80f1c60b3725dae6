"""Runs the gateway's server until it is told to stop, and then in bounded time: the fast lane in front, Hypercorn behind it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import ExitStack

import trio
from hypercorn.config import Config

from sentinel.asgi import Application
from sentinel.edge.forwarded import networks
from sentinel.errors import SettingsError
from sentinel.gateway import open_gateway
from sentinel.http1 import Limits
from sentinel.hypercorn_guard import HandOver
from sentinel.lane import Lane
from sentinel.logs import log
from sentinel.settings import Settings, without_password
from sentinel.stop import stop_requested

BACKLOG = 4096
HEADER_SECONDS_MAX = 5.0


async def serve(settings: Settings, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve until SIGTERM or SIGINT; `task_status` gets the URLs once connections are taken."""
    config = _config(settings)
    listeners = _listeners(config, settings.bind)
    timer = threading.Timer(settings.grace_seconds + 1, _exit_hard)
    timer.daemon = True
    with ExitStack() as opened:
        for listener in listeners:
            opened.enter_context(listener)
        opened.callback(timer.cancel)
        async with open_gateway(settings) as gateway, trio.open_nursery() as nursery:
            behind = HandOver(Application(gateway), config)
            lane = Lane(
                gateway.handle,
                behind.serve,
                _limits(settings),
            )
            for listener in listeners:
                listener.listen(BACKLOG)
            nursery.start_soon(lane.run, listeners)
            urls = [_url(listener) for listener in listeners]
            log.info("gateway.listening", urls=urls, record=without_password(settings.record))
            task_status.started(urls)
            await stop_requested()
            timer.start()
            lane.close()
            await behind.close()
            nursery.cancel_scope.deadline = trio.current_time() + settings.grace_seconds


def _listeners(config: Config, bind: str) -> list[socket.socket]:
    """The bound sockets. Raises SettingsError when the address cannot be had."""
    try:
        return config.create_sockets().insecure_sockets
    except (OSError, ValueError) as error:
        raise SettingsError(f"SENTINEL_BIND: cannot listen on {bind} ({error}).") from None


def _exit_hard() -> None:
    """Make sure of the end: Hypercorn waits for ever for a client that does not read its answer."""
    log.warning("gateway.exit_forced", reason="a client did not read its answer within the grace")
    os.kill(os.getpid(), signal.SIGKILL)


def _url(listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"unix:{name}" if isinstance(name, str) else f"http://{name[0]}:{name[1]}"


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
    config.bind = [settings.bind]
    config.backlog = BACKLOG
    config.workers = settings.processes  # more than one share the port (SO_REUSEPORT); the kernel spreads connections
    config.keep_alive_timeout = HEADER_SECONDS_MAX
    config.graceful_timeout = settings.grace_seconds
    config.include_server_header = False
    config.h2_max_concurrent_streams = 32
    config.h2_max_header_list_size = 16_384
    config.errorlog = None
    config.accesslog = None
    return config
