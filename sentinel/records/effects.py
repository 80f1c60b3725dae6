"""What an agent did on the way to an answer, step by step, so that a job that is taken up again does nothing twice.

Nouns and a contract; no store here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from sentinel.model import Claim


@attrs.frozen
class Effect:
    """One step: what was to be done, and the result once it is known that it was done; until then None."""

    step: int
    name: str
    request: Mapping[str, Any] = attrs.field(repr=False)
    result: str | None = attrs.field(default=None, repr=False)

    @property
    def is_done(self) -> bool:
        """False where it may have been done, and nobody knows."""
        return self.result is not None


class EffectsRecord(Protocol):
    """The part of a record that keeps steps. Every write shows the job's lease; repeating one changes nothing."""

    def effects(self, job_id: str) -> list[Effect]:
        """The job's steps in order, whoever took them."""

    def begin_effect(self, claim: Claim, effect: Effect, now: float) -> bool:
        """Write what is about to be done; False for a lost lease."""

    def finish_effect(self, claim: Claim, step: int, result: str, now: float) -> bool:
        """Write what came of it; False for a lost lease."""
