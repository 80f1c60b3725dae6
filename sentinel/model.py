"""The nouns that gateway, worker and stores share. Frozen values only; no I/O, no clock, no randomness of its own."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from functools import lru_cache
from typing import Any

import attrs

from sentinel.secret import SecretMapping
from sentinel.values import made_often

API_CHANNEL = "api"
DEFAULT_TENANT = "default"
JOBS_READ, JOBS_WRITE, ADMIN = SCOPES = ("jobs:read", "jobs:write", "admin")  # what a key may do
PREVIOUS = "_previous"  # behind the name of a source's secret: the one before it, accepted while it is rotated
DEFAULT_SCOPES = (JOBS_READ, JOBS_WRITE)


class State(StrEnum):
    """Where a job is. A job ends in one of the last three, or waits for a person in `quarantined`."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    QUARANTINED = "quarantined"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True when nothing will happen to the job any more by itself."""
        return self in ENDS


ENDS = (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.QUARANTINED)


class Metering(IntEnum):
    """Whose use a job is counted as: nobody's (it never reaches the model), its tenant's, or also its end user's."""

    NONE = 0
    TENANT = 1
    USER = 2


@attrs.frozen
class Source:
    """
    One place that webhooks come from: a bot, an app, an organisation. `settings` holds its secrets and is never printed.

    Disabled, it takes no webhooks; what it took before is still answered.
    """

    tenant: str
    channel: str
    name: str
    settings: Mapping[str, str] = attrs.field(factory=SecretMapping, converter=SecretMapping)
    disabled_at: float | None = None

    def setting(self, key: str) -> str:
        """The setting's value, or "" when it is not set."""
        return self.settings.get(key, "")

    def secrets(self, key: str) -> tuple[str, ...]:
        """What is accepted as that secret: the present one and, while it is rotated, the one before it; none if it is not set."""
        return tuple(filter(None, (self.setting(key), self.setting(key + PREVIOUS))))


@attrs.frozen
class Tenant:
    """Who shares this Sentinel. Disabled, its keys and sources are refused; its live jobs end as they would."""

    name: str
    created_at: float
    disabled_at: float | None = None


@attrs.frozen
class Key:
    """
    An API key as the record knows it: never the key itself, only the hash that finds it.

    `scopes` say what it may do; `replaces` is the id of the key that was rotated into it. `last_used_at` is written in batches, and
    lies up to a minute and a half back.
    """

    id: str
    tenant: str
    hint: str
    created_at: float
    revoked_at: float | None = None
    name: str = ""
    scopes: tuple[str, ...] = attrs.field(default=DEFAULT_SCOPES, converter=tuple)
    expires_at: float | None = None
    replaces: str | None = None
    last_used_at: float | None = None

    def is_live(self, now: float) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@attrs.frozen
class Chat:
    """One conversation, told from all others of every tenant, channel and source."""

    tenant: str
    channel: str
    source: str
    conversation: str


@made_often
class Event:
    """
    One item of a webhook that deserves an answer.

    Attributes:
        external_id: the platform's own id of the item; people search by it.
        text: what the user said, as plain text.
        conversation: the chat it belongs to, unique within the source; messages of one chat are answered in order.
        sender: who said it, as the platform names them.
        reply_to: what the channel needs to send the answer later; JSON values only, no secrets.
        identity: what makes two deliveries the same item; the external id unless the channel knows better.
        problem: why the item could not be understood; such a job waits for a person and never reaches the model.
    """

    external_id: str
    text: str = attrs.field(repr=False)
    conversation: str
    sender: str
    reply_to: Mapping[str, Any] = attrs.field(factory=dict)
    identity: str = attrs.field(default="", kw_only=True)
    problem: str | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Document:
    """A text that a job is about, of any length. `title` is "" if it has none."""

    text: str = attrs.field(repr=False)
    title: str = ""


@made_often
class NewJob:
    """
    A job that has not been written yet. `input` is a list of {"role", "content"}; `options` is what the caller asked for.

    With the state SCHEDULED it waits until `run_at`.
    """

    id: str
    tenant: str
    channel: str
    source: str
    external_id: str
    input: tuple[Mapping[str, Any], ...] = attrs.field(repr=False)
    received_at: float
    verified_by: str = ""
    conversation: str | None = None
    sender: str = ""
    reply_to: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    options: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    fingerprint: str = ""
    priority: int = 100
    state: State = State.QUEUED
    last_error: str | None = None
    replay_of: str | None = None
    run_at: float | None = None
    metering: Metering = Metering.TENANT


