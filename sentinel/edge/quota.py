"""What is left of a month's quota: what the record has counted, and what this process has let in since. Pure.

A month is one of the calendar in UTC. Of what is left, each of several processes gives out its part between two looks at the
record, so together they let in at most one job too many for each other process.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import attrs


class Account(NamedTuple):
    """Who uses: a tenant as a whole (`end_user` is ""), or one of its end users."""

    tenant: str
    end_user: str = ""


@attrs.frozen
class Used:
    """What an account has used in a month."""

    jobs: int = 0
    tokens: int = 0


NOTHING = Used()


def month_of(now: float) -> str:
    """The month that the moment (seconds since the epoch) is in, as YYYY-MM."""
    return _month_of_hour(int(now // 3600))


@functools.lru_cache(maxsize=64)
def _month_of_hour(hour: int) -> str:
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m")


def seconds_left(now: float) -> float:
    """How long the month goes on."""
    moment = datetime.fromtimestamp(now, UTC)
    following = (moment.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return following.timestamp() - now


@attrs.define
class Ledger:
    """
    What has been used this month, as far as this process knows.

    A job is on its way (`take`) until it is kept or given back; what was kept counts here until a look at the record that began
    later has told. `looked_at_ns` (monotonic) is when the last such look began; None for never.
    """

    month: str = ""
    looked_at_ns: int | None = None
    _known: dict[Account, Used] = attrs.field(factory=dict)
    _on_the_way: dict[Account, int] = attrs.field(factory=dict)
    _kept: dict[Account, int] = attrs.field(factory=dict)
    _kept_before: dict[Account, int] = attrs.field(factory=dict)

    def used(self, account: Account) -> Used:
        """What the record has counted for the account, as of the last look."""
        return self._known.get(account, NOTHING)

    def jobs_left(self, account: Account, quota: int, processes: int) -> int:
        """How many jobs this process may let in before the next look."""
        own = self._on_the_way.get(account, 0) + self._kept.get(account, 0) + self._kept_before.get(account, 0)
        return -(-(quota - self.used(account).jobs) // processes) - own

    def take(self, account: Account, jobs: int) -> None:
        """These are let in."""
        self._on_the_way[account] = self._on_the_way.get(account, 0) + jobs

    def settle(self, account: Account, jobs: int, kept: int) -> None:
        """Of these that were let in, so many are kept; the others were there before, or were not kept."""
        left = self._on_the_way.pop(account, 0) - jobs
        if left > 0:
            self._on_the_way[account] = left
        if kept:
            self._kept[account] = self._kept.get(account, 0) + kept

    def turn_to(self, month: str) -> None:
        """A new month has nothing used."""
        if month != self.month:
            self.month, self.looked_at_ns = month, None
            self._known, self._kept, self._kept_before = {}, {}, {}

    def look(self) -> None:
        """A look at the record begins."""
        for account, jobs in self._kept.items():
            self._kept_before[account] = self._kept_before.get(account, 0) + jobs
        self._kept = {}

    def learn(self, month: str, found: Mapping[Account, Used], began_ns: int) -> None:
        """What the look has found: whatever was kept before it began is counted there now."""
        if month == self.month:
            self._known.update(found)
            self._kept_before, self.looked_at_ns = {}, began_ns
