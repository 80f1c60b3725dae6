"""What a record is: the one authority on every job. One file per store; `tests/records/test_conformance.py` says whether it is one.

A record is synchronous, holds one connection and is used by one thread at a time (`Store` sees to it). Every method is one
transaction. Times come in as `now`. A write to a running job shows the job's `lease_token` or changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import attrs
import trio

from sentinel.errors import SettingsError
from sentinel.keyring import Keyring, open_keyring
from sentinel.model import Claim, Hint, Job, NewJob, State
from sentinel.records.callbacks import CallbackRecord
from sentinel.records.directory import DirectoryRecord
from sentinel.records.effects import EffectsRecord
from sentinel.records.memory import MemoryRecord
from sentinel.records.metering import MeteringRecord
from sentinel.records.waiting import WaitingRecord
from sentinel.records.watching import WatchingRecord
from sentinel.settings import Settings

RESCUES_MAX = 3
LEASE_SECONDS = 45.0
MERGED_MAX = 20  # messages of a chat in one prompt, beside the first

NOBODY: Mapping[int, float] = {}

T = TypeVar("T")


@attrs.frozen
class Step:
    """One line of a job's story. `at` is seconds since the epoch."""

    at: float
    step: str
    attempt: int
    detail: str | None = None


@attrs.frozen
class Lease:
    """A job that the record says this worker is running."""

    job_id: str
    lease_token: str = attrs.field(repr=False)
    cancelled: bool


@attrs.frozen
class Worker:
    """A worker that has not been declared dead. `status` is "ready", or says why it is not."""

    id: int
    name: str
    slots: int
    status: str
    last_seen: float


@attrs.frozen
class Progress:
    """How far a running job is, from 0 to 1."""

    job_id: str
    lease_token: str = attrs.field(repr=False)
    progress: float


@attrs.frozen
class Reply:
    """The model's answer, cut into the parts to deliver; written before the first part is sent."""

    job_id: str
    lease_token: str = attrs.field(repr=False)
    result: Mapping[str, Any] = attrs.field(repr=False)
    parts: Sequence[str] = attrs.field(repr=False, default=())


@attrs.frozen
class Part:
    """One part of a reply that is still to be sent. `attempts` counts the tries so far."""

    number: int
    text: str = attrs.field(repr=False)
    attempts: int


@attrs.frozen
class PartSettled:
    """What came of sending a part: state `sent`, `failed` for good, or `pending` for another try. `reply_to` is a new address."""

    job_id: str
    lease_token: str = attrs.field(repr=False)
    number: int
    state: str
    reason: str | None = None
    reply_to: Mapping[str, Any] | None = None


@attrs.frozen(slots=False)  # as `Job`: there is one per job
class Ending:
    """
    The end of a claim: the job ended (`state`), or goes round again at `run_at` (state QUEUED).

    `uncount` gives the attempt back: the job did nothing wrong. `remember` makes a job that succeeded a turn of its chat.
    """

    job_id: str
    lease_token: str = attrs.field(repr=False)
    state: State
    error: str | None = None
    run_at: float = 0.0
    uncount: bool = False
    remember: bool = False


@attrs.frozen
class JobFilter:
    """Which jobs to list, newest first. None means any; `before` is the sequence to go on from."""

    tenant: str | None = None
    states: Sequence[State] | None = None
    channel: str | None = None
    external_id: str | None = None
    before: int | None = None
    limit: int = 50


