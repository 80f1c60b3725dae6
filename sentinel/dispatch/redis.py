"""The dispatch in Redis 6.2 or newer, or Valkey: one script per call, from `sql/redis`; `redis_link.py` has the connection."""

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

from sentinel.dispatch import PRIORITY_MAX, Stale
from sentinel.dispatch.redis_link import Link, NoScript
from sentinel.errors import Unavailable
from sentinel.model import Hint
from sentinel.payload import encode_json

AT_ONCE = 1_000  # hints or ids in one script: Redis serves nobody else while it runs
_SINCE_MAX = 2**43  # milliseconds, until the year 2248; times a priority, still a number that Redis keeps exactly
_REFILL_MS = 10_000  # how long a refill may pause before another may take it over
RUN_MS = 600_000  # how long a chat waits for the word that a job has ended, which may get lost, before somebody looks at it again
WAIT_SLACK_SECONDS = 0.3  # how much longer than asked `wait` may take
BELL_STEP_SECONDS = 0.2  # each step of connecting for `wait`, so that all of them fit into the slack

_FOLDER = Path(__file__).parents[2] / "sql" / "redis"  # beside the package, in a checkout and where it is installed


class RedisDispatch:
    """
    Dispatch by the Redis at `url`; `prefix` begins every key, and its braces keep the keys in one slot.

    Connects when it is first used, and again after every error. Raises SettingsError for a URL that cannot be one.
    """

    def __init__(self, url: str, timeout_seconds: float = 0.5, prefix: str = "{sentinel}:") -> None:
        self._prefix = prefix
        self._me = secrets.token_hex(8)
        self._known = "", 0  # the epoch and the tick; no epoch: nothing yet. One value, since several threads set it
        self._link = Link(url, timeout_seconds, _raise_if_ours)
        self._offering = Link(url, timeout_seconds, _raise_if_ours)
        self._bell = Link(url, min(timeout_seconds, BELL_STEP_SECONDS), _raise_if_ours)

    def close(self) -> None:
        for link in (self._link, self._offering, self._bell):
            link.drop()

    def enqueue(self, hints: Sequence[Hint]) -> int:
        return sum(int(self._run("enqueue", _text(part), 1)) for part in _parts(hints))

    def offer(self, hints: Sequence[Hint]) -> None:
        for part in _parts(hints):
            self._run("enqueue", _text(part), 0, link=self._offering)

    def take(self, count: int, lease_seconds: float) -> list[str]:
        return self._take(count, lease_seconds, self._link)

    def take_next(self, count: int, lease_seconds: float) -> list[str]:
        return self._take(count, lease_seconds, self._bell)

    def _take(self, count: int, lease_seconds: float, link: Link) -> list[str]:
        return list(self._run("take", min(count, AT_ONCE), round(lease_seconds * 1000), link=link)) if count > 0 else []

    def done(self, claimed: Sequence[str], missed: Sequence[str] = ()) -> None:
        for part in _parts(claimed):
            self._run("done", RUN_MS, len(part), *part)
        for part in _parts(missed):
            self._run("done", RUN_MS, 0, *part)

    def ended(self, ids: Sequence[str]) -> list[str]:
        return [job_id for part in _parts(ids) for job_id in self._run("ended", *part)]

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

    def _run(self, name: str, *words: object, link: Link | None = None) -> Any:
        """What a script answers to one who knows this epoch and tick. Raises Stale if it knows better."""
        link = link or self._link
        try:
            epoch, tick, result = self._script(name, *self._known, *words, link=link)
            self._known = str(epoch), int(tick)
        except _OtherEpoch as other:
            self._known = other.epoch, other.tick
            raise Stale("Redis was refilled.") from None
        except (TypeError, ValueError):
            link.drop()
            raise Unavailable("Redis gave an answer that was not expected.") from None
        return result

    def _script(self, name: str, *words: object, link: Link | None = None) -> Any:
        text, digest = load_script(name)
        link = link or self._link
        try:
            return link.ask("EVALSHA", digest, 1, self._prefix, *words)
        except NoScript:
            return link.ask("EVAL", text, 1, self._prefix, *words)  # runs it, and Redis keeps it for the next time

    # Refilling: every step but the first shows the token, so that one who was overtaken changes nothing any more.

    def _refill_begin(self, token: str) -> bool:
        try:
            return bool(self._script("refill_begin", self._known[0], token, _REFILL_MS))
        except _OtherEpoch as other:
            self._known = other.epoch, other.tick
            return False

    def _refill_all(self, token: str, pages: Iterable[Sequence[Hint]]) -> bool:
        for keys in self._keys():
            self._script("refill_wipe", token, _REFILL_MS, *keys)
        for page in pages:
            for part in _parts(page):
                self._script("refill_add", token, _REFILL_MS, _text(part))
        epoch, tick, _ = self._script("refill_end", token, secrets.token_hex(8))
        self._known = str(epoch), int(tick)
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


def _raise_if_ours(error: Exception) -> None:
    """The errors that our scripts make, and after which the connection is as good as before."""
    match str(error).split():
        case ["LOCK", *_]:
            raise _Overtaken from None
        case ["EPOCH", "other", epoch, tick] if tick.isdecimal():
            raise _OtherEpoch(epoch, int(tick)) from None
        case ["EPOCH", *_]:
            raise Stale from None


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE))


def _text(hints: Sequence[Hint]) -> bytes:
    """The hints as one word of the protocol: the client takes a microsecond for each."""
    return encode_json([word for hint in hints for word in (hint.job_id, hint.tenant, _score(hint), hint.chat)])


def _score(hint: Hint) -> str:
    """A hint's place in its tenant's line, the smaller the sooner: priority and age."""
    return str(max(0, min(hint.priority, PRIORITY_MAX)) * _SINCE_MAX + int(hint.since * 1000))
