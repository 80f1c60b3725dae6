"""Opens connections to PostgreSQL on which no wait is without an end: looking up the name, connecting, and every answer."""

from __future__ import annotations

import os
import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict

from sentinel.name_lookup import NAMES, NameUnknown

_REASON_MAX = 200
_ENCODING = "UTF8"
# What the driver's words leave open.
_PLAINER = {
    "certificate verify failed": "the server's has expired, or is not from an authority in sslrootcert",
    "wait timeout expired": "it did not answer in time",
    "connection timeout expired": "it could not be reached in time",
}
CONNECT_SECONDS_MIN = 4  # libpq's own minimum is 2; a serverless database may have to wake first

T = TypeVar("T")


class Connection(psycopg.Connection[dict[str, Any]]):
    """A connection on which nothing waits beyond `deadline` (monotonic); what was under way then is unknown, so it is closed."""

    deadline = float("inf")

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        try:
            left = max(0.001, self.deadline - time.monotonic())
            return super().wait(gen, interval, timeout=left if timeout is None else min(timeout, left))
        except psycopg.Error:
            if time.monotonic() >= self.deadline:
                self.pgconn.finish()
            raise


def open_connection(url: str, seconds: float, **arguments: Any) -> Connection:
    """
    A connection in autocommit, within `seconds` (at least CONNECT_SECONDS_MIN), whatever the name service and the network do.

    Each address of each host is tried in turn while there is time. Raises psycopg.OperationalError.
    """
    deadline = time.monotonic() + max(CONNECT_SECONDS_MIN, seconds)
    places = _places(url, deadline)
    arguments["client_encoding"] = _ENCODING  # whatever the role or the environment say
    for number, place in enumerate(places, start=1):
        left = max(1, round(deadline - time.monotonic()))
        try:
            return _checked(Connection.connect(url, autocommit=True, connect_timeout=left, **place, **arguments))
        except psycopg.OperationalError:
            if number == len(places) or time.monotonic() >= deadline:
                raise
    raise AssertionError  # there is at least one place


def session_options(url: str, seconds: float) -> str:
    """What a session of ours needs, whatever the role or the database say otherwise; behind what the URL asks for itself."""
    milliseconds = int(seconds * 1000)
    given = conninfo_to_dict(url).get("options") or os.environ.get("PGOPTIONS", "")
    # A claim has to see what was committed while it waited for a lock.
    own = r"-c default_transaction_isolation=read\ committed"
    own += f" -c lock_timeout={milliseconds} -c statement_timeout={milliseconds}"
    # The planner knows little of tables that are empty now and full in a second; every hot statement has its index.
    own += " -c enable_seqscan=off -c jit=off"
    own += " -c plan_cache_mode=force_generic_plan"  # the plans are the same whatever the values; planning is not free
    return f"{given} {own}".strip()


def _checked(connection: Connection) -> Connection:
    """The connection, unless it leads to a database in which not every message can be kept."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding in (None, _ENCODING):
        return connection
    connection.close()
    raise psycopg.OperationalError(f"the database's encoding is {encoding}: create one with ENCODING 'UTF8'")


def _places(url: str, deadline: float) -> list[dict[str, Any]]:
    """Where the server may be. The host stays beside its address, because a certificate is for the host."""
    given = conninfo_to_dict(url)
    hosts = str(given.get("host") or os.environ.get("PGHOST", ""))
    if not hosts or given.get("hostaddr") or os.environ.get("PGHOSTADDR"):
        return [{}]  # a socket of this machine, or an address beside the name: nothing to look up
    ports = str(given.get("port") or os.environ.get("PGPORT", "5432")).split(",")
    places: list[dict[str, Any]] = []
    unknown = ""
    for number, host in enumerate(hosts.split(",")):
        port = ports[number if len(ports) > 1 else 0]
        try:
            places += [{"host": host, "port": port} | address for address in _addresses(host, deadline)]
        except NameUnknown as error:
            unknown = str(error)
    if not places:
        raise psycopg.OperationalError(unknown)
    return places


def _addresses(host: str, deadline: float) -> list[dict[str, str]]:
    if host.startswith(("/", "@")):  # a socket of this machine
        return [{}]
    return [{"hostaddr": address} for address in NAMES.addresses(host, deadline - time.monotonic())]


def reason(error: Exception) -> str:
    """Why it failed, for a person: the first line that the driver says."""
    words = str(error).strip().partition("\n")[0][:_REASON_MAX] or type(error).__name__
    return next((f"{words}: {plainer}" for sign, plainer in _PLAINER.items() if sign in words), words)
