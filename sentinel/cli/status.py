"""`sentinel status`: one line each for the record, the dispatch, the spool, the workers and the gateway, in plain words.

Only looks: makes no record, and changes no tables.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

import attrs

from sentinel.cli.output import print_json, print_table
from sentinel.dispatch import Stale, open_dispatch
from sentinel.errors import SentinelError, Unavailable
from sentinel.health import WORKER_SEEN_SECONDS
from sentinel.records import Record, configured_record, is_served
from sentinel.records.spool import FILE, Spool
from sentinel.settings import Settings, without_password

PATIENCE_SECONDS = 3.0


@attrs.frozen
class Finding:
    """One thing that was looked at. `verdict` is ok, warning or wrong."""

    what: str
    verdict: str
    detail: str


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    status = commands.add_parser("status", help="say in plain words how things are now")
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=run)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """1 if something is wrong, 0 if not."""
    return print_findings(list(examine(settings)), as_json=options.json)


def print_findings(findings: list[Finding], *, as_json: bool) -> int:
    """Print them; the exit code: 1 if something is wrong."""
    rows = [attrs.asdict(finding) for finding in findings]
    if as_json:
        print_json(rows)
    else:
        print_table(rows, ("what", "verdict", "detail"), "")
    return 1 if any(finding.verdict == "wrong" for finding in findings) else 0


def examine(settings: Settings) -> Iterator[Finding]:
    """Every finding, in the order of the path that a webhook takes."""
    yield _gateway(settings)
    yield from look_at_record(settings, lambda record: iter((record_finding(record, settings), workers_finding(record))))
    yield from parts(settings)


def look_at_record(settings: Settings, look: Callable[[Record], Iterator[Finding]]) -> Iterator[Finding]:
    """What `look` finds in the record as it is; only how it is, if it cannot be looked into."""
    if not is_served(settings.record) and not Path(settings.record.partition(":")[2]).exists():
        yield Finding("record", "warning", f"{settings.record}: there is no such file yet (sentinel up makes it)")
        return
    try:
        with closing(configured_record(settings, busy_seconds=PATIENCE_SECONDS, prepared=False)) as record:
            if missing := record.missing_migrations():
                detail = f"{without_password(settings.record)} lacks {', '.join(missing)}: run sentinel migrate"
                yield Finding("record", "warning", detail)
            else:
                yield from look(record)
    except SentinelError as error:
        yield Finding("record", "wrong", error.detail)


def parts(settings: Settings) -> Iterator[Finding]:
    """The dispatch and the spool, where the settings name them."""
    if settings.redis is not None:
        yield dispatch_finding(settings.redis)
    if is_served(settings.record):
        yield spool_finding(settings)


def record_finding(record: Record, settings: Settings) -> Finding:
    """What waits in the record. Raises Unavailable."""
    waiting = ", ".join(f"{number} {state}" for state, number in record.counts().items()) or "nothing waits"
    return Finding("record", "ok", f"{without_password(settings.record)}: {waiting}")


def workers_finding(record: Record) -> Finding:
    """Who works."""
    alive = [worker for worker in record.workers() if worker.last_seen > time.time() - WORKER_SEEN_SECONDS]
    if not alive:
        return Finding("worker", "warning", "no worker is running; jobs are kept and wait (sentinel up, or sentinel worker)")
    if idle := [worker.status for worker in alive if worker.status != "ready"]:
        return Finding("worker", "wrong", idle[0])
    return Finding("worker", "ok", f"{len(alive)} running, {sum(worker.slots for worker in alive)} slot(s)")


def dispatch_finding(url: str) -> Finding:
    """Whether Redis can be used as it should."""
    dispatch = open_dispatch(url)
    try:
        waiting = dispatch.waiting()
        warning = dispatch.policy_warning()
    except Stale:
        return Finding("dispatch", "warning", "Redis is empty; the next worker or gateway refills it from the record")
    except Unavailable as error:
        return Finding("dispatch", "warning", f"{error.detail} Workers claim from the record meanwhile.")
    finally:
        dispatch.close()
    return Finding("dispatch", "warning" if warning else "ok", warning or f"{without_password(url)}: {waiting} hint(s) waiting")


def spool_finding(settings: Settings) -> Finding:
    """What is in this machine's spool."""
    if settings.spool == "off":
        return Finding("spool", "ok", "off: webhooks get 503 while the record cannot take them")
    folder = Path(settings.spool).absolute()
    if (folder / FILE).exists():
        return _spooled(folder)
    if not _can_be_written(folder):
        return Finding("spool", "wrong", f"{folder} cannot be written: no gateway can start with it")
    return Finding("spool", "ok", f"{folder}: nothing was ever spooled")


def _spooled(folder: Path) -> Finding:
    """What the spool that is there holds."""
    try:
        spool = Spool(folder, PATIENCE_SECONDS)
        spooled = spool.count()
        spool.close()
    except Unavailable as error:
        return Finding("spool", "wrong", error.detail)
    if spooled.rejected:
        return Finding("spool", "wrong", f"{spooled.rejected} rejected by the record, kept in table `rejected` of {folder / FILE}")
    if spooled.since is None:
        return Finding("spool", "ok", f"{folder}: nothing spooled")
    return Finding("spool", "warning", f"{spooled.waiting} spooled, the oldest {time.time() - spooled.since:.0f} s ago")


def _can_be_written(folder: Path) -> bool:
    """Whether this user may make a file in that folder, which may have to be made first."""
    try:
        place = next(path for path in (folder, *folder.parents) if path.exists())
    except PermissionError:
        return False
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _gateway(settings: Settings) -> Finding:
    """What the gateway at the configured address says of itself."""
    if settings.bind.startswith("fd://"):
        return Finding("gateway", "ok", f"inherits its socket, {settings.bind}, so it is not asked here")
    connection = _connection(settings)
    try:
        connection.request("GET", "/readyz")
        checks = json.loads(connection.getresponse().read())["checks"]
    except (OSError, HTTPException, ValueError, KeyError):
        return Finding("gateway", "warning", f"nobody answers at {settings.bind}")
    finally:
        connection.close()
    troubles = [f"{name}: {words}" for name, words in checks.items() if words != "ok"]
    return Finding("gateway", "warning" if troubles else "ok", "; ".join(troubles) or f"answers at {settings.bind}")


def _connection(settings: Settings) -> HTTPConnection:
    """To the gateway, which is told nothing; so its certificate, which need not name this address, is not checked here."""
    unchecked = None
    if settings.tls_certificate is not None:
        unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    if settings.bind.startswith("unix:"):
        return _FileConnection(settings.bind.removeprefix("unix:"), unchecked)
    host, _, port = settings.bind.rpartition(":")
    if unchecked is None:
        return HTTPConnection(host.strip("[]"), int(port), timeout=PATIENCE_SECONDS)
    return HTTPSConnection(host.strip("[]"), int(port), timeout=PATIENCE_SECONDS, context=unchecked)


class _FileConnection(HTTPConnection):
    """HTTP, within TLS if there is a context, by a socket file."""

    def __init__(self, path: str, context: ssl.SSLContext | None) -> None:
        super().__init__("localhost", timeout=PATIENCE_SECONDS)
        self._path, self._tls = path, context

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock)
