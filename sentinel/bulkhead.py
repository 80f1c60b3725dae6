"""Bulkheads and circuit breakers of outgoing requests: one dead or slow receiver must not hold up what goes elsewhere.

A way is one tenant's to one host: what one tenant's URL does to a host never shuts another tenant's way to it.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice

import attrs
import trio

from sentinel.edge.breaker import Breaker
from sentinel.errors import HostRests, SendFailed

AT_A_TIME = 32
WAIT_SECONDS_MAX = 0.2  # whoever waits for a slow receiver holds a place that somebody else could use
FAILURES_IN_A_ROW = 5
WAYS_REMEMBERED = 10_000


@attrs.define(eq=False)
class Way:
    """How much is under way, and whether the other end is worth trying."""

    room: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(AT_A_TIME))
    breaker: Breaker = attrs.field(factory=lambda: Breaker(patience=FAILURES_IN_A_ROW))

    @property
    def is_quiet(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return self.room.value == AT_A_TIME and self.breaker.is_well


@attrs.define(eq=False)
class Bulkhead:
    """Every way, by its name. The one that was used longest ago is forgotten first."""

    _ways: dict[str, Way] = attrs.field(factory=dict)

    @asynccontextmanager
    async def enter(self, name: str) -> AsyncIterator[None]:
        """
        Go that way once there is room; how the block ends tells the breaker. Only SendFailed is the receiver's fault.

        Raises:
            HostRests: the receiver has failed several times in a row, or there was no room for WAIT_SECONDS_MAX.
        """
        way = self._ways.pop(name, None) or Way()
        self._ways[name] = way
        if not way.breaker.allows(trio.current_time()):
            raise HostRests(
                "The receiver failed several times in a row and is left alone.", way.breaker.seconds_left(trio.current_time())
            )
        with trio.move_on_after(WAIT_SECONDS_MAX) as patience:
            await way.room.acquire()
        if patience.cancelled_caught:
            raise HostRests("Too many requests to this receiver are under way.", 1.0)
        try:
            yield
        except SendFailed as error:
            way.breaker.failed(trio.current_time(), error.detail, random.random())
            raise
        else:
            way.breaker.succeeded(trio.current_time())
        finally:
            way.room.release()
            self._forget()

    def resting(self) -> list[str]:
        """The ways that it is not time to try again."""
        now = trio.current_time()
        return [name for name, way in self._ways.items() if way.breaker.seconds_left(now) > 0]

    def _forget(self) -> None:
        """Keep only ways with something to remember, and not too many of those."""
        for name in [name for name, way in islice(self._ways.items(), 2) if way.is_quiet]:
            del self._ways[name]
        while len(self._ways) > WAYS_REMEMBERED:
            del self._ways[next(iter(self._ways))]
