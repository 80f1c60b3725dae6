"""What an agent keeps in the record beside its jobs: turns, summaries, notes, who answers, and how all of it is erased.

Nouns and a contract; no store here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs

from sentinel.model import Chat, Claim

TURNS_READ_MAX = 200
ERASE_SEQUENCES = 20_000  # of jobs looked at in one transaction
ERASED_AT_A_TIME = 4  # erasures that one call goes on with
ERASURES_PENDING_MAX = 1_000  # of one tenant: each walks through all jobs


@attrs.frozen
class Turn:
    """What was said in one job, and what was answered ("" where nobody did). `place` is its order in the chat."""

    place: int
    job_id: str
    said: Sequence[Mapping[str, Any]] = attrs.field(repr=False)
    answered: str = attrs.field(repr=False)
    at: float


@attrs.frozen
class Memory:
    """What is known of a chat: a summary of what is long ago, the last turns in order, and whether a person answers in it."""

    summary: str = attrs.field(default="", repr=False)
    turns: tuple[Turn, ...] = ()
    held: bool = False


@attrs.frozen
class Held:
    """A chat in which a person answers, since `held_at`."""

    chat: Chat
    held_at: float


@attrs.frozen
class Erasure:
    """A request to erase what is kept of a conversation or of a sender; a channel or source of None means any of the tenant."""

    id: str
    tenant: str
    conversation: str | None = None
    sender: str | None = None
    channel: str | None = None
    source: str | None = None
    jobs: int = 0
    done_at: float | None = None


class MemoryRecord(Protocol):
    """The part of a record that agents use. A chat's data is never found by another chat or tenant."""

    def memories(self, chats: Sequence[Chat], limit: int = TURNS_READ_MAX) -> list[Memory]:
        """Of each chat, in order, the summary and the last turns, at most `limit`: many chats are one question to a server."""

    def save_summary(self, claim: Claim, summary: str, through: int, now: float) -> bool:
        """Put the summary in place of the claimed job's chat's turns up to the place `through`; False for a lost lease."""

    def forget(self, chat: Chat) -> None:
        """Remove the chat's turns, summary and notes; its jobs stay."""

    def hold(self, chat: Chat, now: float) -> None:
        """From now on a person answers in the chat."""

    def release(self, tenant: str, conversation: str, channel: str | None = None, source: str | None = None) -> int:
        """Let the model answer again; in how many chats that changed anything."""

    def held(self, tenant: str | None = None) -> list[Held]:
        """The chats in which a person answers, the longest first."""

    def note(self, chat: Chat, name: str, text: str | None, now: float) -> None:
        """Keep a note of the chat under a name, or with a text of None remove it."""

    def notes(self, chat: Chat) -> dict[str, str]:
        """The chat's notes by name."""

    def request_erasure(self, erasure: Erasure, now: float) -> bool:
        """Keep the wish, which `erase` fulfils; False where ERASURES_PENDING_MAX of the tenant's are pending."""

    def find_erasure(self, erasure_id: str, tenant: str) -> Erasure | None:
        """How far an erasure is; `done_at` is None until nothing is left."""

    def erase(self, now: float) -> bool:
        """
        Go on with what is to be erased, a bounded piece of it, of each tenant in turn. True if it is worth asking again at once.

        Jobs that wait are cancelled, those that run are asked to stop and are erased when they have ended.
        """

    def prune_memory(self, before: float) -> int:
        """Remove up to 1,000 turns, and the summaries and notes, from before that time; how many turns."""
