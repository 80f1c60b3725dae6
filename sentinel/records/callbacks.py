"""The part of a record that brings results to their callers: callbacks, the log of their attempts, and receivers that are gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

CALLBACKS_PER_TENANT = 8  # in one claim; so that one tenant's dead receiver does not hold up the others
CALLBACKS_PER_HOST = 4  # of one tenant in one claim; so that its other receivers are not held up either


@attrs.frozen
class Callback:
    """
    A result on its way to its caller's URL.

    Attributes:
        host: host and port as they stand in the URL: what counts as one receiver.
        attempts: how often it was tried, counting this one.
        retries: how often a person had the job run again; each run's result is a message of its own.
        gone_at: when the receiver answered 410; None if it did not.
    """

    job_id: str
    tenant: str
    url: str = attrs.field(repr=False)  # some receivers keep a secret in it
    host: str
    attempts: int
    lease_token: str = attrs.field(repr=False)
    retries: int = 0
    gone_at: float | None = None

    @property
    def webhook_id(self) -> str:
        """The message's id: the same in every attempt, another for each time that the job was run again by hand."""
        return f"{self.job_id}-{self.retries + 1}" if self.retries else self.job_id


@attrs.frozen
class Attempt:
    """
    What came of a callback: `delivered`, `failed` for good, or `pending` until `next_at`.

    Attributes:
        status: the HTTP status of the answer; None where there was none.
        seconds: how long it took.
        tried: whether anything was sent; if not, it counts as no attempt.
        gone: whether the receiver wants nothing more at this URL (410): nothing is sent there any more.
    """

    state: str
    error: str | None = None
    next_at: float | None = None
    status: int | None = None
    seconds: float = 0.0
    tried: bool = True
    gone: bool = False


@attrs.frozen
class CallbackState:
    """How far a job's callback is: pending, delivered or failed."""

    status: str
    attempts: int
    last_error: str | None


@attrs.frozen
class CallbackEntry:
    """A callback as an operator lists it: without its URL, which may hold a secret."""

    job_id: str
    tenant: str
    host: str
    state: str
    attempts: int
    next_at: float
    settled_at: float | None
    last_error: str | None


@attrs.frozen
class LoggedAttempt:
    """One line of the log of deliveries."""

    webhook_id: str
    attempt: int
    at: float
    seconds: float
    status: int | None
    outcome: str
    error: str | None


class CallbackRecord(Protocol):
    """The contract's part for callbacks. Each method is one transaction."""

    def find_callback(self, job_id: str) -> CallbackState | None:
        """The state of the job's callback, or None if it has none yet."""

    def list_callbacks(self, tenant: str | None, state: str | None, limit: int) -> list[CallbackEntry]:
        """Callbacks, the newest first; None means any."""

    def attempts(self, job_id: str) -> list[LoggedAttempt]:
        """Every attempt to bring the job's result, in order."""

    def retry_callback(self, job_id: str, now: float) -> bool:
        """
        Send it again from the beginning of the schedule, to a receiver that was gone too.

        False if there is none, or it is being sent at this moment.
        """

    def claim_callbacks(self, count: int, lease_seconds: float, now: float, busy: Sequence[str] = ()) -> list[Callback]:
        """
        Callbacks that are due; at most CALLBACKS_PER_TENANT of any tenant and CALLBACKS_PER_HOST of any of its receivers.

        None of a `busy` tenant (`TENANT`) or receiver (`TENANT HOST`). Each is back in the queue after `lease_seconds` unless
        settled.
        """

    def settle_callback(self, callback: Callback, attempt: Attempt, now: float) -> bool:
        """Write what came of a callback, and log it if anything was sent; False for a lost lease."""
