"""The admin API within TLS, as the gateway's own listener has it; and without, where others could read along."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from sentinel.chaos.servers import free_port
from sentinel.cli.doctor import examine
from sentinel.errors import SettingsError
from sentinel.logs import configure_logs
from sentinel.serve import serve
from sentinel.settings import Settings
from tests.certificates import Authority
from tests.gateway.test_tls import TlsServer, authority, client_context, shown  # noqa: F401  a fixture
from tests.gateway.wire import http

TENANTS = http("GET", "/admin/v1/tenants")
Start = Callable[..., Awaitable[TlsServer]]


@pytest.fixture
def secured(settings: Settings, authority: Authority, tmp_path: Path) -> Settings:  # noqa: F811  the fixture
    """Settings with a certificate for the admin API and none for the gateway."""
    files = {"admin_tls_certificate": str(tmp_path / "server.crt"), "admin_tls_key": str(tmp_path / "server.key")}
    return attrs.evolve(settings, admin_bind=f"127.0.0.1:{free_port()}", **files)


@pytest.fixture
def start(secured: Settings, authority: Authority, nursery: trio.Nursery) -> Start:  # noqa: F811  the fixture
    """Starts the true server; gives its admin listener."""

    async def start_server(**changes: object) -> TlsServer:
        changed = attrs.evolve(secured, **changes)
        await nursery.start(serve, changed)
        return TlsServer("127.0.0.1", int(changed.admin_bind.rpartition(":")[2].strip("/")), client_context(authority))

    return start_server


async def test_served_within_tls(start: Start) -> None:
    """With a certificate of its own the admin API is served within TLS, and plain HTTP is told so."""
    server = await start()
    assert (await server.exchange(TENANTS)).status == 401
    answer = await server.plain.exchange(TENANTS)
    assert (answer.status, "https" in answer.json["detail"]) == (400, True)


async def test_a_client_that_would_rather_speak_http_2(start: Start) -> None:
    """A client that offers HTTP/2 too is told that only HTTP/1.1 is spoken here, and is served by it."""
    server = await start()
    async with server.connected(only=("h2", "http/1.1")) as wire:
        await wire.send(TENANTS)
        assert (await wire.answer()).status == 401


async def test_one_for_each_listener(start: Start, authority: Authority, tmp_path: Path) -> None:  # noqa: F811  the fixture
    """The gateway and the admin API have a certificate each, and both are read again on SIGHUP."""
    folder, port = tmp_path / "gateway", free_port()
    folder.mkdir()
    authority.issue(folder)
    files = {"tls_certificate": str(folder / "server.crt"), "tls_key": str(folder / "server.key")}
    admin = await start(bind=f"127.0.0.1:{port}", **files)
    gateway = TlsServer("127.0.0.1", port, admin.context)
    first = [await trio.to_thread.run_sync(shown, server) for server in (gateway, admin)]
    assert len(set(first)) == 2
    authority.issue(folder)
    authority.issue(tmp_path)
    os.kill(os.getpid(), signal.SIGHUP)
    with trio.fail_after(1.5):  # sooner than they are looked at by themselves
        for server, before in zip((gateway, admin), first, strict=True):
            while await trio.to_thread.run_sync(shown, server) == before:
                await trio.sleep(0.05)
    metrics = (await gateway.exchange(http("GET", "/metrics"))).body.decode()
    for name in ("sentinel_certificate_end_seconds ", "sentinel_admin_certificate_end_seconds "):
        assert name in metrics.replace("{", " {")


def test_what_is_wrong_is_said(secured: Settings, tmp_path: Path) -> None:
    """A pair that cannot be used is refused by the names of its settings, by the server's start and by the doctor."""
    for changes, reason in (
        ({"admin_tls_certificate": None}, "SENTINEL_ADMIN_TLS_KEY is of no use without SENTINEL_ADMIN_TLS_CERTIFICATE"),
        ({"admin_tls_key": str(tmp_path / "missing")}, "SENTINEL_ADMIN_TLS_CERTIFICATE, SENTINEL_ADMIN_TLS_KEY: .*missing"),
    ):
        wrong = attrs.evolve(secured, **changes)  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match=reason):
            trio.run(serve, wrong)
        assert verdicts(wrong)["admin certificate"] == "wrong"


def verdicts(settings: Settings) -> dict[str, str]:
    return {finding.what: finding.verdict for finding in examine(settings)}


@pytest.fixture
def warned(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], bool]]:
    """Whether the log has warned of an admin API that others can listen to."""
    configure_logs("json", "warning")
    yield lambda: "admin.not_secured" in capsys.readouterr().err
    configure_logs("json", "error")


@pytest.mark.parametrize(("host", "has_tls"), [("127.0.0.1", False), ("0.0.0.0", False), ("0.0.0.0", True)])  # noqa: S104
async def test_where_others_could_read_along(
    start: Start, secured: Settings, warned: Callable[[], bool], host: str, has_tls: bool
) -> None:
    """Where other machines reach the admin API without TLS, the log says so at each start, and so does the doctor."""
    changes: dict[str, Any] = {"admin_bind": f"{host}:{free_port()}"}
    if not has_tls:
        changes |= {"admin_tls_certificate": None, "admin_tls_key": None}
    server = await start(**changes)
    assert (await (server if has_tls else server.plain).exchange(TENANTS)).status == 401
    reached = host != "127.0.0.1" and not has_tls
    assert warned() == reached
    assert (verdicts(attrs.evolve(secured, **changes)).get("admin API") == "warning") == reached


async def test_a_socket_that_is_inherited(start: Start, warned: Callable[[], bool]) -> None:
    """What the address of an inherited socket is, the socket tells."""
    with socket.create_server(("0.0.0.0", 0)) as opened:  # noqa: S104
        await start(admin_bind=f"fd://{os.dup(opened.fileno())}", admin_tls_certificate=None, admin_tls_key=None)
    assert warned()
