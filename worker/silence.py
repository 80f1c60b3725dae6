"""Which workers have been silent for the length of a lease, by the clock of whoever listens. Pure: `now` is passed in.

Must not believe another machine's clock, nor one that was put right: a worker is heard when what it last wrote has changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from sentinel.records import LEASE_SECONDS, Worker

AWAY_SECONDS = 20.0  # who has not listened for so long was away himself, and so perhaps was the record


@attrs.define
class Silence:
    """What was heard of each worker, and since when it has been the same."""

    _heard: dict[int, tuple[float, float]] = attrs.field(factory=dict)
    _listened: float = float("-inf")

    def listen(self, workers: Sequence[Worker], now: float) -> dict[int, float]:
        """
        Who has been silent for a lease's length, and the `last_seen` at which each has stopped.

        `now` is in seconds, by a clock that does not go back. After a while away everybody gets the whole time again.
        """
        if now - self._listened > AWAY_SECONDS:
            self._heard = {}
        self._listened = now
        before, self._heard = self._heard, {}
        for worker in workers:
            last_seen, since = before.get(worker.id, (None, now))
            self._heard[worker.id] = (worker.last_seen, since if last_seen == worker.last_seen else now)
        return {worker: last_seen for worker, (last_seen, since) in self._heard.items() if now - since > LEASE_SECONDS}
