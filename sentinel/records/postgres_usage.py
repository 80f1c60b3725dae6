"""What was used, in PostgreSQL: added up, and the news that is not yet. A gateway that has seen the sums is told the news, once."""

from __future__ import annotations

import time

from sentinel.records.metering import NEWS_SECONDS, Look, Mark
from sentinel.records.statements import Statements

ADDING_SECONDS = 0.5  # at a time: whoever has much to add up must not keep the janitor from the rest


class PostgresUsage(Statements):
    """The part of the record in PostgreSQL that counts what was used."""

    _could_be_seen: tuple[tuple[float, int], ...] = ()  # when the oldest transaction under way was which

    def usage(self, month: str, since: Mark | None = None) -> Look:
        with self._transaction(reading=True):
            oldest = self._one("usage_mark")["mark"]
            mark = Mark(oldest, tuple(place for (place,) in self._plain("usage_seen", since=oldest)))
            if since is None:
                return Look(self._plain("usage", month=month), mark)
            return Look((), mark, self._plain("usage_news", month=month, since=since.at, seen=list(since.seen)))

    def add_up_usage(self, seconds: float = NEWS_SECONDS) -> None:
        now, oldest = time.monotonic(), self._one("usage_mark")["mark"]
        marks = (*self._could_be_seen, (now, oldest))
        before = max((mark for at, mark in marks if at <= now - seconds), default=0)
        self._could_be_seen = tuple((at, mark) for at, mark in marks if mark >= before)
        while self._run("add_up_usage", before=before) and time.monotonic() < now + ADDING_SECONDS:
            pass
