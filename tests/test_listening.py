"""Where the gateway listens: ports, socket files, and sockets that were opened for it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio

from sentinel.errors import SettingsError
from sentinel.listening import BACKLOG, is_local, open_listener, url_of
from sentinel.settings import Settings
from tests.processes.harness import environment, start, stop

GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def test_ports() -> None:
    """A free port is had, in IPv6 too; one that is taken is said to be, unless both sides share it."""
    with open_listener("127.0.0.1:0") as first, open_listener("[::1]:0") as sixth:
        first.listen(BACKLOG)
        assert url_of(sixth).startswith("http://[::1]:")
        with pytest.raises(SettingsError, match="SENTINEL_BIND"):
            open_listener(f"127.0.0.1:{first.getsockname()[1]}")
    with open_listener("127.0.0.1:0", shared=True) as one:
        one.listen(BACKLOG)
        open_listener(f"127.0.0.1:{one.getsockname()[1]}", shared=True).close()


@pytest.mark.parametrize(
    ("bind", "local"),
    [
        *[(f"{host}:80", True) for host in ("127.0.0.1", "127.9.9.9", "[::1]", "localhost")],
        *[(bind, True) for bind in ("unix:/run/x.sock", "fd://3")],
        *[(f"{host}:80", False) for host in ("0.0.0.0", "[::]", "10.0.0.1", "192.0.2.7", "[2001:db8::1]", "gateway.example")],  # noqa: S104
    ],
)
def test_what_only_this_machine_reaches(bind: str, local: bool) -> None:
    """Loopback, socket files and what is inherited are for this machine; every other address may be for more."""
    assert is_local(bind) == local


def test_socket_files(tmp_path: Path) -> None:
    """A stale socket file is replaced; one on which somebody listens, and a file that is no socket, are left alone."""
    path = tmp_path / "sentinel.sock"
    first = open_listener(f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with pytest.raises(SettingsError, match="in use"):
        open_listener(f"unix:{path}")
    first.close()
    with open_listener(f"unix:{path}") as second, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert url_of(second) == f"unix:{path}"
    (tmp_path / "file").write_text("precious")
    with pytest.raises(SettingsError):
        open_listener(f"unix:{tmp_path / 'file'}")
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(SettingsError):
        open_listener(f"unix:{tmp_path / 'missing' / 'sentinel.sock'}")


def test_inherited_sockets() -> None:
    """A socket that somebody opened is taken by its number; what is none is refused."""
    with socket.create_server(("127.0.0.1", 0)) as opened, open_listener(f"fd://{os.dup(opened.fileno())}") as listener:
        assert listener.getsockname() == opened.getsockname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, pytest.raises(SettingsError, match="stream"):
        open_listener(f"fd://{datagrams.fileno()}")
    with pytest.raises(SettingsError):
        open_listener("fd://9999")


@pytest.mark.slow
async def test_processes_share_a_socket_file(settings: Settings, tmp_path: Path) -> None:
    """Two processes serve one socket file; a killed one is replaced without a refused connection, and SIGTERM ends both."""
    path = tmp_path / "sentinel.sock"
    shared = attrs.evolve(settings, bind=f"unix:{path}", processes=2)
    gateway = await start(shared, tmp_path / "log", "serve")

    async def ask() -> bytes:
        async with await trio.open_unix_socket(str(path)) as stream:
            await stream.send_all(GET)
            return b"".join([data async for data in stream])

    try:
        with trio.fail_after(20):
            while not path.exists():
                await trio.sleep(0.05)
            assert b"200 OK" in await ask()
            while len(children(gateway.pid)) < 2:
                await trio.sleep(0.05)
        first, _ = before = children(gateway.pid)
        os.kill(first, signal.SIGKILL)
        with trio.fail_after(15):
            while len(now := children(gateway.pid)) < 2 or now == before:
                assert b"200 OK" in await ask()
                await trio.sleep(0.02)
    finally:
        assert await stop(gateway) == 0


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("up",), ("serve", "--processes", "2")], ids=" ".join)
async def test_an_inherited_socket_of_the_admin_api(settings: Settings, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A socket that was opened for the admin API reaches the process that serves it, whatever is in between."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        address, wanted = opened.getsockname(), attrs.evolve(settings, admin_bind=f"fd://{opened.fileno()}")
        with (tmp_path / "log").open("wb") as log:
            command = [sys.executable, "-m", "sentinel", *arguments]
            given = {"env": environment(wanted), "pass_fds": (opened.fileno(),), "stdin": subprocess.DEVNULL, "stderr": log}
            process = await trio.lowlevel.open_process(command, **given)  # type: ignore[call-overload]
    try:
        with trio.fail_after(30):
            async with await trio.open_tcp_stream(*address) as stream:
                await stream.send_all(GET.replace(b"/healthz", b"/admin/v1/tenants"))
                assert b" 401 " in b"".join([data async for data in stream])
    finally:
        assert await stop(process) == 0


def children(parent: int) -> list[int]:
    """The children of a process, whichever of its threads started them."""
    return sorted(int(child) for path in Path(f"/proc/{parent}/task").glob("*/children") for child in path.read_text().split())
