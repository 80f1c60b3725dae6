"""Whose request is handled when: those that came together by one call and without a task, the rest by a pool; with a bound on all.

It sees no socket: a connection says what its next request is, and is told the answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs
import trio

from sentinel.connection import BUSY, Connection
from sentinel.http import Exchange, Request, Response

HANDLED_MAX = 2_000  # requests that are being handled at a time; the others wait for their turn
TOGETHER_MAX = 32  # requests that are begun by one call
PIPELINED_AT_A_TIME = 8  # requests that came with another one of their connection, before others have their turn

Handle = Callable[[Request], Awaitable[Response]]
Begin = Callable[[Sequence[Exchange]], Sequence[Exchange]]


@attrs.define(eq=False)
class Turns:
    """
    Has the requests of connections answered by `begin` or, where that gives them back, by `handle` in a task of the `pool`.

    At most `requests_max` connections have a request that is begun and not answered.
    """

    handle: Handle
    begin: Begin
    requests_max: int
    pool: trio.Nursery = attrs.field(init=False)
    busy: int = attrs.field(default=0, init=False)  # connections with a request that is not answered
    handled: int = attrs.field(default=0, init=False)  # requests that are being handled
    _waiting: deque[Connection] = attrs.field(factory=deque, init=False)
    _held: bool = attrs.field(default=False, init=False)  # somebody begins with those who wait, or will
    _pipelined: deque[Connection] = attrs.field(factory=deque, init=False)  # has had a turn, and wants more
    _some_pipelined: trio.Event = attrs.field(factory=trio.Event, init=False)
    _left: deque[Exchange] = attrs.field(factory=deque, init=False)  # for the tasks of the pool
    _resting: list[trio.lowlevel.Task] = attrs.field(factory=list, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    async def run(self) -> None:
        """Begin with what came behind another request of its connection, a few at a time: in between, others get their turn."""
        while True:
            await self._some_pipelined.wait()
            await trio.lowlevel.checkpoint()
            count = min(len(self._pipelined), HANDLED_MAX - self.handled, PIPELINED_AT_A_TIME)
            self._begin([self._pipelined.popleft() for _ in range(count)])
            if not self._pipelined or self.handled >= HANDLED_MAX:
                self._some_pipelined = trio.Event()

    def close(self) -> None:
        """Nobody comes any more: the tasks of the pool end."""
        self._closed = True
        while self._resting:
            trio.lowlevel.reschedule(self._resting.pop())

    def clear(self) -> None:
        """Begin with nothing more: commits that are under way still answer, and nothing is to begin upon it."""
        self._waiting.clear()
        self._pipelined.clear()

    def take(self, connection: Connection, request: Request) -> bool:
        """Have the connection's requests answered, now or when others are done; False if too many wait already."""
        if request.path == "/healthz":
            self.busy += 1
            self._begin([connection])
            return True
        if self.busy >= self.requests_max:
            return False
        self.busy += 1
        self._waiting.append(connection)
        self._take_turns()
        return True

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is taken within is begun when it ends: together."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self._take_turns()

    def _take_turns(self) -> None:
        """Begin with those who wait, in order, as far as there is room. Whoever is answered at once makes room for the next."""
        if self._held:
            return
        self._held = True
        try:
            while self._waiting and self.handled < HANDLED_MAX:
                count = min(len(self._waiting), HANDLED_MAX - self.handled, TOGETHER_MAX)
                self._begin([self._waiting.popleft() for _ in range(count)])
        finally:
            self._held = False

    def _begin(self, connections: Sequence[Connection]) -> None:
        """Handle the next request of each of the connections: what is not answered by itself gets a task of the pool."""
        self.handled += len(connections)
        turns = [turn for connection in connections if (turn := self._next(connection)) is not None]
        try:
            for left in self.begin(turns):
                self._leave_to_pool(left)
        except Exception as error:  # noqa: BLE001  as in `Connection.crash`
            for turn in turns:
                turn.crash(error)

    def _next(self, connection: Connection) -> _Turn | None:
        """The next request of the connection, unless there is none any more, or it is too late to begin with it."""
        taken = connection.next_request()
        if taken is None:
            self.end(connection)
            return None
        turn = _Turn(self, connection, *taken)
        if connection.in_time:
            return turn
        turn.answer(BUSY)
        return None

    def end(self, connection: Connection) -> None:
        """The request is handled, or its connection closed; what more that wants waits behind the requests of others."""
        self.handled -= 1
        if connection.has_more:
            self._pipelined.append(connection)
        else:
            try:
                connection.done()
            except Exception as error:  # noqa: BLE001  as in `Connection.crash`
                connection.crash(error)
            self.busy -= 1
        self._take_turns()
        if self._pipelined:
            self._some_pipelined.set()

    # The pool

    def _leave_to_pool(self, exchange: Exchange) -> None:
        self._left.append(exchange)
        if self._resting:
            trio.lowlevel.reschedule(self._resting.pop())
        else:
            self.pool.start_soon(self._handle_left)

    async def _handle_left(self) -> None:
        """One task of the pool: answers request after request, and rests while there is none."""
        task = trio.lowlevel.current_task()

        def aborted(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._resting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            while self._left:
                await self._handle(self._left.popleft())
            if self._closed:
                return
            self._resting.append(task)
            await trio.lowlevel.wait_task_rescheduled(aborted)

    async def _handle(self, exchange: Exchange) -> None:
        try:
            response = await self.handle(exchange.request)
        except Exception as error:  # noqa: BLE001  as in `Connection.crash`
            exchange.crash(error)
        else:
            exchange.answer(response)


class _Turn:
    """A request that is being handled, until it is answered: once; what comes later is too late."""

    __slots__ = ("_connection", "_ended", "_keep", "_sent", "_turns", "request")

    def __init__(self, turns: Turns, connection: Connection, sent: Request, keep: bool) -> None:
        self.request = attrs.evolve(sent, method="GET") if sent.method == "HEAD" else sent
        self._turns, self._connection, self._sent, self._keep, self._ended = turns, connection, sent, keep, False

    def answer(self, response: Response) -> None:
        """Send the answer, and let the connection go on."""
        if self._ended:
            return
        self._ended = True
        try:
            self._connection.answer(self._sent, self._keep, response)
        except Exception as error:  # noqa: BLE001  as in `Connection.crash`
            self._connection.crash(error)
        self._turns.end(self._connection)

    def crash(self, error: Exception) -> None:
        """There is no answer."""
        if not self._ended:
            self._ended = True
            self._connection.crash(error)
            self._turns.end(self._connection)
