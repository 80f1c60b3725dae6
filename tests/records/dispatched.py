"""A record whose claims go by way of a real Redis, in the order in which gateway, worker and keeper do it: but in one thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from sentinel.dispatch import Dispatch
from sentinel.model import Claim, Hint, NewJob, State
from sentinel.records import Ending, Record


@attrs.frozen(eq=False)
class Dispatched:
    """The record, with its hints in Redis; everything but accepting, claiming and ending is the record's own."""

    record: Record
    dispatch: Dispatch
    lease_seconds: float = 5.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.record, name)

    def accept(self, jobs: Sequence[NewJob], now: float) -> list[bool]:
        created = self.record.accept(jobs, now)
        new = [job for job, fresh in zip(jobs, created, strict=True) if fresh and job.state is State.QUEUED]
        self.dispatch.offer([Hint.of(job) for job in new])
        return created

    def claim(self, worker: int, count: int, now: float) -> list[Claim]:
        self.record.promote(now)
        claims = self._take(worker, count, now)
        if len(claims) < count:  # what the sweep would find: retried, rescued, promoted
            self.dispatch.enqueue(self.record.ready(0, 10_000, float("inf"))[0])
            claims += self._take(worker, count - len(claims), now)
        if len(claims) < count:  # what only the record hands out: suspects
            claims += self.record.claim(worker, count - len(claims), now)
        return claims

    def _take(self, worker: int, count: int, now: float) -> list[Claim]:
        claims: list[Claim] = []
        while len(claims) < count and (ids := self.dispatch.take(count - len(claims), self.lease_seconds)):
            found = self.record.claim(worker, len(ids), now, ids)
            claimed = {claim.job.id for claim in found}
            missed = [job_id for job_id in ids if job_id not in claimed]
            self.dispatch.done([*claimed], missed)
            self.dispatch.enqueue(self.record.successors(missed))
            claims += found
        return claims

    def end(self, endings: Sequence[Ending], now: float) -> list[bool]:
        written = self.record.end(endings, now)
        over = [ending.job_id for ending in endings if ending.state.ended]
        others = [ending.job_id for ending in endings if not ending.state.ended]
        self.dispatch.enqueue(self.record.successors(others + self.dispatch.ended(over)))
        return written

    def close(self) -> None:
        self.dispatch.close()
        self.record.close()
