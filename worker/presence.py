"""Which jobs this worker is running, and the word to the record that it lives. Stops a job that was cancelled or taken away.

Knows nothing of models or deliveries.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import attrs
import trio

from sentinel.errors import SentinelError, Unavailable
from sentinel.logs import Outage, log
from sentinel.model import Claim, State
from sentinel.processes import process_name
from sentinel.records import LEASE_SECONDS, Ending, Lease, Progress, Store
from sentinel.records.watching import Partial

LOOK_SECONDS = 0.25
LOOKS_TO_BE_SURE = 4
HEARTBEAT_SECONDS = 5.0
PROGRESS_SECONDS = 0.5
SAFE_SECONDS = LEASE_SECONDS * 2 / 3  # without a heartbeat for this long, somebody else may soon own our jobs


class Stopped(StrEnum):
    """Why a running job was stopped from outside."""

    CANCELLED = "cancelled"
    LEASE_LOST = "lease lost"
    RELEASED = "released"


class DeclaredDead(SentinelError):
    """The record has declared this worker dead; its jobs belong to others now."""


@attrs.define(eq=False)
class Running:
    """A job that runs here. `progress` is from 0 to 1; `stopped` says why it was stopped, if it was."""

    claim: Claim
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    progress: float = 0.0
    reported: float = 0.0
    stopped: Stopped | None = None
    pieces: list[str] = attrs.field(factory=list, repr=False)
    told_pieces: int = 0
    answered: bool = False  # whether there is a reply in the record

    def report(self, progress: float, piece: str) -> None:
        """Note how far the job is, and the answer's next piece if somebody may watch it."""
        self.progress = max(self.progress, progress)
        if piece and self.claim.job.options.get("stream"):
            self.pieces.append(piece)

    def partial(self) -> Partial | None:
        """The answer so far, if there is more of it than was told."""
        if len(self.pieces) == self.told_pieces:
            return None
        self.told_pieces = len(self.pieces)
        return Partial(self.claim.job.id, self.claim.lease_token, "".join(self.pieces))

    def stop(self, reason: Stopped) -> None:
        """Cancel the job's task, once."""
        if self.stopped is None:
            self.stopped = reason
            self.scope.cancel()


@attrs.define(eq=False)
class Presence:
    """
    This worker in the record. `status` is "ready", or says why no job is claimed.

    `running` has each job under its lease token: a job may be claimed again here before its last claim is tidied up.
    """

    store: Store
    worker: int
    slots: int
    status: str
    running: dict[str, Running] = attrs.field(factory=dict)
    _seen: float = attrs.field(factory=trio.current_time)
    _told: tuple[int, str] = (0, "")
    _doubts: bool = False
    _strangers: Counter[str] = attrs.field(factory=Counter)

    async def run(self) -> None:
        """Look after the leases for ever. Raises DeclaredDead; then the process must end. Belongs in the worker's nursery."""
        outage = Outage("worker.record_unavailable")
        while True:
            try:
                await self._beat()
                await self._check_leases()
            except Unavailable as error:
                outage.failed(error.detail)
                self._stop_if_unseen()
            else:
                outage.over()
            await trio.sleep(LOOK_SECONDS)

    def doubt(self) -> None:
        """A claim failed: perhaps it was committed and only its answer was lost, so look for jobs that are ours unknown to us."""
        self._doubts = True

    async def leave(self) -> None:
        """Tell the record that this worker is gone, so that nobody waits for it."""
        try:
            await self.store.call(self.store.record.bury, self.worker, time.time())
        except Unavailable as error:
            log.warning("worker.left_silently", reason=error.detail)

    async def _beat(self) -> None:
        since = trio.current_time() - self._seen
        moved = [job for job in self.running.values() if job.progress > job.reported] if since >= PROGRESS_SECONDS else []
        if not moved and since < HEARTBEAT_SECONDS and self._told == (self.slots, self.status):
            return
        self._told = (self.slots, self.status)
        reports = [Progress(job.claim.job.id, job.claim.lease_token, job.progress) for job in moved]
        alive = await self.store.call(self.store.record.heartbeat, self.worker, *self._told, reports, time.time())
        if not alive:
            raise DeclaredDead
        self._seen = trio.current_time()
        if partials := list(filter(None, [job.partial() for job in moved])):
            await self.store.call(self.store.record.save_partials, partials)
        for job, report in zip(moved, reports, strict=True):
            job.reported = report.progress

    async def _check_leases(self) -> None:
        ours = list(self.running.values())
        if not ours and not self._doubts:
            return
        leases = {lease.job_id: lease for lease in await self.store.call(self.store.record.leases, self.worker)}
        if self._doubts:
            await self._give_back_strangers(list(leases.values()))
        for job in ours:
            lease = leases.get(job.claim.job.id)
            if lease is None or lease.lease_token != job.claim.lease_token:
                job.stop(Stopped.LEASE_LOST)
            elif lease.cancelled:
                job.stop(Stopped.CANCELLED)

    async def _give_back_strangers(self, leases: Sequence[Lease]) -> None:
        """Give back what the record says is ours and nobody here has heard of in several looks."""
        unknown = [lease for lease in leases if lease.lease_token not in self.running]
        self._strangers = Counter({lease.lease_token: self._strangers[lease.lease_token] + 1 for lease in unknown})
        sure = [lease for lease in unknown if self._strangers[lease.lease_token] >= LOOKS_TO_BE_SURE]
        endings = [Ending(lease.job_id, lease.lease_token, State.QUEUED, run_at=time.time(), uncount=True) for lease in sure]
        if endings:
            log.warning("worker.gave_back", jobs=len(endings))
            await self.store.call(self.store.record.end, endings, time.time())
        self._doubts = bool(unknown)

    def _stop_if_unseen(self) -> None:
        if trio.current_time() - self._seen > SAFE_SECONDS:
            for job in self.running.values():
                job.stop(Stopped.LEASE_LOST)


async def register(store: Store, status: str) -> Presence:
    """A new worker in the record, with no slots yet."""
    name = f"{socket.gethostname()}:{os.getpid()}"
    worker = await store.call(store.record.register, name, process_name(), 0, status, time.time())
    return Presence(store, worker, 0, status)
