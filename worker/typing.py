"""Shows in the chat that an answer is being made, where the platform can. Never in the way: what fails here is let be."""

from __future__ import annotations

import time

import attrs
import trio

from sentinel.channels import find_channel, is_on
from sentinel.errors import SentinelError
from sentinel.logs import log
from sentinel.model import Job, Source
from sentinel.outbound import Outbound

TIMES_MAX = 200
BEGIN_SECONDS = 1.0  # an answer that is there sooner needs no indicator


@attrs.frozen(eq=False)
class Typing:
    """Sends a channel's typing indicator again and again."""

    outbound: Outbound

    async def show(self, job: Job, source: Source | None, scope: trio.CancelScope) -> None:
        """Until `scope` is cancelled, or the platform does not take it."""
        with scope:
            await trio.sleep(BEGIN_SECONDS)
            for _ in range(TIMES_MAX):
                if source is None or not await self._send(job, source):
                    return
                await trio.sleep(find_channel(job.channel).typing_seconds)

    async def _send(self, job: Job, source: Source) -> bool:
        """Whether there is an indicator and the platform took it."""
        try:
            channel = find_channel(job.channel)
            outgoing = channel.typing(source, job.reply_to, time.time()) if is_on(source.settings, "typing") else None
            if outgoing is None:
                return False
            answer = await self.outbound.send(outgoing, tenant=job.tenant)
        except SentinelError as error:
            log.info("typing.not_shown", job=job.id, reason=error.detail)
            return False
        return 200 <= answer.status < 300
