"""Lists of jobs for callers of the API, on a connection of their own. They must not hold up what is quick, nor one tenant another.

A list of a tenant with few jobs walks past those of all others: half a second beside a million. What else the gateway asks of its
record takes a millisecond.
"""

from __future__ import annotations

from collections import Counter

import attrs

from sentinel.errors import Unavailable
from sentinel.model import Job
from sentinel.records import JobFilter, Store

AT_A_TIME, OF_TENANT_AT_A_TIME = 32, 8  # under way and waiting; each keeps one of the lane's handlers


@attrs.define(eq=False)
class JobLists:
    """Makes lists, one after the other."""

    store: Store
    at_a_time: int = AT_A_TIME
    of_tenant_at_a_time: int = OF_TENANT_AT_A_TIME
    _asked: Counter[str] = attrs.field(factory=Counter)

    async def find(self, tenant: str, wanted: JobFilter) -> list[Job]:
        """The jobs that are wanted. Raises Unavailable if too many lists, of all tenants or of this one, are asked for already."""
        if self._asked.total() >= self.at_a_time or self._asked[tenant] >= self.of_tenant_at_a_time:
            raise Unavailable("Too many lists of jobs are asked for at a time.")
        self._asked[tenant] += 1
        try:
            return await self.store.read(self.store.record.list_jobs, wanted)
        finally:
            self._asked[tenant] -= 1
            if not self._asked[tenant]:
                del self._asked[tenant]
