"""What is left of a month's quota: what the record has counted, and what this process has let in since. Pure.

A month is one of the calendar in UTC. Of what is left, each of several processes gives out its part between two looks at the
record, so together they let in at most one job too many for each other process.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
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


@attrs.define(eq=False)
class Tally:
    """
    What one account has used this month, as far as this process knows.

    Attributes:
        jobs, tokens: what the record had counted at the last look.
        on_the_way: jobs that were let in here, and neither kept nor given back yet.
        kept: jobs kept here since the last look began.
        kept_before: those kept before it began, until it has told.
    """

    jobs: int = 0
    tokens: int = 0
    on_the_way: int = 0
    kept: int = 0
    kept_before: int = 0

    def jobs_left(self, quota: int, processes: int) -> int:
        """How many jobs this process may let in before the next look."""
        return -((self.jobs - quota) // processes) - self.on_the_way - self.kept - self.kept_before

    def is_used_up(self, jobs: int | None, tokens: int | None, processes: int) -> bool:
        """Whether nothing is left of a quota of jobs, or of one of tokens."""
        if jobs is not None and self.on_the_way + self.kept + self.kept_before >= -((self.jobs - jobs) // processes):
            return True
        return tokens is not None and self.tokens >= tokens


@attrs.define
class Ledger:
    """
    The tallies of one month. `looked_at_ns` (monotonic) is when the last look at the record that has told began; None for never.

    A job is on its way until it is kept or given back; what was kept counts here until a look that began later has told. `is_short`
    once somebody was refused whose quota others may have left something of: the next look is wanted soon.
    """

    month: str = ""
    looked_at_ns: int | None = None
    is_short: bool = False
    _tallies: dict[str, dict[str, Tally]] = attrs.field(factory=dict)  # by tenant, then by end user
    _kept: list[Tally] = attrs.field(factory=list)
    _kept_before: list[Tally] = attrs.field(factory=list)

    def tally(self, tenant: str, end_user: str = "") -> Tally:
        """The account's tally; it is this month's, and means nothing in the next."""
        tallies = self._tallies.get(tenant)
        if tallies is None:
            tallies = self._tallies[tenant] = {}
        found = tallies.get(end_user)
        if found is None:
            found = tallies[end_user] = Tally()
        return found

    def is_known(self, now_ns: int, stale_ns: int) -> bool:
        """Whether the record has told within that time what was used."""
        return self.looked_at_ns is not None and now_ns - self.looked_at_ns < stale_ns

    def settle(self, tallies: Iterable[Tally], kept: bool) -> None:
        """One job that was let in and counts in these is kept; or not, or it was there before."""
        for tally in tallies:
            tally.on_the_way -= 1
            if kept:
                if not tally.kept:
                    self._kept.append(tally)
                tally.kept += 1

    def turn_to(self, month: str) -> None:
        """A new month has nothing used. What is still on its way belongs to the month in which it came."""
        if month != self.month:
            self.month, self.looked_at_ns = month, None
            self._tallies, self._kept, self._kept_before = {}, [], []

    def look(self) -> None:
        """A look at the record begins."""
        self.is_short = False
        for tally in self._kept:
            tally.kept_before += tally.kept
            tally.kept = 0
        self._kept_before += self._kept
        self._kept = []

    def learn(
        self,
        month: str,
        found: Iterable[tuple[str, str, int, int]],
        began_ns: int,
        more: Iterable[tuple[str, Iterable[str], int, int]] = (),
    ) -> None:
        """
        What the look has found: each account's tenant, end user, jobs and tokens; and `more`: a tenant, several of its end users,
        and what each has used besides. What was kept before it began is in them.
        """
        if month != self.month:
            return
        for tenant, end_user, jobs, tokens in found:
            tally = self.tally(tenant, end_user)
            tally.jobs, tally.tokens = jobs, tokens
        for tenant, end_users, jobs, tokens in more:
            self._add(tenant, end_users, jobs, tokens)
        for tally in self._kept_before:
            tally.kept_before = 0
        self._kept_before, self.looked_at_ns = [], began_ns

    def _add(self, tenant: str, end_users: Iterable[str], jobs: int, tokens: int) -> None:
        tallies = self._tallies.setdefault(tenant, {})
        for end_user in end_users:
            tally = tallies.get(end_user)
            if tally is None:
                tally = tallies[end_user] = Tally()
            tally.jobs += jobs
            tally.tokens += tokens
