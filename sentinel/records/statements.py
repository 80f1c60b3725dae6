"""What a dialect of SQL gives to those who only know the names of its statements. No driver and no statement here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any


class Statements(ABC):
    """Runs named statements: `_run` gives how many rows, `_all` gives the rows themselves."""

    @abstractmethod
    def _transaction(self, *, reading: bool = False) -> AbstractContextManager[None]:
        """
        All or nothing; `reading` means one snapshot for all that is read and no writing.

        In a transaction it is a part of it: then there is no snapshot of its own.
        """

    @abstractmethod
    def _run(self, name: str, /, **values: Any) -> int:
        """Run a statement; how many rows it changed."""

    @abstractmethod
    def _all(self, name: str, /, **values: Any) -> list[Any]:
        """Run a statement; its rows, with columns by name."""

    def _plain(self, name: str, /, **values: Any) -> list[tuple[Any, ...]]:
        """The same, for a statement with many rows: each a tuple."""
        return [tuple(row) for row in self._all(name, **values)]

    @abstractmethod
    def _ids(self, ids: Sequence[str]) -> Any:
        """A list of ids as the dialect's statements take it."""

    def _first(self, name: str, /, **values: Any) -> Any | None:
        return next(iter(self._all(name, **values)), None)

    def _one(self, name: str, /, **values: Any) -> Any:
        return self._all(name, **values)[0]
