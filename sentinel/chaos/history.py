"""What happened in a run, as values and as lines of JSON: what was sent, what the record holds, what the platforms received.

Written while the run goes on and read back by the checker. Times are seconds since the run began. No judgment here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import attrs

from sentinel import payload
from sentinel.model import Job

OK, FAIL, INFO = "ok", "fail", "info"
UNSENT = "not sent"  # the reason of an attempt that never had a connection


@attrs.frozen
class Attempt:
    """
    One sending of one webhook. The outcome is `ok` (2xx), `fail` (certainly not taken) or `info` (nobody can know).

    `event` is the platform's id of the item, `text` what it says, unique in the run; `place` counts the messages of its
    conversation, each sent when the one before had its answer; `copy` is 0, or tells the repetitions of the same bytes apart.
    `sent` is when the last byte was gone.
    """

    tenant: str
    channel: str
    source: str
    event: str
    text: str
    conversation: str
    place: int
    copy: int
    planned: float
    sent: float
    answered: float
    outcome: str
    status: int = 0
    jobs: tuple[str, ...] = ()
    duplicate: bool = False
    reason: str = ""

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What makes it one event."""
        return self.tenant, self.channel, self.source, self.event


@attrs.frozen
class JobEnd:
    """A job as the record held it when all was quiet."""

    id: str
    tenant: str
    channel: str
    source: str
    event: str
    state: str
    attempt: int
    rescues: int
    error: str | None = None

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What makes it one event's job."""
        return self.tenant, self.channel, self.source, self.event

    @classmethod
    def of(cls, job: Job) -> JobEnd:
        """What the checker needs of a job."""
        return cls(
            job.id,
            job.tenant,
            job.channel,
            job.source,
            job.external_id,
            str(job.state),
            job.attempt,
            job.rescues,
            job.last_error,
        )


@attrs.frozen
class Arrival:
    """A reply that a platform received and accepted. `key` is its idempotency key, if the channel has one."""

    label: str
    key: str
    text: str
    at: float


@attrs.frozen
class Sample:
    """What a process used at a moment."""

    process: str
    at: float
    rss_bytes: int
    descriptors: int


@attrs.frozen
class History:
    """Everything that the checker is told."""

    attempts: tuple[Attempt, ...]
    jobs: tuple[JobEnd, ...]
    arrivals: tuple[Arrival, ...]
    spooled: int = 0
    samples: tuple[Sample, ...] = ()
    faults: tuple[tuple[float, float], ...] = ()
    health: tuple[tuple[float, int], ...] = ()  # when /readyz was asked, and what it answered; 0 for nothing


_FILES: tuple[tuple[str, type[Any]], ...] = (("attempts", Attempt), ("jobs", JobEnd), ("arrivals", Arrival), ("samples", Sample))
Line = TypeVar("Line", Attempt, JobEnd, Arrival, Sample)


class Journal:
    """A file to which lines are added while things happen."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=65_536)

    def write(self, line: Any) -> None:
        """Add a line."""
        self._file.write(payload.encode_json(_plain(line)) + b"\n")

    def flush(self) -> None:
        """Let others read all that was added."""
        self._file.flush()

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


def write_history(folder: Path, history: History) -> None:
    """What no journal has written yet into files of this folder; the journals' own are the truth and stay as they are."""
    for name, _kind in _FILES:
        if not (folder / f"{name}.jsonl").exists():
            write_lines(folder / f"{name}.jsonl", getattr(history, name))
    rest = {"spooled": history.spooled, "faults": history.faults, "health": history.health}
    (folder / "rest.json").write_bytes(payload.encode_json(rest))


def read_history(folder: Path) -> History:
    """What `write_history` wrote."""
    lines = {name: read_lines(folder / f"{name}.jsonl", kind) for name, kind in _FILES}
    rest = payload.decode_own_json((folder / "rest.json").read_bytes())
    return History(**lines, spooled=rest["spooled"], faults=_pairs(rest["faults"]), health=_pairs(rest["health"]))


def write_lines(path: Path, lines: Iterable[Any]) -> None:
    """A file of these lines and no others."""
    path.write_bytes(b"".join(payload.encode_json(_plain(line)) + b"\n" for line in lines))


def read_lines(path: Path, kind: type[Line]) -> tuple[Line, ...]:
    """The lines of a file."""
    return tuple(kind(**_values(payload.decode_own_json(line))) for line in path.read_bytes().splitlines())


def _plain(line: Any) -> dict[str, Any]:
    return {field.name: getattr(line, field.name) for field in attrs.fields(type(line))}


def _pairs(lists: Iterable[Any]) -> tuple[tuple[Any, Any], ...]:
    return tuple((first, second) for first, second in lists)


def _values(line: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in line.items()}
