"""Brings results to the URLs that callers gave, signed per Standard Webhooks, at the times of its published schedule.

A callback has a life of its own: the job has ended, and stays ended whatever happens here.
"""

from __future__ import annotations

import random
import time
from collections import Counter

import attrs
import trio

from sentinel import payload, standard_webhooks
from sentinel.channels.shared.sending import retry_after
from sentinel.directory import DirectoryFollower
from sentinel.errors import RefusedAddress, SendFailed, Unavailable
from sentinel.job_view import API_STATUS, iso
from sentinel.logs import Outage, log
from sentinel.model import Job, Outcome, Outgoing, Verdict
from sentinel.outbound import Answer, Outbound
from sentinel.records import Callback, Store
from sentinel.retry import callback_delay_seconds

LOOK_SECONDS = 0.1
AT_A_TIME = 64
AT_A_TIME_PER_TENANT = 16


@attrs.frozen(eq=False)
class Callbacks:
    """Sends the callbacks that are due. `under_way` counts them by tenant: one with a dead receiver waits for itself only."""

    store: Store
    directory: DirectoryFollower
    outbound: Outbound
    under_way: Counter[str] = attrs.field(factory=Counter)
    outage: Outage = attrs.field(factory=lambda: Outage("callbacks.record_unavailable"))

    async def run(self) -> None:
        """Send for ever. Belongs in the worker's nursery."""
        async with trio.open_nursery() as nursery:
            while True:
                due = await self._claim()
                for callback in due:
                    self.under_way[callback.tenant] += 1
                    nursery.start_soon(self._bring_one, callback)
                if not due:
                    await trio.sleep(LOOK_SECONDS)

    async def _claim(self) -> list[Callback]:
        free = AT_A_TIME - self.under_way.total()
        busy = [tenant for tenant, count in self.under_way.items() if count >= AT_A_TIME_PER_TENANT]
        if not free:
            return []
        try:
            # Each is sent at once and within its deadline, so twice that is lease enough.
            lease_seconds = self.outbound.seconds_max * 2
            due = await self.store.call(self.store.record.claim_callbacks, free, lease_seconds, time.time(), busy)
        except Unavailable as error:
            self.outage.failed(error.detail)
            return []
        self.outage.over()
        return due

    async def _bring_one(self, callback: Callback) -> None:
        try:
            await self._bring(callback)
        except Unavailable as error:  # the lease runs out, and the callback is sent again
            log.warning("callback.unsettled", job=callback.job_id, reason=error.detail)
        finally:
            self.under_way[callback.tenant] -= 1

    async def _bring(self, callback: Callback) -> None:
        job = await self.store.call(self.store.record.find_job, callback.job_id)
        if job is not None and not job.state.ended:
            return  # a person put it back into the queue; its next ending opens a callback of its own
        verdict = await self._send(callback, job) if job else Verdict(Outcome.FAILED, "the job is gone")
        state, next_at = {Outcome.SENT: "delivered", Outcome.FAILED: "failed"}.get(verdict.outcome, "pending"), None
        if state == "pending":
            delay = callback_delay_seconds(callback.attempts, random.random(), verdict.retry_after_seconds)
            state, next_at = ("failed", None) if delay is None else ("pending", time.time() + delay)
        error = verdict.reason or None
        await self.store.call(self.store.record.settle_callback, callback, state, next_at, error, time.time())
        log.info("callback.settled", job=callback.job_id, state=state, attempts=callback.attempts, reason=verdict.reason)

    async def _send(self, callback: Callback, job: Job) -> Verdict:
        await self.directory.refresh()  # a network that was allowed a moment ago must not be refused for good
        secret = self.directory.current.callback_secrets.get(callback.tenant) or await self._make_secret(callback.tenant)
        outgoing = build_callback(job, callback.url, secret, time.time())
        try:
            return judge(
                await self.outbound.send(outgoing, self.directory.current.networks.get(callback.tenant, ()), callback.tenant)
            )
        except RefusedAddress as error:
            return Verdict(Outcome.FAILED, error.detail)
        except SendFailed as error:
            return Verdict(Outcome.RETRY, error.detail)

    async def _make_secret(self, tenant: str) -> str:
        return await self.store.call(self.store.record.callback_secret, tenant, standard_webhooks.new_secret())


def build_callback(job: Job, url: str, secret: str, now: float) -> Outgoing:
    """The signed request that tells a caller how its job ended. The webhook-id is the job's: the same for every attempt."""
    result = job.result or {}
    data = {
        "id": job.id,
        "status": API_STATUS[job.state],
        "output_text": result.get("output_text"),
        "usage": result.get("usage"),
        "error": job.last_error,
        "metadata": job.options.get("metadata", {}),
    }
    body = payload.encode_json({"type": f"job.{API_STATUS[job.state]}", "timestamp": iso(job.finished_at), "data": data})
    headers = {
        "content-type": "application/json",
        "webhook-id": job.id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": standard_webhooks.sign(secret, job.id, int(now), body),
    }
    return Outgoing(url, body, headers, guarded=True)


def judge(answer: Answer) -> Verdict:
    """2xx is delivered; 410 ends it; everything else, redirects too, is tried again (Standard Webhooks, delivery rules)."""
    if 200 <= answer.status < 300:
        return Verdict(Outcome.SENT)
    reason = f"the receiver answered {answer.status}"
    if answer.status == 410:
        return Verdict(Outcome.FAILED, reason)
    return Verdict(Outcome.RETRY, reason, retry_after(answer.headers))
