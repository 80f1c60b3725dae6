"""How every record in SQL keeps an agent's steps. See `records.effects`."""

from __future__ import annotations

from abc import abstractmethod

from sentinel.model import Claim
from sentinel.records import rows
from sentinel.records.effects import Effect
from sentinel.records.statements import Statements


class SqlEffects(Statements):
    """The moves of `EffectsRecord` over the dialect's named statements."""

    @abstractmethod
    def _step(self, job_id: str, step: str, now: float, detail: str | None = None) -> None: ...

    def effects(self, job_id: str) -> list[Effect]:
        found = self._all("effects", id=job_id)
        return [Effect(row["step"], row["name"], rows.decode(row["request"]), row["result"]) for row in found]

    def begin_effect(self, claim: Claim, effect: Effect, now: float) -> bool:
        with self._transaction():
            if not self._first("holds_lease", id=claim.job.id, token=claim.lease_token):
                return False
            values = {"step": effect.step, "name": effect.name, "request": rows.encode(effect.request)}
            if self._run("begin_effect", id=claim.job.id, **values, now=now):
                self._step(claim.job.id, "step_begun", now, f"{effect.step}: {effect.name}")
            return True

    def finish_effect(self, claim: Claim, step: int, result: str, now: float) -> bool:
        with self._transaction():
            if not self._first("holds_lease", id=claim.job.id, token=claim.lease_token):
                return False
            if self._run("finish_effect", id=claim.job.id, step=step, result=result, now=now):
                self._step(claim.job.id, "step_done", now, f"{step}")
            return True
