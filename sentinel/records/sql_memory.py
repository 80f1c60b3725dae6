"""How every record in SQL keeps what an agent remembers: the order of the statements of one move. See `records.memory`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import attrs

from sentinel.model import Chat, Claim, State
from sentinel.records import rows
from sentinel.records.memory import (
    ERASE_SEQUENCES,
    ERASED_AT_A_TIME,
    ERASURES_PENDING_MAX,
    TURNS_READ_MAX,
    Erasure,
    Held,
    Memory,
    Turn,
)
from sentinel.records.statements import Statements

ERASED_BY_JOB = ("erase_outbox", "erase_effects", "erase_partials", "erase_jobs")
PRUNED_MEMORY = ("prune_conversations", "prune_notes", "prune_erasures", "prune_turns")
_ERASURE_FIELDS = tuple(field.name for field in attrs.fields(Erasure))


def _memory(found: Sequence[Any]) -> Memory:
    """What the rows tell of one chat: one for each turn, or one without."""
    turns = tuple(
        Turn(row["place"], row["job_id"], rows.decode(row["said"]), row["answered"], row["at"])
        for row in found
        if row["place"] is not None
    )
    return Memory(found[0]["summary"], turns, found[0]["held_at"] is not None)


class SqlMemory(Statements):
    """The moves of `MemoryRecord` over the dialect's named statements."""

    @abstractmethod
    def _cancel(self, job_id: str, tenant: str, now: float) -> None: ...

    def memories(self, chats: Sequence[Chat], limit: int = TURNS_READ_MAX) -> list[Memory]:
        asked = rows.encode([attrs.astuple(chat) for chat in chats])
        found = groupby(self._all("memories", chats=asked, limit=limit), lambda row: row["asked"])
        return [_memory(list(group)) for _, group in found]

    def save_summary(self, claim: Claim, summary: str, through: int, now: float) -> bool:
        chat = claim.job.chat
        if chat is None:
            return False
        with self._transaction():
            if not self._run("put_summary", id=claim.job.id, token=claim.lease_token, summary=summary, now=now):
                return False
            self._run("drop_summarised", **attrs.asdict(chat), through=through)
            return True

    def forget(self, chat: Chat) -> None:
        with self._transaction():
            for name in ("forget_turns", "forget_summary", "forget_notes"):
                self._run(name, **attrs.asdict(chat))

    def hold(self, chat: Chat, now: float) -> None:
        with self._transaction():
            self._run("hold", **attrs.asdict(chat), now=now)

    def release(self, tenant: str, conversation: str, channel: str | None = None, source: str | None = None) -> int:
        with self._transaction():
            return self._run("release", tenant=tenant, conversation=conversation, channel=channel, source=source)

    def held(self, tenant: str | None = None) -> list[Held]:
        found = self._all("held", tenant=tenant)
        return [Held(Chat(row["tenant"], row["channel"], row["source"], row["conversation"]), row["held_at"]) for row in found]

    def note(self, chat: Chat, name: str, text: str | None, now: float) -> None:
        with self._transaction():
            if text is None:
                self._run("drop_note", **attrs.asdict(chat), name=name)
            else:
                self._run("put_note", **attrs.asdict(chat), name=name, text=text, now=now)

    def notes(self, chat: Chat) -> dict[str, str]:
        return {row["name"]: row["text"] for row in self._all("notes", **attrs.asdict(chat))}

    # Erasing

    def request_erasure(self, erasure: Erasure, now: float) -> bool:
        with self._transaction():
            return bool(self._run("request_erasure", **attrs.asdict(erasure), now=now, pending_max=ERASURES_PENDING_MAX))

    def find_erasure(self, erasure_id: str, tenant: str) -> Erasure | None:
        row = self._first("find_erasure", id=erasure_id, tenant=tenant)
        return Erasure(**{name: row[name] for name in _ERASURE_FIELDS}) if row else None

    def erase(self, now: float) -> bool:
        moved = [self._erase_some(row["id"], now) for row in self._all("pending_erasures", limit=ERASED_AT_A_TIME)]
        return any(moved)

    def _erase_some(self, erasure_id: str, now: float) -> bool:
        """Erase what the next jobs tell of; whether the walk went on or came to its end."""
        with self._transaction():
            row = self._first("locked_erasure", id=erasure_id)
            if row is None:
                return False  # another worker is at it
            through = min(row["up_to"], row["reached"] + ERASE_SEQUENCES)
            whose = {name: row[name] for name in ("tenant", "conversation", "sender", "channel", "source")}
            window = whose | {"reached": row["reached"], "through": through}
            through = self._stop_live(window, now)
            ids = [found["id"] for found in self._all("erase_ended", **window | {"through": through})]
            for name in ("erase_conversations", "erase_notes"):
                self._run(name, **whose, ids=self._ids(ids))
            self._run("erase_turns", **whose)
            for name in ERASED_BY_JOB:
                self._run(name, ids=self._ids(ids))
            self._run("reach_erasure", id=erasure_id, reached=through, jobs=len(ids), now=now)
        return bool(through > row["reached"] or through >= row["up_to"])

    def _stop_live(self, window: dict[str, Any], now: float) -> int:
        """Cancel what is not over; how far the walk may go: before the first job that still runs."""
        through = int(window["through"])
        for row in self._all("erase_live", **window):
            self._cancel(row["id"], window["tenant"], now)
            if row["state"] == State.RUNNING:
                through = min(through, row["sequence"] - 1)
        return through

    def prune_memory(self, before: float) -> int:
        with self._transaction():
            return [self._run(name, before=before) for name in PRUNED_MEMORY][-1]
