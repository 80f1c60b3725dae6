"""Sentinel, on PostgreSQL alone or with Redis: the worker's own pieces around a handler that does nothing.

Every job is a row, claimed and ended under its lease. The next batch is claimed while this one runs; endings share commits, on a
second connection, as in `worker/main.py`.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from common import main

from sentinel.cli.processes import calm_garbage_collector
from sentinel.dispatch.keeper import Keeper, open_keeper
from sentinel.dispatch.offers import Offers, open_offers
from sentinel.errors import Unavailable
from sentinel.model import Claim, NewJob, State, job_id
from sentinel.records import Ending, Store, open_bell, open_record
from worker.claiming import Claiming
from worker.commits import WRITE_AGAIN_SECONDS, insist, open_commits
from worker.presence import register

REDIS = sys.argv[5] if sys.argv[5] != "-" else None
CONVERSATIONS = int(sys.argv[6])  # 0: the jobs belong to none
ACCEPT = 500
CLAIM = 500
UNDER_WAY_MAX = 1_000  # what runs, what is being ended, and room for the batch that is being claimed
SLOTS = 100
END_MAX = 512


@attrs.define(eq=False)
class Side:
    url: str
    store: Store
    keeper: Keeper | None
    offers: Offers | None

    async def setup(self) -> None:
        pass  # opening the record has made its tables

    async def enqueue(self, jobs: list[dict[str, Any]]) -> None:
        for start in range(0, len(jobs), ACCEPT):
            await self._accept([_new_job(start + place, job) for place, job in enumerate(jobs[start : start + ACCEPT])])
        while self.keeper and await self.keeper.call(self.keeper.dispatch.waiting) < len(jobs):  # noqa: ASYNC110  it rings no bell
            await trio.sleep(0.002)

    async def enqueue_one(self, job: dict[str, Any]) -> None:
        await self._accept([_new_job(0, job)])

    async def _accept(self, jobs: Sequence[NewJob]) -> None:
        await self.store.call(self._accept_in_thread, jobs)

    def _accept_in_thread(self, jobs: Sequence[NewJob]) -> None:
        """As `sentinel/intake.py` does it."""
        self.store.record.accept(jobs, time.time())
        if self.offers:
            self.offers.arrived(jobs)

    async def work(self, handle: Callable[[float], None], gate: Callable[[], None]) -> None:
        async def no_work(claim: Claim) -> None:
            handle(claim.job.options.get("sent", 0.0))

        presence = await register(self.store, "ready")
        claiming = Claiming(self.store, self.keeper, open_bell(self.url), self.offers)
        writing = Store(open_record(self.url, prepared=False))
        calm_garbage_collector()  # as `sentinel worker` does
        async with trio.open_nursery() as nursery:
            nursery.start_soon(presence.run)
            gate()
            await WORK(presence.worker, claiming, self.offers, {"bench": no_work}).run(writing)


@attrs.define(eq=False)
class _Work:
    """Claims, and says how a job ended. `_under_way` are the jobs from their claim until their ending is written."""

    worker: int
    claiming: Claiming
    offers: Offers | None
    handlers: dict[str, Callable[[Claim], Awaitable[None]]]
    _under_way: int = 0
    _room: trio.Event = attrs.field(factory=trio.Event)

    async def _claim_for_ever(self, start: Callable[[Sequence[Claim]], None]) -> None:
        while True:
            while self._under_way > UNDER_WAY_MAX - CLAIM:
                self._room = trio.Event()
                await self._room.wait()
            try:
                claims, again = await self.claiming.claim(self.worker, CLAIM)
            except Unavailable:
                claims, again = [], False
            self._under_way += len(claims)
            start(claims)
            await self.claiming.settle()
            if not again:
                await self.claiming.wait()

    async def _run_job(self, claim: Claim) -> Ending:
        state, error = State.SUCCEEDED, None
        try:
            await self.handlers[claim.job.channel](claim)
        except Exception as failure:  # noqa: BLE001  a fault in one job is that job's
            state, error = State.FAILED, repr(failure)
        return Ending(claim.job.id, claim.lease_token, state, error)

    def _ended(self, claims: Sequence[Claim]) -> None:
        if self.offers is not None:
            for claim in claims:
                if claim.job.conversation is not None:
                    self.offers.ended(claim.job.id)
        self._under_way -= len(claims)
        if self._under_way <= UNDER_WAY_MAX - CLAIM:
            self._room.set()


@attrs.define(eq=False)
class TaskPerJob(_Work):
    """As `worker/jobs.py` has it: a task for every job, which waits for its own ending's commit."""

    async def run(self, writing: Store) -> None:
        async with open_commits(writing) as commits, trio.open_nursery() as nursery:

            async def run_job(claim: Claim) -> None:
                ending = await self._run_job(claim)
                await insist(commits.endings, ending)
                self._ended([claim])

            await self._claim_for_ever(lambda claims: [nursery.start_soon(run_job, claim) for claim in claims])


