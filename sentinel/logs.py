"""One line per event: a stable name and keys, to standard error. Must not be given secrets or whole bodies.

The only importer of structlog.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import structlog


def configure_logs(log_format: str = "text", level: str = "info") -> None:
    """Set up logging for this process; what libraries log through `logging` comes out the same way."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info if log_format == "json" else _keep,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer() if log_format == "json" else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: structlog.PrintLogger(
            sys.stderr
        ),  # looked up each time: it may be replaced, and its old self closed
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


def _keep(_logger: Any, _name: str, event: Any) -> Any:
    return event


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
