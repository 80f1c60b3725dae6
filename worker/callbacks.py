"""Brings results to the URLs that callers gave, signed per Standard Webhooks, at the times of its published schedule.

A callback has a life of its own: the job has ended, and stays ended whatever happens here. What came of every attempt is logged in
the record. A job that a person had run again is another message, with a webhook-id of its own: its result may differ.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence

import attrs
import trio

from sentinel import payload, standard_webhooks
from sentinel.channels.shared.sending import retry_after
from sentinel.directory import DirectoryFollower
from sentinel.errors import HostRests, NotFound, RefusedAddress, SendFailed, SettingsError, Unavailable
from sentinel.job_view import API_STATUS, iso
from sentinel.logs import Outage, begin_job, log
from sentinel.model import Job, Outcome, Outgoing, Verdict
from sentinel.outbound import Answer, Outbound
from sentinel.records import Store
from sentinel.records.callbacks import Attempt, Callback
from sentinel.retry import callback_delay_seconds

LOOK_SECONDS = 0.1
AT_A_TIME = 64
AT_A_TIME_PER_TENANT = 16
AT_A_TIME_PER_HOST = 8  # of one tenant
KEY_AGAIN_SECONDS = 5.0  # a server key that is not here may be brought


@attrs.frozen(eq=False)
class Callbacks:
    """Sends the callbacks that are due. They are counted by tenant and by receiver: a dead one holds up itself only."""

    store: Store
    directory: DirectoryFollower
    outbound: Outbound
    by_tenant: Counter[str] = attrs.field(factory=Counter)
    by_receiver: Counter[str] = attrs.field(factory=Counter)
    outage: Outage = attrs.field(factory=lambda: Outage("callbacks.record_unavailable"))

    async def run(self) -> None:
        """Send for ever. Belongs in the worker's nursery."""
        async with trio.open_nursery() as nursery:
            while True:
                due = await self._claim()
                for callback in due:
                    self._count(callback, 1)
                    nursery.start_soon(self._bring_one, callback)
                if not due:
                    await trio.sleep(LOOK_SECONDS)

    def _count(self, callback: Callback, more: int) -> None:
        for counter, name in ((self.by_tenant, callback.tenant), (self.by_receiver, f"{callback.tenant} {callback.host}")):
            counter[name] += more
            if not counter[name]:
                del counter[name]

    async def _claim(self) -> list[Callback]:
        free = AT_A_TIME - self.by_tenant.total()
        busy = [tenant for tenant, count in self.by_tenant.items() if count >= AT_A_TIME_PER_TENANT]
        busy += [receiver for receiver, count in self.by_receiver.items() if count >= AT_A_TIME_PER_HOST]
        if not free:
            return []
        try:
            # Each is sent at once and within its deadline, so twice that is lease enough.
            lease_seconds, busy = self.outbound.seconds_max * 2, busy + self.outbound.resting()
            due = await self.store.call(self.store.record.claim_callbacks, free, lease_seconds, time.time(), busy)
        except Unavailable as error:
            self.outage.failed(error.detail)
            return []
        self.outage.over()
        return due

    async def _bring_one(self, callback: Callback) -> None:
        begin_job(callback.job_id)
        try:
            await self._bring(callback)
        except Unavailable as error:  # the lease runs out, and the callback is sent again
            log.warning("callback.unsettled", job=callback.job_id, reason=error.detail)
        finally:
            self._count(callback, -1)

    async def _bring(self, callback: Callback) -> None:
        job = await self.store.call(self.store.record.find_job, callback.job_id)
        if job is not None and not job.state.ended:
            return  # a person put it back into the queue; its next ending opens a callback of its own
        attempt = await self._attempt(callback, job)
        await self.store.call(self.store.record.settle_callback, callback, attempt, time.time())
        outcome = {"state": attempt.state, "attempts": callback.attempts, "status": attempt.status, "reason": attempt.error}
        log.info("callback.settled", job=callback.job_id, host=callback.host, **outcome)

    async def _attempt(self, callback: Callback, job: Job | None) -> Attempt:
        if job is None:
            return Attempt("failed", "the job is gone", tried=False)
        if callback.gone_at is not None:
            return Attempt("failed", f"the receiver is disabled: it answered 410 at {iso(callback.gone_at)}", tried=False)
        try:
            await self.directory.refresh()  # a network that was allowed a moment ago must not be refused for good
            outgoing = build_callback(job, callback, await self._secrets(callback.tenant), time.time())
        except NotFound:
            return Attempt("failed", "the tenant is gone", tried=False)
        except SettingsError:  # which key is missing, the directory tells the operator; the caller need not know
            return Attempt("pending", "the secret that signs it cannot be read now", time.time() + KEY_AGAIN_SECONDS, tried=False)
        return await self._send(callback, outgoing)

    async def _send(self, callback: Callback, outgoing: Outgoing) -> Attempt:
        networks, began, status = self.directory.current.networks.get(callback.tenant, ()), time.monotonic(), None
        try:
            answer = await self.outbound.send(outgoing, networks, callback.tenant)
            verdict, status = judge(answer), answer.status
        except HostRests as error:
            return Attempt("pending", error.detail, time.time() + error.seconds, tried=False)
        except RefusedAddress as error:
            verdict = Verdict(Outcome.FAILED, error.detail)
        except SendFailed as error:
            verdict = Verdict(Outcome.RETRY, error.detail)
        return settled(callback, verdict, status, time.monotonic() - began, random.random())

    async def _secrets(self, tenant: str) -> list[str]:
        """The secrets that sign a tenant's callbacks now: one, and in the time after a rotation the one before it too."""
        if known := self.directory.current.callback_secrets.get(tenant):
            return standard_webhooks.in_force(known, time.time())
        return [await self.store.call(self.store.record.callback_secret, tenant, standard_webhooks.new_secret())]


def settled(callback: Callback, verdict: Verdict, status: int | None, seconds: float, chance: float) -> Attempt:
    """What is written of an attempt: a failure that may pass is tried again by the schedule, until that is at its end."""
    error, seconds = verdict.reason or None, round(seconds, 3)
    if verdict.outcome is Outcome.SENT:
        return Attempt("delivered", None, None, status, seconds)
    delay = callback_delay_seconds(callback.attempts, chance, verdict.retry_after_seconds)
    if verdict.outcome is Outcome.FAILED or delay is None:
        return Attempt("failed", error, None, status, seconds, gone=status == 410)
    return Attempt("pending", error, time.time() + delay, status, seconds)


def build_callback(job: Job, callback: Callback, secrets: Sequence[str], now: float) -> Outgoing:
    """The signed request that tells a caller how its job ended: in every attempt the same id and body, signed for its time."""
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
        "webhook-id": callback.webhook_id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": standard_webhooks.sign_all(secrets, callback.webhook_id, int(now), body),
    }
    return Outgoing(callback.url, body, headers, guarded=True)


def judge(answer: Answer) -> Verdict:
    """2xx is delivered; 410 ends it; everything else, redirects too, is tried again (Standard Webhooks, delivery rules)."""
    if 200 <= answer.status < 300:
        return Verdict(Outcome.SENT)
    reason = f"the receiver answered {answer.status}"
    if answer.status == 410:
        return Verdict(Outcome.FAILED, reason)
    return Verdict(Outcome.RETRY, reason, retry_after(answer.headers))
