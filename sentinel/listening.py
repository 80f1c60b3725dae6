"""Sockets to listen on, from the text of SENTINEL_BIND: HOST:PORT, unix:PATH, or fd://N that somebody opened for us (systemd)."""

from __future__ import annotations

import os
import socket
import stat
from ipaddress import ip_address
from pathlib import Path

from sentinel.errors import SettingsError

BACKLOG = 4096
UNIX_MODE = 0o660  # the reverse proxy joins the group; nobody else writes to it


def open_listener(bind: str, *, shared: bool = False, setting: str = "SENTINEL_BIND") -> socket.socket:
    """
    A bound socket; with `shared`, other processes may have the same HOST:PORT, and the kernel spreads connections.

    It listens once its server is ready; a socket file at once, so that nobody takes it for a stale one.

    Raises:
        SettingsError: the address cannot be had, or somebody listens on the socket file.
    """
    try:
        if bind.startswith("unix:"):
            listener = _bind_file(Path(bind.removeprefix("unix:")))
        elif bind.startswith("fd://"):
            listener = _inherit(int(bind.removeprefix("fd://")))
        else:
            listener = _bind_port(bind, shared)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{setting}: cannot listen on {bind} ({error}).") from None
    listener.setblocking(False)
    return listener


def is_inherited(bind: str) -> bool:
    """Whether several processes can only share this address by inheriting one socket."""
    return bind.startswith(("unix:", "fd://"))


def url_of(listener: socket.socket, *, secure: bool = False) -> str:
    """Where the socket listens, for people."""
    address = address_of(listener)
    return address if address.startswith("unix:") else f"{'https' if secure else 'http'}://{address}"


def address_of(listener: socket.socket) -> str:
    """HOST:PORT or unix:PATH, whatever the setting said."""
    name = listener.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def is_local(bind: str) -> bool:
    """Whether only this machine reaches it, as far as its text tells: loopback, a socket file, or what is inherited."""
    host = bind.rpartition(":")[0].strip("[]")
    if is_inherited(bind) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _bind_port(bind: str, shared: bool) -> socket.socket:
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, int(port)))
    except OSError:
        listener.close()
        raise
    return listener


def _bind_file(path: Path) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o777 & ~UNIX_MODE)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _remove_stale(path: Path) -> None:
    """Remove what a process that is gone left behind; never what is no socket, nor one on which somebody listens."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()


def _inherit(number: int) -> socket.socket:
    listener = socket.socket(fileno=number)
    if listener.type != socket.SOCK_STREAM:
        listener.detach()
        raise ValueError("it is no stream socket")
    return listener
