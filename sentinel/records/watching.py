"""What watchers of a job are told while it runs: how far it is, and the beginning of its answer. No store here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from sentinel.model import State


@attrs.frozen
class Partial:
    """The answer of a running job as far as it is there."""

    job_id: str
    lease_token: str = attrs.field(repr=False)
    text: str = attrs.field(repr=False)


@attrs.frozen
class Glimpse:
    """A job in passing. `steps` counts what was written down of its story; `text` is "" unless the job asked for it."""

    job_id: str
    state: State
    progress: float
    attempt: int
    steps: int
    text: str = attrs.field(default="", repr=False)

    @property
    def milestone(self) -> tuple[int, int, State]:
        """What is another when the job's story has become longer."""
        return self.steps, self.attempt, self.state


class WatchingRecord(Protocol):
    """The part of a record that lets jobs be watched."""

    def save_partials(self, partials: Sequence[Partial]) -> None:
        """Write how far the answers are; one with a lost lease changes nothing."""

    def glimpses(self, ids: Sequence[str]) -> list[Glimpse]:
        """How these jobs are, in any order; without those that are not there."""
