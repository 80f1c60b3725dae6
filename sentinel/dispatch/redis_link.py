"""One connection to Redis or Valkey, by the client of Redis itself: connecting, asking, and what its errors mean in plain words.

Must not hold a thread longer than its timeouts, must not use a connection after an error, must not repeat a URL's password.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, parse_url
from redis.retry import Retry

from sentinel.errors import SettingsError, Unavailable
from sentinel.name_lookup import NAMES, NameUnknown

# What stands in the text of an error, at its beginning or, when a script met it, somewhere in it.
_REASONS = {
    "WRONGPASS": "refuses the user or the password",
    "NOAUTH": "wants a user and a password",
    "NOPERM": "does not permit this user what Sentinel needs",
    "LOADING": "is loading its data",
    "READONLY": "is a replica, which takes no writes",
    "UNBLOCKED": "has changed its role",
    "OOM": "is out of memory",
    "MISCONF": "cannot write to its disk",
    "BUSY": "is busy with a script",
    "NOREPLICAS": "has too few replicas to take writes",
    "MASTERDOWN": "has lost its master",
    "CLUSTERDOWN": "is a cluster that is down",
    "MOVED": "is a cluster, and these keys are on another node",
    "max number of clients": "has too many clients",
}


class NoScript(Exception):
    """Redis does not hold that script: it is new, or was restarted or flushed."""


class Link:
    """
    One connection. After an error it is dropped: half a reply can never be taken for the beginning of the next.

    `expected` is shown every error first: what it raises instead is an answer, and the connection is as good as before.
    """

    def __init__(self, url: str, timeout_seconds: float, expected: Callable[[Exception], None]) -> None:
        self._expected = expected
        self._connection = _connection(url, timeout_seconds)

    def connect(self) -> None:
        """Connect, if it is not connected. What the server says meanwhile is not repeated: it may quote the password."""
        if self._connection.is_connected:
            return
        try:
            self._connection.connect()
        except Exception as error:  # noqa: BLE001  nonsense from the other side makes the driver fail in any way
            self.drop()
            raise Unavailable(_reason(error)) from None
        except BaseException:
            self.drop()
            raise

    def ask(self, *words: object, seconds: float | None = None) -> Any:
        """The reply to one command, within the timeout or, if given, `seconds`."""
        self.connect()
        try:
            self._connection.send_command(*words)
            return self._connection.read_response(**({} if seconds is None else {"timeout": seconds}))
        except exceptions.NoScriptError:
            raise NoScript from None
        except Exception as error:
            self._expected(error)
            self.drop()
            raise Unavailable(_reason(error)) from error
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Close the connection; the next call opens another."""
        self._connection.disconnect()


class _Plain(Connection):
    """A connection to the first address that takes one, within one deadline for the look-up of the name and for all of them."""

    def _connect(self) -> socket.socket:
        seconds = float(self.socket_connect_timeout or 0)
        deadline = time.monotonic() + seconds
        failure: OSError = TimeoutError("no address answered in time")
        for address in NAMES.addresses(self.host, seconds):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                opened = socket.create_connection((address, self.port), left)
            except OSError as error:
                failure = error
                continue
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in self.socket_keepalive_options.items():
                opened.setsockopt(socket.IPPROTO_TCP, option, value)
            opened.settimeout(self.socket_timeout)
            return opened
        raise failure


class _Secured(SSLConnection, _Plain):
    """The same with TLS: the certificate is checked for the host's name, not for its address."""


_KINDS = {Connection: _Plain, SSLConnection: _Secured}


def _connection(url: str, timeout_seconds: float) -> Any:
    """A connection that is not connected. The URL's options count, except where they would break a promise made here."""
    try:
        options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        kind = _KINDS[options.pop("connection_class", Connection)]
        for name in ("timeout", "max_connections", "retry_on_error", "retry_on_timeout"):  # of pools and retries
            options.pop(name, None)
        return kind(**options | _promises(timeout_seconds))
    except (KeyError, ValueError, TypeError, exceptions.RedisError):
        raise SettingsError("The URL of Redis cannot be understood.") from None  # the text of the error may hold the password


def _promises(timeout_seconds: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "socket_keepalive": True,
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),  # else every timeout would count several times
        "protocol": 2,
        "decode_responses": True,
        "driver_info": None,
    }


def _reason(error: Exception) -> str:
    """What went wrong, in words of our own: servers and proxies quote what they were sent."""
    text = f"{getattr(error, 'status_code', None) or ''} {error}"
    for sign, reason in _REASONS.items():
        if re.search(rf"\b{sign}\b", text):
            return f"Redis {reason}."
    if isinstance(error, exceptions.AuthenticationError):
        return "Redis refuses the user or the password."
    if isinstance(error, exceptions.TimeoutError):
        return "Redis did not answer in time."
    if isinstance(error, exceptions.ConnectionError):
        return _unreachable(error.__context__)
    return f"Redis gave an answer that was not expected ({type(error).__name__})."


def _unreachable(cause: BaseException | None) -> str:
    """Why there is no connection."""
    match cause:
        case ssl.SSLCertVerificationError():
            return f"Redis' certificate is not trusted ({cause.verify_message.rstrip('.')})."
        case ssl.SSLError():
            return f"Redis does not speak TLS at that port, or not ours ({cause.reason})."
        case NameUnknown():
            return f"Redis cannot be reached ({cause})."
        case OSError(strerror=str() as words):
            return f"Redis cannot be reached ({words})."
    return "Redis hung up."
