"""How every record in SQL lets jobs be watched. See `records.watching`."""

from __future__ import annotations

from collections.abc import Sequence

from sentinel.model import State
from sentinel.records.statements import Statements
from sentinel.records.watching import Glimpse, Partial


class SqlWatching(Statements):
    """The moves of `WatchingRecord` over the dialect's named statements."""

    def save_partials(self, partials: Sequence[Partial]) -> None:
        with self._transaction():
            for partial in partials:
                self._run("put_partial", id=partial.job_id, token=partial.lease_token, text=partial.text)

    def glimpses(self, ids: Sequence[str]) -> list[Glimpse]:
        return [
            Glimpse(row["id"], State(row["state"]), row["progress"], row["attempt"], row["steps"], row["text"])
            for row in self._all("glimpses", ids=self._ids(ids))
        ]