class Record(CallbackRecord, DirectoryRecord, MemoryRecord, EffectsRecord, MeteringRecord, WaitingRecord, WatchingRecord, Protocol):
    """The contract. Raises Unavailable when the store cannot do it now; the transaction then changed nothing, or is unknown."""

    def migrate(self) -> list[str]:
        """Bring the schema up to date; the names of what was applied. Safe to run twice and by two at once."""

    def missing_migrations(self) -> list[str]:
        """The names of what `migrate` would apply."""

    def close(self) -> None:
        """Give the connection back. The record is not used afterwards."""

    # Accepting: what the gateway does.
    def accept(self, jobs: Sequence[NewJob], now: float) -> list[bool]:
        """Write all jobs in one commit; True for each that was new. May be repeated blindly: the id is the de-duplication."""

    def withdraw(self, ids: Sequence[str]) -> int:
        """Remove jobs that nobody has begun; how many."""

    # Reading and steering: what people and the job API do. A tenant of None means any.
    def find_job(self, job_id: str, tenant: str | None = None) -> Job | None:
        """The job, or None if there is none of that id for that tenant."""

    def list_jobs(self, wanted: JobFilter) -> list[Job]:
        """The jobs that match, newest first."""

    def queue_position(self, job: Job) -> int:
        """How many queued jobs are before it."""

    def ended(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids whose jobs have ended."""

    def story(self, job_id: str) -> list[Step]:
        """Every step of the job, in order."""

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state that is not an end, and how many are quarantined."""

    def weak_points(self, now: float) -> list[str]:
        """What is wrong with the set-up of the store although it answers, in words for a person; `now` is what our clock says."""

    def ready(self, after: int, limit: int, before: float) -> tuple[list[Hint], int | None]:
        """
        What may be claimed and was due before that time, among the next `limit` jobs with a sequence above `after`.

        Of a conversation that is the next one only. Then the sequence after which to go on; None at the end.
        """

    def successors(self, ids: Sequence[str]) -> list[Hint]:
        """What may be claimed next in the conversations of these jobs."""

    def cancel(self, job_id: str, tenant: str, now: float) -> Job | None:
        """End a waiting job, or ask its worker to stop; an ended one stays as it is. The job as it then is, or None."""

    def set_aside(self, job_id: str, reason: str, now: float) -> bool:
        """Quarantine a job that nobody has begun, for a person to look at; False if it is in no such state."""

    def retry(self, job_id: str, now: float) -> bool:
        """Put a failed, cancelled or quarantined job back; False if it is in no such state or was never understood."""

    # Working: what a worker does.
    def register(self, name: str, process: str, slots: int, status: str, now: float) -> int:
        """A new worker's id."""

    def heartbeat(self, worker: int, slots: int, status: str, progress: Sequence[Progress], now: float) -> bool:
        """Say that the worker lives and how far its jobs are; False if it was declared dead."""

    def leases(self, worker: int) -> list[Lease]:
        """The jobs that the record says this worker runs."""

    def promote(self, now: float) -> int:
        """Make scheduled jobs that are due claimable; how many."""

    def claim(self, worker: int, count: int, now: float, ids: Sequence[str] | None = None) -> list[Claim]:
        """
        Up to `count` jobs, fair between tenants, by priority and age, one at a time per conversation.

        With `ids`, only of those; what cannot be claimed now is left out.
        """

    def merge(self, claim: Claim, now: float) -> Job:
        """
        The claimed job after the later messages of its chat that nobody has begun, up to MERGED_MAX, have become part of it.

        They end as succeeded, with `merged_into` in their result; the answer goes where the last of them came from.
        """

    def save_replies(self, replies: Sequence[Reply], now: float) -> list[bool]:
        """Write answers and their parts; False for a lost lease."""

    def add_step(self, job_id: str, step: str, detail: str, now: float) -> None:
        """Add a step to the job's story that changes nothing else."""

    def pending_parts(self, job_id: str) -> list[Part]:
        """The parts still to be sent, in order."""

    def settle_parts(self, parts: Sequence[PartSettled], now: float) -> list[bool]:
        """Write what came of sending; False for a lost lease."""

    def end(self, endings: Sequence[Ending], now: float) -> list[bool]:
        """End claims; False for a lost lease, which leaves a `stale_finish` step in the job's story."""

    def bury(self, worker: int, now: float) -> None:
        """Declare a worker dead, so that nobody waits for it."""

    def reap(self, now: float, silent: Mapping[int, float] = NOBODY) -> int:
        """
        Declare dead whose process is gone, and take their jobs back; how many jobs.

        Also those of `silent`, which has when each worker was seen last, that were not heard since.
        """

    def workers(self) -> list[Worker]:
        """The workers that have not been declared dead."""

    def prune(self, before: float) -> int:
        """
        Remove up to 1,000 jobs that ended before that time, with all that belongs to them; how many. Quarantined ones stay.

        Receivers that were gone before it are forgotten.
        """


class Bell(Protocol):
    """Tells of new jobs, or of a changed directory. Blocks its thread; one thread at a time."""

    def wait(self, seconds: float) -> bool:
        """True when it rings; False after `seconds`, though it may have been deaf. Raises Unavailable."""

    def close(self) -> None:
        """Give the connection back."""


@attrs.frozen(eq=False)
class Store:
    """A record and the one thread at a time that may use it."""

    record: Record
    limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))

    async def call(self, method: Callable[..., T], *args: Any) -> T:
        """`method(*args)` in a thread; `method` is one of the record's. Waits its turn; the driver's own timeout bounds it."""
        return await trio.to_thread.run_sync(method, *args, limiter=self.limiter)

    async def read(self, method: Callable[..., T], *args: Any) -> T:
        """The same for what only reads: a caller that is cancelled need not wait for the thread. Its turn ends with the thread."""
        return await trio.to_thread.run_sync(method, *args, limiter=self.limiter, abandon_on_cancel=True)


def open_bell(url: str, rings_for: str = "jobs") -> Bell | None:
    """What rings for new jobs in that record, or for changes of its `directory`; None where the only way is to look."""
    if not is_served(url):
        return None
    from sentinel.records.postgres_bell import PostgresBell

    return PostgresBell(url, rings_for)


def is_served(url: str) -> bool:
    """Whether the record is a server's: then it can be away while we are not, and takes several connections at once."""
    return not url.startswith("sqlite:")


def open_record(url: str, busy_seconds: float = 10.0, *, prepared: bool = True, keyring: Keyring | None = None) -> Record:
    """
    The record that `url` names (`sqlite:PATH` or `postgresql://…`), with its schema up to date.

    `busy_seconds` bounds how long a call waits for the store before it raises Unavailable. Not `prepared`, tables are left as they
    are and a server need not answer yet; somebody has to `migrate` before the record is used. Secrets in it are sealed with a key
    of `keyring`; without one, with that of the default file.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite":
        from sentinel.records.sqlite import SqliteRecord

        return SqliteRecord(rest, busy_seconds, keyring, prepared=prepared)
    if scheme in ("postgresql", "postgres"):
        try:
            from sentinel.records.postgres import PostgresRecord
        except ImportError:
            raise SettingsError("A PostgreSQL record needs psycopg: pip install 'sentinel-gateway[postgres]'.") from None

        served = PostgresRecord(url, busy_seconds, keyring)
        if prepared:
            served.migrate()
        return served
    raise SettingsError(f"SENTINEL_RECORD has the unknown scheme {scheme!r}.")


def configured_record(settings: Settings, busy_seconds: float = 10.0, *, prepared: bool = True) -> Record:
    """The record that the settings name, with the server keys that they give."""
    keyring = open_keyring(settings.record, settings.secret_key)
    return open_record(settings.record, busy_seconds, prepared=prepared, keyring=keyring)
