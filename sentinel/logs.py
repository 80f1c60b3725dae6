"""One line per event: a stable name and keys, to standard error. The only importer of structlog.

What may be in a line is decided here, not where it is written: numbers, names and short texts. Bytes are counted, a secret says
`***`, any other object says what it is, and an exception says its type and its place: its message may quote what a user wrote.
"""

from __future__ import annotations

import logging
import secrets
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import count
from pathlib import Path
from typing import Any

import structlog

from sentinel.errors import SentinelError
from sentinel.secret import Secret
from sentinel.visible import visible

TEXT_MAX = 300
ITEMS_MAX = 20
TRACES_MAX = 5

_process = secrets.token_hex(3)
_requests = count(1)
_request: ContextVar[int] = ContextVar("request", default=0)  # its number: most requests write no line that has it


def configure_logs(log_format: str = "text", level: str = "info") -> None:
    """Set up logging for this process; what libraries log through `logging` comes out the same way."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _numbered,
        structlog.stdlib.add_log_level,
        _redacted,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer() if log_format == "json" else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _Lines(sys.stderr),  # looked up each time: it may be replaced, and its old self closed
        cache_logger_on_first_use=False,
    )
    handler = _Handler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


class _Lines(structlog.PrintLogger):
    """Writes lines. One that cannot be written is lost, and whoever wrote it goes on: no webhook is refused for it."""

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):
            super().msg(message)

    debug = info = warning = error = critical = msg


class _Handler(logging.Handler):
    """Writes what libraries log to where we do. A line that cannot be written is lost: what `logging` says of it would quote it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
        except Exception as error:  # noqa: BLE001  whatever a library's arguments do when they are printed
            line = f"a line of {record.name} could not be written: {describe(error)}\n"
        with suppress(OSError, ValueError):
            sys.stderr.write(line)


def begin_request() -> None:
    """From now on every line of this task, and of those it starts, carries the id of a new request."""
    _request.set(next(_requests))


def number_request() -> int:
    """The number of a new request that has no task of its own: for `lines_of`."""
    return next(_requests)


@contextmanager
def lines_of(number: int) -> Iterator[None]:
    """Every line that is written within carries the id of the request with that number; as otherwise, if it is 0."""
    before = _request.get()
    _request.set(number or before)
    try:
        yield
    finally:
        _request.set(before)


def begin_job(job_id: str) -> None:
    """From now on every line of this task, and of those it starts, carries the job's id."""
    structlog.contextvars.bind_contextvars(job=job_id)


def describe(error: BaseException) -> str:
    """What went wrong, in words that quote nobody: our own errors say it themselves, others only their type and their place."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(describe(each) for each in error.exceptions[:TRACES_MAX])
    if isinstance(error, SentinelError):
        return f"{type(error).__name__}: {error.detail}"
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].name} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return type(error).__name__ + place


def _numbered(_logger: Any, _name: str, event: Any) -> Any:
    """The event with the id of the request that this task serves, if it serves one."""
    if number := _request.get():
        event["request"] = f"{_process}-{number:x}"
    return event


def _redacted(_logger: Any, _name: str, event: Any) -> Any:
    """The event with nothing in it but what may be in a line."""
    error = event.pop("exc_info", None)
    shown = {key: _shown(value) for key, value in event.items() if not key.startswith("_")}
    shown |= {key: value for key, value in event.items() if key.startswith("_")}  # structlog's own
    error = sys.exc_info() if error is True else error
    error = error[1] if isinstance(error, tuple) else error
    if isinstance(error, BaseException):
        shown["exception"] = _trace(error)
    return shown


def _shown(value: Any) -> Any:
    match value:
        case str():
            return visible(str(value)[:TEXT_MAX])
        case None | int() | float():
            return value
        case bytes() | bytearray():
            shown = f"<{len(value)} bytes>"
        case list() | tuple() | set() | frozenset():
            return [_shown(each) for each in list(value)[:ITEMS_MAX]]
        case Mapping():
            shown = f"<{len(value)} values>"
        case BaseException():
            shown = visible(describe(value)[:TEXT_MAX])
        case Secret():
            shown = str(value)
        case _:
            shown = f"<{type(value).__name__}>"
    return shown


def _trace(error: BaseException, left: int = TRACES_MAX) -> str:
    """The frames of an exception and of what it came from, without their messages."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    text = _trace(cause, left - 1) + "\nand then\n" if cause is not None and left > 1 else ""
    text += "".join(traceback.format_tb(error.__traceback__)) + describe(error)
    if isinstance(error, BaseExceptionGroup) and left > 1:
        text += "".join(f"\nof which\n{_trace(each, left - 1)}" for each in error.exceptions[:TRACES_MAX])
    return text


log: Any = structlog.get_logger()


class Outage:
    """Something that fails and is tried again: one line when it begins to fail, one when it works again, none in between."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._since: float | None = None

    def failed(self, reason: str) -> None:
        """It failed."""
        if self._since is None:
            self._since = time.monotonic()
            log.warning(self._event, reason=reason)

    def over(self) -> None:
        """It worked."""
        if self._since is not None:
            log.info(f"{self._event}.over", seconds=round(time.monotonic() - self._since, 1))
            self._since = None
