"""The worker's main loop: claim what the engine can carry, run it, store the reply, deliver it, end the claim.

A job's slot is free again when its text is there; delivering needs none. Every way a job can end is written with its lease.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import attrs
import trio

from sentinel.channels import merge_seconds
from sentinel.dispatch.offers import Offers
from sentinel.edge.notices import HOUR_SECONDS, Notice
from sentinel.errors import GenerationFailed, NotFound, Unavailable
from sentinel.logs import Outage, begin_job, describe, log
from sentinel.model import Claim, Job, Source, State
from sentinel.records import Ending, Reply, Store
from sentinel.retry import GENERATION_ATTEMPTS_MAX, backoff_seconds
from sentinel.settings import Settings
from worker.agent import Agent
from worker.claiming import Claiming
from worker.commits import Commits, LeaseLost, insist
from worker.delivery import Delivery
from worker.engine import Engine, GenerationTimeout
from worker.output_check import output_check
from worker.presence import Presence, Running, Stopped
from worker.prompts import APOLOGY_FOR, apology_text, build_result, remembers
from worker.typing import Typing
from worker.waiting_line import Pace

DELIVERIES_MAX = 128  # four tenants whose platforms hang leave some: a tenant has at most `bulkhead.AT_A_TIME`
CLAIM_AGAIN_SECONDS = 1.0
_EVENTS = {True: "job.ended", False: "job.postponed"}


@attrs.define(eq=False)
class Jobs:
    """Runs jobs on one engine until told to stop."""

    settings: Settings
    store: Store
    engine: Engine
    presence: Presence
    delivery: Delivery
    commits: Commits
    claiming: Claiming
    offers: Offers | None = None
    pace: Pace = attrs.field(factory=Pace)
    _agent: Agent = attrs.field(init=False)
    _nursery: trio.Nursery | None = attrs.field(init=False, default=None)
    _slots: trio.Semaphore = attrs.field(init=False)
    _places: trio.Semaphore = attrs.field(init=False)
    _idle: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        recall = self.commits.memories.submit
        self._agent = Agent(self.settings, self.store, recall, self.engine, self.delivery.outbound, self.delivery.directory)
        self._slots = trio.Semaphore(self.engine.slots)
        self._places = trio.Semaphore(self.engine.slots + DELIVERIES_MAX)

    async def run(self, stopping: trio.Event) -> None:
        """Claim and run until `stopping` is set; then let what runs end within the grace, and give the rest back."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            async with trio.open_nursery() as claiming:
                claiming.start_soon(self._claim_for_ever, nursery)
                await stopping.wait()
                claiming.cancel_scope.cancel()
            with trio.move_on_after(self.settings.grace_seconds if self.presence.running else 0):
                await self._idle.wait()
            for running in list(self.presence.running.values()):
                running.stop(Stopped.RELEASED)

    async def _claim_for_ever(self, nursery: trio.Nursery) -> None:
        outage = Outage("worker.claim_failed")
        while True:
            count = await self._reserve()
            try:
                claims, again = await self.claiming.claim(self.presence.worker, count)
            except Unavailable as error:
                outage.failed(error.detail)
                self.presence.doubt()
                self._give_back(count)
                await trio.sleep(CLAIM_AGAIN_SECONDS * random.uniform(0.5, 1.0))  # workers that fail together come back apart
                continue
            outage.over()
            for claim in claims:
                running = self.presence.running[claim.lease_token] = Running(claim)
                self._idle = trio.Event()
                nursery.start_soon(self._run_job, running)
            self._give_back(count - len(claims))
            await self.claiming.settle()
            if not again:
                await self.claiming.wait()

    async def _reserve(self) -> int:
        """Wait for a free slot; take it and all others that are free, each with its place among the jobs under way."""
        count = 0
        await self._places.acquire()
        await self._slots.acquire()
        try:
            while True:
                count += 1
                self._places.acquire_nowait()
                try:
                    self._slots.acquire_nowait()
                except trio.WouldBlock:
                    self._places.release()
                    raise
        except trio.WouldBlock:
            return count

    def _give_back(self, count: int) -> None:
        for _ in range(count):
            self._slots.release()
            self._places.release()

    async def _run_job(self, running: Running) -> None:
        """Run one claim to its end. Whatever happens to it, the slot, the place and the lease are given back."""
        claim = running.claim
        begin_job(claim.job.id)
        ending: Ending | None = None
        try:
            with running.scope:
                ending = await self._work_or_apologise(running)
        except LeaseLost:
            running.stopped = Stopped.LEASE_LOST
        except Unavailable as error:
            ending = _again(claim, error.detail, uncount=True)
        finally:
            self._places.release()
        await self._end(running, ending or _stopped_ending(running))
        self.presence.running.pop(claim.lease_token, None)
        if not self.presence.running:
            self._idle.set()

    async def _work_or_apologise(self, running: Running) -> Ending:
        """How the claim ends. One that fails for good before there is an answer says so in the chat."""
        claim = running.claim
        try:
            return await self._work(running)
        except (LeaseLost, Unavailable):
            raise
        except GenerationTimeout as error:
            ending = _again(claim, error.detail)
        except GenerationFailed as error:
            ending = Ending(claim.job.id, claim.lease_token, State.FAILED, error.detail)
        except Exception as error:  # noqa: BLE001  a fault in one job is that job's; it is tried again, then kept for a person
            log.exception("job.crashed", job=claim.job.id, error=error)
            ending = _again(claim, describe(error))
        if running.answered or ending.state is not State.FAILED:
            return ending
        try:
            return await self._apologise(running, ending)
        except (LeaseLost, Unavailable):
            raise
        except Exception as error:  # noqa: BLE001  an apology must not cost the others their worker
            log.exception("job.apology_crashed", job=claim.job.id, error=error)
            return ending

    async def _apologise(self, running: Running, ending: Ending) -> Ending:
        """Deliver an apology by way of the outbox, where there is a chat to say it in; the ending stays a failure."""
        claim = running.claim
        with suppress(NotFound):
            source = await self.delivery.source(claim.job)
            text = apology_text(source, self.settings)
            if text and (parts := self.delivery.parts(claim.job, source, text)):
                result = build_result("", "error") | {APOLOGY_FOR: ending.error or ""}
                await self._save(running, result, parts)
                delivered = await self.delivery.deliver(claim, parts)
                return ending if delivered.state.ended else delivered
        return ending

    async def _save(self, running: Running, result: dict[str, Any], parts: list[str]) -> None:
        claim = running.claim
        if not await insist(self.commits.replies, Reply(claim.job.id, claim.lease_token, result, parts)):
            raise LeaseLost
        running.answered = True

    async def _work(self, running: Running) -> Ending:
        claim = running.claim
        running.answered = claim.job.result is not None
        log.info("job.claimed", job=claim.job.id, channel=claim.job.channel, attempt=claim.job.attempt)
        notice = Notice.of(claim.job.options)
        try:
            if claim.job.result is not None:
                fresh = None
            else:
                fresh = await self._tell(running, notice) if notice else await self._generate(running)
        finally:
            self._slots.release()
        return await self._remembered(running.claim, await self.delivery.deliver(running.claim, fresh))

    async def _remembered(self, claim: Claim, ending: Ending) -> Ending:
        """The ending, which makes the job a turn of its chat where its source wants that; an apology ends a failure."""
        if ending.state is State.SUCCEEDED and claim.job.result is not None and APOLOGY_FOR in claim.job.result:
            return attrs.evolve(ending, state=State.FAILED, error=str(claim.job.result[APOLOGY_FOR]))
        if ending.state is not State.SUCCEEDED or claim.job.chat is None:
            return ending
        with suppress(NotFound):
            return attrs.evolve(ending, remember=remembers(claim.job, await self.delivery.source(claim.job)))
        return ending

    async def _generate(self, running: Running) -> list[str]:
        """Run the model and store its answer; the parts to send."""
        claim = running.claim
        try:
            source = await self.delivery.source(claim.job)
        except NotFound:
            raise GenerationFailed("The job's source was removed.") from None
        began = trio.current_time()
        claim = running.claim = await self._with_later_messages(claim, source)
        with self._typing(claim, source):
            answer = await self._agent.answer(claim, source, running.report)
        self.pace.note(trio.current_time() - began)
        callback_secrets = self.delivery.directory.current.callback_secrets.get(claim.job.tenant, "")
        result, masked = output_check(source, callback_secrets).masked(answer.result)
        parts = [] if answer.silent else self.delivery.parts(claim.job, source, str(result["output_text"]))
        await self._save(running, result, parts)
        if masked:
            detail = ", ".join(f"{kind} {count}" for kind, count in sorted(masked.items()))
            log.warning("answer.masked", job=claim.job.id, found=detail)
            await self.store.call(self.store.record.add_step, claim.job.id, "masked", detail, time.time())
        log.info("job.generated", job=claim.job.id, finish=answer.result["finish_reason"], **answer.result["usage"])
        return parts

    async def _tell(self, running: Running, notice: Notice) -> list[str]:
        """Store what a person is told who was refused; the parts to send: none if they were told within the hour."""
        claim = running.claim
        try:
            source = await self.delivery.source(claim.job)
        except NotFound:
            raise GenerationFailed("The job's source was removed.") from None
        last = await self.store.call(self.store.record.find_job, notice.before, claim.job.tenant)
        again = last is not None and claim.job.received_at - last.received_at < HOUR_SECONDS
        parts = [] if again else self.delivery.parts(claim.job, source, notice.text)
        result = {"output_text": notice.text, "finish_reason": "refused"}
        await self._save(running, result, parts)
        return parts

    @contextmanager
    def _typing(self, claim: Claim, source: Source | None) -> Iterator[None]:
        """Shows in the chat that something is being made, meanwhile."""
        scope = trio.CancelScope()
        assert self._nursery is not None
        self._nursery.start_soon(Typing(self.delivery.outbound).show, claim.job, source, scope)
        try:
            yield
        finally:
            scope.cancel()

    async def _with_later_messages(self, claim: Claim, source: Source | None) -> Claim:
        """The claim, and in its job what came soon after it in its chat, where the source wants that."""
        if source is None or claim.job.conversation is None or not merge_seconds(source.settings):
            return claim
        return attrs.evolve(claim, job=await self.store.call(self.store.record.merge, claim, time.time()))

    async def _end(self, running: Running, ending: Ending | None) -> None:
        """Write the ending; if the record cannot take it, the lease will run out and somebody else will end the job."""
        if ending is None:
            log.warning("job.lease_lost", job=running.claim.job.id)
            return
        try:
            written = await insist(self.commits.endings, ending)
        except Unavailable:
            log.error("job.ending_unwritten", job=ending.job_id, state=ending.state)
            return
        self._offer(running.claim.job, ending)
        event = _EVENTS[ending.state.ended] if written else "job.lease_lost"
        log.info(event, job=ending.job_id, state=ending.state, error=ending.error)

    def _offer(self, job: Job, ending: Ending) -> None:
        """Have the dispatch told of what may be claimed now, or later: the job itself, or the next of its chat."""
        if self.offers is None:
            return
        if not ending.state.ended:
            self.offers.postponed(job, ending.run_at)
            self.offers.look_behind([job.id])
        elif job.conversation is not None:
            self.offers.ended(job.id)


def _stopped_ending(running: Running) -> Ending | None:
    """How a job ends that was stopped from outside; None if it is not ours any more."""
    job_id, token = running.claim.job.id, running.claim.lease_token
    if running.stopped is Stopped.CANCELLED:
        return Ending(job_id, token, State.CANCELLED, "cancelled while it ran")
    if running.stopped is Stopped.LEASE_LOST:
        return None
    return Ending(job_id, token, State.QUEUED, run_at=time.time(), uncount=True)


def _again(claim: Claim, reason: str, *, uncount: bool = False) -> Ending:
    """Another attempt later, or the end if there were enough."""
    if claim.job.attempt >= GENERATION_ATTEMPTS_MAX and not uncount:
        return Ending(claim.job.id, claim.lease_token, State.FAILED, f"{reason} ({claim.job.attempt} attempts)")
    run_at = time.time() + backoff_seconds(claim.job.attempt, random.random())
    return Ending(claim.job.id, claim.lease_token, State.QUEUED, reason, run_at=run_at, uncount=uncount)
