"""The shared count of rate limits in Redis: one script for many limits at a time. Knows no request; is told what was let in."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from sentinel.dispatch.redis_link import Link, NoScript
from sentinel.edge.gcra import Rate
from sentinel.edge.limits import LimitKey, News, Told
from sentinel.errors import Unavailable
from sentinel.model import job_id
from sentinel.payload import encode_json

PREFIX = "{sentinel-limits}:"  # the braces keep all of them in one slot of a cluster
TIMEOUT_SECONDS = 0.25
_FILE = Path(__file__).parents[2] / "sql" / "redis" / "limit.lua"


class RedisLimits:
    """The Redis at `url`. Synchronous, for one thread at a time; connects when it is first used, and again after every error."""

    def __init__(self, url: str, timeout_seconds: float = TIMEOUT_SECONDS, prefix: str = PREFIX) -> None:
        self._prefix = prefix
        self._link = Link(url, timeout_seconds, lambda _error: None)

    def tell(self, news: Sequence[News]) -> list[Told]:
        """
        Add what was let in here to each limit, and one more where that is wanted; what all together have let in.

        Raises Unavailable within the timeout; whether it was added is then unknown.
        """
        text, digest = _script()
        limits = encode_json([_limit(*each) for each in news])
        try:
            found = self._link.ask("EVALSHA", digest, 1, self._prefix, limits)
        except NoScript:
            found = self._link.ask("EVAL", text, 1, self._prefix, limits)
        try:
            return [Told(int(ahead.rstrip("+")), ahead.endswith("+")) for ahead in found.split()]
        except (AttributeError, ValueError):
            self._link.drop()
            raise Unavailable("Redis gave an answer that was not expected.") from None

    def close(self) -> None:
        """Give the connection back."""
        self._link.drop()


def _limit(key: LimitKey, rate: Rate, jobs: int, wanted_ns: int) -> tuple[str | int, ...]:
    """A limit as the script takes it; no end user's name goes to Redis, but a hash of it."""
    told = (job_id(*key), rate.interval_ns, jobs)
    return (*told, rate.burst_ns, wanted_ns) if wanted_ns else told


@functools.cache
def _script() -> tuple[str, str]:
    text = _FILE.read_text()
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
