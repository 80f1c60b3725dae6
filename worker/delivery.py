"""Sends the parts of a stored reply in order and writes down what came of each. Never sends a part that is marked sent."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import trio

from sentinel.channels import find_channel
from sentinel.directory import DirectoryFollower
from sentinel.edge.output import check_output
from sentinel.errors import HostRests, NotFound, RefusedAddress, SendFailed
from sentinel.logs import log
from sentinel.model import API_CHANNEL, Claim, Job, Outcome, Source, State, Verdict
from sentinel.outbound import Outbound
from sentinel.records import Ending, Part, PartSettled, Store
from sentinel.retry import DELIVERY_ATTEMPTS_MAX, backoff_seconds
from worker.commits import Commits, LeaseLost, insist
from worker.output_check import without_secrets

NOTICE_SECONDS = 3.0  # what a chat was told of its wait has arrived by then, or never will
WAIT_HERE_SECONDS = 3.0  # a shorter pause than this is not worth giving the job back for
_STATES = {Outcome.SENT: "sent", Outcome.FAILED: "failed", Outcome.RETRY: "pending"}


@attrs.frozen(eq=False)
class Delivery:
    """Delivers replies into their chats."""

    store: Store
    directory: DirectoryFollower
    outbound: Outbound
    commits: Commits

    async def source(self, job: Job) -> Source | None:
        """
        The job's source; None for a job of the API, which has none. Raises NotFound if it was removed.

        The gateway may have heard of a new source before this worker did, so one that seems missing is looked up.
        """
        if job.channel == API_CHANNEL:
            return None
        if (job.channel, job.source) not in self.directory.current.sources:
            await self.directory.refresh()
        return self.directory.known_source(job.channel, job.source)

    def parts(self, job: Job, source: Source | None, text: str) -> list[str]:
        """The reply cut for its channel; none where there is nowhere to send it and the caller asks for the job instead."""
        if source is None:
            return []
        channel = find_channel(job.channel)
        if channel.send(source, job.reply_to, "…", job.id, time.time()) is None:
            return []
        return channel.split(text)

    async def deliver(self, claim: Claim, fresh: Sequence[str] | None = None) -> Ending:
        """
        How the claim ends after sending what is still to be sent: succeeded, refused for good, or again later.

        `fresh` are the parts if they were stored only now; else the record tells which of them are left.
        """
        reply_to = claim.job.reply_to
        if claim.job.told_at is not None:  # the notice may be under way still, and must not come behind the answer
            await trio.sleep(max(0.0, claim.job.told_at + NOTICE_SECONDS - time.time()))
        for part in await self._parts_left(claim, fresh):
            try:
                verdict = await self._send_part(claim, part, reply_to)
            except HostRests as error:  # nothing was tried, so nothing is counted
                reason = f"delivery postponed: {error.detail}"
                run_at = time.time() + error.seconds
                return Ending(claim.job.id, claim.lease_token, State.QUEUED, reason, run_at=run_at, uncount=True)
            if verdict.outcome is Outcome.FAILED:
                return Ending(claim.job.id, claim.lease_token, State.FAILED, f"delivery refused: {verdict.reason}")
            if verdict.outcome is Outcome.RETRY:
                return _later(claim, part, verdict)
            reply_to = verdict.reply_to or reply_to
        return Ending(claim.job.id, claim.lease_token, State.SUCCEEDED)

    async def _parts_left(self, claim: Claim, fresh: Sequence[str] | None) -> list[Part]:
        if fresh is not None:
            return [Part(number, text, 0) for number, text in enumerate(fresh, start=1)]
        return await self.store.call(self.store.record.pending_parts, claim.job.id)

    async def _send_part(self, claim: Claim, part: Part, reply_to: Mapping[str, Any]) -> Verdict:
        """Send one part, and once more after a short pause if the platform asks for one; what came of it is committed."""
        verdict = await self._try_part(claim, part, reply_to)
        wait = verdict.retry_after_seconds
        if verdict.outcome is Outcome.RETRY and (verdict.reply_to or (wait is not None and wait <= WAIT_HERE_SECONDS)):
            await trio.sleep(wait or 0)
            again = await self._try_part(claim, attrs.evolve(part, attempts=part.attempts + 1), verdict.reply_to or reply_to)
            return attrs.evolve(again, reply_to=again.reply_to or verdict.reply_to)
        return verdict

    async def _try_part(self, claim: Claim, part: Part, reply_to: Mapping[str, Any]) -> Verdict:
        verdict = await self._exchange(claim.job, part, reply_to)
        if verdict.outcome is Outcome.RETRY and part.attempts + 1 >= DELIVERY_ATTEMPTS_MAX:
            verdict = Verdict(Outcome.FAILED, f"{verdict.reason} ({DELIVERY_ATTEMPTS_MAX} attempts)")
        settled = PartSettled(
            claim.job.id, claim.lease_token, part.number, _STATES[verdict.outcome], verdict.reason or None, verdict.reply_to
        )
        if not await insist(self.commits.settled, settled):
            raise LeaseLost
        log.info("part.settled", job=claim.job.id, part=part.number, outcome=verdict.outcome, reason=verdict.reason)
        return verdict

    async def _exchange(self, job: Job, part: Part, reply_to: Mapping[str, Any]) -> Verdict:
        try:
            source, channel = await self.source(job), find_channel(job.channel)
            outgoing = channel.send(source, reply_to, part.text, job.id, time.time()) if source else None
            if outgoing is None:
                return Verdict(Outcome.FAILED, "the source has nowhere to send to any more")
            answer = await self.outbound.send(outgoing, tenant=job.tenant)
        except NotFound as error:
            return Verdict(Outcome.FAILED, error.detail)
        except RefusedAddress as error:
            return Verdict(Outcome.FAILED, error.detail)
        except HostRests:
            raise
        except SendFailed as error:
            return Verdict(Outcome.RETRY, error.detail)
        assert source is not None
        body = without_secrets(answer.body, source)  # before its words are cut: half a secret is not recognised
        verdict = channel.judge(answer.status, answer.headers, body, reply_to)
        return attrs.evolve(verdict, reason=check_output(verdict.reason).text) if verdict.reason else verdict


def _later(claim: Claim, part: Part, verdict: Verdict) -> Ending:
    """The job goes round again without the model: its reply is stored. The attempts are counted on the part, not on the job."""
    wait = backoff_seconds(part.attempts + 1, random.random(), verdict.retry_after_seconds)
    reason = f"delivery postponed: {verdict.reason}"
    return Ending(claim.job.id, claim.lease_token, State.QUEUED, reason, run_at=time.time() + wait, uncount=True)
