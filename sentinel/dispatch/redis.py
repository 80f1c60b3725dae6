"""The dispatch in Redis 6.2 or newer, or Valkey: one script per call, from `sql/redis`. The only importer of redis.

Must not hold a thread longer than its timeout, must not use a connection after an error, must not repeat a URL's password.
"""

# ruff: noqa: D102  what a method promises stands in the contract, once
from __future__ import annotations

import functools
import hashlib
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, parse_url
from redis.retry import Retry

from sentinel.dispatch import PRIORITY_MAX, Stale
from sentinel.errors import SettingsError, Unavailable
from sentinel.model import Hint

AT_ONCE = 1_000  # hints or ids in one script: Redis serves nobody else while it runs
_REFILL_MS = 10_000  # how long a refill may pause before another may take it over
WAIT_SLACK_SECONDS = 0.5  # how much longer than asked `wait` may take
BELL_STEP_SECONDS = 0.2  # each step of connecting for `wait`, so that all of them fit into the slack

_FOLDER = Path(__file__).parents[2] / "sql" / "redis"  # beside the package, in a checkout and where it is installed
# What stands in the text of an error, at its beginning or, when a script met it, somewhere in it.
_REASONS = {
    "WRONGPASS": "refuses the user or the password",
    "NOAUTH": "wants a user and a password",
    "NOPERM": "does not permit this user what Sentinel needs",
    "LOADING": "is loading its data",
    "READONLY": "is a replica, which takes no writes",
    "OOM": "is out of memory",
    "MISCONF": "cannot write to its disk",
    "BUSY": "is busy with a script",
    "NOREPLICAS": "has too few replicas to take writes",
    "MASTERDOWN": "has lost its master",
    "CLUSTERDOWN": "is a cluster that is down",
    "MOVED": "is a cluster, and these keys are on another node",
    "max number of clients": "has too many clients",
}


class RedisDispatch:
    """
    Dispatch by the Redis at `url`; `prefix` begins every key, and its braces keep the keys in one slot.

    Connects when it is first used, and again after every error. Raises SettingsError for a URL that cannot be one.
    """

    def __init__(self, url: str, timeout_seconds: float = 0.5, prefix: str = "{sentinel}:") -> None:
        self._prefix = prefix
        self._me = secrets.token_hex(8)
        self._epoch, self._tick = "", 0  # what was last known; no epoch: nothing yet
        self._link = _Link(url, timeout_seconds)
        self._bell = _Link(url, min(timeout_seconds, BELL_STEP_SECONDS))

    def close(self) -> None:
        self._link.drop()
        self._bell.drop()

    def enqueue(self, hints: Sequence[Hint]) -> int:
        return sum(int(self._run("enqueue", *_flat(part))) for part in _parts(hints))

    def take(self, count: int, lease_seconds: float) -> list[str]:
        return list(self._run("take", min(count, AT_ONCE), round(lease_seconds * 1000))) if count > 0 else []

    def done(self, ids: Sequence[str]) -> None:
        for part in _parts(ids):
            self._run("done", *part)

    def waiting(self) -> int:
        return int(self._run("waiting"))

    def lead(self, seconds: float) -> bool:
        return bool(self._run("lead", self._me, round(seconds * 1000)))

    def wait(self, seconds: float) -> bool:
        began = time.monotonic()
        self._bell.connect()
        gone = time.monotonic() - began
        blocked = max(0.01, seconds - gone)  # 0 would be for ever
        patience = max(blocked, seconds + WAIT_SLACK_SECONDS - gone)
        return self._bell.ask("BLPOP", f"{self._prefix}bell", f"{blocked:.3f}", seconds=patience) is not None

    def rebuild(self, pages: Iterable[Sequence[Hint]]) -> bool:
        token = secrets.token_hex(16)
        try:
            return self._refill_begin(token) and self._refill_all(token, pages)
        except _Overtaken:
            return False
        except BaseException:
            with suppress(Unavailable):  # then it expires
                self._script("refill_release", token)
            raise

    def policy_warning(self) -> str | None:
        try:
            lines = str(self._link.ask("INFO", "memory")).splitlines()
        except Unavailable as error:
            return f"Whether Redis keeps all keys when memory is short cannot be known ({error.detail.rstrip('.')})."
        policy = next((line.partition(":")[2] for line in lines if line.startswith("maxmemory_policy:")), "unknown")
        if policy == "noeviction":
            return None
        return f"Redis' maxmemory-policy is {policy}: it may drop keys when memory is short; set it to noeviction."

    # Scripts

    def _run(self, name: str, *words: object) -> Any:
        """What a script answers to one who knows this epoch and tick. Raises Stale if it knows better."""
        try:
            epoch, tick, result = self._script(name, self._epoch, self._tick, *words)
            self._epoch, self._tick = str(epoch), int(tick)
        except _OtherEpoch as other:
            self._epoch, self._tick = other.epoch, other.tick
            raise Stale("Redis was refilled.") from None
        except (TypeError, ValueError):
            self._link.drop()
            raise Unavailable("Redis gave an answer that was not expected.") from None
        return result

    def _script(self, name: str, *words: object) -> Any:
        text, digest = load_script(name)
        try:
            return self._link.ask("EVALSHA", digest, 1, self._prefix, *words)
        except _NoScript:
            return self._link.ask("EVAL", text, 1, self._prefix, *words)  # runs it, and Redis keeps it for the next time

    # Refilling: every step but the first shows the token, so that one who was overtaken changes nothing any more.

    def _refill_begin(self, token: str) -> bool:
        try:
            return bool(self._script("refill_begin", self._epoch, token, _REFILL_MS))
        except _OtherEpoch as other:
            self._epoch, self._tick = other.epoch, other.tick
            return False

    def _refill_all(self, token: str, pages: Iterable[Sequence[Hint]]) -> bool:
        for keys in self._keys():
            self._script("refill_wipe", token, _REFILL_MS, *keys)
        for page in pages:
            for part in _parts(page):
                self._script("refill_add", token, _REFILL_MS, *_flat(part))
        self._epoch, tick, _ = self._script("refill_end", token, secrets.token_hex(8))
        self._tick = int(tick)
        return True

    def _keys(self) -> Iterator[list[str]]:
        """All our keys, a few at a time. Looked for by name: after an accident nothing else knows them all."""
        pattern = re.sub(r"([\[\]*?\\])", r"\\\1", self._prefix) + "*"
        cursor = "0"
        while True:
            cursor, keys = self._link.ask("SCAN", cursor, "MATCH", pattern, "COUNT", AT_ONCE)
            yield keys
            if cursor == "0":
                return


