"""Which jobs this worker is running, and the word to the record that it lives. Stops a job that was cancelled or taken away.

Knows nothing of models or deliveries.
"""

from __future__ import annotations

import os
import socket
import time
from enum import StrEnum

import attrs
import trio

from sentinel.errors import SentinelError, Unavailable
from sentinel.logs import log
from sentinel.model import Claim
from sentinel.processes import process_name
from sentinel.records import LEASE_SECONDS, Progress, Store

LOOK_SECONDS = 0.25
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

    async def run(self) -> None:
        """Look after the leases for ever. Raises DeclaredDead; then the process must end. Belongs in the worker's nursery."""
        while True:
            try:
                await self._beat()
                await self._check_leases()
            except Unavailable as error:
                log.warning("worker.record_unavailable", reason=error.detail)
                self._stop_if_unseen()
            await trio.sleep(LOOK_SECONDS)

    async def leave(self) -> None:
        """Tell the record that this worker is gone, so that nobody waits for it."""
        await self.store.call(self.store.record.bury, self.worker, time.time())

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
        for job, report in zip(moved, reports, strict=True):
            job.reported = report.progress

    async def _check_leases(self) -> None:
        ours = list(self.running.values())
        if not ours:
            return
        leases = {lease.job_id: lease for lease in await self.store.call(self.store.record.leases, self.worker)}
        for job in ours:
            lease = leases.get(job.claim.job.id)
            if lease is None or lease.lease_token != job.claim.lease_token:
                job.stop(Stopped.LEASE_LOST)
            elif lease.cancelled:
                job.stop(Stopped.CANCELLED)

    def _stop_if_unseen(self) -> None:
        if trio.current_time() - self._seen > SAFE_SECONDS:
            for job in self.running.values():
                job.stop(Stopped.LEASE_LOST)


async def register(store: Store, status: str) -> Presence:
    """A new worker in the record, with no slots yet."""
    name = f"{socket.gethostname()}:{os.getpid()}"
    worker = await store.call(store.record.register, name, process_name(), 0, status, time.time())
    return Presence(store, worker, 0, status)
