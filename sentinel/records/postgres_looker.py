"""Looks beside the claims: on a connection and in a thread of its own, so that no claim waits for what an old snapshot keeps.

Knows nothing of what is looked for. It is wanted about once a second at most, and only then, so it keeps no connection meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import attrs

from sentinel.errors import Unavailable
from sentinel.logs import log


@attrs.define(eq=False)
class Looker:
    """One look at a time: `begin` does not wait for it, `found` has its answer once, when it is there. What fails is forgotten."""

    look: Callable[[], dict[str, Any]]
    _found: dict[str, Any] | None = None
    _thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin to look, unless that is going on."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="sentinel look", daemon=True)
            self._thread.start()

    def found(self) -> dict[str, Any] | None:
        """What the last look has found, if nobody has taken it yet."""
        found, self._found = self._found, None
        return found

    def wait(self) -> None:
        """Return when nobody looks."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._found = self.look()
        except Unavailable as error:
            log.debug("record.not_looked", reason=error.detail)
