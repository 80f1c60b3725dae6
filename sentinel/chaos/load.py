"""Sends a plan as platforms do: at its times whatever the answers, the same bytes again until a 2xx. Logs every attempt.

Raw sockets on trio, so that the sender stays cheap beside what it tests. Must never hide a wait: times count from the plan.
"""

from __future__ import annotations

import random
import re
import socket
import time
from collections.abc import Callable, Sequence

import attrs
import trio

from sentinel.chaos.history import FAIL, INFO, OK, Attempt
from sentinel.chaos.plan import Chain, Planned
from sentinel.chaos.wire import Answer, Broken, connect, is_closed, read_answer, send_all

_JOBS = re.compile(rb"\r\nsentinel-job-id: *([^\r]*)", re.IGNORECASE)
_DUPLICATE = re.compile(rb"\r\nsentinel-duplicate: *true", re.IGNORECASE)


@attrs.frozen
class Patience:
    """How a platform waits and tries again."""

    answer_seconds: float = 5.0
    first_pause: float = 0.2
    pause_max: float = 2.0
    seconds: float = 60.0  # after which an event that was never acknowledged is given up


@attrs.frozen
class Ended:
    """How an attempt ended, and when its request was gone."""

    sent: float
    outcome: str
    answer: Answer | None = None
    reason: str = ""


@attrs.define(eq=False)
class Sender:
    """Sends to one address over at most `connections` connections at a time; `log` gets each attempt when it ends."""

    host: str
    port: int
    log: Callable[[Attempt], None]
    connections: int = 200
    patience: Patience = attrs.field(factory=Patience)
    seed: int = 0
    reuse: bool = True  # else each webhook has a connection of its own
    began: float = attrs.field(factory=time.monotonic)
    lags: list[float] = attrs.field(factory=list)
    unacknowledged: int = 0
    _free: list[socket.socket] = attrs.field(factory=list)
    _places: trio.Semaphore = attrs.field(init=False)
    _chance: random.Random = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._places = trio.Semaphore(self.connections)
        self._chance = random.Random(self.seed)

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    async def run(self, chains: Sequence[Chain]) -> None:
        """Send all chains, in order of time, and return when each webhook is acknowledged or given up."""
        start = self.now()
        async with trio.open_nursery() as nursery:
            for chain in chains:
                due = start + chain.links[0].at
                if (wait := due - self.now()) > 0:
                    await trio.sleep(wait)
                self.lags.append(self.now() - due)
                nursery.start_soon(self._send_chain, chain, start)
        self.close()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._free:
            self._free.pop().close()

    async def _send_chain(self, chain: Chain, start: float) -> None:
        for number, link in enumerate(chain.links):
            planned = start + link.at
            if number and (wait := planned - self.now()) > 0:
                await trio.sleep(wait)
            await self.send(link, planned if not number else max(planned, self.now()))

    async def send(self, link: Planned, planned: float) -> None:
        """Send one webhook until it is acknowledged."""
        pause, enough = self.patience.first_pause, self.now() + self.patience.seconds
        while not await self._attempt(link, planned):
            if self.now() > enough:
                self.unacknowledged += 1
                return
            await trio.sleep(pause * self._chance.uniform(0.75, 1.25))
            pause = min(pause * 2, self.patience.pause_max)
            planned = self.now()

    async def _attempt(self, link: Planned, planned: float) -> bool:
        """Send once; True for a 2xx."""
        async with self._places:
            try:
                with trio.fail_after(self.patience.answer_seconds):
                    answer, sent = await self._exchange(link.webhook.data)
            except Broken as broken:
                ended = Ended(broken.sent or self.now(), INFO if broken.sent else FAIL, reason=broken.reason)
            except trio.TooSlowError:
                ended = Ended(self.now() - self.patience.answer_seconds, INFO, reason="no answer in time")
            else:
                ended = Ended(sent, OK if 200 <= answer.status < 300 else FAIL, answer)
        self.log(self._line(link, planned, ended))
        return ended.outcome == OK

    def _line(self, link: Planned, planned: float, ended: Ended) -> Attempt:
        hook, answer = link.webhook, ended.answer
        found = _JOBS.search(answer.head) if answer else None
        return Attempt(
            hook.tenant,
            hook.channel,
            hook.source,
            hook.event,
            hook.text,
            hook.conversation,
            hook.place,
            link.copy,
            planned,
            ended.sent,
            self.now(),
            ended.outcome,
            answer.status if answer else 0,
            tuple(found[1].decode().split(",")) if found else (),
            bool(answer and _DUPLICATE.search(answer.head)),
            ended.reason,
        )

    async def _exchange(self, data: bytes) -> tuple[Answer, float]:
        connection = await self._connection()
        keep = False
        try:
            await send_all(connection, data)
            sent = self.now()
            answer = await read_answer(connection, sent)
            keep = answer.keep and self.reuse
        finally:
            if keep:
                self._free.append(connection)
            else:
                connection.close()
        return answer, sent

    async def _connection(self) -> socket.socket:
        """A connection that is open: one that waits, unless the other side has closed it, or a new one."""
        while self._free:
            connection = self._free.pop()
            if not is_closed(connection):
                return connection
            connection.close()
        return await connect(self.host, self.port)
