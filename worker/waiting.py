"""Tells chats that wait for long how long it will be. Beside the work: it needs no slot, and delays no claim.

A notice may be lost (with this process, or by a platform that does not take it), but never comes twice, nor behind the answer.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter

import attrs
import trio

from sentinel.channels import find_channel, merge_seconds, waiting_seconds
from sentinel.directory import DirectoryFollower
from sentinel.errors import SendFailed, SentinelError, Unavailable
from sentinel.logs import Outage, log
from sentinel.model import Outcome, Outgoing, Source
from sentinel.outbound import Outbound
from sentinel.records import Store
from sentinel.records.waiting import WaitingChat
from sentinel.settings import Settings
from worker.delivery import NOTICE_SECONDS
from worker.waiting_line import LEFT_SECONDS_MIN, Outlook, Pace, is_to_be_told, outlook, words

LOOK_SECONDS = 1.0
REST_FACTOR = 50  # where the line is so long that a look takes time, it takes no more than this part of all time
AGAIN_SECONDS = 600.0  # between two notices of a chat
LOOKED_AT_MAX = 200
TOLD_MAX = 32  # chats at a look, and of them
TOLD_OF_TENANT_MAX = 8


@attrs.frozen
class Due:
    """A chat that is to be told, and of what."""

    chat: WaitingChat
    source: Source
    outlook: Outlook


@attrs.frozen(eq=False)
class Waiting:
    """Looks at the line again and again. `pace` is how long answers take here."""

    settings: Settings
    store: Store
    directory: DirectoryFollower
    outbound: Outbound
    pace: Pace

    async def run(self) -> None:
        """Look for ever. Belongs in the worker's nursery."""
        outage = Outage("waiting.record_unavailable")
        while True:
            began = trio.current_time()
            try:
                found = await self._due()
            except Unavailable as error:
                found = []
                outage.failed(error.detail)
            else:
                outage.over()
            looked_seconds = trio.current_time() - began
            async with trio.open_nursery() as nursery:
                for due in found:
                    nursery.start_soon(self._tell, due)
            await trio.sleep(max(LOOK_SECONDS * random.uniform(0.75, 1.25), REST_FACTOR * looked_seconds))

    async def _due(self) -> list[Due]:
        """The chats to be told now, those that wait longest first, and not too many of one tenant."""
        record, answer_seconds = self.store.record, self.pace.answer_seconds
        sources = self._sources()
        if answer_seconds is None or not sources:
            return []
        lengths = await self.store.call(record.waiting_by_tenant)
        if (sum(lengths) + 2) * answer_seconds < LEFT_SECONDS_MIN:
            return []
        slots = sum(worker.slots for worker in await self.store.call(record.workers) if worker.status == "ready")
        now = time.time()
        chats = await self.store.call(record.waiting_chats, list(sources), now - AGAIN_SECONDS, LOOKED_AT_MAX)
        told: list[Due] = []
        of_tenant: Counter[str] = Counter()
        for chat in chats if slots else ():
            source = sources[chat.channel, chat.source]
            merges = bool(merge_seconds(source.settings))
            found = outlook(chat, lengths, slots, answer_seconds, merges=merges)
            threshold = waiting_seconds(source.settings, self.settings.waiting_notice)
            if is_to_be_told(found, now - chat.received_at, threshold) and of_tenant[chat.tenant] < TOLD_OF_TENANT_MAX:
                of_tenant[chat.tenant] += 1
                told.append(Due(chat, source, found))
        return told[:TOLD_MAX]

    def _sources(self) -> dict[tuple[str, str], Source]:
        """The sources whose chats are told."""
        default = self.settings.waiting_notice
        return {
            place: source
            for place, source in self.directory.current.sources.items()
            if find_channel(source.channel).is_watched and waiting_seconds(source.settings, default) < math.inf
        }

    async def _tell(self, due: Due) -> None:
        """Note it, and then say it, within the time that an answer to come would wait for it."""
        chat, now = due.chat, time.time()
        try:
            text = words(due.source.setting("waiting_text") or self.settings.waiting_text, due.outlook)
            outgoing = find_channel(chat.channel).send(due.source, chat.reply_to, text, chat.job_id, now)
            detail = f"number {due.outlook.number}, about {due.outlook.seconds:.0f} s"
            if outgoing is None:
                return
            if await self.store.call(self.store.record.tell, chat.job_id, detail, now, now - AGAIN_SECONDS):
                with trio.fail_after(max(0.0, now + NOTICE_SECONDS - time.time())):
                    await self._send(due, outgoing)
        except (SentinelError, trio.TooSlowError) as error:
            log.info("waiting.not_told", job=chat.job_id, reason=getattr(error, "detail", "The platform is too slow."))
        except Exception as error:  # noqa: BLE001  a fault in one chat's notice must cost nobody an answer
            log.exception("waiting.crashed", job=chat.job_id, error=error)

    async def _send(self, due: Due, outgoing: Outgoing) -> None:
        answer = await self.outbound.send(outgoing, tenant=due.chat.tenant)
        verdict = find_channel(due.chat.channel).judge(answer.status, answer.headers, answer.body, due.chat.reply_to)
        if verdict.outcome is not Outcome.SENT:
            raise SendFailed(f"The platform did not take it (status {answer.status}).")
        log.info("waiting.told", job=due.chat.job_id, number=due.outlook.number, seconds=round(due.outlook.seconds))