class _Link:
    """One connection. After an error it is dropped: half a reply can never be taken for the beginning of the next."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
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
            raise _NoScript from None
        except Exception as error:
            _raise_if_ours(error)
            self.drop()
            raise Unavailable(_reason(error)) from error
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Close the connection; the next call opens another."""
        self._connection.disconnect()


class _NoScript(Exception):
    """Redis does not hold that script: it is new, or was restarted or flushed."""


class _Overtaken(Exception):
    """The lock of a refill is somebody else's by now."""


class _OtherEpoch(Exception):
    """There is another filling than the one that was known."""

    def __init__(self, epoch: str, tick: int) -> None:
        super().__init__(epoch)
        self.epoch, self.tick = epoch, tick


@functools.cache
def load_script(name: str) -> tuple[str, str]:
    """A script of `sql/redis` with what all have in common in front, and its SHA-1."""
    text = "\n".join((_FOLDER / file).read_text() for file in ("common.lua", f"{name}.lua"))
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _connection(url: str, timeout_seconds: float) -> Any:
    """A connection that is not connected. The URL's options count, except where they would break a promise made here."""
    try:
        options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        kind = options.pop("connection_class", Connection)
        for name in ("timeout", "max_connections", "retry_on_error", "retry_on_timeout"):  # of pools and retries
            options.pop(name, None)
        return kind(**options | _promises(timeout_seconds)) if kind in (Connection, SSLConnection) else _unknown()
    except (ValueError, TypeError, exceptions.RedisError):
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


def _unknown() -> None:
    raise ValueError


def _raise_if_ours(error: Exception) -> None:
    """The errors that our scripts make, and after which the connection is as good as before."""
    match str(error).split():
        case ["LOCK", *_]:
            raise _Overtaken from None
        case ["EPOCH", "other", epoch, tick] if tick.isdecimal():
            raise _OtherEpoch(epoch, int(tick)) from None
        case ["EPOCH", *_]:
            raise Stale from None


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
        cause = error.__context__
        return f"Redis cannot be reached ({cause.strerror})." if isinstance(cause, OSError) and cause.strerror else "Redis hung up."
    return f"Redis gave an answer that was not expected ({type(error).__name__})."


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE))


def _flat(hints: Sequence[Hint]) -> list[str | int]:
    return [word for hint in hints for word in (hint.job_id, hint.tenant, max(0, min(hint.priority, PRIORITY_MAX)))]
