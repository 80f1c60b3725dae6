"""Runs the gateway's server until it is told to stop, and then in bounded time: the fast lane in front, Hypercorn behind it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager

import attrs
import trio
from hypercorn.config import Config

from sentinel.admin_api import open_admin_api
from sentinel.administration import CheckSettings
from sentinel.asgi import Application
from sentinel.certificate import Certificate, follow, open_admin_certificate, open_certificate
from sentinel.directory import DirectoryFollower
from sentinel.edge.forwarded import networks
from sentinel.errors import SettingsError
from sentinel.gateway import Gateway, open_gateway
from sentinel.http1 import Limits
from sentinel.hypercorn_guard import HandOver
from sentinel.lane import Lane
from sentinel.listening import BACKLOG, address_of, is_inherited, is_local, open_listener, url_of
from sentinel.logs import log
from sentinel.settings import ADMIN_BIND, Settings, without_password
from sentinel.stop import stop_requested
from sentinel.tls import TlsStream

HEADER_SECONDS_MAX = 5.0
ADMIN_CONNECTIONS_MAX = 64
UNSECURED = "other machines reach it and it has no TLS: whoever reads one key on the way may do everything"


async def serve(
    settings: Settings,
    *,
    check_settings: CheckSettings = lambda _values: None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until SIGTERM or SIGINT; `task_status` gets the URLs once it listens. `check_settings`: see Administrator."""
    config = _config(settings)
    shared = settings.processes > 1
    certificate, admin_certificate = open_certificate(settings), open_admin_certificate(settings)
    listener = open_listener(settings.bind, shared=shared)
    timer = threading.Timer(settings.grace_seconds + 1, _exit_hard)
    timer.daemon = True
    with ExitStack() as opened:
        opened.enter_context(listener)
        opened.callback(timer.cancel)
        async with (
            open_gateway(settings) as gateway,
            trio.open_nursery() as nursery,
            _open_admin_lane(settings, gateway.directory, check_settings, admin_certificate, nursery),
        ):
            behind = HandOver(Application(gateway), config)
            alone = not (shared and is_inherited(settings.bind))
            lane = Lane(gateway.handle, behind.serve, _limits(settings), alone=alone, begin=gateway.begin)
            _watch(lane, gateway)
            if certificate is not None:
                _begin_tls(lane, certificate)
                gateway.monitor.gauges["sentinel_certificate_end_seconds"] = lambda: certificate.ends_at
            if admin_certificate is not None:
                gateway.monitor.gauges["sentinel_admin_certificate_end_seconds"] = lambda: admin_certificate.ends_at
            listener.listen(BACKLOG)
            nursery.start_soon(_run_lane, lane, listener, [each for each in (certificate, admin_certificate) if each])
            urls = [url_of(listener, secure=certificate is not None)]
            log.info("gateway.listening", urls=urls, record=without_password(settings.record))
            task_status.started(urls)
            await stop_requested()
            timer.start()
            lane.close()
            await behind.close()
            nursery.cancel_scope.deadline = trio.current_time() + settings.grace_seconds


@asynccontextmanager
async def _open_admin_lane(
    settings: Settings,
    directory: DirectoryFollower,
    check_settings: CheckSettings,
    certificate: Certificate | None,
    nursery: trio.Nursery,
) -> AsyncIterator[None]:
    """The admin API on its own listener, if there is to be one."""
    listener = _admin_listener(settings)
    if listener is None:
        yield
        return
    limits = attrs.evolve(_limits(settings), connections=ADMIN_CONNECTIONS_MAX, connections_per_address=ADMIN_CONNECTIONS_MAX)
    with listener:
        async with open_admin_api(settings, directory, check_settings) as api:
            lane = Lane(api.handle, _hang_up, limits)
            if certificate is not None:
                _begin_tls(lane, certificate)
            elif not is_local(address_of(listener)):
                log.warning("admin.not_secured", address=address_of(listener), reason=UNSECURED)
            nursery.start_soon(lane.run, [listener])
            log.info("admin.listening", url=url_of(listener, secure=certificate is not None))
            yield
            lane.close()


def _admin_listener(settings: Settings) -> socket.socket | None:
    """
    The admin API's socket. Nobody shares it: of several processes, one has it.

    Raises SettingsError if the address was chosen and cannot be had; the one by default may be another Sentinel's.
    """
    if settings.admin_bind == "off":
        return None
    try:
        listener = open_listener(settings.admin_bind, setting="SENTINEL_ADMIN_BIND")
        listener.listen(BACKLOG)
    except (SettingsError, OSError) as error:
        if settings.admin_bind != ADMIN_BIND and settings.processes == 1:
            raise SettingsError(f"SENTINEL_ADMIN_BIND: cannot listen on {settings.admin_bind} ({error}).") from None
        log.warning("admin.not_listening", bind=settings.admin_bind, reason="another process listens there")
        return None
    return listener


async def _hang_up(stream: trio.SocketStream | TlsStream, _read: bytes, _client: str) -> None:
    """The admin API speaks HTTP/1.1 and nothing else."""
    await stream.aclose()


def _exit_hard() -> None:
    """Make sure of the end: Hypercorn waits for ever for a client that does not read its answer."""
    log.warning("gateway.exit_forced", reason="a client did not read its answer within the grace")
    os.kill(os.getpid(), signal.SIGKILL)


async def _run_lane(lane: Lane, listener: socket.socket, certificates: Sequence[Certificate]) -> None:
    """Serve until the lane is closed, with certificates that are followed as long."""
    async with trio.open_nursery() as nursery:
        if certificates:
            nursery.start_soon(follow, certificates)
        await lane.run([listener])
        nursery.cancel_scope.cancel()


def _begin_tls(lane: Lane, certificate: Certificate) -> None:
    """Have the lane speak TLS with whatever certificate is in force."""
    certificate.warn_if_expired()
    lane.tls = lambda: certificate.context


def _watch(lane: Lane, gateway: Gateway) -> None:
    """Let the lane's numbers be seen."""
    gateway.monitor.gauges["sentinel_connections"] = lambda: lane.connections
    gateway.monitor.totals["sentinel_connections_total"] = lambda: {
        "served": lane.served - lane.handed_over, "elsewhere": lane.handed_over, "refused": lane.turned_away
    }  # fmt: skip


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
    config.errorlog = None
    config.accesslog = None
    return config
