"""How every record in SQL knows the line. See `records.waiting`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from sentinel.records import rows
from sentinel.records.statements import Statements
from sentinel.records.waiting import WaitingChat


class SqlWaiting(Statements):
    """The moves of `WaitingRecord` over the dialect's named statements."""

    @abstractmethod
    def _step(self, job_id: str, step: str, now: float, detail: str | None = None) -> None: ...

    def waiting_by_tenant(self) -> list[int]:
        return [row["jobs"] for row in self._all("waiting_by_tenant")]

    def waiting_chats(self, sources: Sequence[tuple[str, str]], told_before: float, limit: int) -> list[WaitingChat]:
        names = rows.encode(["/".join(source) for source in sources])
        return [_chat(row) for row in self._all("waiting_chats", sources=names, told_before=told_before, limit=limit)]

    def tell(self, job_id: str, detail: str, now: float, told_before: float) -> bool:
        with self._transaction():
            if not self._run("tell_chat", id=job_id, now=now, told_before=told_before):
                return False
            self._run("tell_job", id=job_id, now=now)
            self._step(job_id, "told_to_wait", now, detail)
            return True


def _chat(row: Any) -> WaitingChat:
    plain = {name: row[name] for name in ("tenant", "channel", "source", "received_at", "turn", "first_turn", "jobs")}
    return WaitingChat(job_id=row["id"], reply_to=rows.decode(row["reply_to"]), running=bool(row["running"]), **plain)