@attrs.define(eq=False)
class SharedSlots(_Work):
    """SLOTS tasks that live on and take the next job; one task writes all endings that have come together, in one commit."""

    _claims: deque[Claim] = attrs.field(factory=deque)
    _idle: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    _waking: bool = False
    _endings: list[tuple[Claim, Ending]] = attrs.field(factory=list)
    _some: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, writing: Store) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(SLOTS):
                nursery.start_soon(self._slot)
            nursery.start_soon(self._end_for_ever, writing)
            await self._claim_for_ever(self._start)

    def _start(self, claims: Sequence[Claim]) -> None:
        self._claims += claims
        self._wake_one()

    def _wake_one(self) -> None:
        """While there is a job left, one more slot is on its way: so many run as have to wait for something, and no more."""
        if self._claims and not self._waking:
            self._waking = bool(self._idle.unpark())

    async def _slot(self) -> None:
        while True:
            while not self._claims:
                await self._idle.park()
                self._waking = False
            claim = self._claims.popleft()
            self._wake_one()
            self._endings.append((claim, await self._run_job(claim)))
            self._some.set()

    async def _end_for_ever(self, writing: Store) -> None:
        while True:
            await self._some.wait()
            self._some = trio.Event()
            while self._endings:
                ended, self._endings = self._endings[:END_MAX], self._endings[END_MAX:]
                await self._end(writing, [ending for _, ending in ended])
                self._ended([claim for claim, _ in ended])

    async def _end(self, writing: Store, endings: Sequence[Ending]) -> None:
        """Write until the record takes it: what has happened must not be forgotten."""
        while True:
            try:
                await writing.call(writing.record.end, endings, time.time())
            except Unavailable:
                await trio.sleep(WRITE_AGAIN_SECONDS)
            else:
                return


def _new_job(number: int, job: dict[str, Any]) -> NewJob:
    name = f"{time.monotonic_ns()}.{number}"
    return NewJob(
        id=job_id("default", "bench", "queue", name), tenant="default", channel="bench", source="queue", external_id=name,
        input=({"role": "user", "content": job["text"]},), received_at=time.time(),
        options={"sent": job["sent"]} if job["sent"] else {},
        conversation=f"chat {number % CONVERSATIONS}" if CONVERSATIONS else None,
    )  # fmt: skip


@asynccontextmanager
async def side(url: str) -> AsyncIterator[Side]:
    store = Store(open_record(url))
    keeper = open_keeper(REDIS, store)
    offers = open_offers(keeper, store)
    async with trio.open_nursery() as nursery:
        if keeper is not None and offers is not None:
            nursery.start_soon(keeper.run)
            nursery.start_soon(offers.run)
            await _in_step(keeper)
        yield Side(url, store, keeper, offers)
        nursery.cancel_scope.cancel()


async def _in_step(keeper: Keeper) -> None:
    """Wait until the keeper has filled the dispatch, or found it filled."""
    while True:
        try:
            await keeper.call(keeper.dispatch.waiting)
        except Unavailable:
            await trio.sleep(0.01)
        else:
            return


WORK = {"tasks": TaskPerJob, "slots": SharedSlots}[sys.argv[7]]
main(side, trio.run, trio.sleep)
