"""Keeps jobs before anybody is answered: group commit into the record, inside the acknowledgment budget.

Must not answer "kept" for anything that is not committed, nor keep a caller longer than the budget.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import attrs

from sentinel.group_commit import GroupCommit
from sentinel.logs import log
from sentinel.model import NewJob
from sentinel.records import Store

Jobs = tuple[NewJob, ...]
RECORD_SHARE = 0.6  # of the budget, for the record to say yes or no; what is left is for answering in time when it says nothing
ANSWER_SHARE = 0.9


@attrs.define(eq=False)
class Intake:
    """Accepts jobs. `budget_seconds` bounds every call; the store's own timeout should be at most RECORD_SHARE of it."""

    store: Store
    budget_seconds: float
    waiting_max: int
    _commits: GroupCommit[Jobs, list[bool]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._commits = GroupCommit(
            self._flush,
            self.store.limiter,
            waiting_max=self.waiting_max,
            abandoned=self._withdraw,
            seconds_max=self.budget_seconds * ANSWER_SHARE,
        )

    async def accept(self, jobs: Sequence[NewJob]) -> list[bool]:
        """
        Which of the jobs are new, once all of them are committed.

        Raises:
            Unavailable: not committed in time. The sender should try again; an id that says what its job is about makes that safe.
        """
        return await self._commits.submit(tuple(jobs))

    async def run(self) -> None:
        """Commit until closed. Belongs in the gateway's nursery."""
        await self._commits.run()

    def close(self) -> None:
        """Take nothing more; `run` returns when the rest is committed."""
        self._commits.close()

    def _flush(self, batches: Sequence[Jobs]) -> list[list[bool]]:
        created = iter(self.store.record.accept([job for jobs in batches for job in jobs], time.time()))
        return [[next(created) for _ in jobs] for jobs in batches]

    def _withdraw(self, late: Sequence[tuple[Jobs, list[bool]]]) -> None:
        """Remove what was committed after its sender was told to try again, if a second try could not be recognised as the same."""
        ids = [job.id for jobs, created in late for job, new in zip(jobs, created, strict=True) if new and not job.external_id]
        if ids:
            log.warning("intake.withdrawn", jobs=self.store.record.withdraw(ids))
