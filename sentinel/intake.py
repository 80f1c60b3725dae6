"""Keeps jobs before anybody is answered: group commit into the record, or into the spool, inside the acknowledgment budget.

Must not answer "kept" for anything that is not committed, nor keep a caller longer than the budget.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import attrs
import trio

from sentinel.errors import Unavailable
from sentinel.group_commit import GroupCommit
from sentinel.logs import log
from sentinel.model import NewJob
from sentinel.records import Store
from sentinel.records.spool import Spool
from sentinel.spooling import Spooling

Jobs = tuple[NewJob, ...]
Told = Callable[[list[bool] | Exception], None]  # gets which of the jobs are new, or why they are not kept
# Shares of the budget: the record has to say yes or no; then the spool has; the rest is for answering in time.
RECORD_SHARE = 0.55
SPOOL_SHARE = 0.3
DOOR_SHARE = 0.1
ANSWER_SHARE = 0.9
SPOOLED_REMEMBERED = 10_000


@attrs.define(eq=False)
class Intake:
    """
    Accepts jobs. `budget_seconds` bounds every call; the store's own timeout should be at most RECORD_SHARE of it.

    Without a spool the record has the whole of the budget. `arrived` is told of the new jobs that the record has, after the fact,
    and `committed` of each commit's size: in the thread that has written them.
    `trouble` is why the record refused the last batch, at `trouble_at`; "" if it took it.
    """

    store: Store
    budget_seconds: float
    waiting_max: int
    spool: Spool | None = None
    arrived: Callable[[Sequence[NewJob]], None] | None = None
    committed: Callable[[int], None] | None = None
    spooling: Spooling | None = attrs.field(init=False, default=None)
    trouble: str = attrs.field(init=False, default="")
    trouble_at: float = attrs.field(init=False, default=0.0)
    _commits: GroupCommit[Jobs, list[bool]] = attrs.field(init=False)
    _nursery: trio.Nursery | None = attrs.field(init=False, default=None)
    _spooled: dict[str, None] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if self.spool is not None:
            budget, told = self.budget_seconds, self.arrived or (lambda _jobs: None)
            alone = budget * (ANSWER_SHARE - DOOR_SHARE)  # what the spool has when the record is not asked first
            self.spooling = Spooling(self.spool, self.store, self.waiting_max, alone, budget * DOOR_SHARE, told)
        self._commits = GroupCommit(
            self._flush,
            self.store.limiter,
            waiting_max=self.waiting_max,
            abandoned=self._withdraw,
            seconds_max=self.budget_seconds * (RECORD_SHARE if self.spooling else ANSWER_SHARE),
        )

    async def accept(self, jobs: Sequence[NewJob]) -> list[bool]:
        """
        Which of the jobs are new, once all of them are committed.

        Raises:
            Unavailable: not committed in time. The sender should try again; an id that says what its job is about makes that safe.
        """
        given = tuple(jobs)
        spooling = self.spooling
        if spooling is not None:
            await spooling.passage()
            if spooling.active:
                return await spooling.keep(given)
        try:
            return await self._commits.submit(given)
        except Unavailable as error:
            if spooling is None or self._commits.closed:
                raise
            return await self._fall_back(spooling, given, error)

    def keep(self, jobs: Sequence[NewJob], told: Told) -> None:
        """
        As `accept`, for a caller without a task: `told` gets what that returns or raises, once. It must not wait.

        While the record takes jobs, nobody waits for each; what the spool is to keep has a task among those of `run`.
        """
        given = tuple(jobs)
        if self.spooling is not None and self.spooling.active:
            self._start(told, self.accept, given)
            return
        try:
            self._commits.enqueue(given, partial(self._committed, given, told))
        except Unavailable as error:
            self._committed(given, told, error)

    def _committed(self, jobs: Jobs, told: Told, outcome: list[bool] | Exception) -> None:
        """Tell what came of the commit, unless the spool is there for those that the record did not take."""
        if isinstance(outcome, Unavailable) and self.spooling is not None and not self._commits.closed:
            self._start(told, self._fall_back, self.spooling, jobs, outcome)
        else:
            told(outcome)

    def _start(self, told: Told, way: Callable[..., Awaitable[list[bool]]], *arguments: Any) -> None:
        if self._nursery is None:
            told(Unavailable("Sentinel is stopping."))
        else:
            self._nursery.start_soon(self._tell, told, way, *arguments)

    async def _tell(self, told: Told, way: Callable[..., Awaitable[list[bool]]], *arguments: Any) -> None:
        outcome: list[bool] | Exception = Unavailable("Sentinel is stopping.")  # if it is cancelled
        try:
            outcome = await way(*arguments)
        except Exception as error:  # noqa: BLE001  it belongs to whoever is told
            outcome = error
        finally:
            told(outcome)

    async def _fall_back(self, spooling: Spooling, jobs: Jobs, error: Unavailable) -> list[bool]:
        """Keep the jobs in the spool, and send those after them who still wait for the record."""
        self._spooled |= {job.id: None for job in jobs if not job.external_id}
        while len(self._spooled) > SPOOLED_REMEMBERED:
            del self._spooled[next(iter(self._spooled))]
        if not spooling.active:
            self._commits.turn_away(error)
        kept: list[bool] | None = None
        try:
            with trio.move_on_after(self.budget_seconds * SPOOL_SHARE):
                kept = await spooling.keep(jobs, error.detail)
        finally:
            if kept is None:
                for job in jobs:
                    self._spooled.pop(job.id, None)
        if kept is None:
            raise Unavailable("Neither the record nor the spool answered in time.")
        return kept

    @property
    def waiting(self) -> int:
        """How many callers wait for their commit to begin."""
        return self._commits.waiting

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit until closed; `keep` may be called once it has started. Belongs in the gateway's nursery."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                if self.spooling is not None:
                    self._nursery.start_soon(self.spooling.run)
                await self._commits.run()
        finally:
            self._nursery = None

    def close(self) -> None:
        """Take nothing more; `run` returns when the rest is committed."""
        self._commits.close()
        if self.spooling is not None:
            self.spooling.close()

    def _flush(self, batches: Sequence[Jobs]) -> list[list[bool]]:
        jobs = [job for batch in batches for job in batch]
        try:
            created = self.store.record.accept(jobs, time.time())
        except Unavailable as error:
            self.trouble, self.trouble_at = error.detail, time.time()
            raise
        self.trouble = ""
        if self.arrived is not None:
            self.arrived([job for job, new in zip(jobs, created, strict=True) if new])
        if self.committed is not None:
            self.committed(len(jobs))
        each = iter(created)
        return [[next(each) for _ in batch] for batch in batches]

    def _withdraw(self, late: Sequence[tuple[Jobs, list[bool]]]) -> None:
        """
        Remove what was committed after its sender was told to try again, if a second try could not be recognised as the same.

        What went to the spool meanwhile was promised; there it has the same id.
        """
        written = [job for jobs, created in late for job, new in zip(jobs, created, strict=True) if new]
        ids = [job.id for job in written if not job.external_id and job.id not in self._spooled]
        if ids:
            log.warning("intake.withdrawn", jobs=self.store.record.withdraw(ids))
