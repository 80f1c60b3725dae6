"""Rings when PostgreSQL says that jobs have arrived, or that the directory has changed.

A pooler may make it deaf, so nobody should wait long for it.
"""

from __future__ import annotations

import time

import psycopg

from sentinel.errors import Unavailable
from sentinel.records.postgres_connection import Connection, open_connection
from sentinel.settings import without_password

ANSWER_SECONDS_MAX = 1.0  # beyond what was to be waited for


class PostgresBell:
    """Listens to the channel that triggers notify: on `jobs` once per batch of new jobs, on the directory once per change."""

    def __init__(self, url: str, rings_for: str = "jobs") -> None:
        self._url, self._channel = url, f"sentinel_{rings_for}"
        self._connection: Connection | None = None

    def wait(self, seconds: float) -> bool:
        """Block until it rings, True, or `seconds` passed. Raises Unavailable when the server cannot be asked."""
        try:
            connection = self._listening()
            connection.deadline = time.monotonic() + seconds + ANSWER_SECONDS_MAX
            return any(True for _ in connection.notifies(timeout=seconds, stop_after=1))
        except psycopg.Error as error:
            self.close()
            raise Unavailable(f"{without_password(self._url)} does not answer ({type(error).__name__}).") from error

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _listening(self) -> Connection:
        if self._connection is None:
            self._connection = open_connection(self._url, ANSWER_SECONDS_MAX, application_name="sentinel")
            self._connection.deadline = time.monotonic() + ANSWER_SECONDS_MAX
            self._connection.execute(f"LISTEN {self._channel}".encode())
        return self._connection