@attrs.frozen(slots=False)  # a worker makes one per claim, and frozen slots are filled in twice the time
class Job:
    """A job as the record holds it. Times are seconds since the epoch; `result` and `progress` are None until known."""

    id: str
    sequence: int
    state: State
    tenant: str
    channel: str
    source: str
    external_id: str
    conversation: str | None
    sender: str
    input: tuple[Mapping[str, Any], ...] = attrs.field(repr=False)
    reply_to: Mapping[str, Any] = attrs.field(repr=False)
    options: Mapping[str, Any] = attrs.field(repr=False)
    fingerprint: str
    priority: int
    attempt: int
    rescues: int
    received_at: float
    created_at: float
    run_at: float
    started_at: float | None
    finished_at: float | None
    cancel_at: float | None
    progress: float
    result: Mapping[str, Any] | None = attrs.field(repr=False)
    last_error: str | None
    replay_of: str | None
    told_at: float | None = None  # when its chat was told that it has to wait

    @property
    def chat(self) -> Chat | None:
        """The conversation that the job belongs to, if any."""
        return Chat(self.tenant, self.channel, self.source, self.conversation) if self.conversation is not None else None

    @property
    def document(self) -> Document | None:
        """The document that came with the input, if any. It is kept among the options: no turn of a chat holds it."""
        given = self.options.get("document")
        return None if given is None else Document(given["text"], given.get("title", ""))


@attrs.frozen(slots=False)  # as `Job`: there is one per claim
class Claim:
    """The right to work on a job, until it is finished, released or taken away. Every write must show `lease_token`."""

    job: Job
    lease_token: str = attrs.field(repr=False)


@made_often
class Hint:
    """
    A word to the dispatch: this job may be claimed. It may be late, lost or said twice without harm.

    `since` is when the job was received, in seconds since the epoch: a word that comes late takes the job's place, not the last.
    `chat` names the job's conversation, of which one message is answered at a time; "" if it belongs to none.
    """

    job_id: str
    tenant: str
    priority: int
    since: float
    chat: str = ""

    @classmethod
    def of(cls, job: NewJob | Job) -> Hint:
        """The word that this job may be claimed."""
        chat = chat_id(job.tenant, job.channel, job.source, job.conversation)
        return cls(job.id, job.tenant, job.priority, job.received_at, chat)


@attrs.frozen
class Outgoing:
    """
    One HTTP request that Sentinel sends. `headers` may hold credentials and is never printed.

    `guarded` means that a caller chose the URL, so it may lead only to public addresses or to the tenant's allowed networks.
    """

    url: str
    body: bytes = attrs.field(repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    method: str = "POST"
    guarded: bool = False


class Outcome(StrEnum):
    """What came of sending one request."""

    SENT = "sent"
    RETRY = "retry"
    FAILED = "failed"


@attrs.frozen
class Verdict:
    """
    What a platform's answer means for the part that was sent.

    `retry_after_seconds` is the platform's own wish, if it named one; `reply_to` replaces the address for the next attempt
    (a Telegram group that became a supergroup).
    """

    outcome: Outcome
    reason: str = ""
    retry_after_seconds: float | None = None
    reply_to: Mapping[str, Any] | None = None


SENT = Verdict(Outcome.SENT)


def job_id(*identity: str) -> str:
    """
    The id of the job that `identity` (tenant, channel, source, the platform's id …) stands for: 128 bits of SHA-256, as a UUID.

    The same identity gives the same id everywhere, so the record's primary key is the de-duplication. Parts are
    length-prefixed: no two different identities are hashed as the same bytes.
    """
    *origin, item = identity
    hashing = _begun(*origin).copy()
    hashing.update(_prefixed(item))
    digest = hashing.hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


def chat_id(tenant: str, channel: str, source: str, conversation: str | None) -> str:
    """What stands for a conversation where nobody may read it; "" if there is none."""
    return "" if conversation is None else job_id(tenant, channel, source, conversation)


@lru_cache(1_024)
def _begun(*origin: str) -> hashlib._Hash:
    """The hash of what all ids of one origin begin with: to copy it is half of the work of a new one."""
    return hashlib.sha256(b"".join(map(_prefixed, origin)))


def _prefixed(part: str) -> bytes:
    raw = part.encode("utf-8", "surrogatepass")
    return b"%d:%b" % (len(raw), raw)


def random_id() -> str:
    """A new id that stands for nothing outside: 128 random bits."""
    return str(uuid.uuid4())
