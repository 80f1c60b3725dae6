"""Between a store's rows and the nouns: the same for every dialect of SQL. No database here."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import Any

import attrs

from sentinel import payload
from sentinel.model import Claim, Job, Key, Metering, NewJob, State
from sentinel.records import Ending, Reply

_DOCUMENTS = ("input", "reply_to", "options", "result")
_NEW_JOB_FIELDS = (
    "id", "tenant", "channel", "source", "external_id", "conversation", "sender", "priority", "state", "received_at", "last_error",
    "verified_by", "fingerprint", "replay_of", "reply_to", "options", "input", "run_at",
    "metering",
)  # fmt: skip
_FIELDS = tuple(field.name for field in attrs.fields(Job))
_DOCUMENT_PLACES = tuple(_FIELDS.index(name) for name in _DOCUMENTS)
_STATE, _INPUT = _FIELDS.index("state"), _FIELDS.index("input")
_KEY_FIELDS = tuple(field.name for field in attrs.fields(Key))
_STATES = {state.value: state for state in State}
_URGENCY = itemgetter(14, 3)  # of a row of the statement `claim`: its priority, and then its sequence

decode = payload.decode_own_json  # the document of JSON text that `encode` wrote


def job_row(job: NewJob) -> list[Any]:
    """The values of the statement `accept`, in its order."""
    return [
        job.id, job.tenant, job.channel, job.source, job.external_id, job.conversation, job.sender, job.priority, job.state,
        job.received_at, job.last_error, job.verified_by, job.fingerprint, job.replay_of, encode(job.reply_to),
        encode(job.options), encode(job.input), job.run_at, job.metering,
    ]  # fmt: skip


def new_job(row: list[Any]) -> NewJob:
    """The job that `job_row` made the row of."""
    values = dict(zip(_NEW_JOB_FIELDS, row, strict=False))  # of an older version it may be shorter
    values |= {name: decode(values[name]) for name in ("reply_to", "options", "input")}
    values |= {"state": State(values["state"]), "input": tuple(values["input"])}
    return NewJob(**values | {"metering": Metering(values.get("metering", Metering.TENANT))})


def copy_lines(jobs: Iterable[NewJob], now: float) -> str:
    """The lines of the statement `accept_many` for jobs that are written at `now`, in PostgreSQL's text format for COPY."""
    written_at = encode(now)
    return "".join([_copy_line(job, written_at) for job in jobs])


def _copy_line(job: NewJob, written_at: str) -> str:
    """While the line is built, NUL parts the fields, which no text can hold: so the escapes are made for all of them at once."""
    known = [
        job.id, job.tenant, job.channel, job.source, job.external_id, job.sender, str(job.priority), job.state,
        encode(job.received_at), written_at, encode(job.run_at) if job.run_at else written_at, job.verified_by, job.fingerprint,
        encode(job.reply_to), encode(job.options) if job.options else "{}", encode(job.input), str(int(job.metering)),
    ]  # fmt: skip
    line = _escape("\0".join(known))
    if line.count("\0") != len(known) - 1:
        raise ValueError("A text with NUL cannot be kept.")
    finished_at = written_at if job.state.ended else "\\N"
    perhaps = f"{_or_null(job.conversation)}\t{_or_null(job.last_error)}\t{_or_null(job.replay_of)}\t{finished_at}\n"
    return line.replace("\0", "\t") + "\t" + perhaps


def _or_null(text: str | None) -> str:
    return "\\N" if text is None else _escape(text)


def _escape(text: str) -> str:
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if "\n" in text or "\r" in text or "\t" in text:
        text = text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return text


def job(row: Any) -> Job:
    """The job of a row that has its columns by name."""
    return _job([row[name] for name in _FIELDS])


def _job(values: list[Any]) -> Job:
    for place in _DOCUMENT_PLACES:
        if values[place] is not None:
            values[place] = decode(values[place])
    values[_STATE] = _STATES[values[_STATE]]
    values[_INPUT] = tuple(values[_INPUT])
    return Job(*values)


def tokens(reply: Reply) -> int:
    """How many tokens the reply has cost, prompt and answer together."""
    usage = reply.result.get("usage")
    return int(usage.get("total_tokens", 0)) if isinstance(usage, dict) else 0


def claims(found: Iterable[tuple[Any, ...]], now: float) -> list[Claim]:
    """The claims of the rows that the statement `claim` answers with at `now`; a worker makes so many that each step counts."""
    return [
        Claim(Job(
            job_id, sequence, State.RUNNING, tenant, channel, source, external_id, conversation, sender, tuple(decode(given)),
            decode(reply_to), decode(options), fingerprint, priority, attempt, rescues, received_at, created_at, run_at, now, None,
            None, progress, None if result is None else decode(result), last_error, replay_of, told_at,
        ), token)
        for (
            _, token, job_id, sequence, tenant, channel, source, external_id, conversation, sender, given, reply_to, options,
            fingerprint, priority, attempt, rescues, received_at, created_at, run_at, progress, result, last_error, replay_of,
            told_at,
        ) in sorted(found, key=_URGENCY)
    ]  # fmt: skip


def key(row: Any) -> Key:
    """The key of a row."""
    values = {name: row[name] for name in _KEY_FIELDS}
    return Key(**values | {"scopes": row["scopes"].split()})


def ending_step(ending: Ending, state: State) -> str:
    """The step that tells of an ending after which the job is in `state`."""
    if state.ended:
        return state
    return "released" if ending.uncount else "retry_planned"


def round_robin(queues: list[list[str]]) -> list[str]:
    """The first of each queue, then the second of each …"""
    longest = max(map(len, queues), default=0)
    return [queue[place] for place in range(longest) for queue in queues if place < len(queue)]


def encode(value: Any) -> str:
    """A document as JSON text."""
    return payload.encode_json(value).decode()
