"""Which chats wait for their turn and are to be told so, and who was told already. Nouns and a contract; no store here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs


@attrs.frozen
class WaitingChat:
    """
    A chat in the line, and its last message, of which nothing has begun.

    Attributes:
        turn: the message's place among all that wait of its tenant, from 1.
        first_turn: the same of the first message of the chat that waits.
        jobs: how many messages of the chat wait, this one too.
        running: whether one of them is being answered.
    """

    job_id: str
    tenant: str
    channel: str
    source: str
    reply_to: Mapping[str, Any] = attrs.field(repr=False)
    received_at: float
    turn: int
    first_turn: int
    jobs: int
    running: bool


class WaitingRecord(Protocol):
    """The part of a record that knows the line."""

    def waiting_by_tenant(self) -> list[int]:
        """How many jobs wait of each tenant that has any."""

    def waiting_chats(self, sources: Sequence[tuple[str, str]], told_before: float, limit: int) -> list[WaitingChat]:
        """The chats of these sources (channel and name) that were not told since then, those that wait longest first."""

    def tell(self, job_id: str, detail: str, now: float, told_before: float) -> bool:
        """Note that the job's chat is told now; False if the job waits no longer, or its chat was told since `told_before`."""
